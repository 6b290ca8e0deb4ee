"""One-shot pruning to 2:4: magnitude, Wanda and SparseGPT.

With W [N, K] and inputs X [tokens, K] of the layer on calibration data, each group of four along K keeps two:

* magnitude: the largest |W|; needs no data;
* wanda: the largest |W| · ‖X_k‖ (Sun et al., A Simple and Effective Pruning Approach for Large Language Models);
* sparsegpt: the smallest W² / (H⁻¹)_kk go, H = XᵀX + damping, and what goes is made good by the weights that are not yet
  decided, a block of columns at a time (Frantar and Alistarh, SparseGPT: Massive Language Models Can Be Accurately Pruned in
  One-Shot). For int8 and fp8 each column is also rounded as it is decided, so that later ones make good the rounding too.
"""

from __future__ import annotations

from typing import Any

import torch

from ..errors import InvalidArgumentError
from ..weights import prune_24 as prune_on_host
from . import numerics
from .schemes import Scheme, scheme_named

METHODS = ("magnitude", "wanda", "sparsegpt")
_BLOCK = 128  # columns that SparseGPT decides before it updates the rest of the matrix
_UNSEEN = 1e-12  # the worth of an input that was zero in all calibration data, which says nothing of the others
_DAMPING = 0.01  # of the mean of H's diagonal


def check_method(method: str) -> None:
    """Raises InvalidArgumentError for what is none of METHODS."""
    if method not in METHODS:
        raise InvalidArgumentError(f"expected method to be one of {', '.join(METHODS)}, got {method!r}")


class Statistics:
    """What the inputs of a layer look like: ‖X_k‖² for wanda, XᵀX for sparsegpt. `add` takes each batch."""

    def __init__(self, inner: int, method: str = "wanda", device: torch.device | str = "cpu"):
        check_method(method)
        self.tokens = 0
        self.squares = torch.zeros(inner, dtype=torch.float32, device=device)
        self.hessian = torch.zeros(inner, inner, device=device) if method == "sparsegpt" else None

    def add(self, x: torch.Tensor) -> None:
        """Takes in activations [..., K]."""
        inner = self.squares.numel()
        if not isinstance(x, torch.Tensor):
            raise InvalidArgumentError(f"expected activations [..., {inner}], got {type(x).__name__}")
        if x.dim() == 0 or x.shape[-1] != inner:
            raise InvalidArgumentError(f"expected activations [..., {inner}], got {list(x.shape)}")
        rows = x.detach().reshape(-1, x.shape[-1]).to(self.squares.device).float()
        self.tokens += rows.shape[0]
        self.squares += rows.square().sum(dim=0)
        if self.hessian is not None:
            self.hessian.addmm_(rows.t(), rows)


def _keep_two(score: torch.Tensor) -> torch.Tensor:
    """A mask [N, K] of the two largest in each group of four, ties to the lower index."""
    groups = score.reshape(score.shape[0], -1, 4)
    kept = torch.empty_like(groups, dtype=torch.bool)
    for i in range(4):  # an element is kept when fewer than two of the others come before it
        mine, others = groups[..., i : i + 1], groups[..., i + 1 :]
        kept[..., i] = (groups[..., :i] >= mine).sum(dim=2) + (others > mine).sum(dim=2) < 2
    return kept.reshape(score.shape)


