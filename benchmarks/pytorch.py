"""Whole models in PyTorch, dense and 2:4, end to end on one GPU: time, memory and error.

    python benchmarks/pytorch.py --out pytorch.json [--seconds 480] [--model llama-3.1-8b ...] [--scheme int8 ...] [--mode eager ...]
                                 [--tokens ...] [--breakdown 2048]

Models have random weights and the shapes of the real ones: four layers of Llama-3.1-8B, DINOv2-large, BERT-base. Contenders go in
turn, round by round, since the chip's clock moves every figure; a figure is the median over the rounds. The error of a 2:4 model
is taken against the same pruned and rounded weights in f32; that of the dense one against its own in f32. `torch-24` is PyTorch's own
semi-structured tensor. A breakdown is the GPU's time of one call in eager mode by what the kernels do. What matters most is
measured first, each step of all models: CUDA graphs at the token counts of `KEY_TOKENS`, eager mode and breakdowns at the first of
them, eager mode at the others, CUDA graphs at all counts, then torch.compile by itself and in its mode "reduce-overhead" (CUDA
graphs). With --seconds the run ends by then, and the result says what was left out. It is written after each measurement.
Without a GPU the models are tiny and only their numbers mean something.
"""

from __future__ import annotations

import argparse
import contextlib
import copy
import datetime
import functools
import gc
import json
import re
import statistics
import subprocess
import sys
import time
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from torch import nn

import sparseflow as sf
from sparseflow.files import replacing

TOKENS = [1, 16, 64, 256, 1024, 2048, 4096, 8192]
SCHEMES = ["f16", "int8", "fp8"]
MODES = ["graph", "eager", "compile", "reduce-overhead"]
#: Ways in which torch.compile is called, which take seconds to get ready, by their modes here.
COMPILED = {"compile": "default", "reduce-overhead": "reduce-overhead"}
#: Contenders that would add nothing but time there.
NOT_COMPILED = {"dense int8", "torch-24"}
KEY_TOKENS = [2048, 1, 8192, 256]
COMPILE_SECONDS = 20  # what torch.compile may take of one model
MIN_ROUNDS = 3
ROUNDS_SECONDS = 2.5  # of one measurement: slow contenders have fewer rounds
IMAGE_TOKENS = 257  # of a 224-pixel image in patches of 14, and one for the class
TEXT_TOKENS = 512  # BERT's longest sequence
CHECKED_TOKENS = 256
_BEGIN = time.monotonic()


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


