"""What the Python tests share. They test the installed wheel, on the host's devices; test/gpu is for a GPU."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest


@pytest.fixture(scope="session", autouse=True)
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A compiler cache of the session's own: tests neither read nor write the user's."""
    folder = tmp_path_factory.mktemp("cache")
    os.environ["SPARSEFLOW_CACHE_DIR"] = str(folder)
    return folder


@pytest.fixture(scope="session")
def root() -> Path:
    """The checkout."""
    return Path(__file__).parents[2]


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(7)