def prune(
    weight: torch.Tensor,
    method: str = "magnitude",
    *,
    statistics: Statistics | None = None,
    scheme: str | Scheme = "f16",
) -> torch.Tensor:
    """A copy of a weight [N, K] that is 2:4 along K, in its own dtype and on its own device.

    `statistics` of the layer's inputs are what wanda and sparsegpt go by. `scheme` is what the result will be stored as:
    sparsegpt makes good its rounding. Raises InvalidArgumentError for NaN or infinity in the weight or the statistics and for
    a K that is no multiple of 4.
    """
    check_method(method)
    if weight.dim() != 2:
        raise InvalidArgumentError(f"expected a weight [N, K], got {list(weight.shape)}")
    numerics.check_extents(*weight.shape)
    if not bool(torch.isfinite(weight).all()):
        raise InvalidArgumentError("expected a weight of finite elements, got NaN or infinity")
    if method == "magnitude" and weight.device.type == "cpu":
        pruned: torch.Tensor = prune_on_host(weight.detach())
        return pruned
    wide = weight.detach().float()
    if method == "magnitude":
        mask = _keep_two(wide.abs())
        return torch.where(mask, weight.detach(), torch.zeros_like(weight))
    if statistics is None or not statistics.tokens:
        raise InvalidArgumentError(
            f"expected calibration data for {method}, got none; pass calibration=batches, or use method='magnitude'"
        )
    if statistics.squares.numel() != weight.shape[1]:
        raise InvalidArgumentError(
            f"expected statistics of inputs [..., {weight.shape[1]}], got those of [..., {statistics.squares.numel()}]"
        )
    if not bool(torch.isfinite(statistics.squares).all()):
        raise InvalidArgumentError("expected calibration activations that are finite, got NaN or infinity among them")
    if method == "wanda":
        norms = statistics.squares.to(wide.device).sqrt()
        # Inputs that were never seen rank last, by magnitude.
        mask = _keep_two(wide.abs() * norms.clamp_min(_UNSEEN * float(norms.max()) or 1.0))
        return torch.where(mask, weight.detach(), torch.zeros_like(weight))
    if statistics.hessian is None:
        raise InvalidArgumentError("expected statistics for sparsegpt, got those for wanda; Statistics(K, 'sparsegpt')")
    return _sparsegpt(wide.clone(), statistics, scheme_named(scheme)).to(weight.dtype)


def _inverse_factor(statistics: Statistics, device: torch.device) -> tuple[torch.Tensor, torch.Tensor]:
    """(U, dead): H⁻¹ = UᵀU with U upper triangular, and the columns that no input touched."""
    assert statistics.hessian is not None
    hessian = statistics.hessian.to(device, torch.float32) / max(statistics.tokens, 1)
    diagonal = hessian.diagonal()
    dead = diagonal == 0
    damping = _DAMPING * float(diagonal.mean()) or 1.0
    for _ in range(8):  # inputs of low rank need more
        damped = hessian + torch.diag(torch.where(dead, torch.ones_like(diagonal), torch.full_like(diagonal, damping)))
        lower, failed = torch.linalg.cholesky_ex(damped)
        if not int(failed):
            inverse = torch.cholesky_inverse(lower)
            upper, failed = torch.linalg.cholesky_ex(inverse, upper=True)
            if not int(failed):
                return upper, dead
        damping *= 10
    raise InvalidArgumentError("expected calibration activations that are finite, got a matrix with no inverse")


def _sparsegpt(weight: torch.Tensor, statistics: Statistics, scheme: Scheme) -> torch.Tensor:
    upper, dead = _inverse_factor(statistics, weight.device)
    inner = weight.shape[1]
    scale = _row_scale(weight, scheme)
    for begin in range(0, inner, _BLOCK):
        end = min(begin + _BLOCK, inner)
        errors = torch.zeros(weight.shape[0], end - begin, device=weight.device)
        mask = None
        for k in range(begin, end):
            if k % 4 == 0:
                # Inputs that were never seen rank last, by magnitude.
                worth = torch.where(dead[k : k + 4], _UNSEEN, 1 / upper.diagonal()[k : k + 4].square())
                mask = _keep_two(weight[:, k : k + 4].square() * worth)
            assert mask is not None
            column = weight[:, k]
            decided = _rounded(column, scale, scheme) * mask[:, k % 4]
            error = (column - decided) / upper[k, k]
            weight[:, k:end] -= error[:, None] * upper[k, k:end]
            weight[:, k] = decided
            errors[:, k - begin] = error
        weight[:, end:] -= errors @ upper[begin:end, end:]
    return weight


def _row_scale(weight: torch.Tensor, scheme: Scheme) -> torch.Tensor | None:
    """The scales that the pruned weight will have, as far as they are known beforehand: from the largest of each row."""
    if not scheme.quantized:
        return None
    return (weight.abs().amax(dim=1) / scheme.largest).clamp_min(torch.finfo(torch.float32).tiny)


def _rounded(column: torch.Tensor, scale: torch.Tensor | None, scheme: Scheme) -> torch.Tensor:
    if scale is None:
        return column
    steps: Any = (column / scale).clamp(-scheme.largest, scheme.largest)
    steps = steps.round() if scheme.storage is torch.int8 else steps.to(scheme.storage).float()
    return steps * scale
