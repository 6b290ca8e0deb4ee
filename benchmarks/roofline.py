"""A roofline of the figures of run.py: how fast each product is, by how much it computes for each byte that it must move.

    python benchmarks/roofline.py docs/figures.json docs/roofline.svg [PROTOCOL]

The roof is what was measured on an H100: reads from memory alone, and `wgmma.sp` alone (traffic.py). A panel for each dtype;
bytes are those of X, W and Y once, so a dense rival stands further left than a 2:4 one at the same product.
"""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import Any

from traffic import INSTRUCTION_CEILING, READ_BANDWIDTH, least_bytes

_SERIES = {  # name: title, colour, shape
    "cusparselt default": ("cuSPARSELt's default", "#c8a2c8", "triangle"),
    "cublaslt": ("cuBLASLt, dense", "#999999", "square"),
    "cusparselt": ("cuSPARSELt, 2:4", "#4878a8", "triangle"),
    "sparseflow": ("SparseFlow, 2:4", "#2e8b57", "circle"),
}
_WIDTH, _HEIGHT, _LEFT, _TOP, _GAP, _BELOW = 330, 300, 56, 64, 30, 52
#: Flop a byte, and TFLOPS.
_X, _Y = (1, 8192), (1, 4096)


@dataclass
class Point:
    series: str
    intensity: float
    tflops: float
    label: str


def points(document: dict[str, Any], dtype: str, protocol: str) -> Iterator[Point]:
    """What was measured of a dtype, rivals first so that they do not cover SparseFlow's."""
    for name, (title, _, _) in _SERIES.items():
        for case in document["cases"]:
            results = case["results"].get(name, {})
            if case["dtype"] != dtype or protocol not in results:
                continue
            m, n, k = case["m"], case["n"], case["k"]
            scales = case.get("scales", "none") if name == "sparseflow" else "none"
            size = least_bytes(
                dtype, m, n, k, sparse=name != "cublaslt", result=results.get("result", "f16"), scales=scales
            )
            tflops = results[protocol]["tflops"]
            yield Point(name, 2 * m * n * k / size, tflops, f"{title}: {m},{n},{k}, {tflops:.0f} TFLOPS")


def _x(intensity: float) -> float:
    return _LEFT + _WIDTH * math.log(intensity / _X[0]) / math.log(_X[1] / _X[0])


def _y(tflops: float) -> float:
    return _TOP + _HEIGHT * (1 - math.log(max(tflops, _Y[0]) / _Y[0]) / math.log(_Y[1] / _Y[0]))


def _mark(point: Point) -> str:
    _, colour, shape = _SERIES[point.series]
    x, y = _x(min(max(point.intensity, _X[0]), _X[1])), _y(point.tflops)
    title = f"<title>{escape(point.label)}</title>"
    style = f'fill="{colour}" fill-opacity="0.85" stroke="white" stroke-width="0.5"'
    if shape == "circle":
        return f'<circle cx="{x:.1f}" cy="{y:.1f}" r="4.5" {style}>{title}</circle>'
    if shape == "square":
        return f'<rect x="{x - 3.5:.1f}" y="{y - 3.5:.1f}" width="7" height="7" {style}>{title}</rect>'
    corners = f"{x:.1f},{y - 4.8:.1f} {x - 4.5:.1f},{y + 3.4:.1f} {x + 4.5:.1f},{y + 3.4:.1f}"
    return f'<polygon points="{corners}" {style}>{title}</polygon>'


