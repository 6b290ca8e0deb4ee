"""docs/generated/python.md is what the docstrings say today. When this fails: tools/dev/api_reference"""

import subprocess
import sys

import pytest


def test_is_not_stale(root):
    pytest.importorskip("torch")
    pytest.importorskip("transformers")
    command = [sys.executable, root / "tools" / "dev" / "api_reference", "--check"]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stdout + result.stderr
