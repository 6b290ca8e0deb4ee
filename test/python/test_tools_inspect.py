"""sparseflow-inspect: its numbers are the file's, its picture is the documented layout, bad input is a sentence."""

import json

import numpy as np
import pytest

import sparseflow as sf
from sparseflow import checkpoints
from sparseflow.tools import chips, cli, inspect, layout_picture


def run(capsys, *arguments):
    code = inspect.main([str(argument) for argument in arguments])
    captured = capsys.readouterr()
    return code, captured.out, captured.err


@pytest.fixture(scope="module")
def compiled(tmp_path_factory):
    rng = np.random.default_rng(3)
    graph = sf.Graph()
    x = graph.input("x", (None, 256), sf.f16)
    hidden = graph.matmul(x, sf.prune_24(rng.standard_normal((128, 256))), activation="relu", name="fc1")
    q, scale = graph.quantize(hidden)
    weight = sf.quantize_weight(sf.prune_24(rng.standard_normal((100, 128))))
    graph.output(graph.matmul(q, weight, row_scale=scale, name="fc2"))
    exe = sf.compile(graph, target=["sm_80", "sm_90"], device="emulator")
    path = tmp_path_factory.mktemp("inspect") / "model.sf"
    exe.save(path)
    return path, exe


def test_numbers_are_those_of_the_file(compiled, capsys):
    path, exe = compiled
    code, out, _ = run(capsys, path, "--json", "--verify")
    document = json.loads(out)
    assert code == 0 and document["file"]["verified"]
    shown = {(each["target"], k["name"]): k for each in document["programs"] for k in each["kernels"]}
    for program in exe.manifest["functions"][0]["programs"]:
        for kernel in program["kernels"]:
            mine = shown.pop((program["target"], kernel["name"]))
            assert (mine["registers"], mine["spill_bytes"]) == (kernel["registers"], kernel["spill_bytes"])
            sparse = mine["instructions"].get("mma.sp", 0) + mine["instructions"].get("wgmma.sp", 0)
            assert sparse == kernel["mma_sp"]
            assert mine["occupancy"]["blocks"] >= 1
    assert not shown


def test_text_shows_paths_kernels_and_weights(compiled, capsys):
    code, out, _ = run(capsys, compiled[0])
    assert code == 0
    for wanted in ("main(x [M, 256] f16) -> y [M, 100] f16", "main for sm_80", "main for sm_90", "sparse", "fc1.weight",
                   "128x256", "registers", "tokens"):  # fmt: skip
        assert wanted in out, wanted


def test_a_kernel_without_ptx_or_with_a_damaged_one_is_shown(compiled):
    program = compiled[1]._program
    kernel = compiled[1].manifest["functions"][0]["programs"][0]["kernels"][0]
    assert inspect._text(program, None) == ""
    assert inspect.count_instructions(inspect._text(program, kernel["cubin"])) == {}
    with pytest.raises(cli.Failure, match="expected a cubin for --sass, got a kernel that is PTX alone"):
        inspect.disassemble(None, program, None)


def test_tensors_that_only_have_the_names_of_a_weight_are_none():
    named = [{"name": f"a.{part}", "dtype": "u8", "shape": [4], "bytes": 4} for part in ("values", "bitmask")]
    assert inspect._weights({"tensors": named}) == []


def test_a_kernel_and_a_target_can_be_chosen(compiled, capsys):
    code, out, _ = run(capsys, compiled[0], "quantize", "--target", "sm_80", "--json", "--ptx")
    programs = json.loads(out)["programs"]
    assert code == 0 and [each["target"] for each in programs] == ["sm_80"]
    (kernel,) = programs[0]["kernels"]
    assert "quantize" in kernel["name"] and ".target sm_80" in kernel["ptx_text"]


def test_sass_or_a_sentence(compiled, capsys):
    code, out, err = run(capsys, compiled[0], "quantize", "--target", "sm_80", "--sass")
    assert (code == 0 and "EXIT" in out) or (code == 1 and "expected nvdisasm or cuobjdump" in err)


