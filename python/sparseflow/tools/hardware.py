"""Chips as their makers specify them, and kernels as they were measured: how long a product takes, and how sure that is.

A prediction is the roofline's time, corrected by how far kernels that were measured are from their own roofline. The nearest
measured products count: of the same scheme on the same chip where there are any, else of what is most like them. Every
prediction is a range and says whether it was measured or projected, and from what.
"""

from __future__ import annotations

import functools
import json
import math
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ..errors import InvalidArgumentError, InvalidProgramError
from ..files import cache_folder

#: A weight that is dense or 2:4, in the precision of the product.
SCHEMES = ("dense-f16", "sparse-f16", "dense-int8", "sparse-int8", "dense-fp8", "sparse-fp8")
_BYTES = {"f16": 2, "int8": 1, "fp8": 1}
#: Of the JSON of measured products.
FORMAT = 1
_NEAREST = 3  # measured products that a prediction goes by
# How much wider a prediction's range is for each doubling of distance to what was measured, and for borrowing from another
# scheme or chip. Judgement, not measurement; both are printed with every audit.
_WIDER_BY_DOUBLING, _WIDER_BORROWED = 0.04, 0.2


@dataclass(frozen=True)
class Chip:
    """One GPU, as specified."""

    key: str
    name: str
    match: tuple[str, ...]  #: parts of the name that the driver gives it
    target: str
    memory_gib: float
    terabytes_per_second: float
    watts: float
    teraflops: dict[str, float]  #: by scheme; a scheme that is missing has no tensor cores here

    @property
    def memory_bytes(self) -> float:
        return self.memory_gib * 2**30


@dataclass(frozen=True)
class Point:
    """One product that was measured."""

    chip: str
    scheme: str
    library: str
    m: int
    n: int
    k: int
    microseconds: float
    #: What the library's instruction could do at most, where that is less than the chip's peak: the part of the time that is
    #: the instruction's fault does not go along to another chip.
    instruction_teraflops: float | None = None


@dataclass(frozen=True)
class Estimate:
    """A number as a range, with where it comes from."""

    low: float
    mid: float
    high: float
    measured: bool
    basis: str = ""

    def __add__(self, other: Estimate) -> Estimate:
        basis = (
            self.basis
            if self.basis == other.basis
            else ", ".join(dict.fromkeys((self.basis + ", " + other.basis).split(", ")))
        )
        return Estimate(
            self.low + other.low, self.mid + other.mid, self.high + other.high, self.measured and other.measured, basis
        )

    def scaled(self, factor: float) -> Estimate:
        return Estimate(self.low * factor, self.mid * factor, self.high * factor, self.measured, self.basis)

    @property
    def kind(self) -> str:
        return "measured" if self.measured else "projected"


ZERO = Estimate(0.0, 0.0, 0.0, True)


def total(estimates: Iterable[Estimate]) -> Estimate:
    """The sum; measured only if every part is."""
    parts = list(estimates)
    return functools.reduce(lambda a, b: a + b, parts[1:], parts[0]) if parts else ZERO


def weight_bytes(scheme: str, features: int, inner: int) -> float:
    """Bytes of a weight [N, K]: values, metadata, scales."""
    form, _, precision = scheme.partition("-")
    size = _BYTES[precision]
    scales = 4 * features if size == 1 else 0
    return features * inner * (size / 2 + 1 / 8 if form == "sparse" else size) + scales


