"""Options of the suite that runs compiled kernels on a device, and the device itself.

pytest test/gpu                        on the GPU, or in the emulator where there is none
pytest test/gpu --device emulator      smaller: fewer shapes, nothing that needs a GPU's speed
"""

from __future__ import annotations

import os
import secrets
import zlib
from collections.abc import Iterator

import pytest
import torch
from support import Device


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--device", choices=("cuda", "emulator", "reference"), help="default: cuda, else the emulator")
    parser.addoption("--graphs", type=int, help="random graphs, each run with several token counts")
    parser.addoption(
        "--products", type=int, help="random products of test_random.py, besides a tenth as many fresh ones"
    )


# In the environment, so that all processes of a run that is spread over several draw the same.
FRESH = "SPARSEFLOW_TEST_SEED"


def pytest_configure(config: pytest.Config) -> None:
    os.environ.setdefault(FRESH, str(secrets.randbelow(10**9)))


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    terminalreporter.write_line(f"fresh random products are those of {FRESH}={os.environ[FRESH]}")


def device_name(config: pytest.Config) -> str:
    return config.getoption("--device") or ("cuda" if torch.cuda.is_available() else "emulator")


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "random_seed" in metafunc.fixturenames:
        count = metafunc.config.getoption("--graphs") or (60 if device_name(metafunc.config) == "cuda" else 6)
        metafunc.parametrize("random_seed", range(count))
    if "product_seed" in metafunc.fixturenames:
        count = metafunc.config.getoption("--products") or (500 if device_name(metafunc.config) == "cuda" else 60)
        fresh = [f"{os.environ[FRESH]}-{index}" for index in range((count + 9) // 10)]
        metafunc.parametrize("product_seed", [*map(str, range(count)), *fresh])


@pytest.fixture(scope="session")
def device(request: pytest.FixtureRequest) -> Device:
    return Device(device_name(request.config))


@pytest.fixture
def gpu(device: Device) -> Device:
    """For tests of what only a GPU has: streams, graphs, speed."""
    if device.name != "cuda":
        pytest.skip("needs a GPU")
    return device


@pytest.fixture(autouse=True)
def seeded(request: pytest.FixtureRequest) -> Iterator[None]:
    """Fresh random data for each test, the same in every run of it."""
    torch.manual_seed(zlib.crc32(request.node.name.encode()))
    yield
