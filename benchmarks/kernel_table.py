"""What sparseflow-audit goes by, from runs of run.py: the products that were measured, in python/sparseflow/data/measured-CHIP.json.

    python benchmarks/kernel_table.py docs/targets.json docs/figures.json docs/random.json > measured-h100.json

2:4 products are SparseFlow's, dense ones cuBLASLt's; cuSPARSELt's are left out, since nobody who audits would run them. Medians of
the protocol "flushed", of shapes whose rows are whole pieces of 16 bytes: others go another way. Where runs have the same product,
the first one named counts.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from traffic import DENSE_CEILING, INSTRUCTION_CEILING

from sparseflow.tools import hardware

_PROTOCOL = "flushed"
_PRECISION = {"f16": "f16", "i8": "int8", "e4m3": "fp8"}  # bf16 runs as f16 does
_LIBRARY = {"sparse": "SparseFlow", "dense": "cuBLASLt"}
_PIECE = 16  # bytes of a row that a copy takes at least


def schemes_of(dtype: str) -> dict[str, str]:
    """The scheme of each contender's product in a case of this dtype."""
    precision = _PRECISION[dtype]
    return {"sparseflow": f"sparse-{precision}", "cublaslt": f"dense-{precision}", "cublaslt f16": "dense-f16"}


def table(documents: Iterable[dict[str, Any]]) -> dict[str, Any]:
    """The document of ``measured-CHIP.json``: a group for each chip and scheme, with points [M, N, K, microseconds]."""
    chips = hardware.load()
    groups: dict[tuple[str, str], dict[tuple[int, int, int], float]] = {}
    how: dict[tuple[str, str], dict[str, None]] = {}
    for document in documents:
        environment = document["environment"]
        chip = chips.chip(environment["gpu"]["name"]).key
        said = f"{environment['date']}, driver {environment['gpu']['driver_version']}"
        for case in document["cases"]:
            for contender, scheme in schemes_of(case["dtype"]).items() if case["dtype"] in _PRECISION else ():
                microseconds = case["results"].get(contender, {}).get(_PROTOCOL, {}).get("us")
                itemsize = 2 if scheme.endswith("f16") else 1
                if microseconds is None or case["k"] * itemsize % _PIECE or case["n"] * 2 % _PIECE:
                    continue
                groups.setdefault((chip, scheme), {}).setdefault((case["m"], case["n"], case["k"]), microseconds)
                how.setdefault((chip, scheme), {})[said] = None
    return {
        "format": 1,
        "about": "Made by benchmarks/kernel_table.py: [tokens, features, inner, microseconds].",
        "measurements": [
            {
                "gpu": chip,
                "scheme": scheme,
                "library": _LIBRARY[scheme.partition("-")[0]],
                "instruction_teraflops": _ceiling(scheme),
                "how": f"256 MB written before each launch, medians; {'; '.join(how[chip, scheme])}",
                "points": [[*shape, microseconds] for shape, microseconds in sorted(points.items())],
            }
            for (chip, scheme), points in sorted(groups.items())
        ],
    }


def _ceiling(scheme: str) -> float:
    form, _, precision = scheme.partition("-")
    dtype = next(dtype for dtype, each in _PRECISION.items() if each == precision)
    return (INSTRUCTION_CEILING if form == "sparse" else DENSE_CEILING)[dtype]


def text(document: dict[str, Any]) -> str:
    """As JSON with a line a point."""
    lines = []
    for group in document["measurements"]:
        head = json.dumps({name: value for name, value in group.items() if name != "points"}, indent=1)
        points = ",\n".join(f"   {json.dumps(point)}" for point in group["points"])
        lines.append(head[:-2].replace("\n", "\n  ") + f',\n   "points": [\n{points}\n   ]\n  }}')
    rest = {name: value for name, value in document.items() if name != "measurements"}
    return json.dumps(rest, indent=1)[:-2] + ',\n "measurements": [\n  ' + ",\n  ".join(lines) + "\n ]\n}\n"


def main() -> int:
    if len(sys.argv) < 2:
        print(__doc__, file=sys.stderr)
        return 2
    sys.stdout.write(text(table(json.loads(Path(path).read_text()) for path in sys.argv[1:])))
    return 0


if __name__ == "__main__":
    sys.exit(main())
