"""What became of each layer: a table for people, plain data for programs."""

from __future__ import annotations

import html
import json
import os
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field, fields
from typing import Any

from ..files import replacing


@dataclass
class LayerReport:
    """One linear layer of a model."""

    name: str
    features: int
    inner: int
    #: "f16", "bf16", "int8", "fp8" as 2:4, "dense int8" and the like, or "dense" where it was left as it was.
    scheme: str
    #: Why it stayed dense; empty otherwise.
    reason: str = ""
    #: Whether its weight was 2:4 before.
    was_24: bool = False
    #: ‖W' − W‖ / ‖W‖ of the weight, pruned and rounded, against the one that it replaced.
    weight_error: float | None = None
    #: ‖Y' − Y‖ / ‖Y‖ on calibration data; None without any.
    output_error: float | None = None
    bytes_before: int = 0
    bytes_after: int = 0
    #: "sparse" or "dense" by number of tokens, as it stood then: `sparseflow.warmup` measures, `sparseflow.explain` shows.
    paths: dict[int, str] = field(default_factory=dict)


class ModelReport:
    """One `LayerReport` a linear layer; ``str()`` is a table, ``report["layer.name"]`` a row, ``report["scheme"]`` a column."""

    def __init__(self, layers: list[LayerReport]):
        self.layers = layers

    columns = tuple(each.name for each in fields(LayerReport))

    def __iter__(self) -> Iterator[LayerReport]:
        return iter(self.layers)

    def __len__(self) -> int:
        return len(self.layers)

    def __getitem__(self, key: str) -> Any:
        if key in self.columns:
            return [getattr(layer, key) for layer in self.layers]
        for layer in self.layers:
            if layer.name == key:
                return layer
        raise KeyError(key)

    @property
    def converted(self) -> list[LayerReport]:
        """The layers that were replaced."""
        return [layer for layer in self.layers if not layer.reason]

    @property
    def bytes_before(self) -> int:
        """Of all linear weights."""
        return sum(layer.bytes_before for layer in self.layers)

    @property
    def bytes_after(self) -> int:
        """Of all linear weights."""
        return sum(layer.bytes_after for layer in self.layers)

    def to_dicts(self) -> list[dict[str, Any]]:
        """The rows as dictionaries; ``pandas.DataFrame(report.to_dicts())`` is a frame of them."""
        return [asdict(layer) for layer in self.layers]

    def to_json(self, path: str | os.PathLike[str] | None = None) -> str:
        """The report as JSON; written to `path` as well, whole or not at all."""
        data = {"bytes_before": self.bytes_before, "bytes_after": self.bytes_after, "layers": self.to_dicts()}
        text = json.dumps(data, indent=1)
        if path is not None:
            with replacing(path) as partial:
                partial.write_text(text + "\n")
        return text

    def _cells(self) -> list[list[str]]:
        with_output = any(layer.output_error is not None for layer in self.layers)
        with_paths = any(layer.paths for layer in self.layers)
        head = ["layer", "shape", "scheme", "was 2:4", "weight error"]
        head += ["output error"] if with_output else []
        head += ["bytes before", "after"] + (["path by tokens"] if with_paths else []) + ["why dense"]
        rows = [head]
        for layer in self.layers:
            row = [layer.name, f"{layer.features}x{layer.inner}", layer.scheme, "yes" if layer.was_24 else ""]
            row += [_number(layer.weight_error)] + ([_number(layer.output_error)] if with_output else [])
            row += [f"{layer.bytes_before:,}", f"{layer.bytes_after:,}"]
            row += [_paths(layer.paths)] if with_paths else []
            rows.append([*row, layer.reason])
        return rows

    def _summary(self) -> str:
        before, after = self.bytes_before, self.bytes_after
        share = f", {1 - after / before:.0%} less" if before and after < before else ""
        return (
            f"{len(self.converted)} of {len(self.layers)} linear layers converted; weights {before / 2**20:,.1f} MiB before, "
            f"{after / 2**20:,.1f} MiB after{share}"
        )

    def __str__(self) -> str:
        rows = self._cells()
        keep = [i for i in range(len(rows[0])) if any(row[i] for row in rows[1:])]
        widths = {i: max(len(row[i]) for row in rows) for i in keep}
        lines = ["  ".join(row[i].ljust(widths[i]) for i in keep).rstrip() for row in rows]
        return "\n".join([*lines, self._summary()])

    __repr__ = __str__

    def __rich__(self) -> Any:
        from rich.console import Group
        from rich.table import Table

        head, *rows = self._cells()
        table = Table(*head)
        for row in rows:
            table.add_row(*row, style="dim" if row[-1] else None)
        return Group(table, self._summary())

    def _repr_html_(self) -> str:
        head, *rows = self._cells()
        line = "".join(f"<th>{html.escape(cell)}</th>" for cell in head)
        body = "".join("<tr>" + "".join(f"<td>{html.escape(cell)}</td>" for cell in row) + "</tr>" for row in rows)
        return f"<table><tr>{line}</tr>{body}</table><p>{html.escape(self._summary())}</p>"


def _paths(paths: dict[int, str]) -> str:
    """ "sparse", or "1:dense 16:sparse …" where it depends."""
    if len(set(paths.values())) == 1:
        return next(iter(paths.values()))
    return " ".join(f"{tokens}:{path}" for tokens, path in paths.items())


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.3g}"