@dataclass
class KernelTable:
    """Chips and measured products."""

    chips: dict[str, Chip]
    points: list[Point]
    attention_teraflops: tuple[str, float]  #: (chip, measured forward attention)
    read_terabytes: tuple[str, float]  #: (chip, measured reading of device memory)
    sources: list[str] = field(default_factory=list)

    def chip(self, name: str) -> Chip:
        """By its key ("h100") or by the driver's name. Raises InvalidArgumentError with the known ones."""
        key = name.lower()
        if key in self.chips:
            return self.chips[key]
        for chip in self.chips.values():
            if any(re.search(rf"\b{re.escape(part)}\b", name, re.IGNORECASE) for part in chip.match):
                return chip
        raise InvalidArgumentError(f"expected a GPU that is known, {', '.join(self.chips)}, got {name!r}")

    def roofline(self, chip: Chip, scheme: str, m: int, n: int, k: int) -> tuple[float, bool]:
        """(microseconds, whether memory binds) of a product by the chip's specification."""
        if scheme not in chip.teraflops:
            raise InvalidArgumentError(f"expected a scheme that {chip.name} has tensor cores for, got {scheme}")
        compute = 2e-6 * m * n * k / chip.teraflops[scheme]
        size = _BYTES[scheme.partition("-")[2]]
        moved = weight_bytes(scheme, n, k) + size * m * k + 2 * m * n
        memory = 1e-6 * moved / chip.terabytes_per_second
        return max(compute, memory), memory > compute

    def predict(self, chip: Chip, scheme: str, m: int, n: int, k: int) -> Estimate:
        """Microseconds of Y[M,N] = X[M,K] · W[N,K]ᵀ with the kernels that were measured."""
        roof, memory_bound = self.roofline(chip, scheme, m, n, k)
        points, borrowed = self._relevant(chip, scheme, memory_bound)
        nearest = sorted(((_distance(point, m, n, k), point) for point in points), key=lambda pair: pair[0])[:_NEAREST]
        if nearest and nearest[0][0] == 0 and not borrowed:
            point = nearest[0][1]
            return Estimate(
                0.97 * point.microseconds, point.microseconds, 1.03 * point.microseconds, True, point.library
            )
        if not nearest:  # nothing was measured at all: half the roofline, give or take
            return Estimate(roof / 0.8, roof / 0.5, roof / 0.3, False, "roofline alone")
        ratios = [self._ratio(point, chip) for _, point in nearest]
        weights = [1 / (distance + 0.5) for distance, _ in nearest]
        mid = math.exp(sum(w * math.log(r) for w, r in zip(weights, ratios, strict=True)) / sum(weights))
        wider = 1 + _WIDER_BY_DOUBLING * nearest[0][0] + (_WIDER_BORROWED if borrowed else 0)
        low = max(roof, min(ratios) / wider * roof)
        libraries = " and ".join(dict.fromkeys(point.library for _, point in nearest))
        basis = f"{libraries} {borrowed}".strip()
        return Estimate(
            min(low, max(mid, 1) * roof), max(mid, 1) * roof, max(mid, max(ratios)) * wider * roof, False, basis
        )

    def _ratio(self, point: Point, chip: Chip) -> float:
        """How much longer than its roofline a measured product took."""
        owner = self.chips[point.chip]
        roof, _ = self.roofline(owner, point.scheme, point.m, point.n, point.k)
        if point.instruction_teraflops and owner.target != chip.target:
            roof = max(roof, 2e-6 * point.m * point.n * point.k / point.instruction_teraflops)
        return point.microseconds / roof

    def _relevant(self, chip: Chip, scheme: str, memory_bound: bool) -> tuple[list[Point], str]:
        """Measured products to go by, and "" or what they are borrowed from."""
        form, _, precision = scheme.partition("-")
        alike = [scheme, f"{form}-int8" if precision == "fp8" else f"{form}-f16", f"dense-{precision}", "dense-f16"]
        # A chip's own figures first; and for each, SparseFlow's kernels before another library's.
        for own_chip in (True, False):
            for each in dict.fromkeys(alike):
                for ours in (True, False):
                    found = [
                        point
                        for point in self.points
                        if point.scheme == each
                        and (point.chip == chip.key) is own_chip
                        and (point.library == "SparseFlow") is ours
                        and each in self.chips[point.chip].teraflops
                        and self._binds(point) is memory_bound
                    ]
                    if found:
                        return found, _borrowed(found[0], chip, scheme)
        return [], ""

    def _binds(self, point: Point) -> bool:
        return self.roofline(self.chips[point.chip], point.scheme, point.m, point.n, point.k)[1]

    def attention(self, chip: Chip) -> tuple[float, bool]:
        """(TFLOPS of forward attention, whether measured there); elsewhere the same share of the dense f16 peak."""
        key, value = self.attention_teraflops
        if key == chip.key:
            return value, True
        return value / self.chips[key].teraflops["dense-f16"] * chip.teraflops["dense-f16"], False

    def bandwidth(self, chip: Chip) -> tuple[float, bool]:
        """(TB/s that reading reaches, whether measured there); elsewhere the same share of the specification."""
        key, value = self.read_terabytes
        if key == chip.key:
            return value, True
        return value / self.chips[key].terabytes_per_second * chip.terabytes_per_second, False