def test_weights_and_what_they_save(compiled, capsys):
    weights = {each["name"]: each for each in json.loads(run(capsys, compiled[0], "--json")[1])["weights"]}
    assert weights["fc1.weight"]["shape"] == [128, 256]
    assert weights["fc1.weight"]["canonical_bytes"] == 128 * 128 * 2 + 128 * 32
    # 100 features are packed as two chunks of 64.
    assert weights["fc2.weight"]["packed_bytes"] == {"mma": 128 * 64 + 128 * 128 // 4 // 2}


@pytest.mark.parametrize("itemsize", [1, 2])
def test_the_picture_is_the_documented_layout(itemsize):
    order = layout_picture.element_order(itemsize)
    of_fragment = 16 // itemsize
    assert sorted(map(tuple, order)) == [(f, k) for f in range(64) for k in range(64 // itemsize)]
    # docs/Layouts.md: row g + 8h of block i is feature 8g + 2i + h, g the lane over 4.
    for place in range(0, len(order), of_fragment):
        lane, block = place // of_fragment % 32, place // of_fragment // 32 % 4
        features = {int(f) for f in order[place : place + of_fragment, 0]}
        assert features == {8 * (lane // 4) + 2 * block, 8 * (lane // 4) + 2 * block + 1}


@pytest.mark.parametrize("itemsize", [1, 2])
def test_the_picture_of_wgmma_is_the_documented_layout(itemsize):
    order = layout_picture.element_order(itemsize, "wgmma")
    of_run = 16 // itemsize
    assert sorted(map(tuple, order)) == [(f, k) for f in range(64) for k in range(64 // itemsize)]
    # docs/Hopper.md: row 16w + g + 8h is feature 16w + 2g + h; a step is 64 rows x 16 bytes, twice.
    for place in range(0, len(order), of_run):
        row, half, step = place // of_run % 64, place // of_run // 64 % 2, place // of_run // 128
        feature = row // 16 * 16 + 2 * (row % 8) + row // 8 % 2
        first = (2 * step + half) * of_run
        assert order[place : place + of_run].tolist() == [[feature, first + k] for k in range(of_run)]
    # Feature 3 is row 9: the second core matrix of each half.
    cells = layout_picture.picture(itemsize, "wgmma").splitlines()[8].split()
    assert cells[:2] == ["3", "9"] and set(cells[2:]) == {"1", "9"}


def test_layout_is_drawn(compiled, capsys):
    out = run(capsys, compiled[0], "--layout")[1]
    assert "Packed for mma.sp, 16-bit elements (f16)" in out and "Packed for mma.sp, 8-bit elements (i8)" in out
    assert sum(line.split()[:1] == ["63"] for line in out.splitlines()) == 2
    pictures = json.loads(run(capsys, compiled[0], "--layout", "--json")[1])["layouts"]
    assert all(title in out and picture in out for title, picture in pictures.items()) and len(pictures) == 2


def test_the_layouts_of_hoppers_weights_are_drawn(tmp_path, capsys, rng):
    graph = sf.Graph()
    x = graph.input("x", (None, 128), sf.f16)
    graph.output(graph.matmul(x, sf.prune_24(rng.standard_normal((64, 128))), name="fc"))
    sf.compile(graph, target=["sm_80", "sm_90a"], device="emulator").save(tmp_path / "both.sf")
    out = run(capsys, tmp_path / "both.sf", "--layout")[1]
    assert "Packed for mma.sp, 16-bit elements (f16)" in out and "Packed for wgmma.sp, 16-bit elements (f16)" in out
    assert sum(line.split()[:1] == ["63"] for line in out.splitlines()) == 2


@pytest.mark.parametrize(
    ("target", "threads", "registers", "shared", "expected"),
    [
        ("sm_80", 256, 255, 196608, (0, "shared memory")),
        ("sm_80", 256, 128, 16384, (2, "registers")),
        ("sm_90", 128, 32, 0, (16, "registers")),
        ("sm_89", 1024, 32, 0, (1, "warps")),
        ("sm_86", 32, 16, 0, (16, "blocks")),
        ("sm_90a", 128, 168, 100 << 10, (2, "shared memory")),
    ],
)
def test_occupancy(target, threads, registers, shared, expected):
    found = chips.occupancy(target, threads, registers, shared)
    assert (found.blocks, found.limit) == expected


def test_a_chip_that_nobody_knows_has_no_occupancy():
    assert chips.occupancy("sm_70", 128, 32, 0) is None


def test_bad_input_is_a_sentence(compiled, capsys, tmp_path, rng):
    path, _ = compiled
    code, out, err = run(capsys, tmp_path / "none.sf")
    assert (code, out) == (1, "") and "does not exist" in err
    (tmp_path / "half.sf").write_bytes(path.read_bytes()[:1000])
    code, _, err = run(capsys, tmp_path / "half.sf")
    assert code == 1 and "sparseflow-inspect: " in err and "Traceback" not in err
    checkpoint = tmp_path / "model.safetensors"
    weight = sf.compress(sf.prune_24(rng.standard_normal((16, 32)).astype(np.float16)))
    checkpoints.write_file(checkpoint, {"up.weight.values": weight.values, "up.weight.bitmask": weight.bitmask})
    for given in (checkpoint, tmp_path):
        code, _, err = run(capsys, given)
        assert code == 1 and "a checkpoint with 1 compressed layers; sparseflow-convert --input" in err
    code, _, err = run(capsys, path, "nosuch")
    assert code == 1 and "expected a kernel 'nosuch', got none; the file holds main_matmul" in err
