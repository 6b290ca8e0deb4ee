"""Whole models in PyTorch, dense and 2:4, end to end on one GPU: time, memory and error.

    python benchmarks/pytorch.py --out pytorch.json [--model llama-3.1-8b ...] [--scheme int8 ...] [--mode eager ...] [--tokens ...]
                                 [--breakdown 2048]

Models have random weights and the shapes of the real ones: four layers of Llama-3.1-8B, DINOv2-large, BERT-base. Contenders go in
turn, round by round, since the chip's clock moves every figure; a figure is the median over the rounds. The error of a 2:4 model
is taken against the same pruned and rounded weights in f32; that of the dense one against its own in f32. `torch-24` is PyTorch's own
semi-structured tensor. A breakdown is the GPU's time of one call in eager mode by what the kernels do. Without a GPU the models are tiny and only their numbers mean something.
"""

from __future__ import annotations

import argparse
import contextlib
import copy
import datetime
import json
import re
import statistics
import subprocess
import sys
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import nn

import sparseflow as sf

TOKENS = [1, 16, 64, 256, 1024, 2048, 4096, 8192]
SCHEMES = ["f16", "int8", "fp8"]
MODES = ["eager", "graph", "compile"]
IMAGE_TOKENS = 257  # of a 224-pixel image in patches of 14, and one for the class
TEXT_TOKENS = 512  # BERT's longest sequence
CHECKED_TOKENS = 256


class Llama(nn.Module):
    """The first layers of Llama-3.1-8B, on hidden states."""

    def __init__(self, tiny: bool):
        super().__init__()
        from transformers import LlamaConfig, LlamaModel

        sizes = {"hidden_size": 4096, "intermediate_size": 14336, "num_attention_heads": 32, "num_key_value_heads": 8}
        if tiny:
            sizes = {"hidden_size": 128, "intermediate_size": 256, "num_attention_heads": 4, "num_key_value_heads": 2}
        config = LlamaConfig(
            **sizes, num_hidden_layers=4, vocab_size=32, max_position_embeddings=16384, use_cache=False
        )
        self.width = config.hidden_size
        self.inner = LlamaModel(config)

    def inputs(self, tokens: int) -> torch.Tensor:
        return torch.randn(1, tokens, self.width)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        # Layer by layer and without a mask: Transformers would make one whenever a graph is captured, and attention with a
        # mask takes several times as long.
        places = self.inner.rotary_emb(x, torch.arange(x.shape[1], device=x.device)[None])
        for layer in self.inner.layers:
            result = layer(x, position_embeddings=places)
            x = result[0] if isinstance(result, tuple) else result
        return self.inner.norm(x)


