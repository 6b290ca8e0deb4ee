"""The speeds that SparseFlow aims at on one H100 SXM, the cases that measure them, and which were reached.

Ratios are a rival's time over SparseFlow's. Scales of features and tokens are in SparseFlow's 8-bit products, not in its rivals'.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from typing import Any

from cases import SUSTAINED, Case, Shape, scales_of
from traffic import PEAK_BANDWIDTH, READ_BANDWIDTH, floor_microseconds, least_bytes

CUSPARSELT, CUBLASLT, TFLOPS, FLOOR = "× cuSPARSELt's best", "× cuBLASLt f16", "TFLOPS", "× the floor"
_RIVAL = {CUSPARSELT: "cusparselt", CUBLASLT: "cublaslt f16"}
_DTYPES = ("f16", "i8", "e4m3")

LARGEST: Shape = (8192, 8192, 8192)
LARGE: list[Shape] = [(4096, 4096, 4096), (2048, 22016, 4096), (2048, 4096, 11008)]
MEDIUM: list[Shape] = [(512, 4096, 4096), (4096, 6144, 1536), (4096, 1536, 6144), (4096, 1280, 1280)]
#: N and K of the layers of Llama-3.1-8B, Llama-2-7B and the 70B models.
LLAMA = [(4096, 4096), (1024, 4096), (14336, 4096), (4096, 14336), (11008, 4096), (4096, 11008)]
LLAMA += [(8192, 8192), (28672, 8192), (8192, 28672)]
SOME_TOKENS, FEW_TOKENS = (64, 128, 256), (1, 16, 32)
#: Within 15% of the time that the packed weight, X and Y take at the bandwidth that reads were measured to reach.
FLOOR_SLACK = 1.15


@dataclass(frozen=True)
class Goal:
    """One number to reach: at least `wanted`, or for FLOOR at most."""

    group: str
    dtype: str
    shape: Shape
    what: str
    wanted: float
    protocol: str = "flushed"

    def measured(self, results: dict[str, Any], scales: str) -> float | None:
        """The figure in the results of its case; None where one of its times is missing."""
        ours = results.get("sparseflow", {}).get(self.protocol)
        if ours is None:
            return None
        if self.what == TFLOPS:
            return ours["tflops"]
        if self.what == FLOOR:
            return ours["us"] / floor_microseconds(self.bytes(scales), READ_BANDWIDTH)
        rival = results.get(_RIVAL[self.what], {}).get(self.protocol)
        return rival["us"] / ours["us"] if rival else None

    def bytes(self, scales: str) -> float:
        return least_bytes(self.dtype, *self.shape, scales=scales)

    def is_hit(self, figure: float) -> bool:
        return figure <= self.wanted if self.what == FLOOR else figure >= self.wanted


def goals() -> Iterator[Goal]:
    """All of them; shapes are M, N, K."""
    for dtype, cusparselt, flushed, sustained in (
        ("f16", 1.0, 1100, 1000),
        ("bf16", 1.0, 1100, 1000),
        ("i8", 1.05, 2350, 2000),
        ("e4m3", 1.03, 2200, 1900),
    ):
        for protocol, teraflops in (("flushed", flushed), ("sustained", sustained)):
            yield Goal("8192³", dtype, LARGEST, TFLOPS, teraflops, protocol)
            yield Goal("8192³", dtype, LARGEST, CUSPARSELT, cusparselt, protocol)
            if dtype in ("f16", "bf16"):
                yield Goal("8192³", dtype, LARGEST, CUBLASLT, 1.55, protocol)
    for dtype, shape in itertools.product(_DTYPES, LARGE):
        for protocol in ("flushed", "sustained") if shape in SUSTAINED else ("flushed",):
            yield Goal("Large", dtype, shape, CUSPARSELT, 1.0, protocol)
            if dtype == "f16":
                yield Goal("Large", dtype, shape, CUBLASLT, 1.4, protocol)
    for dtype, shape in itertools.product(_DTYPES, MEDIUM):
        yield Goal("Medium", dtype, shape, CUSPARSELT, 1.1)
    for dtype, (n, k), m in itertools.product(_DTYPES, LLAMA, SOME_TOKENS):
        yield Goal("64 to 256 tokens", dtype, (m, n, k), CUBLASLT, 1.6 if dtype == "f16" else 2.4)
    for dtype, (n, k), m in itertools.product(_DTYPES, LLAMA, FEW_TOKENS):
        yield Goal("1 to 32 tokens", dtype, (m, n, k), FLOOR, FLOOR_SLACK)


def target_cases(scales: str) -> list[Case]:
    """What has to be timed, each with the rivals that its goals name; few tokens last, and those of a weight together."""
    rivals: dict[tuple[str, Shape], set[str]] = {}
    for goal in goals():
        named = rivals.setdefault((goal.dtype, goal.shape), set())
        if goal.what in _RIVAL:
            named.add(_RIVAL[goal.what])
        if goal.what == CUSPARSELT:
            named.add("cublaslt f16")
    cases = [
        Case(dtype, *shape, scales_of(dtype, scales), tuple(sorted(named))) for (dtype, shape), named in rivals.items()
    ]
    few = FEW_TOKENS + SOME_TOKENS
    return sorted(
        cases, key=lambda c: (c.m in few, (_DTYPES.index(c.dtype), LLAMA.index((c.n, c.k))) if c.m in few else ())
    )


def report(document: dict[str, Any]) -> str:
    """Each target, its figure, and hit or miss, as Markdown."""
    found = {(case["dtype"], (case["m"], case["n"], case["k"])): case for case in document["cases"]}
    lines = [
        "## Reached and missed",
        "",
        __doc__.split("\n\n", 1)[1].strip(),
        "",
        "| | reached | missed | not measured |",
        "|---|---:|---:|---:|",
    ]
    groups = {name: list(members) for name, members in itertools.groupby(goals(), key=lambda goal: goal.group)}
    scored = {name: [(goal, _figure(goal, found)) for goal in members] for name, members in groups.items()}
    for name, each in scored.items():
        measured = [goal.is_hit(figure) for goal, figure in each if figure is not None]
        lines.append(f"| {name} | {sum(measured)} | {len(measured) - sum(measured)} | {len(each) - len(measured)} |")
    for name in ("8192³", "Large", "Medium"):
        lines += [
            "",
            f"### {name}",
            "",
            "| dtype | M, N, K | protocol | TFLOPS | wanted | measured | |",
            "|---|---|---|---:|---:|---:|---|",
        ]
        for goal, figure in scored[name]:
            speed = _show(replace(goal, what=TFLOPS), _figure(replace(goal, what=TFLOPS), found))
            head = f"{goal.dtype} | {', '.join(map(str, goal.shape))} | {goal.protocol} | {speed} | {goal.wanted:g} {goal.what}"
            lines.append(f"| {head} | {_show(goal, figure)} | {_verdict(goal, figure)} |")
    lines += [
        "",
        "### 64 to 256 tokens",
        "",
        "Times as fast as cuBLASLt's dense f16; wanted are 1.6 of f16 and 2.4 of 8-bit types.",
        "",
    ]
    lines += _by_tokens(scored["64 to 256 tokens"], SOME_TOKENS)
    lines += [
        "",
        "### 1 to 32 tokens",
        "",
        f"Time over what packed weight, X, Y and scales take at {READ_BANDWIDTH} TB/s, which reads were measured to reach; wanted is",
        f"{FLOOR_SLACK} at most. In parentheses the same at the {PEAK_BANDWIDTH} TB/s of the data sheet.",
        "",
    ]
    lines += _by_tokens(scored["1 to 32 tokens"], FEW_TOKENS, PEAK_BANDWIDTH / READ_BANDWIDTH)
    return "\n".join(lines)


def _figure(goal: Goal, found: dict[tuple[str, Shape], dict[str, Any]]) -> float | None:
    case = found.get((goal.dtype, goal.shape))
    return goal.measured(case["results"], case.get("scales", "none")) if case else None


def _show(goal: Goal, figure: float | None) -> str:
    return "–" if figure is None else f"{figure:.0f}" if goal.what == TFLOPS else f"{figure:.2f}"


def _verdict(goal: Goal, figure: float | None) -> str:
    return "not measured" if figure is None else "hit" if goal.is_hit(figure) else "miss"


def _by_tokens(
    scored: Iterable[tuple[Goal, float | None]], tokens: tuple[int, ...], also_times: float | None = None
) -> list[str]:
    """A row a weight and dtype, a column a number of tokens; and the geometric mean of each dtype."""
    lines = [
        "| dtype | N, K | " + " | ".join(f"{m} tokens" for m in tokens) + " |",
        "|---|---|" + "---:|" * len(tokens),
    ]
    rows: dict[tuple[str, str], list[str]] = {}
    columns: dict[tuple[str, int], list[float]] = {}
    for goal, figure in scored:
        m, n, k = goal.shape
        cell = _show(goal, figure)
        if figure is not None:
            cell += f" ({figure * also_times:.2f})" if also_times else ""
            columns.setdefault((goal.dtype, m), []).append(figure)
        rows.setdefault((goal.dtype, f"{n}, {k}"), []).append(f"{cell} {_verdict(goal, figure)}" if figure else "–")
    lines += [f"| {dtype} | {weight} | " + " | ".join(cells) + " |" for (dtype, weight), cells in rows.items()]
    for dtype in dict.fromkeys(dtype for dtype, _ in rows):
        means = [geometric_mean(columns.get((dtype, m), [])) for m in tokens]
        lines.append(
            f"| {dtype} | geometric mean | " + " | ".join(f"{mean:.2f}" if mean else "–" for mean in means) + " |"
        )
    return lines


def geometric_mean(values: Iterable[float]) -> float | None:
    """None of nothing."""
    logarithms = [math.log(value) for value in values]
    return math.exp(sum(logarithms) / len(logarithms)) if logarithms else None
