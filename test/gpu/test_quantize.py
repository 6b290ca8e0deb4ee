"""Quantization in all granularities, and 2:4 weights made, packed and expanded at run time."""

from __future__ import annotations

import pytest
import torch
from support import LARGEST, NUMPY, TORCH, Bounded, Device, matmul

import sparseflow as sf

QUANTIZED = ["i8", "e4m3", "e5m2"]
SHAPES = [(1, 128), (37, 384), (300, 4096), (5, 1152)]


def shapes(device: Device) -> list[tuple[int, int]]:
    return SHAPES if device.name == "cuda" else SHAPES[:2]


def check_rounding(x: torch.Tensor, scale: torch.Tensor, q: torch.Tensor, dtype: str) -> None:
    """q is x / scale in f32, rounded to nearest even and saturated; one step off only beside a tie."""
    exact = x.double() / scale.double()
    Bounded(exact, exact.abs() * 2**-22).check(q, dtype)
    # Nearly all equal what a division and torch's own rounding give.
    quotient = x.float() / scale
    if dtype == "i8":
        plain = quotient.round().clamp(-128, 127).to(torch.int8)
    else:
        plain = quotient.clamp(-LARGEST[dtype], LARGEST[dtype]).to(TORCH[dtype])
    assert (plain.view(torch.uint8) != q.view(torch.uint8)).double().mean() < 1e-3


@pytest.mark.parametrize("source", ["f16", "bf16", "f32"])
@pytest.mark.parametrize("dtype", QUANTIZED)
@pytest.mark.parametrize("axis", ["token", "group"])
def test_dynamic(device: Device, axis: str, dtype: str, source: str) -> None:
    for m, k in shapes(device):
        g = sf.Graph()
        q, s = g.quantize(g.input("x", (None, k), source), dtype, axis=axis)
        g.output(q, "q")
        g.output(s, "s")
        exe = device.compile(g)
        groups = 1 if axis == "token" else k // 128
        x = device.random(source, m, k, scale=3.0)
        if m > 4:
            x[4] = 0
        q, s = device.run(exe, x, outputs=[(dtype, (m, k)), ("f32", (m, groups))], strided=m == 37)
        largest = x.float().reshape(m, groups, -1).abs().amax(dim=2)
        expected = torch.where(largest > 0, largest / LARGEST[dtype], torch.ones_like(largest))
        assert ((s - expected).abs() <= expected * 2**-22).all()
        check_rounding(x, s.repeat_interleave(k // groups, dim=1), q, dtype)


def scale_of(device: Device, granularity: str, m: int, k: int) -> torch.Tensor:
    shape = {"tensor": (), "feature": (k,), "token": (m, 1), "group": (m, k // 128)}[granularity]
    return torch.rand(shape, device=device.torch) * 0.05 + 0.01


def broadcast(scale: torch.Tensor, m: int, k: int) -> torch.Tensor:
    if scale.dim() == 2:
        scale = scale.repeat_interleave(k // scale.shape[1], dim=1)
    return scale.expand(m, k)


@pytest.mark.parametrize("granularity", ["tensor", "feature", "token", "group"])
@pytest.mark.parametrize("dtype", QUANTIZED)
def test_static_and_back(device: Device, dtype: str, granularity: str) -> None:
    for m, k in shapes(device):
        scale = scale_of(device, granularity, m, k)
        g = sf.Graph()
        x = g.input("x", (None, k), sf.f16)
        if granularity in ("tensor", "feature"):
            value, extra = scale.cpu().numpy(), []
            s = g.constant(value)
        else:
            s, extra = g.input("s", (None, scale.shape[1]), sf.f32), [scale]
        q = g.quantize(x, dtype, scale=s)
        g.output(q, "q")
        g.output(g.dequantize(q, s, sf.f16), "back")
        exe = device.compile(g)
        array = device.random("f16", m, k, scale=0.6)
        q, back = device.run(exe, array, *extra, outputs=[(dtype, (m, k)), ("f16", (m, k))])
        wide = broadcast(scale, m, k)
        check_rounding(array, wide, q, dtype)
        exact = q.double() * wide.double()
        Bounded(exact, exact.abs() * 2**-22).check(back, "f16")


def weight_program(n: int, k: int, mlir: str, *operations: str, result: str) -> str:
    """A function of a dense run-time weight; operation i takes %i."""
    body = "\n".join(f"  %{i + 1} = {operation}" for i, operation in enumerate(operations))
    return (
        f"func.func @main(%0: tensor<{n}x{k}x{mlir}>) -> {result} {{\n{body}\n"
        f"  return %{len(operations)} : {result}\n}}\n"
    )


MLIR = {"f16": "f16", "bf16": "bf16", "i8": "i8", "e4m3": "f8E4M3FN"}
WEIGHTS = [(1, 8), (40, 72), (64, 128), (200, 1032)]


@pytest.mark.parametrize("dtype", MLIR)
@pytest.mark.parametrize("shape", WEIGHTS, ids=str)
def test_prune_and_expand(device: Device, dtype: str, shape: tuple[int, int]) -> None:
    """sf.compress in prune mode, then its inverse, gives what prune_24 gives: ties to the lower index."""
    n, k = shape
    dense, sparse = f"tensor<{n}x{k}x{MLIR[dtype]}>", f"tensor<{n}x{k}x{MLIR[dtype]}, #sf.weight<sp24>>"
    text = weight_program(
        n,
        k,
        MLIR[dtype],
        f'sf.compress %0 {{mode = "prune"}} : {dense} -> {sparse}',
        f"sf.decompress %1 : {sparse} -> {dense}",
        result=dense,
    )
    w = device.random(dtype, n, k)
    w[:, ::3] = w[:, :1]  # many ties
    (actual,) = device.run(device.compile(text), w, outputs=[(dtype, (n, k))])
    host = w.cpu().view(torch.uint8).numpy().view(NUMPY[dtype])
    expected = torch.from_numpy(sf.prune_24(host).view("uint8")).view(TORCH[dtype])
    # A group with one nonzero may keep any zero; -0 and 0 are the same weight.
    assert torch.equal(actual.cpu().double(), expected.double())


@pytest.mark.parametrize("dtype", ["f16", "bf16", "i8"])
def test_a_weight_given_at_run_time(device: Device, dtype: str) -> None:
    """Pruned, compressed, packed and multiplied in one program."""
    for n, k in WEIGHTS[1:]:
        g = sf.Graph()
        x, w = g.input("x", (None, k), dtype), g.input("w", (n, k), dtype)
        out = "f16" if dtype == "i8" else dtype
        scale = 2.0**-10 if dtype == "i8" else None
        g.output(g.matmul(x, g.compress(w, prune=True), out_dtype=out, row_scale=scale))
        exe = device.compile(g)
        pruned, given = device.weight(dtype, n, k), device.weight(dtype, n, k, sparse=False)
        array = device.random(dtype, 50, k)
        weight = torch.from_numpy(given.view("uint8")).view(TORCH[dtype]).to(device.torch)
        (y,) = device.run(exe, array, weight, outputs=[(out, (50, n))])
        matmul(device, array, pruned, row_scale=scale).check(y, out)