class Dino(nn.Module):
    """DINOv2-large: 24 blocks on images."""

    def __init__(self, tiny: bool):
        super().__init__()
        from transformers import Dinov2Config, Dinov2Model

        sizes = {
            "hidden_size": 1024,
            "num_hidden_layers": 24,
            "num_attention_heads": 16,
            "image_size": 224,
            "patch_size": 14,
        }
        if tiny:
            sizes = {
                "hidden_size": 64,
                "num_hidden_layers": 2,
                "num_attention_heads": 4,
                "image_size": 28,
                "patch_size": 14,
            }
        self.size = sizes["image_size"]
        self.inner = Dinov2Model(Dinov2Config(**sizes))

    def inputs(self, tokens: int) -> torch.Tensor:
        return torch.randn(max(1, tokens // IMAGE_TOKENS), 3, self.size, self.size)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.inner(x).last_hidden_state


class Bert(nn.Module):
    """BERT-base: 12 layers on hidden states, sequences of at most 512 tokens."""

    def __init__(self, tiny: bool):
        super().__init__()
        from transformers import BertConfig, BertModel

        sizes = (
            {"hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 128}
            if tiny
            else {}
        )
        config = BertConfig(**sizes, vocab_size=32)
        self.width = config.hidden_size
        self.inner = BertModel(config, add_pooling_layer=False)

    def inputs(self, tokens: int) -> torch.Tensor:
        length = min(tokens, TEXT_TOKENS)
        return torch.randn(max(1, tokens // length), length, self.width)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.inner.encoder(x).last_hidden_state  # without a mask, as above


MODELS: dict[str, Callable[[bool], Any]] = {"llama-3.1-8b": Llama, "dinov2-large": Dino, "bert-base": Bert}


def linears(model: nn.Module) -> dict[str, nn.Linear]:
    return {name: each for name, each in model.named_modules() if isinstance(each, nn.Linear)}


def held_bytes(tensor: torch.Tensor) -> int:
    """What a tensor takes, whatever it is made of."""
    data = tensor.data
    if type(data) is torch.Tensor or isinstance(data, sf.torch.SparseWeight):
        return data.nbytes
    names, _ = data.__tensor_flatten__()
    return sum(held_bytes(getattr(data, name)) for name in names)


def weight_bytes(model: nn.Module) -> int:
    """What the weights of the linear layers take."""
    total = 0
    for layer in linears(model).values():
        total += sum(held_bytes(each) for name, each in layer.named_parameters(recurse=False) if name != "bias")
        total += sum(
            each.nbytes
            for each in (getattr(layer, "_packed", None), getattr(layer, "_dense", None))
            if each is not None
        )
    return total


def contenders(
    dense: nn.Module, schemes: list[str], device: torch.device
) -> tuple[dict[str, nn.Module], dict[str, str]]:
    """The models to compare, and why one is missing."""
    models, missing = {"dense f16": dense}, {}
    for scheme in schemes:
        model = copy.deepcopy(dense)
        sf.sparsify_model(model, scheme, show_progress=False)
        models[f"2:4 {scheme}"] = model
    if "int8" in schemes:
        models["dense int8"] = copy.deepcopy(dense)
        sf.dense_int8(models["dense int8"], show_progress=False)
    if device.type == "cuda":
        try:
            models["torch-24"] = torch_24(copy.deepcopy(dense))
        except Exception as error:  # whatever its build lacks: the comparison goes on without it
            missing["torch-24"] = f"{type(error).__name__}: {str(error).splitlines()[0]}"
    return models, missing


def torch_24(model: nn.Module) -> nn.Module:
    """PyTorch's own semi-structured tensors, on the same pruned weights."""
    for layer in linears(model).values():
        pruned = sf.torch.prune(layer.weight.data)
        layer.weight = nn.Parameter(torch.sparse.to_sparse_semi_structured(pruned), requires_grad=False)
    return model


def reference(model: nn.Module, dense: nn.Module, x: torch.Tensor) -> torch.Tensor:
    """The output in f32 of the weights that a model computes with."""
    exact = copy.deepcopy(dense)
    for name, layer in linears(model).items():
        weight = layer.weight.data
        if isinstance(layer, sf.nn.SparseLinear):
            weight = layer.weight.to_dense(torch.float32)
        elif isinstance(layer, sf.nn.QuantizedLinear):
            weight = layer._plain_weight().float() * layer.scale[:, None]
        elif type(weight) is not torch.Tensor:
            weight = sf.torch.prune(dense.get_submodule(name).weight.data)
        exact.get_submodule(name).weight.data = weight.float()
    return exact.float()(x.float())


def captured(call: Callable[[], Any]) -> Callable[[], Any]:
    """The call as a CUDA graph."""
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for _ in range(2):
            call()
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        call()
    return graph.replay


def timed(call: Callable[[], Any], device: torch.device) -> float:
    """One call, in milliseconds."""
    if device.type != "cuda":
        begin = time.perf_counter()
        call()
        return 1000 * (time.perf_counter() - begin)
    begin, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
    begin.record()
    call()
    end.record()
    end.synchronize()
    return begin.elapsed_time(end)


def measure(calls: dict[str, Callable[[], Any]], rounds: int, device: torch.device) -> dict[str, dict[str, float]]:
    """Median, 20th and 80th percentile of each call, in milliseconds; the calls take turns."""
    times: dict[str, list[float]] = {name: [] for name in calls}
    for call in calls.values():
        for _ in range(2):
            timed(call, device)
    for _ in range(rounds):
        for name, call in calls.items():
            times[name].append(timed(call, device))
    found = {}
    for name, each in times.items():
        cuts = statistics.quantiles(each, n=5) if len(each) > 1 else [each[0]] * 4
        found[name] = {"ms": statistics.median(each), "p20": cuts[0], "p80": cuts[3]}
    return found


#: What a kernel does, by its name; the first that fits. SparseFlow's own are named after the graph and the step.
PARTS = {
    "quantize": r"_quantize_\d",
    "products": r"^(linear|gated)_matmul|gemm|nvjet|cutlass|xmma|cusparselt|splitK|_scaled_mm",
    "attention": r"flash|fmha|attention|sdpa|cudnn",
    "norms, activations, sums": r"elementwise|reduce|vectorized|triton|CatArray|softmax|layer_norm|copy",
}


def breakdown(call: Callable[[], Any], rounds: int) -> dict[str, float]:
    """Milliseconds of the GPU a call by what its kernels do; what fits none of `PARTS` goes by "the rest"."""
    call()
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CUDA]) as profile:
        for _ in range(rounds):
            call()
        torch.cuda.synchronize()
    found = dict.fromkeys([*PARTS, "the rest"], 0.0)
    for event in profile.key_averages():
        part = next((part for part, names in PARTS.items() if re.search(names, event.key)), "the rest")
        found[part] += event.self_device_time_total / 1000 / rounds
    return found


def run_model(name: str, options: argparse.Namespace, device: torch.device) -> dict[str, Any]:
    torch.manual_seed(0)
    dense = MODELS[name](device.type != "cuda").half().requires_grad_(False).eval().to(device)
    models, missing = contenders(dense, options.scheme, device)
    result: dict[str, Any] = {"missing": missing, "models": {}, "times": []}
    say(f"{name}: {', '.join(models)}")
    for label, model in models.items():
        if label.startswith("2:4"):
            sf.warmup(model, options.tokens, allow_dense=options.dense, show_progress=False)
        x = dense.inputs(CHECKED_TOKENS).to(device, torch.float16)
        entry: dict[str, Any] = {"weight_bytes": weight_bytes(model)}
        try:
            y = model(x)
            exact = reference(model, dense, x)
            entry["error"] = float((y.float() - exact).norm() / exact.norm())
            if label.startswith("2:4"):
                entry["paths"] = sf.explain(model, options.tokens, quiet=True).to_dicts()
        except Exception as error:
            missing[label] = f"{type(error).__name__}: {str(error).splitlines()[0]}"
        result["models"][label] = entry
    for mode in options.mode:
        for tokens in options.tokens:
            if name == "dinov2-large" and tokens < IMAGE_TOKENS and tokens != options.tokens[0]:
                continue  # one image is the least
            x = dense.inputs(tokens).to(device, torch.float16)
            row = run_mode(models, missing, mode, x, options, device)
            seen = dense(x).shape[:-1].numel()
            result["times"].append({"mode": mode, "tokens": seen, **row})
            say(f"  {mode} {seen}: " + ", ".join(f"{label} {each['ms']:.3f}" for label, each in row["ms"].items()))
    if device.type == "cuda":
        result["breakdown"] = []
        for tokens in options.breakdown:
            x = dense.inputs(tokens).to(device, torch.float16)
            parts = {
                label: breakdown(lambda model=model, x=x: model(x), options.rounds)
                for label, model in models.items()
                if label not in missing
            }
            result["breakdown"].append({"tokens": dense(x).shape[:-1].numel(), "ms": parts})
            for label, each in parts.items():
                say(f"  {label} {tokens}: " + ", ".join(f"{part} {ms:.3f}" for part, ms in each.items()))
    return result


def run_mode(
    models: dict[str, nn.Module],
    missing: dict[str, str],
    mode: str,
    x: torch.Tensor,
    options: argparse.Namespace,
    device: torch.device,
) -> dict[str, Any]:
    calls: dict[str, Callable[[], Any]] = {}
    for label, model in models.items():
        if label in missing or (mode == "compile" and label == "torch-24"):
            continue
        run = model
        if mode == "compile":
            torch._dynamo.reset()
            run = torch.compile(model, dynamic=False, fullgraph=False)
        call: Callable[[], Any] = lambda run=run: run(x)  # noqa: E731
        try:
            call()
            calls[label] = captured(call) if mode == "graph" else call
        except Exception as error:
            missing[f"{label}, {mode}"] = f"{type(error).__name__}: {str(error).splitlines()[0]}"
            with contextlib.suppress(Exception):
                torch.cuda.synchronize()
    return {"ms": measure(calls, options.rounds, device)}


def environment(device: torch.device) -> dict[str, Any]:
    found = {
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "torch": torch.__version__,
        "sparseflow": sf.__version__,
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu",
    }
    if device.type == "cuda":
        query = "driver_version,clocks.sm,clocks.mem,power.draw,power.limit,temperature.gpu"
        with contextlib.suppress(OSError, subprocess.CalledProcessError):
            answer = subprocess.run(
                ["nvidia-smi", f"--query-gpu={query}", "--format=csv,noheader"],
                capture_output=True,
                text=True,
                check=True,
            ).stdout.strip()
            found |= dict(zip(query.split(","), answer.split(", "), strict=False))
    return found


def say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--model", nargs="+", choices=list(MODELS), default=list(MODELS))
    parser.add_argument("--scheme", nargs="+", choices=["f16", "bf16", "int8", "fp8"], default=SCHEMES)
    parser.add_argument("--mode", nargs="+", choices=MODES)
    parser.add_argument("--tokens", nargs="+", type=int, default=TOKENS)
    parser.add_argument("--breakdown", nargs="*", type=int, default=[2048], metavar="TOKENS", help="default: 2048")
    parser.add_argument("--no-dense", dest="dense", action="store_false", help="2:4 layers hold no dense copy")
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--out", type=Path, help="where to write the JSON; default: stdout")
    options = parser.parse_args()
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    options.mode = options.mode or (MODES if device.type == "cuda" else ["eager"])
    warnings.filterwarnings("ignore", message=".*(sparse tensor cores|semi-structured|SparseSemiStructuredTensor).*")
    data: dict[str, Any] = {"environment": environment(device), "models": {}}
    with torch.inference_mode():
        for name in options.model:
            data["models"][name] = run_model(name, options, device)
            if options.out:  # after each model: what was measured is kept
                options.out.write_text(json.dumps(data, indent=1) + "\n")
    if not options.out:
        print(json.dumps(data, indent=1))
    return 0


if __name__ == "__main__":
    sys.exit(main())
