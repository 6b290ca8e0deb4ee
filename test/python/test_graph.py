"""Graphs: the text that they print, and what they refuse."""

import subprocess
import sysconfig
from pathlib import Path

import numpy as np
import pytest
import torch

import sparseflow as sf


def pruned(n, k, dtype=np.float32, seed=0):
    return sf.prune_24(np.random.default_rng(seed).standard_normal((n, k), np.float32)).astype(dtype)


def everything() -> sf.Graph:
    """A graph with every operation and option."""
    g = sf.Graph("everything")
    x = g.input("x", (None, 64), sf.f16)
    a0 = g.input("a0", (None, 1), sf.f32)
    h = g.matmul(x, pruned(128, 64), bias=np.ones(128), activation="gelu", gate=pruned(128, 64, seed=1), name="up")
    h = g.matmul(h, pruned(64, 128), residual=x, activation="gelu_tanh", row_scale=a0, feature_scale=np.ones(64))
    g.output(g.matmul(h, np.ones((8, 64)), sparse=False, activation="silu", out_dtype=sf.i8, feature_scale=0.5))
    q, s = g.quantize(h)
    g.output(g.matmul(q, sf.quantize_weight(pruned(32, 64)), row_scale=s, activation="relu"), "int8")
    q, s = g.quantize(h, sf.e4m3, axis="group", group=32)
    g.output(g.dequantize(q, s, sf.bf16), "groups")
    g.output(g.matmul(g.quantize(h, sf.e5m2, scale=0.1), sf.quantize_weight(pruned(32, 64), sf.e5m2)), "float8")
    g.output(g.quantize(h, sf.i8, scale=np.ones(64, np.float32)), "per_feature")
    w = g.input("w", (32, 64), sf.f16)
    g.output(g.matmul(h, g.compress(w, prune=True), out_dtype=sf.f32), "run_time")
    g.output(g.matmul(h, sf.compress(pruned(32, 64, np.float16))), "compressed")
    g.output((h + 1) * h - h / 2, "arithmetic")
    g.output(g.elementwise("silu", g.cast(h, sf.bf16), out_dtype=sf.f32), "chain")
    g.output(g.elementwise("maximum", g.mul(h, a0), np.ones(64, np.float32)), "broadcast")
    return g


def test_the_text_is_valid_ir():
    tool = Path(sysconfig.get_path("scripts"), "sparseflow-opt")
    result = subprocess.run(
        [tool, "--verify-roundtrip", "-"], input=str(everything()), capture_output=True, text=True, check=False
    )
    assert result.returncode == 0, result.stderr


def test_the_text_of_a_linear_layer():
    g = sf.Graph()
    x = g.input("x", (None, 8), sf.f16)
    g.output(g.matmul(x, pruned(4, 8), bias=np.zeros(4, np.float16), activation="relu", name="fc"))
    assert str(g) == (
        'func.func @main(%x: tensor<?x8xf16> {sf.name = "x"}) -> (tensor<?x4xf16> {sf.name = "y"}) {\n'
        "  %0 = arith.constant dense_resource<fc.weight> : tensor<4x8xf16, #sf.weight<sp24>>\n"
        "  %1 = arith.constant dense_resource<fc.bias> : tensor<4xf16>\n"
        "  %2 = sf.matmul %x, %0 epilogue(%1 : tensor<4xf16>) {\n"
        "  ^bb0(%acc0: f32, %o0: f16):\n"
        "    %e0 = arith.extf %o0 : f16 to f32\n"
        "    %e1 = arith.addf %acc0, %e0 : f32\n"
        "    %e2 = arith.constant 0.000000000e+00 : f32\n"
        "    %e3 = arith.maximumf %e1, %e2 : f32\n"
        "    %e4 = arith.truncf %e3 : f32 to f16\n"
        "    sf.yield %e4 : f16\n"
        "  } : (tensor<?x8xf16>, tensor<4x8xf16, #sf.weight<sp24>>) -> tensor<?x4xf16>\n"
        "  return %2 : tensor<?x4xf16>\n"
        "}\n"
    )


def test_a_plain_matmul_has_no_region():
    g = sf.Graph()
    g.matmul(g.input("x", (None, 8), sf.f16), pruned(4, 8))
    assert "epilogue" not in str(g)


def test_one_operand_given_twice_is_passed_once():
    g = sf.Graph()
    x = g.input("x", (None, 64), sf.i8)
    s = g.input("s", (None, 1), sf.f32)
    w = sf.quantize_weight(pruned(64, 64))
    g.matmul(x, w, gate=w, row_scale=s, activation="silu")
    assert "epilogue(%s, %1, %3 :" in str(g)


def test_constants_are_not_copied():
    w = pruned(64, 64, np.float16)
    weight = sf.compress(w)
    g = sf.Graph()
    x = g.input("x", (None, 64), sf.f16)
    g.matmul(x, weight, name="sparse")
    g.matmul(x, w, sparse=False, name="dense")
    assert np.shares_memory(g.constants["sparse.weight"], weight.blob)
    assert np.shares_memory(g.constants["dense.weight"], w)


