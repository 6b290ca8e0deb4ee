"""The linear layers of a transformers model, pruned and run by SparseFlow inside the model.

    python examples/transformers_llama.py [--tokens 16] [--device auto]

A small Llama is built from a configuration (nothing is downloaded), saved as safetensors and read back. Attention
projections become one matmul each; gate, up and down projections become one graph of two kernels, the first of which
computes silu(x·gateᵀ)·(x·upᵀ). The logits are compared with the pruned model in float64.
"""

from __future__ import annotations

import argparse
import sys
import tempfile

import torch
from transformers import LlamaConfig, LlamaForCausalLM

import sparseflow as sf


class Compiled(torch.nn.Module):
    """A module whose forward is a compiled graph."""

    def __init__(self, graph: sf.Graph, device: str):
        super().__init__()
        self.run = sf.compile(graph, device=device)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.run(x.reshape(-1, x.shape[-1])).reshape(*x.shape[:-1], -1)


def linear(layer: torch.nn.Linear) -> sf.Graph:
    g = sf.Graph()
    x = g.input("x", (None, layer.in_features), layer.weight.dtype)
    g.output(g.matmul(x, layer.weight, bias=layer.bias))
    return g


def mlp(block: torch.nn.Module) -> sf.Graph:
    g = sf.Graph()
    x = g.input("x", (None, block.gate_proj.in_features), block.gate_proj.weight.dtype)
    h = g.matmul(x, block.gate_proj.weight, gate=block.up_proj.weight, activation="silu", name="gate_up")
    g.output(g.matmul(h, block.down_proj.weight, name="down"))
    return g


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--tokens", type=int, default=16)
    parser.add_argument("--device", default="auto")
    options = parser.parse_args()
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=128, hidden_size=64, intermediate_size=128, num_hidden_layers=1, num_attention_heads=2,
        num_key_value_heads=1, max_position_embeddings=64,
    )  # fmt: skip
    with tempfile.TemporaryDirectory() as folder:
        LlamaForCausalLM(config).half().save_pretrained(folder)  # model.safetensors
        model = LlamaForCausalLM.from_pretrained(folder, dtype=torch.float16).eval()

    linears = {name: m for name, m in model.model.named_modules() if isinstance(m, torch.nn.Linear)}
    with torch.no_grad():
        for layer in linears.values():
            layer.weight.copy_(sf.prune_24(layer.weight))
    print(f"{len(linears)} linear layers, {sf.validate_24({name: m.weight for name, m in linears.items()})}")

    tokens = torch.randint(0, config.vocab_size, (1, options.tokens))
    with torch.no_grad():
        eager = model(tokens).logits
        reference = model.double()(tokens).logits
    model.half()

    device = torch.device(
        "cuda" if any(d.kind == "cuda" for d in sf.devices()) and options.device in ("auto", "cuda") else "cpu"
    )
    for layer in model.model.layers:
        for name in ("q_proj", "k_proj", "v_proj", "o_proj"):
            setattr(layer.self_attn, name, Compiled(linear(getattr(layer.self_attn, name)), options.device))
        layer.mlp = Compiled(mlp(layer.mlp), options.device)
    with torch.no_grad():
        logits = model.to(device)(tokens.to(device)).logits.cpu()
    print(model.model.layers[0].mlp.run.report())

    error = (logits.double() - reference).abs().max().item()
    torch_error = (eager.double() - reference).abs().max().item()
    print(f"logits {tuple(logits.shape)}: max error {error:.2e} (PyTorch in f16: {torch_error:.2e})")
    return 0 if error <= 4 * torch_error else 1


if __name__ == "__main__":
    sys.exit(main())
