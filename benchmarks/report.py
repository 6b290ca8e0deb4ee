"""The figures of a run of run.py as Markdown.

python benchmarks/report.py docs/figures.json > docs/Benchmarks.md
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import random_report
import targets
from cases import PROTOCOLS
from traffic import INSTRUCTION_CEILING

_TITLES = {
    "sparseflow": "SparseFlow 2:4",
    "cublaslt": "cuBLASLt dense",
    "cublaslt f16": "cuBLASLt dense f16",
    "cusparselt": "cuSPARSELt 2:4",
    "cusparselt default": "cuSPARSELt's default",
}

_SUMMARIES = {"targets": targets.report, "random": random_report.report}


def table(document: dict[str, Any], protocol: str) -> str:
    """Microseconds and TFLOPS of each contender, a row a product; "" when nothing was timed this way."""
    rows = [case for case in document["cases"] if any(protocol in result for result in case["results"].values())]
    if not rows:
        return ""
    present = {name for row in rows for name in row["results"]}
    names = [name for name in document["contenders"] or rows[0]["results"] if name in present]
    lines = ["| dtype | M | N | K | " + " | ".join(_TITLES.get(name, name) for name in names) + " | of the ceiling |"]
    lines.append("|---|" + "---:|" * (4 + len(names)))
    for row in rows:
        cells = [row["dtype"], *(str(row[axis]) for axis in "mnk")]
        for name in names:
            results = row["results"].get(name, {})
            result = results.get(protocol)
            missing = "failed" if "error" in results else "–"
            cells.append(f"{result['us']:.1f} ({result['tflops']:.0f})" if result else missing)
        ours = row["results"].get("sparseflow", {}).get(protocol)
        cells.append(f"{ours['tflops'] / INSTRUCTION_CEILING[row['dtype']]:.0%}" if ours else "–")
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


#: Titles of the suites that have a page of their own.
_PAGES = {"targets": "Targets", "random": "Random shapes"}


def report(document: dict[str, Any]) -> str:
    """The whole page."""
    environment, gpu = document["environment"], document["environment"]["gpu"]
    summary = _SUMMARIES.get(document.get("suite", ""))
    libraries = ", ".join(
        dict.fromkeys(entry["library"] for entry in document["contenders"].values() if "library" in entry)
    )
    scales = sorted({case["scales"] for case in document["cases"] if case.get("scales", "none") != "none"})
    lines = [
        f"# {_PAGES.get(document.get('suite', ''), 'Benchmarks')}",
        "",
        f"{gpu.get('name')}, {gpu.get('power.limit')} limit, {gpu.get('clocks.max.sm')}, driver {gpu.get('driver_version')}, "
        f"ptxas {environment['ptxas']}; {libraries + '; ' if libraries else ''}{environment['date']}.",
        "Made by `tools/gpu/run` and `benchmarks/report.py`; [the benchmarks' page](../benchmarks/README.md) says what is",
        "measured. Y[M,N] = X[M,K] · W[N,K]ᵀ; medians in microseconds and, in parentheses, TFLOPS that count 2·M·N·K.",
    ]
    if not summary:
        lines.append(
            "*Of the ceiling*: SparseFlow's TFLOPS as a share of what the instruction `wgmma.sp` alone sustains on an H100."
        )
    if scales:
        how = {"one": "one constant", "both": "a scale for each feature and each token"}
        lines.append(f"8-bit results of SparseFlow are scaled by {' or '.join(how[each] for each in scales)}.")
    if document.get("ended"):
        lines.append(f"The run ended early: {document['ended']}.")
    # These have hundreds of cases: what they come to, and each in the JSON.
    if summary:
        return "\n".join([*lines, "", summary(document)])
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
    if len(sys.argv) != 2 or not Path(sys.argv[1]).is_file():
        sys.exit("expected the JSON file of a run of benchmarks/run.py: report.py FILE")
    print(report(json.loads(Path(sys.argv[1]).read_text())))