def test_torch_weights_are_taken():
    layer = torch.nn.Linear(64, 32).bfloat16()
    g = sf.Graph()
    x = g.input("x", (None, 64), torch.bfloat16)
    y = g.matmul(x, sf.prune_24(layer.weight), bias=layer.bias)
    assert y.shape == (None, 32) and y.dtype is sf.bf16


def with_nan():
    weight = sf.compress(pruned(32, 64).astype(np.float16))
    weight.values[3, 5] = np.nan
    return weight


def refuse(message, build):
    g = sf.Graph()
    x = g.input("x", (None, 64), sf.f16)
    with pytest.raises(sf.InvalidArgumentError, match=message):
        build(g, x)


REFUSALS = {
    "a dense weight": (
        r"'fc.weight' is not 2:4: 512 groups .* first in row 0, group 0 .*; prune it with prune_24",
        lambda g, x: g.matmul(x, np.ones((32, 64)), name="fc"),
    ),
    "a weight of another K": (
        r"'fc.weight': expected a weight \[N, 64\] like the activations, got \[32, 32\]",
        lambda g, x: g.matmul(x, pruned(32, 32), name="fc"),
    ),
    "K not a multiple of four": (
        "pad K to 12",
        lambda g, x: g.matmul(g.input("z", (None, 10), sf.f16), np.zeros((4, 10))),
    ),
    "no features": ("at least one feature", lambda g, x: g.matmul(x, np.zeros((0, 64)))),
    "f32 activations": (
        r"expected activations \[M, K\] of f16, bf16, i8, e4m3 or e5m2, got tensor<\?x64xf32>",
        lambda g, x: g.matmul(g.cast(x, sf.f32), pruned(32, 64)),
    ),
    "a float weight for i8": (
        r"expected a weight of i8 .* got f32; quantize the weight with quantize_weight\(w, sf.i8\)",
        lambda g, x: g.matmul(g.quantize(x)[0], pruned(32, 64)),
    ),
    "an i8 weight for f16": (
        "quantize the activations too",
        lambda g, x: g.matmul(x, sf.quantize_weight(pruned(32, 64))),
    ),
    "a weight beyond f16": (
        "expected finite elements within f16's range of 65504",
        lambda g, x: g.matmul(x, pruned(32, 64) * np.float32(1e6)),
    ),
    "NaN in a weight": ("finite", lambda g, x: g.matmul(x, pruned(32, 64) * np.nan)),
    "NaN in a dense weight of x's dtype": (
        "'fc.weight': expected finite elements",
        lambda g, x: g.matmul(x, np.full((32, 64), np.nan, np.float16), sparse=False, name="fc"),
    ),
    "NaN in a compressed weight": ("'fc.weight': expected finite", lambda g, x: g.matmul(x, with_nan(), name="fc")),
    "a name that no constant can have": (
        "expected the constant's name to be letters",
        lambda g, x: g.constant(np.ones(4, np.float32), "a> b"),
    ),
    "a whole number beyond f32": ("expected finite elements, within f32's range", lambda g, x: g.add(x, 10**400)),
    "NaN in a bias": (
        "'?fc.bias'?: expected finite",
        lambda g, x: g.matmul(x, pruned(4, 64), bias=np.full(4, np.nan), name="fc"),
    ),
    "a number beyond f32": ("expected finite elements, within f32's range", lambda g, x: g.add(x, 1e300)),
    "infinity in a scale": ("finite", lambda g, x: g.quantize(x, scale=float("inf"))),
    "a bias of another length": (
        r"'fc': expected bias of shape \[32\] or \[\], got \[31\]",
        lambda g, x: g.matmul(x, pruned(32, 64), bias=np.zeros(31), name="fc"),
    ),
    "a residual of another shape": (
        r"expected residual of shape \[M, 32\], got \[M, 64\]",
        lambda g, x: g.matmul(x, pruned(32, 64), residual=x),
    ),
    "a gate of another shape": (
        "expected gate to have the weight's type",
        lambda g, x: g.matmul(x, pruned(32, 64), gate=pruned(16, 64)),
    ),
    "an unknown activation": (
        "expected activation to be one of relu, gelu, gelu_tanh, silu, got 'swish'",
        lambda g, x: g.matmul(x, pruned(32, 64), activation="swish"),
    ),
    "an unknown dtype": ("expected one of f16", lambda g, x: g.input("z", (4, 4), "f64")),
    "an input twice": ("got 'x' twice", lambda g, x: g.input("x", (4, 4))),
    "an output twice": ("got 'y' twice", lambda g, x: (g.output(x, "y"), g.output(x, "y"))),
    "a layer twice": ("'fc.weight' twice", lambda g, x: [g.matmul(x, pruned(4, 64), name="fc") for _ in range(2)]),
    "a bad name": ("expected the input's name to be letters", lambda g, x: g.input("x y", (4, 4))),
    "a dynamic K": ("None for the tokens", lambda g, x: g.input("z", (4, None))),
    "no extent": ("expected extents from 1 to 2", lambda g, x: g.input("z", (4, 0))),
    "an extent beyond 32 bits": ("expected extents from 1 to 2", lambda g, x: g.input("z", (4, 2**40))),
    "a truth value as an extent": ("expected extents from 1 to 2", lambda g, x: g.input("z", (4, True))),
    "a number for a shape": (r"'z': expected a shape such as \(None, 4096\), got 64", lambda g, x: g.input("z", 64)),
    "rank 3": ("expected rank 1 or 2", lambda g, x: g.input("z", (4, 4, 4))),
    "a value of another graph": (
        "got one of another graph",
        lambda g, x: g.matmul(sf.Graph().input("x", (None, 64)), pruned(4, 64)),
    ),
    "an array for x": (
        "expected a Value of this graph, got ndarray",
        lambda g, x: g.matmul(np.zeros((2, 64)), pruned(4, 64)),
    ),
    "a group that does not divide": (
        "expected a group that divides K = 64, got 48",
        lambda g, x: g.quantize(x, axis="group", group=48),
    ),
    "quantizing to f16": ("i8, e4m3 or e5m2 to round to", lambda g, x: g.quantize(x, sf.f16)),
    "an unknown axis": ("expected axis to be token or group", lambda g, x: g.quantize(x, axis="row")),
    "an unknown function": ("expected one of add, sub", lambda g, x: g.elementwise("pow", x, x)),
    "a missing operand": ("add: expected 2 operands, got 1", lambda g, x: g.elementwise("add", x)),
    "shapes that do not broadcast": (r"broadcast to \[M, 64\], got \[63\]", lambda g, x: g.add(x, np.zeros(63))),
    "a group that is text": (
        "a group that divides K = 64, got '32'",
        lambda g, x: g.quantize(x, axis="group", group="32"),
    ),
    "a packed weight of rank 1": (
        r"shape \[N, K\] of .*, got \(32,\)",
        lambda g, x: g.packed_weight("w", (32,), sf.f16),
    ),
    "a packed weight without rows": ("extents from 1", lambda g, x: g.packed_weight("w", (-32, 64), sf.f16)),
    "a packed weight of a fraction": ("extents from 1", lambda g, x: g.packed_weight("w", (32.7, 64), sf.f16)),
    "an unknown order": (
        "order to be mma or wgmma or None, got 'foo'",
        lambda g, x: g.packed_weight("w", (32, 64), sf.f16, order="foo"),
    ),
    "packing in an unknown order": ("order to be mma or wgmma, got None", lambda g, x: g.pack(x, None)),
    "compressing a dynamic shape": ("static shape", lambda g, x: g.compress(x)),
}


