"""How SparseFlow does on random shapes: geometric means against each rival, where it is behind, and by number of tokens."""

from __future__ import annotations

from typing import Any

from targets import geometric_mean

_PROTOCOL = "flushed"
_BEHIND = 1.03
_WORST = 12
#: Upper ends of the ranges of tokens that are summed up apart.
_RANGES = (16, 64, 256, 1024, 4096, 16384)
_RIVALS = {
    "cusparselt": "cuSPARSELt's best",
    "cusparselt default": "cuSPARSELt's default",
    "cublaslt": "cuBLASLt's best",
}


def _ratio(case: dict[str, Any], *rivals: str) -> float | None:
    """The time of the quickest of the rivals over SparseFlow's; None where a time is missing."""
    times = {name: case["results"].get(name, {}).get(_PROTOCOL, {}).get("us") for name in ("sparseflow", *rivals)}
    ours = times.pop("sparseflow")
    known = [us for us in times.values() if us]
    return min(known) / ours if ours and known else None


def _ratios(cases: list[dict[str, Any]], *rivals: str) -> list[float]:
    return [ratio for case in cases if (ratio := _ratio(case, *rivals)) is not None]


def _cell(ratios: list[float]) -> str:
    return f"{geometric_mean(ratios):.3f} ({len(ratios)})" if ratios else "–"


def report(document: dict[str, Any]) -> str:
    """Markdown; ratios are a rival's time over SparseFlow's, so more than 1 is faster."""
    cases = document["cases"]
    drawn = document.get("random", {})
    timed = [case for case in cases if _PROTOCOL in case["results"].get("sparseflow", {})]
    failed = [case for case in cases if "error" in case["results"].get("sparseflow", {})]
    lines = [
        "## Beside cuSPARSELt and cuBLASLt",
        "",
        f"{len(timed)} of {drawn.get('count', len(cases))} shapes, seed {drawn.get('seed')}: M from 1 to 16384, N and K from 512 to "
        "16384, log-uniform; caches flushed. A rival's time over SparseFlow's, geometric mean and, in parentheses, of how many shapes.",
        "",
        "| dtype | tokens | " + " | ".join(_RIVALS.values()) + " | the better of them |",
        "|---|---|" + "---:|" * (len(_RIVALS) + 1),
    ]
    for dtype in dict.fromkeys(case["dtype"] for case in timed):
        below = 0
        for end in (*_RANGES, None):
            rows = [case for case in timed if case["dtype"] == dtype and (end is None or below < case["m"] <= end)]
            title = "all" if end is None else f"{below + 1} to {end}"
            cells = [_cell(_ratios(rows, name)) for name in _RIVALS] + [_cell(_ratios(rows, "cusparselt", "cublaslt"))]
            if rows:
                lines.append(f"| {dtype} | {title} | " + " | ".join(cells) + " |")
            below = end or 0
    scored = [(ratio, case) for case in timed if (ratio := _ratio(case, "cusparselt", "cublaslt")) is not None]
    behind = [case for ratio, case in scored if ratio * _BEHIND < 1]
    sparse = sum(ratio * _BEHIND < 1 for ratio in _ratios(behind, "cusparselt"))
    lines += [
        "",
        f"More than 3% behind the better of cuSPARSELt's and cuBLASLt's best: {len(behind)} of {len(scored)}; behind "
        f"cuSPARSELt, which no dispatch to cuBLASLt mends: {sparse}.",
    ]
    if failed:
        lines.append(
            f"SparseFlow failed at {len(failed)}: "
            + "; ".join(f"{_name(c)}: {c['results']['sparseflow']['error']}" for c in failed)
        )
    lines += [
        "",
        "| furthest behind | " + " | ".join(["SparseFlow", *_RIVALS.values()]) + " | ratio | kernel |",
        "|---|" + "---:|" * (len(_RIVALS) + 2) + "---|",
    ]
    for ratio, case in sorted(scored, key=lambda pair: pair[0])[:_WORST]:
        times = [case["results"].get(name, {}).get(_PROTOCOL, {}).get("us") for name in ("sparseflow", *_RIVALS)]
        cells = [f"{us:.1f} µs" if us else "–" for us in times]
        lines.append(f"| {_name(case)} | " + " | ".join(cells) + f" | {ratio:.2f} | {_kernel(case)} |")
    return "\n".join(lines)


def _name(case: dict[str, Any]) -> str:
    return f"{case['dtype']} {case['m']},{case['n']},{case['k']}"


def _kernel(case: dict[str, Any]) -> str:
    """The configuration of the kernel that ran, or the library's name."""
    steps = case["results"]["sparseflow"].get("report", {}).get("steps", [])
    kernels = [kernel for step in steps for kernel in step.get("kernels", [])]
    configs = [kernel.get("config", "") for kernel in kernels]
    return "; ".join(c.removeprefix("#sf.kernel_config<").removesuffix(">") for c in configs if c) or ", ".join(
        step.get("path", "") for step in steps
    )
