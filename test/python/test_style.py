"""The package type-checks, and the Python sources are as the formatter leaves them."""

import subprocess
import sys

import pytest

FOLDERS = ["python", "examples", "benchmarks", "test", "tools"]


@pytest.mark.parametrize(
    "command",
    [["mypy", "python/sparseflow"], ["ruff", "check", *FOLDERS], ["ruff", "format", "--check", *FOLDERS]],
    ids=["mypy", "ruff_check", "ruff_format"],
)
def test_is_clean(root, command):
    result = subprocess.run([sys.executable, "-m", *command], cwd=root, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stdout + result.stderr
