"""What `import sparseflow` costs and exposes."""

import inspect
import os
import subprocess
import sys
import time
import tomllib

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


@pytest.mark.parametrize("name", ["compile", "run", "opt", "convert", "inspect", "benchmark", "audit", "tune"])
def test_ctrl_c_while_a_command_is_imported(name):
    code = (
        "import signal, sys, sparseflow_commands\n"
        "signal.signal(signal.SIGINT, signal.default_int_handler)\n"
        "class Finder:\n"
        "    def find_spec(self, *_): signal.raise_signal(signal.SIGINT)\n"
        "sys.meta_path.insert(0, Finder())\n"
        f"sparseflow_commands.{name}()"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (found.returncode, found.stderr) == (130, f"sparseflow-{name}: interrupted\n")


def test_every_command_of_the_package_has_its_entry_point(root):
    import sparseflow_commands

    scripts = tomllib.loads((root / "pyproject.toml").read_text())["project"]["scripts"]
    for script, place in scripts.items():
        module, _, function = place.partition(":")
        assert module == "sparseflow_commands" and script == f"sparseflow-{function}"
        assert callable(getattr(sparseflow_commands, function))


def test_entry_points_run_the_commands(tmp_path):
    def ended(call, *arguments):
        code = f"import sys, sparseflow_commands; sys.exit(sparseflow_commands.{call}())"
        command = [sys.executable, "-c", code, *arguments]
        found = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
        return found.returncode, found.stdout, found.stderr

    environment = dict(os.environ)
    assert ended("audit", "--version") == (0, f"sparseflow {sf.__version__}\n", "")
    assert ended("convert", "--nonsense")[0] == 2
    code, _, err = ended("inspect", os.fsdecode(bytes(tmp_path) + b"/q\xff.sf"))
    assert code == 1 and err.startswith("sparseflow-inspect: expected a .sf file") and err.count("\n") == 1
    environment["PYTHONIOENCODING"] = "ascii"
    ask = ["--model", "vit-base", "--qps", "10", "--input-tokens", "197", "--gpu", "h100"]
    code, out, err = ended("audit", *ask)
    assert (code, err) == (0, "") and "1 to 5 \\xb5s" in out and out.isascii()


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
