"""The examples run and find their results right."""

import json
import os
import subprocess
import sys

import pytest


def run(root, *arguments):
    command = [sys.executable, *map(str, arguments)]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}  # small matrices, beside other tests
    result = subprocess.run(command, cwd=root, env=environment, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stdout + result.stderr
    return result.stdout


def test_the_model_file_is_what_its_script_makes(root, tmp_path):
    run(root, "examples/make_mlp.py", tmp_path / "mlp.mlir")
    assert (tmp_path / "mlp.mlir").read_text() == (root / "examples" / "mlp.mlir").read_text()


def test_quickstart(root):
    output = run(root, "examples/quickstart.py", "--device", "emulator", "--tokens", "9")
    for wanted in ("compiled mlp.mlir for sm_80, sm_89, sm_90", "mma.sp", "emulator", "fc1", "quantize", "fc2"):
        assert wanted in output


@pytest.mark.parametrize("dtype", ["f16", "bf16"])
def test_pytorch_mlp(root, dtype):
    output = run(
        root, "examples/pytorch_mlp.py", "--width", 64, "--tokens", 8, "--device", "emulator", "--dtype", dtype
    )
    assert "Tensor (8, 64): max error" in output


def test_transformers_llama(root):
    output = run(root, "examples/transformers_llama.py", "--tokens", 6, "--device", "emulator")
    assert "7 linear layers, 2:4 in all" in output


def test_pytorch_pruning(root):
    pytest.importorskip("torch", reason="needs PyTorch: pip install 'sparseflow[torch]'")
    output = run(root, "examples/pytorch_pruning.py", "--device", "cpu")
    assert "SparseGPT < Wanda < magnitude" in output


def test_the_notebook_runs_from_top_to_bottom(root, tmp_path):
    """Its cells in one process, as a kernel would run them, without needing Jupyter."""
    pytest.importorskip("torch", reason="needs PyTorch: pip install 'sparseflow[torch]'")
    notebook = json.loads((root / "examples" / "pytorch.ipynb").read_text())
    cells = ["".join(cell["source"]) for cell in notebook["cells"] if cell["cell_type"] == "code"]
    assert not any(cell.get("outputs") for cell in notebook["cells"])
    script = tmp_path / "notebook.py"
    script.write_text("\n".join(cells))
    assert "sf.matmul" in run(root, script)
