"""What `sf.compile` and `sf.load` take and refuse."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import sparseflow as sf

TEXT = """
func.func @main(%x: tensor<?x64xf16> {sf.name = "x"}) -> (tensor<?x32xf16> {sf.name = "y"}) {
  %w = arith.constant dense_resource<w> : tensor<32x64xf16>
  %s = sf.compress %w : tensor<32x64xf16> -> tensor<32x64xf16, #sf.weight<sp24>>
  %y = sf.matmul %x, %s : (tensor<?x64xf16>, tensor<32x64xf16, #sf.weight<sp24>>) -> tensor<?x32xf16>
  return %y : tensor<?x32xf16>
}
"""


@pytest.fixture
def weight(rng):
    return sf.prune_24(rng.standard_normal((32, 64)).astype(np.float16))


def compile(source, **options):
    return sf.compile(source, **{"target": "sm_80", "device": "emulator"} | options)


def test_text_with_constants(weight, rng):
    x = rng.standard_normal((4, 64)).astype(np.float16)
    y = compile(TEXT, constants={"w": weight})(x)
    np.testing.assert_allclose(y.astype(np.float64), x.astype(np.float64) @ weight.astype(np.float64).T, atol=0.05)


def test_a_path(weight, tmp_path):
    path = tmp_path / "model.mlir"
    path.write_text(TEXT)
    for source in (path, str(path)):
        assert compile(source, constants={"w": weight}).targets == ["sm_80"]


def test_several_targets(weight):
    for target in (["sm_80", "sm_90"], "sm_80,sm_90"):
        assert compile(TEXT, constants={"w": weight}, target=target).targets == ["sm_80", "sm_90"]


def test_config_is_obeyed(weight):
    config = "#sf.kernel_config<tile = 64x16x64, warps = 1x2, stages = 3, split_k = 1, raster = 1, atom = mma_sp>"
    exe = compile(TEXT, constants={"w": weight}, config=config)
    (program,) = exe.manifest["functions"][0]["programs"]
    assert all("tile = 64x16x64" in kernel["config"] for kernel in program["kernels"])


def test_the_second_compile_comes_from_the_cache(weight, tmp_path):
    compile(TEXT, constants={"w": weight}, cache_dir=tmp_path)
    assert any(tmp_path.rglob("*"))
    compile(TEXT, constants={"w": weight}, cache_dir=tmp_path, ptxas=None)


@pytest.mark.parametrize("folder", ["file", "file/below"])
def test_a_cache_folder_that_cannot_be_one_is_a_warning(weight, tmp_path, folder):
    (tmp_path / "file").touch()
    with pytest.warns(
        sf.CompilerWarning, match=f"expected a folder for the cache, got '{tmp_path / folder}': Not a dir"
    ):
        compile(TEXT, constants={"w": weight}, cache_dir=tmp_path / folder)


def test_intermediates_are_dumped_in_order(weight, tmp_path):
    compile(TEXT, constants={"w": weight}, dump_intermediates=tmp_path, cache_dir="")
    names = sorted(path.name for path in tmp_path.rglob("*") if path.is_file())
    assert any(name.endswith(".mlir") for name in names) and any(name.endswith(".ptx") for name in names)
    assert re.match(r"\d+", names[0])


def test_ctrl_c_ends_a_compile_and_leaves_a_usable_cache(tmp_path):
    # Ctrl-C comes with the first thing that is kept, where kernels of twelve layers for five chips are to come.
    program = f"""
import signal, threading, time
from pathlib import Path
import numpy as np, sparseflow as sf

# A job in the background may have been started with the signal ignored.
signal.signal(signal.SIGINT, signal.default_int_handler)

def interrupt():
    while not any(path.is_file() for path in Path({str(tmp_path)!r}).rglob("*")):
        time.sleep(0.001)
    signal.raise_signal(signal.SIGINT)

graph = sf.Graph()
x = graph.input("x", (None, 64), sf.f16)
for width in range(128, 128 + 12 * 64, 64):
    x = graph.matmul(x, sf.prune_24(np.ones((width, width - 64), np.float16)), activation="gelu")
graph.output(x)
threading.Thread(target=interrupt, daemon=True).start()
try:
    sf.compile(graph, target="sm_80,sm_89,sm_90,sm_90a,sm_100", device="emulator", cache_dir={str(tmp_path)!r})
except KeyboardInterrupt:
    print("interrupted", flush=True)
graph = sf.Graph()
graph.output(graph.matmul(graph.input("x", (None, 64), sf.f16), sf.prune_24(np.eye(64, dtype=np.float16))))
sf.compile(graph, device="emulator", cache_dir={str(tmp_path)!r})
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=120, check=False)
    assert (done.returncode, done.stdout) == (0, "interrupted\n"), done.stderr
    assert not list(tmp_path.rglob("*.tmp"))