def _panel(dtype: str, found: list[Point]) -> list[str]:
    """Axes, roof and points, at the left of the picture."""
    ceiling = INSTRUCTION_CEILING[dtype]
    ridge = ceiling / READ_BANDWIDTH
    bottom, right = _TOP + _HEIGHT, _LEFT + _WIDTH
    lines = [f'<text x="{_LEFT}" y="{_TOP - 12}" font-weight="bold">{dtype}</text>']
    for power in range(0, 14, 2):
        x = _x(2**power)
        if x <= right:
            lines.append(f'<line x1="{x:.1f}" x2="{x:.1f}" y1="{_TOP}" y2="{bottom}" stroke="#eeeeee"/>')
            lines.append(f'<text x="{x:.1f}" y="{bottom + 15}" text-anchor="middle">{2**power}</text>')
        y = _y(2**power)
        if y >= _TOP - 1:
            lines.append(f'<line x1="{_LEFT}" x2="{right}" y1="{y:.1f}" y2="{y:.1f}" stroke="#eeeeee"/>')
            lines.append(f'<text x="{_LEFT - 6}" y="{y + 4:.1f}" text-anchor="end">{2**power}</text>')
    start = max(_X[0], _Y[0] / READ_BANDWIDTH)
    path = " L ".join(
        f"{_x(x):.1f} {_y(y):.1f}" for x, y in ((start, start * READ_BANDWIDTH), (ridge, ceiling), (_X[1], ceiling))
    )
    lines.append(f'<path d="M {path}" fill="none" stroke="#b04848" stroke-width="1.5"/>')
    lines.append(
        f'<text x="{right}" y="{_y(ceiling) - 6:.1f}" text-anchor="end" fill="#b04848">wgmma.sp {ceiling:.0f}</text>'
    )
    middle = math.sqrt(start * ridge)
    slope = math.degrees(math.atan2(_y(1) - _y(2), _x(2) - _x(1)))
    x, y = _x(middle), _y(middle * READ_BANDWIDTH) - 7
    lines.append(
        f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="middle" fill="#b04848" '
        f'transform="rotate({-slope:.1f} {x:.1f} {y:.1f})">{READ_BANDWIDTH} TB/s</text>'
    )
    lines += map(_mark, found)
    lines.append(f'<text x="{_LEFT + _WIDTH / 2}" y="{bottom + 32}" text-anchor="middle">flop a byte</text>')
    lines.append(f'<text transform="translate(14 {_TOP + _HEIGHT / 2}) rotate(-90)" text-anchor="middle">TFLOPS</text>')
    return lines


def svg(document: dict[str, Any], protocol: str = "flushed") -> str:
    """The picture, two panels a row."""
    panels = {dtype: list(points(document, dtype, protocol)) for dtype in INSTRUCTION_CEILING}
    panels = {dtype: found for dtype, found in panels.items() if found}
    if not panels:
        raise ValueError(f"expected cases timed by the protocol {protocol}, got none")
    present = {point.series for found in panels.values() for point in found}
    wide, high = _LEFT + _WIDTH + _GAP, _TOP + _HEIGHT
    lines = []
    for index, (dtype, found) in enumerate(panels.items()):
        place = f"translate({index % 2 * wide} {index // 2 * high})"
        lines += [f'<g transform="{place}">', *_panel(dtype, found), "</g>"]
    legend = [each for each in reversed(_SERIES.items()) if each[0] in present]
    for index, (name, (title, _, _)) in enumerate(legend):
        x = _LEFT + 6 + 165 * index
        at = Point(name, 1, 1, title)
        mark = _mark(at)
        lines.append(f'<g transform="translate({x - _x(1):.1f} {22 - _y(1):.1f})">{mark}</g>')
        lines.append(f'<text x="{x + 10}" y="26">{escape(title)}</text>')
    width = max(min(2, len(panels)) * wide, _LEFT + 165 * len(legend))
    height = -(-len(panels) // 2) * high + _BELOW
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height}" font-family="sans-serif" font-size="12">\n'
        '<rect width="100%" height="100%" fill="white"/>\n' + "\n".join(lines) + "\n</svg>\n"
    )


def main() -> int:
    if len(sys.argv) not in (3, 4):
        print(__doc__, file=sys.stderr)
        return 2
    document = json.loads(Path(sys.argv[1]).read_text())
    Path(sys.argv[2]).write_text(svg(document, *sys.argv[3:]))
    return 0


if __name__ == "__main__":
    sys.exit(main())
