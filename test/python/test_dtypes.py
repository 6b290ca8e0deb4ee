"""Dtype objects and their names elsewhere."""

import pickle

import numpy as np
import pytest
import torch

import sparseflow as sf

ALL = [sf.f16, sf.bf16, sf.f32, sf.i8, sf.e4m3, sf.e5m2]


@pytest.mark.parametrize("dtype", ALL, ids=str)
def test_names_lead_back(dtype):
    assert sf.dtype(dtype) is dtype
    assert sf.dtype(str(dtype)) is dtype
    assert sf.dtype(dtype.numpy) is dtype
    assert sf.dtype(getattr(torch, dtype.numpy.name)) is dtype
    assert pickle.loads(pickle.dumps(dtype)) is dtype
    assert dtype.numpy.itemsize == dtype.itemsize


def test_numpy_scalar_types_are_accepted():
    assert sf.dtype(np.float16) is sf.f16


@pytest.mark.parametrize("value", ["f64", "float8", np.float64, np.int32, None, 3])
def test_others_are_refused(value):
    with pytest.raises(ValueError, match="expected one of f16, bf16, f32, i8, e4m3, e5m2, got"):
        sf.dtype(value)