BAD = {
    "malformed MLIR": (sf.InvalidProgramError, "expected", lambda w: compile("func.func @f(")),
    "an unknown target": (sf.Error, "sm_7.*sm_80", lambda w: compile(TEXT, constants={"w": w}, target="sm_7")),
    "no such constant": (sf.Error, "w", lambda w: compile(TEXT)),
    "a constant of another size": (sf.Error, "w", lambda w: compile(TEXT, constants={"w": w[:16]})),
    "a dense constant": (
        sf.Error,
        "first|more than",
        lambda w: compile(TEXT, constants={"w": np.ones((32, 64), np.float16)}),
    ),
    "NaN in a constant": (
        sf.Error,
        "NaN|finite",
        lambda w: compile(TEXT, constants={"w": np.full((32, 64), np.nan, np.float16)}),
    ),
    "a malformed config": (sf.Error, "config", lambda w: compile(TEXT, constants={"w": w}, config="tile")),
    "no ptxas": (
        sf.Error,
        "ptxas",
        lambda w: compile(TEXT, constants={"w": w}, ptxas="/nowhere/ptxas", cache_dir=""),
    ),
    "no target": (
        sf.InvalidArgumentError,
        r"expected target to be chips .* got \[\]",
        lambda w: compile(TEXT, target=[]),
    ),
    "an empty target": (
        sf.InvalidArgumentError,
        "expected target to be chips .* got ''",
        lambda w: compile(TEXT, target=""),
    ),
    "a number for a target": (
        sf.InvalidArgumentError,
        "expected target to be chips .* got 80",
        lambda w: compile(TEXT, target=80),
    ),
    "an unknown device": (
        sf.InvalidArgumentError,
        "expected a device .*, got 'tpu'",
        lambda w: compile(TEXT, constants={"w": w}, device="tpu"),
    ),
    "a folder": (sf.InvalidArgumentError, "got '/', which is a folder", lambda w: compile("/")),
    "text without an encoding": (sf.InvalidArgumentError, "that UTF-8 can encode", lambda w: compile("\udcff")),
    "constants without names": (
        sf.InvalidArgumentError,
        "constants: expected arrays by name, got list",
        lambda w: compile(TEXT, constants=[w]),
    ),
    "a number for a config": (sf.InvalidArgumentError, "config: expected text", lambda w: compile(TEXT, config=3)),
    "no such file": (FileNotFoundError, "does not exist", lambda w: compile("/nowhere/model.mlir")),
    "a number": (sf.InvalidArgumentError, "expected a Graph, a path or MLIR text, got int", lambda w: compile(3)),
}


@pytest.mark.parametrize("case", BAD, ids=lambda name: name.replace(" ", "_"))
def test_refuses(case, weight):
    error, message, call = BAD[case]
    with pytest.raises(error, match=message):
        call(weight)


def test_float8_needs_sm_89():
    w = sf.quantize_weight(sf.prune_24(np.random.default_rng(0).standard_normal((32, 128)).astype(np.float32)), sf.e4m3)
    g = sf.Graph()
    g.output(g.matmul(g.input("x", (None, 128), sf.e4m3), w))
    with pytest.raises(sf.Error, match="sm_89"):
        sf.compile(g, target="sm_80")