def paths_of_shapes(layers: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The paths of layers, once for all that are alike, with how many these are."""
    alike: dict[str, dict[str, Any]] = {}
    for each in layers:
        path = {key: value for key, value in each.items() if key != "layer"}
        alike.setdefault(json.dumps(path), path | {"layers": 0})["layers"] += 1
    return list(alike.values())


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


class Allocation:
    """What is allocated on a GPU from one look at it to the next; nothing elsewhere."""

    def __init__(self, device: torch.device):
        self.device, self.before = device, 0
        self.grown()

    def grown(self) -> int:
        gc.collect()
        now = torch.cuda.memory_allocated(self.device) if self.device.type == "cuda" else 0
        before, self.before = self.before, now
        return now - before


def contenders(dense: nn.Module, schemes: list[str]) -> Iterator[tuple[str, Callable[[], nn.Module]]]:
    """The models to compare, each to be made by a call. What is most asked for comes first."""

    def sparse(scheme: str) -> nn.Module:
        model = copy.deepcopy(dense)
        sf.sparsify_model(model, scheme, show_progress=False)
        return model

    def dense_int8() -> nn.Module:
        model = copy.deepcopy(dense)
        sf.dense_int8(model, show_progress=False)
        return model

    yield "dense f16", lambda: dense
    for scheme in sorted(schemes, key=lambda scheme: scheme != "int8"):
        yield f"2:4 {scheme}", functools.partial(sparse, scheme)
    if "int8" in schemes:
        yield "dense int8", dense_int8
    if next(dense.parameters()).is_cuda:
        yield "torch-24", lambda: torch_24(copy.deepcopy(dense))


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
    once = {name: [timed(call, device) for _ in range(2)][-1] / 1000 for name, call in calls.items()}
    for index in range(rounds):
        for name, call in calls.items():
            if index < max(MIN_ROUNDS, ROUNDS_SECONDS / len(calls) / max(once[name], 1e-6)):
                times[name].append(timed(call, device))
    found = {}
    for name, each in times.items():
        cuts = statistics.quantiles(each, n=5) if len(each) > 1 else [each[0]] * 4
        found[name] = {"ms": statistics.median(each), "p20": cuts[0], "p80": cuts[3]}
    return found


#: What a kernel does, by its name; the first that fits. SparseFlow's own are named after the graph and the step.
PARTS = {
    "quantize": r"_quantize_\d",
    "products": r"^(linear|gated|siblings)_matmul|gemm|nvjet|cutlass|xmma|cusparselt|splitK|_scaled_mm",
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


class Budget:
    """How much time is left. A step is begun only if one of its kind, as long as the longest so far, would end in time."""

    def __init__(self, seconds: float | None):
        self.seconds, self.begin = seconds, time.monotonic()
        self.longest: dict[str, float] = {}

    def spent(self) -> float:
        return time.monotonic() - self.begin

    def allows(self, kind: str, guess: float = 0) -> bool:
        """`guess`: how long the first of a kind may take, in seconds."""
        return self.seconds is None or self.spent() + self.longest.get(kind, guess) < self.seconds

    @contextlib.contextmanager
    def step(self, kind: str) -> Iterator[None]:
        begin = time.monotonic()
        yield
        self.longest[kind] = max(self.longest.get(kind, 0), time.monotonic() - begin)


class Subject:
    """One model with its contenders, and what was found of them."""

    def __init__(self, name: str, options: argparse.Namespace, device: torch.device):
        torch.manual_seed(0)
        self.name, self.options, self.device = name, options, device
        self.result: dict[str, Any] = {"missing": {}, "left_out": [], "models": {}, "times": [], "breakdown": []}
        self.models: dict[str, nn.Module] = {}
        self.compiled: dict[tuple[str, str], Callable[..., Any]] = {}
        allocation = Allocation(device)
        self.dense = MODELS[name](device.type != "cuda").half().requires_grad_(False).eval().to(device)
        for label, make in contenders(self.dense, options.scheme):
            try:
                self.models[label] = make()
            except Exception as error:  # whatever a build of PyTorch lacks: the comparison goes on without it
                self._misses(label, error)
                continue
            self.result["models"][label] = self._prepare(label, self.models[label], allocation)
        say(f"{name}: {', '.join(self.models)}")

    def _prepare(self, label: str, model: nn.Module, allocation: Allocation) -> dict[str, Any]:
        """Warms a contender up: its memory, its error and its paths."""
        if label.startswith("2:4"):
            sf.warmup(model, self.options.tokens, allow_dense=self.options.dense, show_progress=False)
        entry: dict[str, Any] = {"weight_bytes": weight_bytes(model)}
        if self.device.type == "cuda":
            entry["allocated_bytes"] = allocation.grown()
        x = self.inputs(CHECKED_TOKENS)
        try:
            y = model(x)
            exact = reference(model, self.dense, x)
            entry["error"] = float((y.float() - exact).norm() / exact.norm())
            if label.startswith("2:4"):
                entry["paths"] = paths_of_shapes(sf.explain(model, self.options.tokens, quiet=True).to_dicts())
        except Exception as error:
            self._misses(label, error)
        del x
        allocation.grown()  # what the first call keeps is no weight
        return entry

    def inputs(self, tokens: int) -> torch.Tensor:
        return self.dense.inputs(tokens).to(self.device, torch.float16)

    def tokens_of(self, x: torch.Tensor) -> int:
        """How many tokens the model makes of an input: images have as many as they have."""
        return self.dense(x).shape[:-1].numel()

    def _misses(self, label: str, error: Exception) -> None:
        self.result["missing"][label] = f"{type(error).__name__}: {str(error).splitlines()[0]}"
        with contextlib.suppress(Exception):
            torch.cuda.synchronize()

    def measure(self, mode: str, tokens: int, budget: Budget) -> None:
        """One row: all contenders in one mode with so many tokens."""
        x = self.inputs(tokens)
        seen = self.tokens_of(x)
        if any(row["mode"] == mode and row["tokens"] == seen for row in self.result["times"]):
            return  # of images there are no fewer tokens than one has
        calls: dict[str, Callable[[], Any]] = {}
        for label, model in self.models.items():
            if label in self.result["missing"] or (mode in COMPILED and label in NOT_COMPILED):
                continue
            if not budget.allows(f"{self.name} {mode} call", COMPILE_SECONDS if mode in COMPILED else 0):
                self.result["left_out"].append({"mode": mode, "tokens": seen, "model": label})
                continue
            with budget.step(f"{self.name} {mode} call"):
                try:
                    calls[label] = self._call(label, model, mode, x)
                except Exception as error:
                    self._misses(f"{label}, {mode}", error)
        if not calls:
            return
        row = {"mode": mode, "tokens": seen, "ms": measure(calls, self.options.rounds, self.device)}
        self.result["times"].append(row)
        say(
            f"{self.name} {mode} {seen}: " + ", ".join(f"{label} {each['ms']:.3f}" for label, each in row["ms"].items())
        )

    def _call(self, label: str, model: nn.Module, mode: str, x: torch.Tensor) -> Callable[[], Any]:
        run: Callable[..., Any] = model
        if mode in COMPILED:
            if (label, mode) not in self.compiled:
                self.compiled[label, mode] = torch.compile(model, mode=COMPILED[mode])
            run = self.compiled[label, mode]
        call = functools.partial(run, x)
        call()
        return captured(call) if mode == "graph" else call

    def break_down(self, tokens: int) -> None:
        """Where the GPU's time goes, of each contender."""
        x = self.inputs(tokens)
        parts = {
            label: breakdown(functools.partial(model, x), MIN_ROUNDS)
            for label, model in self.models.items()
            if label not in self.result["missing"]
        }
        self.result["breakdown"].append({"tokens": self.tokens_of(x), "ms": parts})

    def sort(self) -> None:
        """Puts the rows into the order in which they are read."""
        order = ["eager", "graph", *COMPILED]
        self.result["times"].sort(key=lambda row: (order.index(row["mode"]), row["tokens"]))


#: (a step's mode, or "breakdown", and its number of tokens)
Step = tuple[str, int]


def schedule(modes: list[str], tokens: list[int], breakdowns: list[int]) -> list[list[Step]]:
    """What is done of each model, a part of it of all models before the next; the most important first."""
    key = [count for count in KEY_TOKENS if count in tokens]
    rest = [count for count in tokens if count not in key]
    if not key:
        key, rest = rest, []
    parts: list[list[Step]] = [
        [("graph", count) for count in key],
        [("eager", key[0])] + [("breakdown", count) for count in breakdowns],
        [("eager", count) for count in key[1:]] + [("graph", count) for count in rest],
        [(mode, key[0]) for mode in COMPILED],
        [("eager", count) for count in rest],
        [(mode, count) for count in key[1:] + rest for mode in COMPILED],
    ]
    wanted = [[step for step in part if step[0] in (*modes, "breakdown")] for part in parts]
    return [part for part in wanted if part]


def run(options: argparse.Namespace, device: torch.device, write: Callable[[dict[str, Any]], None]) -> dict[str, Any]:
    """All measurements that there is time for; `write` has the result after each."""
    budget = Budget(options.seconds)
    data: dict[str, Any] = {"environment": environment(device), "models": {}, "left_out": []}
    parts = schedule(options.mode, options.tokens, options.breakdown if device.type == "cuda" else [])
    subjects = []

    def take(subject: Subject, step: Step) -> None:
        kind, tokens = step
        if not budget.allows(f"{subject.name} {kind}"):
            subject.result["left_out"].append({"mode": kind, "tokens": tokens})
            return
        with budget.step(f"{subject.name} {kind}"):
            if kind == "breakdown":
                subject.break_down(tokens)
            else:
                subject.measure(kind, tokens, budget)
        subject.sort()
        data["environment"]["seconds"] = round(budget.spent(), 1)
        write(data)

    for name in options.model:
        if not budget.allows("subject"):
            data["left_out"].append(name)
            continue
        with budget.step("subject"):
            subject = Subject(name, options, device)
        subjects.append(subject)
        data["models"][name] = subject.result
        for step in parts[0]:
            take(subject, step)
    for part in parts[1:]:
        for subject in subjects:
            for step in part:
                take(subject, step)
    write(data)
    return data


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
    print(f"{time.monotonic() - _BEGIN:6.1f} s  {text}", file=sys.stderr, flush=True)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--model", nargs="+", choices=list(MODELS), default=list(MODELS))
    parser.add_argument("--scheme", nargs="+", choices=["f16", "bf16", "int8", "fp8"], default=SCHEMES)
    parser.add_argument("--mode", nargs="+", choices=MODES)
    parser.add_argument("--tokens", nargs="+", type=int, default=TOKENS)
    parser.add_argument("--breakdown", nargs="*", type=int, default=[2048], metavar="TOKENS", help="default: 2048")
    parser.add_argument("--no-dense", dest="dense", action="store_false", help="2:4 layers hold no dense copy")
    parser.add_argument("--seconds", type=float, help="ends by then, with the most important figures")
    parser.add_argument("--rounds", type=int, default=11)
    parser.add_argument("--out", type=Path, help="where to write the JSON; default: stdout")
    options = parser.parse_args()
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    options.mode = options.mode or (MODES if device.type == "cuda" else ["eager"])
    warnings.filterwarnings("ignore", message=".*(sparse tensor cores|semi-structured|SparseSemiStructuredTensor).*")
    # Each contender and number of tokens is a version of the same code.
    torch._dynamo.config.recompile_limit = 256

    def write(data: dict[str, Any]) -> None:
        if options.out:
            with replacing(options.out) as partial:
                partial.write_text(json.dumps(data, indent=1) + "\n")

    with torch.inference_mode():
        data = run(options, device, write)
    if not options.out:
        print(json.dumps(data, indent=1))
    return 0


if __name__ == "__main__":
    sys.exit(main())