def _borrowed(point: Point, chip: Chip, scheme: str) -> str:
    parts = []
    if point.scheme != scheme:
        parts.append(f"at {point.scheme}")
    if point.chip != chip.key:
        parts.append(f"on {point.chip}")
    return " ".join(parts)


def _distance(point: Point, m: int, n: int, k: int) -> float:
    """In doublings; the number of tokens counts most."""
    tokens = math.log2(point.m / m)
    return math.hypot(tokens, 0.5 * math.log2(point.n / n), 0.5 * math.log2(point.k / k))


def built_in() -> Path:
    """The table of chips that comes with the package."""
    return Path(__file__).parent.parent / "data" / "kernels.json"


def calibration_file() -> Path | None:
    """Where ``sparseflow-audit --calibrate`` writes, and every audit looks; None where nothing is to be kept."""
    folder = cache_folder()
    return None if folder is None else folder / "kernels.json"


def load(extra: Sequence[Path] = ()) -> KernelTable:
    """The built-in table of chips with the products of other files: those beside it (``measured-*.json``), and these.

    A later file replaces what an earlier one says of a scheme on a chip.
    """
    document = json.loads(built_in().read_text())
    chips = {key: Chip(key=key, **{**entry, "match": tuple(entry["match"])}) for key, entry in document["gpus"].items()}
    points: dict[tuple[Any, ...], Point] = {}
    sources = ["built in"]
    shipped = sorted(built_in().parent.glob("measured-*.json"))
    for path in (*shipped, *extra):
        try:
            measured = json.loads(path.read_text())
            more = list(_points(measured, path))
        except (ValueError, KeyError, TypeError, RecursionError) as error:
            found = error if isinstance(error, ValueError) else "something else"
            raise InvalidProgramError(
                f"{path}: expected a table of sparseflow-audit --calibrate, got {found}"
            ) from None
        unknown = sorted({point.chip for point in more} - chips.keys())
        if unknown:
            raise InvalidProgramError(
                f"{path}: expected GPUs that are known, {', '.join(chips)}, got {', '.join(unknown)}"
            )
        # A scheme that is measured anew on a chip is not mixed with what was known of it.
        again = {(point.chip, point.scheme, point.library == "SparseFlow") for point in more}
        points = {i: p for i, p in points.items() if (p.chip, p.scheme, p.library == "SparseFlow") not in again}
        points |= {_identity(point): point for point in more}
        if path not in shipped:
            sources.append(str(path))
    attention, bandwidth = document["attention"], document["bandwidth"]
    return KernelTable(
        chips,
        list(points.values()),
        (attention["gpu"], attention["teraflops"]),
        (bandwidth["gpu"], bandwidth["terabytes_per_second"]),
        sources,
    )


def _identity(point: Point) -> tuple[Any, ...]:
    return point.chip, point.scheme, point.library, point.m, point.n, point.k


def _points(document: Any, path: Path) -> Iterable[Point]:
    """The products of a file's JSON. Raises ValueError with what it has instead, KeyError or TypeError."""
    if not isinstance(document, dict) or document.get("format") != FORMAT:
        raise ValueError(f"JSON of another format than {FORMAT}")
    if not isinstance(document.get("measurements"), list) or not document["measurements"]:
        raise ValueError("one without a list of measurements")
    for group in document["measurements"]:
        if group["scheme"] not in SCHEMES:
            raise ValueError(f"scheme {group['scheme']!r} in {path.name}")
        for m, n, k, microseconds in group["points"]:
            if min(m, n, k) < 1 or not microseconds > 0:
                raise ValueError(f"a product {m}x{n}x{k} of {microseconds} µs")
            yield Point(
                group["gpu"], group["scheme"], group["library"], m, n, k, float(microseconds),
                group.get("instruction_teraflops"),
            )  # fmt: skip
