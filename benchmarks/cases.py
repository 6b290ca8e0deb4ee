"""The products that are timed: the suites by name, and random ones."""

from __future__ import annotations

import math
import random
from dataclasses import dataclass

#: Everyone whom SparseFlow is timed beside, unless a case names fewer or others. "cusparselt default" is the algorithm that
#: cuSPARSELt takes unasked, "cublaslt f16" the dense product of f16 whatever the case's dtype.
RIVALS = ("cublaslt", "cusparselt", "cusparselt default")
PROTOCOLS = ("cold", "flushed", "sustained")


@dataclass(frozen=True)
class Case:
    """Y[M,N] = X[M,K] · W[N,K]ᵀ. Of 8-bit types SparseFlow scales the result, by one constant or by features and tokens."""

    dtype: str
    m: int
    n: int
    k: int
    scales: str = "none"  #: "none" for 16-bit types, else "one" or "both"
    rivals: tuple[str, ...] = RIVALS

    def __str__(self) -> str:
        return f"{self.dtype} {self.m}x{self.n}x{self.k}"

    def teraflops(self, microseconds: float) -> float:
        """Dense-equivalent."""
        return 2e-6 * self.m * self.n * self.k / microseconds


Shape = tuple[int, int, int]  # M, N, K

# The eleven of the published guide, larger ones, layers of known models, and few tokens.
GUIDE: list[Shape] = [(n, n, n) for n in (512, 1024, 2048, 4096)]
GUIDE += [(m, 4096, 4096) for m in (128, 512, 2048)]
GUIDE += [(m, 11008, 4096) for m in (512, 2048)] + [(m, 4096, 11008) for m in (512, 2048)]
LARGE: list[Shape] = [(4096, 4096, 4096), (8192, 8192, 8192)]
LAYERS = [(2048, 22016, 4096), (2048, 57344, 8192), (4096, 6144, 1536), (4096, 1536, 6144), (4096, 1280, 1280)]
FEW = [(m, 4096, 4096) for m in (1, 16, 64, 256)] + [(m, 22016, 4096) for m in (16, 64, 128, 256)]
FEW += [(m, 4096, 11008) for m in (16, 64)]
SUITES: dict[str, dict[str, list[Shape]]] = {
    "full": {
        "f16": [*LARGE, *GUIDE, *LAYERS, *FEW],
        "i8": [*LARGE, (2048, 4096, 4096), (512, 4096, 4096), *LAYERS, *FEW[1:3], *FEW[4:6]],
        "bf16": LARGE,
        "e4m3": LARGE,
    },
    "quick": {"f16": [*LARGE, (512, 4096, 4096), (16, 4096, 4096)], "i8": LARGE, "bf16": LARGE[:1]},
    "rivals": {"f16": LARGE[:1], "i8": LARGE[:1], "bf16": LARGE[:1], "e4m3": LARGE[:1]},
}
#: Power decides these, and each takes a second: only where it matters.
SUSTAINED = {*LARGE}


def scales_of(dtype: str, scales: str) -> str:
    """What a case of this dtype does where `scales` are asked for: 16-bit results need none."""
    return "none" if dtype in ("f16", "bf16") else scales


def suite_cases(name: str, scales: str) -> list[Case]:
    """The cases of a suite, each once."""
    suite = SUITES[name].items()
    return [Case(dtype, *shape, scales_of(dtype, scales)) for dtype, shapes in suite for shape in dict.fromkeys(shapes)]


def random_cases(count: int, seed: int, dtype: str, scales: str) -> list[Case]:
    """Log-uniform shapes: M from 1 to 16384, N and K from 512 to 16384.

    N and K are what cuSPARSELt takes, multiples of 16 (of 32 with 8-bit types). In one of ten, N is a multiple of 8 and K of
    16 alone; one of forty has any N and a K that is a multiple of 4.
    """
    generator = random.Random(seed)

    def draw(low: int, high: int, multiple: int) -> int:
        value = math.exp(generator.uniform(math.log(low), math.log(high)))
        return max(multiple, round(value / multiple) * multiple)

    cases = []
    for index in range(count):
        usual = 16 if dtype in ("f16", "bf16") else 32
        of_n, of_k = (1, 4) if index % 40 == 39 else (8, 16) if index % 10 == 9 else (usual, usual)
        shape = draw(1, 16384, 1), draw(512, 16384, of_n), draw(512, 16384, of_k)
        cases.append(Case(dtype, *shape, scales_of(dtype, scales)))
    return cases
