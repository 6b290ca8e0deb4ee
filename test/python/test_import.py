"""What `import sparseflow` costs and exposes."""

import inspect
import subprocess
import sys
import time

import pytest

import sparseflow as sf


def run(code: str) -> str:
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout


def test_import_is_fast():
    # Processor time, the best of five: other work on the machine is not the package's fault.
    code = "import time; t = time.process_time(); import sparseflow; print(time.process_time() - t)"
    assert min(float(run(code)) for _ in range(5)) < 0.3


def test_import_loads_no_framework():
    code = "import sparseflow, sys; print([m for m in ('torch', 'cupy', 'jax', 'ml_dtypes') if m in sys.modules])"
    assert run(code).strip() == "[]"


def test_a_program_that_is_not_installed_is_a_sentence():
    code = "from pathlib import Path; from sparseflow.tools import native; native._PACKAGE = Path('/nowhere'); native.run()"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert found.returncode == 1 and found.stderr.count("\n") == 1
    assert "sparseflow-run: expected the program /nowhere/bin/sparseflow-run, got: No such file" in found.stderr


@pytest.mark.parametrize("name", ["compile", "run", "convert", "inspect", "benchmark", "audit", "tune"])
def test_every_command_ends_with_2_for_wrong_arguments(name):
    native = name in ("compile", "run")
    start = f"from sparseflow.tools import {name} as main" if native else f"from sparseflow.tools.{name} import main"
    for arguments in (["--nonsense"], ["--help"]):
        command = [sys.executable, "-c", f"{start}; import sys; sys.exit(main())", *arguments]
        found = subprocess.run(command, capture_output=True, text=True, check=False)
        wanted = (0, False) if arguments == ["--help"] else (2, True)
        assert (found.returncode, bool(found.stderr)) == wanted and bool(found.stdout) is not wanted[1]


def test_all_names_exist_and_are_documented():
    for name in sf.__all__:
        value = getattr(sf, name)
        assert value.__doc__, name
    assert sf.__version__ == "0.1.0"


def test_every_method_is_documented():
    """Those that are not are missing in docs/generated/python.md."""
    pytest.importorskip("torch")
    exported = [getattr(module, name) for module in (sf, sf.checkpoints, sf.torch, sf.nn) for name in module.__all__]
    for owner in filter(inspect.isclass, exported):
        for name, value in vars(owner).items():
            is_function = inspect.isfunction(value) or isinstance(value, (property, classmethod, staticmethod))
            if is_function and not name.startswith("_") and name not in ("forward", "extra_repr"):  # PyTorch's own
                assert value.__doc__, f"{owner.__name__}.{name}"


def test_a_closed_stdout_is_a_sentence():
    command = f"{sys.executable} -m sparseflow.tools.inspect nowhere.sf >&-"
    found = subprocess.run(["bash", "-c", command], capture_output=True, text=True, check=False)
    assert found.returncode == 1
    assert found.stderr == "sparseflow-inspect: expected a stdout to write the result to, got a closed one\n"


def test_devices_without_a_driver_say_why():
    found = sf.devices()
    assert {"emulator", "reference"} <= {device.kind for device in found}
    if not any(device.kind == "cuda" for device in found):
        assert found.unavailable


def test_devices_is_quick():
    sf.devices()
    begin = time.perf_counter()
    sf.devices()
    assert time.perf_counter() - begin < 1.0
