"""A picture of a benchmark: bars of TFLOPS for each product, as HTML with an SVG of its own making, or as PNG by matplotlib."""

from __future__ import annotations

import html
import importlib.util
from pathlib import Path
from typing import Any

from ..files import replacing
from .cli import Failure, WrongArguments

# Of the Okabe-Ito palette, which people with any colour vision tell apart.
_COLOURS = {"sparseflow": "#0072b2", "cublas": "#999999", "cusparselt": "#e69f00", "torch": "#cc79a7"}
_BAR, _GAP, _LEFT, _WIDTH = 16, 18, 190, 620  # pixels


def check(path: Path) -> None:
    """Raises WrongArguments for a suffix that `write` does not know, and Failure where it could not write, before anything is timed."""
    if path.suffix not in (".html", ".png"):
        raise WrongArguments(f"expected --plot to name a .png or .html, got {path}")
    if path.suffix == ".png" and importlib.util.find_spec("matplotlib") is None:
        raise Failure(f"expected matplotlib for {path}, got none; pip install matplotlib, or name a .html")
    if not path.absolute().parent.is_dir():
        raise Failure(f"expected a folder {path.parent} for the picture, got none; make it first")


def write(document: dict[str, Any], path: Path) -> None:
    """Writes the picture that the path's suffix asks for, .html or .png; atomic. Raises what `check` does."""
    check(path)
    with replacing(path) as partial:
        if path.suffix == ".html":
            partial.write_text(page(document), "utf-8")
        else:
            _png(document, partial)


def _series(document: dict[str, Any]) -> list[tuple[str, list[tuple[str, dict[str, Any]]]]]:
    """(title, [(contender, result)]) of every product that was timed."""
    series = []
    for case in document["cases"]:
        timed = [(name, result) for name, result in case["results"].items() if "median_us" in result]
        if timed:
            series.append((f"{case['scheme']} {case['m']}x{case['n']}x{case['k']}", timed))
    return series


def page(document: dict[str, Any]) -> str:
    """A page that stands alone: no script, nothing loaded from elsewhere."""
    series = _series(document)
    largest = max((result["tflops_p20"] for _, timed in series for _, result in timed), default=1.0)
    parts, y = [], 0
    for title, timed in series:
        parts.append(f'<text x="0" y="{y + 13}" class="case">{html.escape(title)}</text>')
        for name, result in timed:
            width = result["tflops"] / largest * _WIDTH
            slow, fast = (result[f"tflops_{edge}"] / largest * _WIDTH for edge in ("p80", "p20"))
            colour = _COLOURS.get(name, "#555555")
            parts.append(f'<rect x="{_LEFT}" y="{y}" width="{width:.1f}" height="{_BAR - 3}" fill="{colour}"/>')
            parts.append(
                f'<line x1="{_LEFT + slow:.1f}" x2="{_LEFT + fast:.1f}" y1="{y + 6.5}" y2="{y + 6.5}" stroke="black"/>'
            )
            label = f"{name} {result['tflops']:.4g} TFLOPS, {result['median_us']:.4g} µs"
            parts.append(f'<text x="{_LEFT + max(width, fast) + 6:.1f}" y="{y + 11}">{html.escape(label)}</text>')
            y += _BAR
        y += _GAP
    environment = ", ".join(f"{key} {value}" for key, value in document["environment"].items() if value)
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8"><title>sparseflow-benchmark</title>\n'
        "<style>body{font:14px sans-serif;margin:2em} svg text{font-size:12px} .case{font-weight:bold}</style></head>\n"
        f"<body><h1>sparseflow-benchmark</h1>\n<p>{html.escape(environment)}</p>\n"
        "<p>Medians; the black line goes from the 20th to the 80th percentile. TFLOPS count 2·M·N·K.</p>\n"
        f'<svg width="{_LEFT + _WIDTH + 280}" height="{max(y, 20)}" xmlns="http://www.w3.org/2000/svg">\n'
        + "\n".join(parts)
        + "\n</svg></body></html>\n"
    )


def _png(document: dict[str, Any], path: Path) -> None:
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    series = _series(document)
    bars = [(title, name, result) for title, timed in series for name, result in timed]
    figure, axes = pyplot.subplots(figsize=(9, 1 + 0.28 * len(bars)))
    for place, (_, name, result) in enumerate(bars):
        spread = [[result["tflops"] - result["tflops_p80"]], [result["tflops_p20"] - result["tflops"]]]
        axes.barh(place, result["tflops"], xerr=spread, color=_COLOURS.get(name, "#555555"))
    axes.set_yticks(range(len(bars)), [f"{title}  {name}" for title, name, _ in bars])
    axes.invert_yaxis()
    axes.set_xlabel("TFLOPS (2·M·N·K), median, 20th to 80th percentile")
    figure.tight_layout()
    figure.savefig(path, dpi=150, format="png")  # whatever the path's suffix
    pyplot.close(figure)
