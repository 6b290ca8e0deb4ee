"""What ``sparseflow-benchmark`` times: SparseFlow's kernels and those of other libraries, each ready to be called.

All multiply the same X [M, K] with the same 2:4 weight [N, K]; the dense ones take it with its zeros. Whatever can be made once
(compiled kernels, compressed weights, plans) is made before anything is timed.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from .. import dtypes, interop
from ..errors import UnsupportedError
from ..executable import compile
from ..graph import Graph
from ..weights import prune_24

#: Schemes that can be timed, with the dtype of X and W.
SCHEMES = {"f16": dtypes.f16, "bf16": dtypes.bf16, "int8": dtypes.i8, "fp8": dtypes.e4m3}
RIVALS = ("cublas", "cusparselt", "torch")
_INT8_SCALE = 1 / 256  # of the product of i8, so that it fits f16


@dataclass(frozen=True)
class Case:
    """One product: Y[M,N] = X[M,K] · W[N,K]ᵀ."""

    scheme: str
    m: int
    n: int
    k: int

    def __str__(self) -> str:
        return f"{self.scheme} {self.m}x{self.n}x{self.k}"

    def teraflops(self, microseconds: float) -> float:
        """Dense-equivalent: 2·M·N·K operations, whatever is skipped."""
        return 2e-6 * self.m * self.n * self.k / microseconds


@dataclass
class Contender:
    """A product that is ready: `call` runs it once. `about` says what it is."""

    name: str
    call: Callable[[], Any]
    about: dict[str, Any] = field(default_factory=dict)
    scale: float = 1.0  #: of its result, against X · Wᵀ


def operands(case: Case) -> tuple[np.ndarray, np.ndarray]:
    """X and a 2:4 W, iid normal (i8: with a standard deviation of 32); zeros would run faster than data does.

    W depends on its own shape alone, so that one compiled program serves every number of tokens.
    """
    dtype = SCHEMES[case.scheme]

    def draw(which: int, rows: int, columns: int) -> np.ndarray:
        values = np.random.default_rng((which, rows, columns)).standard_normal((rows, columns), np.float32)
        if dtype is dtypes.i8:
            return np.clip(np.rint(32 * values), -127, 127).astype(np.int8)
        return values.astype(dtype.numpy)

    return draw(0, case.m, case.k), prune_24(draw(1, case.n, case.k))


class Reference:
    """Some rows of X · Wᵀ in float64."""

    def __init__(self, x: np.ndarray, w: np.ndarray, rows: int = 32):
        self._rows = np.linspace(0, len(x) - 1, min(rows, len(x))).astype(int)
        self._product = x[self._rows].astype(np.float64) @ w.astype(np.float64).T

    def relative_error(self, contender: Contender) -> float:
        """‖y - reference‖ / ‖reference‖ of a contender's result."""
        y = contender.call()
        rows = y[self._rows] if isinstance(y, np.ndarray) else interop.as_numpy(y[self._rows.tolist()], contender.name)
        expected = contender.scale * self._product
        return float(np.linalg.norm(rows.astype(np.float64) - expected) / (np.linalg.norm(expected) or 1))


class Programs:
    """Compiled products by weight shape: every number of tokens runs the same program."""

    def __init__(self, device: str, target: str | None):
        self._device, self._target = device, target
        self._made: dict[tuple[str, int, int], Any] = {}

    def get(self, case: Case, weight: np.ndarray) -> Any:
        key = case.scheme, case.n, case.k
        if key not in self._made:
            graph = Graph()
            x = graph.input("x", (None, case.k), SCHEMES[case.scheme])
            scale = _INT8_SCALE if case.scheme == "int8" else None
            graph.output(graph.matmul(x, weight, row_scale=scale))
            # Cases come by weight: the last program is let go before the next weight takes its memory.
            self._made = {key: compile(graph, target=self._target, device=self._device)}
        return self._made[key]


def sparseflow(case: Case, x: np.ndarray, w: np.ndarray, programs: Programs, on_gpu: bool) -> Contender:
    """SparseFlow's product of 2:4 weights, on the GPU with PyTorch's tensors, else in the emulator."""
    exe = programs.get(case, w)
    report = exe.report(tokens=case.m)
    kernels = [
        {key: kernel[key] for key in ("name", "config", "registers", "spill_bytes", "mma_sp")}
        for kernel in report.kernels
    ]
    about = {"path": report.steps[-1].get("path", ""), "kernels": kernels}
    scale = _INT8_SCALE if case.scheme == "int8" else 1.0
    if not on_gpu:
        return Contender("sparseflow", lambda: exe(x), about, scale)
    torch = _torch("tensors on a GPU")
    tokens = to_torch(x).cuda()
    y = torch.empty(case.m, case.n, dtype=torch.bfloat16 if case.scheme == "bf16" else torch.float16, device="cuda")

    def call() -> Any:
        exe(tokens, out=y)
        return y

    return Contender("sparseflow", call, about, scale)


def to_torch(array: np.ndarray) -> Any:
    """A torch tensor of the same elements, bf16 and e4m3 too."""
    torch = _torch("tensors on a GPU")
    return interop.like(np.ascontiguousarray(array), torch.empty(0))


