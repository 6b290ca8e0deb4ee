"""SparseFlow's programs: compiled for each weight, checked against float64 on the device, and kept as files while they are timed."""

from __future__ import annotations

import itertools
import time
from collections.abc import Iterable
from concurrent.futures import Executor
from pathlib import Path
from typing import Any

from cases import Case

#: By contender, dtype, N, K and scales: the file and what was seen when it was made, or why there is none.
Key = tuple[str, str, int, int, str]
Programs = dict[Key, dict[str, Any]]

# One scale for all, or the size of the features' scales: products of 8-bit integers fit into f16.
_SCALE = {"i8": 1 / 256, "e4m3": 1.0}
_CHECKED_TOKENS, _CHECKED_FEATURES = 128, 2048


def key_of(name: str, case: Case) -> Key:
    """Which program a contender of this name runs in this case: one serves all numbers of tokens."""
    return name, case.dtype, case.n, case.k, case.scales


def compile_programs(pool: Executor, folder: Path, cases: Iterable[Case], configs: dict[str, str | None]) -> Programs:
    """Compiles and checks what the contenders of these names and configurations run, side by side in the pool's processes."""
    tokens: dict[Key, set[int]] = {}
    for case, name in itertools.product(cases, configs):
        tokens.setdefault(key_of(name, case), set()).add(case.m)
    jobs = {}
    for index, (key, checked) in enumerate(tokens.items()):
        path = str(folder / f"{index}.sf")
        jobs[key] = path, pool.submit(compile_program, path, *key[1:], configs[key[0]], sorted(checked))
    programs: Programs = {}
    for key, (path, job) in jobs.items():
        try:
            programs[key] = {"file": path, **job.result()}
        except Exception as error:
            programs[key] = {"failure": f"{type(error).__name__}: {error}"}
    return programs


def compile_program(
    path: str,
    dtype: str,
    n: int,
    k: int,
    scales: str,
    config: str | None,
    checked_tokens: list[int],
    device: str = "cuda",
    target: str | None = None,
) -> dict[str, Any]:
    """Compiles a product with a random 2:4 weight into a .sf file, and checks it at these token counts.

    With "both" scales the features' are in the program and the tokens', [M, 1] of f32, are its second input.
    """
    import numpy as np
    import torch

    import sparseflow as sf

    rng = np.random.default_rng(n * 31 + k)
    weight = rng.standard_normal((n, k), np.float32)
    if dtype == "i8":
        weight = np.clip(np.rint(32 * weight), -127, 127).astype(np.int8)
    weight = sf.prune_24(weight.astype(sf.dtypes.dtype(dtype).numpy))
    feature_scale = ((0.5 + rng.random(n)) * _SCALE.get(dtype, 1)).astype(np.float32)
    graph = sf.Graph()
    x = graph.input("x", (None, k), dtype)
    arguments: dict[str, Any] = {}
    if scales == "both":
        arguments = {"row_scale": graph.input("token_scale", (None, 1), sf.f32), "feature_scale": feature_scale}
    elif scales == "one":
        arguments = {"row_scale": _SCALE[dtype]}
    out = {"i8": "f16", "e4m3": "bf16"}.get(dtype, dtype)
    graph.output(graph.matmul(x, weight, out_dtype=out, **arguments))
    begin = time.perf_counter()
    exe = sf.compile(graph, config=config, device=device, target=target, cache_dir="")
    seconds = time.perf_counter() - begin
    exe.save(path)

    where = "cuda" if device == "cuda" else "cpu"
    features = torch.randperm(n)[:_CHECKED_FEATURES]
    reference = torch.from_numpy(weight[features.numpy()].astype(np.float32)).to(where).double()
    worst = 0.0
    for m in checked_tokens:
        tokens = torch.randn(m, k, device=where)
        tokens = (
            (32 * tokens).round().clamp(-127, 127).to(torch.int8) if dtype == "i8" else tokens.to(_torch_dtype(dtype))
        )
        token_scale = 0.5 + torch.rand(m, 1, device=where)
        actual = exe(tokens, token_scale) if scales == "both" else exe(tokens)
        rows = torch.randperm(m, device=where)[:_CHECKED_TOKENS]
        expected = tokens[rows].double() @ reference.T
        if scales == "both":
            expected *= token_scale[rows].double() * torch.from_numpy(feature_scale).double()[features].to(where)
        elif scales == "one":
            expected *= _SCALE[dtype]
        error = (actual[rows][:, features.to(where)].double() - expected).norm() / expected.norm()
        worst = max(worst, float("inf") if error.isnan() else error.item())
    if where == "cuda":
        torch.cuda.empty_cache()  # this process goes on to other weights, beside others
    return {"compile_seconds": round(seconds, 2), "relative_error": worst}


def _torch_dtype(name: str) -> Any:
    import torch

    return {"f16": torch.float16, "bf16": torch.bfloat16, "e4m3": torch.float8_e4m3fn}[name]
