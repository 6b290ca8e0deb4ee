"""The figures of a run of pytorch.py as a page and a picture.

python benchmarks/pytorch_report.py docs/pytorch.json docs/PyTorchBenchmarks.md    # and docs/pytorch.svg beside it
"""

from __future__ import annotations

import json
import sys
from html import escape
from pathlib import Path
from typing import Any

BASE = "dense f16"
_MODES = {
    "eager": "eager",
    "graph": "CUDA graph",
    "compile": "torch.compile",
    "reduce-overhead": "torch.compile, reduce-overhead",
}
_COLOURS = {"2:4 f16": "#4878a8", "2:4 bf16": "#6898c8", "2:4 int8": "#2e8b57", "2:4 fp8": "#c8882e", "dense int8": "#999999", "torch-24": "#b04848"}  # fmt: skip
_BAR, _GAP, _LEFT, _TOP, _HEIGHT = 14, 18, 60, 46, 150


def times(model: dict[str, Any], mode: str) -> str:
    """Milliseconds by number of tokens, and in parentheses how often dense f16 fits in."""
    rows = [row for row in model["times"] if row["mode"] == mode]
    names = [name for name in model["models"] if any(name in row["ms"] for row in rows)]
    lines = ["| tokens | " + " | ".join(names) + " |", "|---:|" + "---:|" * len(names)]
    for row in rows:
        base = row["ms"].get(BASE, {}).get("ms")
        cells = []
        for name in names:
            found = row["ms"].get(name)
            ratio = f" ({base / found['ms']:.2f})" if found and base and name != BASE else ""
            cells.append(f"{found['ms']:.2f}{ratio}" if found else "–")
        lines.append(f"| {row['tokens']} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def breakdown(row: dict[str, Any]) -> str:
    """Milliseconds of the GPU by what its kernels do."""
    parts = list(next(iter(row["ms"].values())))
    lines = ["| ms | " + " | ".join(parts) + " | sum |", "|---|" + "---:|" * (len(parts) + 1)]
    for name, found in row["ms"].items():
        lines.append(f"| {name} | " + " | ".join(f"{found[p]:.2f}" for p in parts) + f" | {sum(found.values()):.2f} |")
    return "\n".join(lines)


def weights(model: dict[str, Any]) -> str:
    """Bytes of the linear weights and the error of the output."""
    base = model["models"][BASE]["weight_bytes"]
    with_memory = "allocated_bytes" in model["models"][BASE]
    lines = ["| | linear weights, MiB | less |", "|---|---:|---:|"]
    lines[0] += (" whole model, allocated, MiB |" if with_memory else "") + " error against the same weights in f32 |"
    lines[1] += "---:|" * (1 + with_memory)
    for name, entry in model["models"].items():
        error = f"{entry['error']:.2g}" if "error" in entry else "–"
        size = entry["weight_bytes"]
        allocated = f" {entry['allocated_bytes'] / 2**20:.0f} |" if with_memory else ""
        lines.append(f"| {name} | {size / 2**20:.0f} | {1 - size / base:.0%} |{allocated} {error} |")
    return "\n".join(lines)


def left_out(steps: list[dict[str, Any]]) -> list[str]:
    """What there was no time for: a mode and a number of tokens, and which contenders if it was not all of them."""
    found: dict[tuple[str, int], list[str]] = {}
    for step in steps:
        found.setdefault((step["mode"], step["tokens"]), []).extend([step["model"]] if "model" in step else [])
    named = [
        f"{_MODES.get(mode, mode)} of {tokens} tokens" + (f" ({', '.join(models)})" if models else "")
        for (mode, tokens), models in found.items()
    ]
    return ["", f"There was no time for {'; '.join(named)}."] if named else []


def page(data: dict[str, Any], picture: str) -> str:
    """The whole page."""
    environment = data["environment"]
    lines = [
        "# PyTorch benchmarks",
        "",
        f"Whole models with random weights on an {environment['device']}, driver {environment.get('driver_version', 'unknown')}, "
        f"PyTorch {environment['torch']}; [pytorch.py](../benchmarks/pytorch.py) says how. Made on {environment['date'][:10]}. "
        "Medians in ms; in parentheses how many times faster than dense f16.",
        "",
        f"![Speed against dense f16]({picture})",
    ]
    for name, model in data["models"].items():
        lines += ["", f"## {name}", "", weights(model)]
        # One contender alone, where the time was over behind it, is compared with nothing.
        for mode in dict.fromkeys(row["mode"] for row in model["times"] if len(row["ms"]) > 1):
            lines += ["", f"### {_MODES[mode]}", "", times(model, mode)]
        for row in model.get("breakdown", []):
            lines += ["", f"### Where the GPU's time goes, {row['tokens']} tokens", "", breakdown(row)]
        lines += [f"\nMissing: {label}, {reason}" for label, reason in model["missing"].items()]
        lines += left_out(model.get("left_out", []))
    if data.get("left_out"):
        lines += ["", f"There was no time for {', '.join(data['left_out'])}."]
    return "\n".join(lines) + "\n"


def svg(data: dict[str, Any]) -> str:
    """Bars: the speed of each contender against dense f16, a panel a model, by number of tokens; CUDA graphs where timed."""
    panels, widest, y = [], 0, 0
    for name, model in data["models"].items():
        modes = {row["mode"] for row in model["times"]}
        if not modes:
            continue
        mode = "graph" if "graph" in modes else next(iter(modes))
        rows = [row for row in model["times"] if row["mode"] == mode and BASE in row["ms"]]
        names = [each for each in _COLOURS if any(each in row["ms"] for row in rows)]
        ratios = [
            [row["ms"][BASE]["ms"] / row["ms"][each]["ms"] if each in row["ms"] else 0 for each in names]
            for row in rows
        ]
        top = max([1.5, *[ratio for group in ratios for ratio in group]])
        panel = [
            f'<text x="{_LEFT}" y="{y + 20}" font-weight="bold">{escape(name)}, {_MODES[mode]}: times as fast as dense f16</text>'
        ]
        x = _LEFT
        floor = y + _TOP + _HEIGHT
        for row, group in zip(rows, ratios, strict=True):
            begin = x
            for each, ratio in zip(names, group, strict=True):
                height = _HEIGHT * ratio / top
                panel.append(
                    f'<rect x="{x}" y="{floor - height:.1f}" width="{_BAR - 2}" height="{height:.1f}" fill="{_COLOURS[each]}"/>'
                )
                x += _BAR
            panel.append(
                f'<text x="{(begin + x) / 2:.0f}" y="{floor + 16}" text-anchor="middle">{row["tokens"]}</text>'
            )
            x += _GAP
        line = floor - _HEIGHT / top
        panel.append(
            f'<line x1="{_LEFT - 6}" x2="{x}" y1="{line:.1f}" y2="{line:.1f}" stroke="black" stroke-dasharray="4 3"/>'
        )
        panel.append(f'<text x="{_LEFT - 10}" y="{line + 4:.1f}" text-anchor="end">1</text>')
        for index, each in enumerate(names):
            panel.append(
                f'<rect x="{_LEFT + 110 * index}" y="{y + 28}" width="10" height="10" fill="{_COLOURS[each]}"/>'
            )
            panel.append(f'<text x="{_LEFT + 14 + 110 * index}" y="{y + 37}">{each}</text>')
        widest = max(widest, x, _LEFT + 110 * len(names))
        panels += panel
        y = floor + 34
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{widest + 20}" height="{y}" font-family="sans-serif" font-size="12">\n'
        '<rect width="100%" height="100%" fill="white"/>\n' + "\n".join(panels) + "\n</svg>\n"
    )


def main() -> int:
    if len(sys.argv) != 3:
        print(__doc__, file=sys.stderr)
        return 2
    data, target = json.loads(Path(sys.argv[1]).read_text()), Path(sys.argv[2])
    picture = Path(sys.argv[1]).with_suffix(".svg").name
    target.with_name(picture).write_text(svg(data))
    target.write_text(page(data, picture))
    return 0


if __name__ == "__main__":
    sys.exit(main())
