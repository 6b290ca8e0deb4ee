"""The figures of a run of run.py as Markdown.

python benchmarks/report.py docs/figures.json > docs/Benchmarks.md
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

PROTOCOLS = ("cold", "flushed", "sustained")
_TITLES = {"sparseflow": "SparseFlow 2:4", "cublaslt": "cuBLASLt dense", "cusparselt": "cuSPARSELt 2:4"}


def table(document: dict[str, Any], protocol: str) -> str:
    """Microseconds and TFLOPS of each contender, a row a product; "" when nothing was timed this way."""
    names = list(document["contenders"]) or list(document["cases"][0]["results"])
    rows = [case for case in document["cases"] if any(protocol in result for result in case["results"].values())]
    if not rows:
        return ""
    lines = ["| dtype | M | N | K | " + " | ".join(_TITLES.get(name, name) for name in names) + " |"]
    lines.append("|---|" + "---:|" * (3 + len(names)))
    for row in rows:
        cells = [row["dtype"], *(str(row[axis]) for axis in "mnk")]
        for name in names:
            results = row["results"].get(name, {})
            result = results.get(protocol)
            missing = "failed" if "error" in results else "–"
            cells.append(f"{result['us']:.1f} ({result['tflops']:.0f})" if result else missing)
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def report(document: dict[str, Any]) -> str:
    """The whole page."""
    environment, gpu = document["environment"], document["environment"]["gpu"]
    libraries = ", ".join(entry["library"] for entry in document["contenders"].values())
    lines = [
        "# Benchmarks",
        "",
        f"{gpu['name']}, {gpu['power.limit']} limit, {gpu['clocks.max.sm']}, driver {gpu['driver_version']}, "
        f"ptxas {environment['ptxas']}; {libraries}; {environment['date']}.",
        "Made by `tools/gpu/run bench` and `benchmarks/report.py`; [the benchmarks' page](../benchmarks/README.md) says what is",
        "measured. Y[M,N] = X[M,K] · W[N,K]ᵀ; medians in microseconds and, in parentheses, TFLOPS that count 2·M·N·K.",
    ]
    titles = {
        "cold": "After a pause",
        "flushed": "With cold caches",
        "sustained": "Under sustained load, where power decides",
    }
    for protocol in PROTOCOLS:
        if text := table(document, protocol):
            lines += ["", f"## {titles[protocol]}", "", text]
    calls = ", ".join(f"{_TITLES[name]} {value}" for name, value in document.get("launch_overhead", {}).items())
    if calls:
        lines += ["", "## The host's part", "", f"One call from C, in microseconds: {calls}."]
    return "\n".join(lines)


if __name__ == "__main__":
    print(report(json.loads(Path(sys.argv[1]).read_text())))