def _torch(what: str) -> Any:
    try:
        import torch
    except ImportError:
        raise UnsupportedError(
            f"expected PyTorch for {what}, got an installation without it; pip install torch"
        ) from None
    return torch


def rival(name: str, case: Case, x: np.ndarray, w: np.ndarray, on_gpu: bool) -> Contender:
    """Another library's product. Raises UnsupportedError, with the reason, where it cannot do this one."""
    torch = _torch(name)
    if not on_gpu and name != "torch":
        raise UnsupportedError(f"expected a GPU for {name}, got none")
    device = "cuda" if on_gpu else "cpu"
    a, b = to_torch(x).to(device), to_torch(w).to(device)
    if name == "cublas":
        return _cublas(torch, case, a, b)
    if name == "cusparselt":
        return _cusparselt(torch, case, a, b)
    return _drop_in(torch, case, a, b)


def _cublas(torch: Any, case: Case, x: Any, w: Any) -> Contender:
    """The dense product, by the library that PyTorch calls for it (cuBLAS or cuBLASLt)."""
    about = {"library": f"cuBLAS of torch {torch.__version__}", "weight": "dense"}
    if case.scheme == "int8":
        if case.m <= 16 or case.k % 8 or case.n % 8:
            raise UnsupportedError("expected more than 16 tokens, N and K multiples of 8 for its int8, got others")
        weight = w.t()
        return Contender("cublas", lambda: torch._int_mm(x, weight), about | {"result": "i32"})
    if case.scheme == "fp8":
        one = torch.ones((), device=x.device)
        weight = w.t()
        return Contender("cublas", lambda: torch._scaled_mm(x, weight, one, one, out_dtype=torch.bfloat16), about)
    return Contender("cublas", lambda: torch.nn.functional.linear(x, w), about)


# Prints the algorithm that cuSPARSELt's own search finds. In a process of its own: on some shapes the search faults, and a
# fault on the GPU takes the process with it.
_SEARCH = """
import sys, torch
dtype, m, n, k = getattr(torch, sys.argv[1]), *map(int, sys.argv[2:5])
w = torch.zeros(n, k, dtype=dtype, device="cuda").view(n, k // 4, 4)
w[..., :2] = 1
x = torch.ones(m, k, dtype=dtype, device="cuda")
result = torch.bfloat16 if dtype.itemsize == 1 else None
found = torch._cslt_sparse_mm_search(torch._cslt_compress(w.view(n, k)), x.t(), out_dtype=result)
torch.cuda.synchronize()
print(found if isinstance(found, int) else found[0])
"""


def _cusparselt(torch: Any, case: Case, x: Any, w: Any) -> Contender:
    """The 2:4 product by cuSPARSELt, with the algorithm that its search finds."""
    if not hasattr(torch, "_cslt_compress") or not torch.backends.cusparselt.is_available():
        raise UnsupportedError("expected a PyTorch with cuSPARSELt, got one without")
    arguments = [SCHEMES[case.scheme].numpy.name, str(case.m), str(case.n), str(case.k)]
    found = subprocess.run([sys.executable, "-c", _SEARCH, *arguments], capture_output=True, text=True, check=False)
    algorithm = int(found.stdout) if found.returncode == 0 and found.stdout.strip().isdigit() else 0
    about: dict[str, Any] = {"library": "cuSPARSELt", "algorithm": algorithm, "weight": "2:4"}
    if found.returncode:
        about["note"] = "its search of algorithms failed; this is its default"
    compressed = torch._cslt_compress(w)
    result = torch.bfloat16 if case.scheme in ("int8", "fp8") else None

    def call() -> Any:
        # [N, M]: the view has the shape of the others at no cost.
        return torch._cslt_sparse_mm(compressed, x.t(), out_dtype=result, alg_id=algorithm).t()

    return Contender("cusparselt", call, about)


def _drop_in(torch: Any, case: Case, x: Any, w: Any) -> Contender:
    """What PyTorch has today: a SparseSemiStructuredTensor in F.linear; on a CPU its dense product."""
    if x.device.type == "cpu":
        wide = [tensor.float() for tensor in (x, w)]
        return Contender(
            "torch", lambda: torch.nn.functional.linear(*wide), {"library": f"torch {torch.__version__}, CPU, f32"}
        )
    if case.scheme in ("int8", "fp8"):  # its products of int8 are int8 without a scale: they saturate
        raise UnsupportedError(f"expected f16 or bf16 for torch's semi-structured tensor, got {case.scheme}")
    try:
        sparse = torch.sparse.to_sparse_semi_structured(w)
    except (RuntimeError, ValueError, NotImplementedError) as error:
        raise UnsupportedError(
            f"expected torch's semi-structured tensor here, got: {str(error).splitlines()[0]}"
        ) from None
    about = {"library": f"{type(sparse).__name__} of torch {torch.__version__}", "weight": "2:4"}
    return Contender("torch", lambda: torch.nn.functional.linear(x, sparse), about)
