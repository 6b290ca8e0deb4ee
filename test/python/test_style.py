"""The package type-checks, and the Python sources are as the formatter leaves them."""

import subprocess
import sys

import pytest

FOLDERS = ["python", "examples", "benchmarks", "test", "tools"]


@pytest.mark.parametrize(
    "command",
    [
        ["mypy", "python/sparseflow", "python/sparseflow_commands"],
        ["ruff", "check", *FOLDERS],
        ["ruff", "format", "--check", *FOLDERS],
    ],
    ids=["mypy", "ruff_check", "ruff_format"],
)
def test_is_clean(root, command):
    check(root, command)


def check(root, command):
    result = subprocess.run([sys.executable, "-m", *command], cwd=root, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stdout + result.stderr


USE = """
import sparseflow as sf
import torch

model = torch.nn.Sequential(torch.nn.Linear(8, 8))
report = sf.quantize_model_sparse(model)
print(report.bytes_after, sf.warmup(model, 3).to_json(), sf.explain(model).rows)
print(sf.sparsify_model(model, "f16").converted, sf.dense_int8(model).layers, sf.SparseFlowConfig(scheme="int8").scheme)
layer = sf.nn.SparseLinear.from_dense(torch.nn.Linear(8, 8))
weight = sf.torch.SparseWeight.from_dense(layer.weight)
with sf.checkpoints.open_checkpoint("model") as checkpoint:
    print(checkpoint.entries)
"""


def test_what_is_imported_late_has_types(root, tmp_path):
    """A name that __getattr__ alone gave would be an object, which nobody can call."""
    pytest.importorskip("torch")
    (tmp_path / "use.py").write_text(USE)
    check(root, ["mypy", "python/sparseflow", str(tmp_path / "use.py")])
    (tmp_path / "use.py").write_text(USE.replace("bytes_after", "bytes_later"))
    with pytest.raises(AssertionError, match="bytes_later"):
        check(root, ["mypy", "python/sparseflow", str(tmp_path / "use.py")])
