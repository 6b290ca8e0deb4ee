"""The wheel: what it holds, which systems it is tagged for, what its libraries need."""

import re
import shutil
import subprocess
import sys
import sysconfig
import zipfile
from pathlib import Path

import pytest

# Libraries that every system a manylinux wheel is for has (PEP 600), and nothing else.
ALLOWED = {"libc.so.6", "libm.so.6", "libdl.so.2", "libpthread.so.0", "librt.so.1", "libz.so.1", "libgcc_s.so.1"}
ALLOWED |= {"libstdc++.so.6", "ld-linux-x86-64.so.2"}
TOOLS = ("sparseflow-opt", "sparseflow-compile", "sparseflow-run")


@pytest.fixture(scope="module")
def wheel(root) -> Path:
    (path,) = (root / "build" / "dist").glob("*.whl")
    return path


@pytest.fixture(scope="module")
def unpacked(wheel, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(folder)
    return folder


def binaries(folder: Path) -> list[Path]:
    return [path for path in folder.rglob("*") if path.is_file() and path.read_bytes()[:4] == b"\x7fELF"]


def readelf(*arguments: object) -> str:
    return subprocess.run(
        ["readelf", "--wide", *map(str, arguments)], capture_output=True, text=True, check=True
    ).stdout


def test_size(wheel):
    assert wheel.stat().st_size < 25 * 2**20


def test_contents(wheel):
    names = set(zipfile.ZipFile(wheel).namelist())
    extension = f"sparseflow/_sparseflow{sysconfig.get_config_var('EXT_SUFFIX')}"
    wanted = {"sparseflow/lib/libsparseflow.so", "sparseflow/include/sparseflow-c/sparseflow.h", extension}
    wanted |= {"sparseflow_commands/__init__.py", "sparseflow/py.typed", "sparseflow/_sparseflow.pyi"} | {
        f"sparseflow/bin/{tool}" for tool in TOOLS
    }
    wanted |= {f"sparseflow/data/{name}" for name in ("kernels.json", "measured-h100.json", "tuning-sm_90a.sqlite")}
    assert wanted <= names
    strays = [
        n
        for n in names
        if n not in wanted
        and not re.match(r"sparseflow(_commands)?/(\w+/)*[\w-]+\.(py|json)$|sparseflow-[\d.]+\.dist-info/", n)
    ]
    assert not strays


def test_the_header_is_the_repositorys(unpacked, root):
    header = Path("sparseflow-c", "sparseflow.h")
    assert (unpacked / "sparseflow" / "include" / header).read_bytes() == (root / "include" / header).read_bytes()


def test_the_tag_is_the_glibc_that_the_binaries_need(wheel, unpacked):
    needed = {
        int(minor)
        for path in binaries(unpacked)
        for minor in re.findall(r"Name: GLIBC_2\.(\d+)", readelf("--version-info", path))
    }
    assert f"-manylinux_2_{max(needed)}_x86_64.whl" in wheel.name
    assert max(needed) <= 36
    tags = (next(unpacked.glob("*.dist-info")) / "WHEEL").read_text()
    assert f"Tag: cp{sys.version_info[0]}{sys.version_info[1]}-" in tags and f"manylinux_2_{max(needed)}_x86_64" in tags


def test_nothing_else_is_needed(unpacked):
    for path in binaries(unpacked):
        needed = set(re.findall(r"\(NEEDED\).*\[(.*)\]", readelf("--dynamic", path)))
        assert needed <= ALLOWED | {"libsparseflow.so"}, path.name


def test_run_paths_stay_inside_the_wheel(unpacked):
    for path in binaries(unpacked):
        for run_path in re.findall(r"\((?:RUNPATH|RPATH)\).*\[(.*)\]", readelf("--dynamic", path)):
            assert run_path.startswith("$ORIGIN"), f"{path.name}: {run_path}"


def test_the_library_exports_the_c_abi_alone(unpacked):
    table = readelf("--dyn-syms", unpacked / "sparseflow" / "lib" / "libsparseflow.so")
    exported = {
        row.split()[7].partition("@")[0]
        for row in table.splitlines()
        if len(row.split()) > 7 and row.split()[6].isdigit()
    }
    header = (unpacked / "sparseflow" / "include" / "sparseflow-c" / "sparseflow.h").read_text()
    declared = set(re.findall(r"SF_API\s[^;(]*?\b(sf\w+)\(", header))
    versions = {name for name in exported if name.startswith("SPARSEFLOW_")}
    assert exported - versions == declared


def test_binaries_are_stripped(unpacked):
    for path in binaries(unpacked):
        assert ".symtab" not in readelf("--sections", path), path.name


def test_the_record_matches(unpacked):
    import base64
    import csv
    import hashlib

    (record,) = unpacked.glob("*.dist-info/RECORD")
    for name, digest, _ in csv.reader(record.read_text().splitlines()):
        if digest:
            actual = hashlib.sha256((unpacked / name).read_bytes()).digest()
            assert digest == "sha256=" + base64.urlsafe_b64encode(actual).rstrip(b"=").decode(), name


@pytest.mark.parametrize(
    "tool", [*TOOLS, *(f"sparseflow-{name}" for name in ("convert", "inspect", "benchmark", "audit"))]
)
def test_console_scripts_run(tool):
    script = Path(sysconfig.get_path("scripts"), tool)
    result = subprocess.run([script, "--help"], capture_output=True, text=True, check=False)
    assert result.returncode == 0 and tool in result.stdout + result.stderr


def test_the_interface_file_has_the_modules_names():
    import ast

    from sparseflow import _sparseflow

    interface = Path(_sparseflow.__file__).with_name("_sparseflow.pyi")
    declared = {
        node.name for node in ast.parse(interface.read_text()).body if isinstance(node, ast.FunctionDef | ast.ClassDef)
    }
    actual = {name for name in vars(_sparseflow) if not name.startswith("_")}
    assert declared == actual - {"DeviceBuffer"}


def test_a_program_links_against_the_wheel(unpacked, tmp_path):
    source = tmp_path / "main.c"
    source.write_text(
        '#include "sparseflow-c/sparseflow.h"\nint main(void) { return sfAbiVersion() != SF_ABI_VERSION; }\n'
    )
    package = unpacked / "sparseflow"
    program = tmp_path / "main"
    compiler = shutil.which("cc") or shutil.which("clang-22") or "c99"
    subprocess.run(
        [compiler, "-std=c99", "-Wall", "-Werror", f"-I{package}/include", source, f"{package}/lib/libsparseflow.so",
         f"-Wl,-rpath,{package}/lib", "-o", program],
        check=True,
    )  # fmt: skip
    subprocess.run([program], check=True)
