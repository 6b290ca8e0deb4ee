"""How good the cost model is: its own choice beside the tuned one, from what ``sparseflow-tune --json`` measured.

    python benchmarks/tuning_report.py tuning.json

Markdown on stdout: for each dtype and number of tokens the median, the 90th percentile and the worst of (time of the cost model's
choice) / (tuned time), and the products where it is furthest behind.
"""

from __future__ import annotations

import argparse
import json
import statistics
from pathlib import Path
from typing import Any

WORST = 10


def ratio(row: dict[str, Any]) -> float:
    return row["model_us"] / row["us"]


def summary(rows: list[dict[str, Any]]) -> str:
    """Cells of one line of the table."""
    ratios = sorted(map(ratio, rows))
    p90 = ratios[int(0.9 * (len(ratios) - 1))]
    return f"{len(rows)} | {statistics.median(ratios):.3f} | {p90:.3f} | {ratios[-1]:.2f}"


def report(document: dict[str, Any]) -> str:
    rows = document["rows"]
    if not rows:
        return "Nothing was measured."
    lines = ["| dtype | tokens | choices | median | p90 | worst |", "|---|---|---|---|---|---|"]
    for dtype in dict.fromkeys(row["dtype"] for row in rows):
        of_dtype = [row for row in rows if row["dtype"] == dtype]
        for tokens in sorted({row["tokens"] for row in of_dtype}):
            lines.append(f"| {dtype} | {tokens} | {summary([row for row in of_dtype if row['tokens'] == tokens])} |")
        lines.append(f"| {dtype} | all | {summary(of_dtype)} |")
    lines.append(f"| all | all | {summary(rows)} |")
    lines += [
        "",
        "| furthest behind | tokens | model µs | tuned µs | model's choice | tuned |",
        "|---|---|---|---|---|---|",
    ]
    for row in sorted(rows, key=ratio, reverse=True)[:WORST]:
        name = f"{row['dtype']} {row['features']}x{row['inner']} {row['epilogue']}"
        configs = [
            row[which].removeprefix("#sf.kernel_config<").removesuffix(">") for which in ("model_config", "config")
        ]
        lines.append(f"| {name} | {row['tokens']} | {row['model_us']:.1f} | {row['us']:.1f} | {' | '.join(configs)} |")
    for product, reason in document["skipped"].items():
        lines.append(f"\n{product} was left out: {reason}")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description="The cost model's choices beside the tuned ones.")
    parser.add_argument("measured", type=Path, help="what sparseflow-tune --json printed")
    print(report(json.loads(parser.parse_args().measured.read_text())))


if __name__ == "__main__":
    main()