@pytest.mark.parametrize("device", ["emulator", "reference"])
def test_nan_becomes_0_in_integers(device):
    graph = sf.Graph()
    x = graph.input("x", (None, 64), sf.f32)
    graph.output(graph.cast(x, sf.i8))
    graph.output(graph.quantize(x, sf.i8, scale=1.0))
    values = np.tile(np.float32([np.nan, np.inf, -np.inf, 2.5]), (3, 16))
    for integers in sf.compile(graph, device=device)(values):
        np.testing.assert_array_equal(integers, np.tile(np.int8([0, 127, -128, 2]), (3, 16)))


def test_a_value_is_subtracted_from_a_number_and_divides_one():
    graph = sf.Graph()
    x = graph.input("x", (None, 64), sf.f32)
    graph.output(1 - x)
    graph.output(2 / x)
    values = np.linspace(1, 3, 128, dtype=np.float32).reshape(2, 64)
    less, inverse = sf.compile(graph, device="emulator")(values)
    np.testing.assert_array_equal(less, 1 - values)
    np.testing.assert_allclose(inverse, 2 / values, rtol=1e-6)


def test_an_array_before_a_value_is_one_operand():
    graph = sf.Graph()
    x = graph.input("x", (None, 64), sf.f32)
    factors = np.arange(64, dtype=np.float32)
    graph.output(factors * x)
    graph.output(np.float32(2) - x)
    values = np.linspace(1, 3, 128, dtype=np.float32).reshape(2, 64)
    product, difference = sf.compile(graph, device="emulator")(values)
    np.testing.assert_array_equal(product, factors * values)
    np.testing.assert_array_equal(difference, 2 - values)


@pytest.mark.parametrize("case", REFUSALS, ids=lambda name: name.replace(" ", "_"))
def test_refuses(case):
    refuse(*REFUSALS[case])


def test_a_graph_without_an_output_does_not_compile():
    with pytest.raises(sf.InvalidArgumentError, match="expected a graph with an output"):
        sf.compile(sf.Graph())
