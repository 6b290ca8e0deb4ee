"""A small transformer, trained here, pruned to 2:4 in three ways, quantized and compiled: what each costs in loss.

    python examples/pytorch_pruning.py [--steps 400] [--device auto]

It learns to predict the next letter of this repository's documentation. Every 2:4 model is then also run through the compiled
kernels (in the emulator where there is no GPU), and has to have the same loss there as in PyTorch.
"""

from __future__ import annotations

import argparse
import copy
import sys
import warnings
from contextlib import nullcontext
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import nn

import sparseflow as sf
from sparseflow.torch import emulation

WIDTH, LAYERS, HEADS, CONTEXT = 96, 2, 4, 64
BATCH = 16


class Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.attention_norm, self.mlp_norm = nn.LayerNorm(WIDTH), nn.LayerNorm(WIDTH)
        self.qkv, self.out = nn.Linear(WIDTH, 3 * WIDTH), nn.Linear(WIDTH, WIDTH)
        self.up, self.down = nn.Linear(WIDTH, 4 * WIDTH), nn.Linear(4 * WIDTH, WIDTH)
        # Large transformers have features much stronger than the rest; a small one is given them.
        for norm in (self.attention_norm, self.mlp_norm):
            norm.weight.data = torch.randn(WIDTH).exp()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        heads = [
            each.unflatten(-1, (HEADS, -1)).transpose(1, 2) for each in self.qkv(self.attention_norm(x)).chunk(3, -1)
        ]
        mixed = F.scaled_dot_product_attention(*heads, is_causal=True)
        x = x + self.out(mixed.transpose(1, 2).flatten(2))
        return x + self.down(F.gelu(self.up(self.mlp_norm(x))))


class Transformer(nn.Module):
    def __init__(self, letters: int) -> None:
        super().__init__()
        self.letters, self.places = nn.Embedding(letters, WIDTH), nn.Embedding(CONTEXT, WIDTH)
        self.blocks = nn.ModuleList(Block() for _ in range(LAYERS))
        self.norm, self.head = nn.LayerNorm(WIDTH), nn.Linear(WIDTH, letters)

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        x = self.letters(tokens) + self.places.weight[: tokens.shape[1]]
        for block in self.blocks:
            x = block(x)
        return self.head(self.norm(x))


def draw(text: torch.Tensor, count: int = BATCH) -> tuple[torch.Tensor, torch.Tensor]:
    """Stretches of the text, and the same one letter on."""
    starts = torch.randint(0, len(text) - CONTEXT - 1, (count, 1)) + torch.arange(CONTEXT)
    return text[starts], text[starts + 1]


def train(model: nn.Module, text: torch.Tensor, steps: int) -> None:
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3, weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 4e-3, total_steps=steps)
    for step in range(steps):
        tokens, targets = draw(text)
        loss = F.cross_entropy(model(tokens).flatten(0, 1), targets.flatten())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
        if step % 100 == 0 or step == steps - 1:
            print(f"step {step}: loss {loss.item():.3f}", file=sys.stderr)


def loss_of(model: nn.Module, batches: list[tuple[torch.Tensor, torch.Tensor]]) -> float:
    device = next(model.parameters()).device
    with torch.no_grad():
        losses = [F.cross_entropy(model(x.to(device)).flatten(0, 1), y.to(device).flatten()) for x, y in batches]
    return float(torch.stack(losses).mean())


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--steps", type=int, default=400)
    parser.add_argument("--device", default="auto", choices=["auto", "cuda", "cpu"])
    options = parser.parse_args()
    on_gpu = options.device == "cuda" or (options.device == "auto" and torch.cuda.is_available())
    warnings.filterwarnings("ignore", message=".*no sparse tensor cores.*")
    torch.set_num_threads(1)  # the matrices are small: a second thread waits more than it works
    torch.manual_seed(0)

    pages = sorted((Path(__file__).parents[1] / "docs").glob("*.md"))
    letters = "".join(page.read_text() for page in pages)
    alphabet = sorted(set(letters))
    text = torch.tensor([alphabet.index(letter) for letter in letters])
    cut = len(text) * 9 // 10
    model = Transformer(-(-len(alphabet) // 4) * 4)
    train(model, text[:cut], options.steps)

    calibration = [draw(text[:cut])[0] for _ in range(16)]
    held_out = [draw(text[cut:]) for _ in range(16)]
    few = [(x[:2], y[:2]) for x, y in held_out[:2]]  # what the emulator does in a second
    dense = loss_of(model, held_out)
    print(f"dense f32: loss {dense:.4f}")

    losses = {}
    for scheme in ("f16", "int8"):
        for method in ("magnitude", "wanda", "sparsegpt"):
            pruned = copy.deepcopy(model)
            report = sf.sparsify_model(pruned, scheme, method, calibration=calibration, skip=["head"])
            losses[scheme, method] = loss_of(pruned, held_out)
            in_torch = loss_of(pruned, few)
            with nullcontext() if on_gpu else emulation():
                compiled = loss_of(copy.deepcopy(pruned).to("cuda") if on_gpu else pruned, few)
            print(
                f"2:4 {scheme:4} {method:9}: loss {losses[scheme, method]:.4f}; on two sequences {in_torch:.4f} in PyTorch, "
                f"{compiled:.4f} compiled"
            )
            if abs(compiled - in_torch) > 2e-3 * in_torch:
                print("expected the compiled model to have the loss of the same model in PyTorch", file=sys.stderr)
                return 1
    print(report)
    ranked = all(losses[s, "sparsegpt"] < losses[s, "wanda"] < losses[s, "magnitude"] for s in ("f16", "int8"))
    print("SparseGPT < Wanda < magnitude" if ranked else "the methods do not rank as expected")
    return 0 if ranked else 1


if __name__ == "__main__":
    sys.exit(main())
