"""SparseFlow for PyTorch: 2:4 layers in place of ``nn.Linear``, pruning, dispatch, torch.compile and export.

Imported on first use of ``sparseflow.nn``, ``sparseflow.sparsify_model`` and the like; ``import sparseflow`` alone does not
import PyTorch.
"""

try:
    import torch  # noqa: F401 - only whether it is there
except ImportError as error:
    raise ImportError(
        "expected PyTorch for sparseflow.torch, found none; install it: pip install 'sparseflow[torch]'"
    ) from error

from .kernels import emulation
from .linear import SparseLinear
from .pruning import Statistics, prune
from .schemes import SCHEMES, Scheme
from .tensor import SparseWeight

__all__ = ["SCHEMES", "Scheme", "SparseLinear", "SparseWeight", "Statistics", "emulation", "prune"]