def test_no_driver_is_a_sentence(weight):
    if any(device.kind == "cuda" for device in sf.devices()):
        pytest.skip("this machine has a GPU")
    with pytest.raises(sf.UnsupportedError, match="driver|libcuda|GPU"):
        _ = compile(TEXT, constants={"w": weight}, device="cuda").device


@pytest.fixture(scope="module")
def program() -> bytes:
    w = sf.prune_24(np.random.default_rng(0).standard_normal((32, 64)).astype(np.float16))
    return compile(TEXT, constants={"w": w}).to_bytes()


@pytest.mark.parametrize("keep", [0, 1, 7, 8, 100, 0.5, -1], ids=str)
def test_a_truncated_file_is_refused(program, tmp_path, keep):
    size = int(len(program) * keep) if isinstance(keep, float) else keep
    path = tmp_path / "short.sf"
    path.write_bytes(program[:size])
    with pytest.raises(sf.InvalidProgramError):
        sf.load(path)


def test_an_altered_tensor_is_found_by_verify(program):
    altered = bytearray(program)
    altered[-1] ^= 1
    with pytest.raises(sf.InvalidProgramError, match="checksum|altered|corrupt"):
        sf.load(bytes(altered), verify=True)


def test_an_altered_header_is_refused(program):
    start = program.index(b"sparseflow.manifest")
    altered = program.replace(program[start : start + 60], program[start : start + 60].upper(), 1)
    with pytest.raises(sf.InvalidProgramError):
        sf.load(altered)


def test_a_file_without_functions_is_refused(program):
    length = int.from_bytes(program[:8], "little")
    header = json.loads(program[8 : 8 + length])
    manifest = json.loads(header["__metadata__"]["sparseflow.manifest"]) | {"functions": []}
    header["__metadata__"]["sparseflow.manifest"] = json.dumps(manifest)

    def altered():
        text = json.dumps(header).encode()
        text += b" " * (-len(text) % 64)
        return len(text).to_bytes(8, "little") + text + program[8 + length :]

    with pytest.raises(sf.InvalidProgramError, match="expected digest") as error:
        sf.load(altered())
    header["__metadata__"]["sparseflow.digest"] = re.search(r"got (\w+)", str(error.value))[1]
    with pytest.raises(sf.InvalidProgramError, match="expected a program with a function to call"):
        sf.load(altered())


def test_another_file_is_refused(tmp_path):
    path = tmp_path / "other.sf"
    path.write_bytes(b"hello, world" * 100)
    with pytest.raises(sf.InvalidProgramError):
        sf.load(path)
    with pytest.raises(FileNotFoundError):
        sf.load(tmp_path / "none.sf")


def test_a_path_is_not_cut_at_a_null(program, tmp_path):
    with pytest.raises(sf.InvalidArgumentError, match="without null characters"):
        sf.load(program).save(f"{tmp_path}/a\0b")
    assert not list(tmp_path.iterdir())


def test_a_path_may_be_of_any_bytes(program, tmp_path, weight):
    path = os.fsencode(tmp_path) + b"/\xff"
    sf.load(program).save(path + b".sf")
    assert sf.load(os.fsdecode(path + b".sf")).functions
    source = Path(os.fsdecode(path + b".mlir"))
    source.write_text(TEXT)
    assert compile(source, constants={"w": weight}, cache_dir=path).functions
    with pytest.raises(sf.InvalidProgramError, match="\ufffd.mlir: expected"):
        sf.load(source)
    with pytest.raises(sf.InvalidArgumentError, match="save: expected text that UTF-8 can encode"):
        sf.load(program).save("\ud800.sf")


def test_a_model_of_pytorch_is_to_be_exported_first():
    torch = pytest.importorskip("torch")
    with pytest.raises(sf.InvalidArgumentError, match=r"got Sequential; export it first: torch.export.export\(model"):
        compile(torch.nn.Sequential())


def test_saving_into_no_folder(program, tmp_path):
    with pytest.raises(OSError):
        sf.load(program).save(tmp_path / "none" / "x.sf")
