"""sparseflow-convert: what it writes, that an interruption loses nothing, and what it says of bad input."""

import errno
import functools
import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import layouts_reference as reference
import ml_dtypes
import numpy as np
import pytest
from test_checkpoints_layouts import random_24, random_int4

import sparseflow as sf
from sparseflow import checkpoints
from sparseflow.checkpoints import CanonicalWeight, storage
from sparseflow.checkpoints.writer import ResumableWriter
from sparseflow.tools import convert


class Payload:
    """What a malicious file holds: unpickling it calls print."""

    def __reduce__(self):
        return print, ("code ran",)


def run(capsys, *arguments):
    """(exit code, stdout, stderr) of one conversion in this process."""
    code = convert.main([str(argument) for argument in arguments])
    captured = capsys.readouterr()
    return code, captured.out, captured.err


def read_all(path):
    with checkpoints.open_checkpoint(path) as checkpoint:
        return {entry.name: checkpoint.read(entry) for entry in checkpoint.entries}


@pytest.fixture
def model(rng, tmp_path):
    """A folder with two dense layers, of which one is 2:4, and what stands around them."""
    folder = tmp_path / "model"
    folder.mkdir()
    tensors = {
        "embed_tokens.weight": rng.standard_normal((128, 64)).astype(ml_dtypes.bfloat16),
        "layers.0.up_proj.weight": random_24(rng, (96, 64), ml_dtypes.bfloat16),
        "layers.0.up_proj.bias": rng.standard_normal(96).astype(ml_dtypes.bfloat16),
        "layers.1.up_proj.weight": rng.standard_normal((96, 64)).astype(ml_dtypes.bfloat16),
        "norm.weight": np.ones(64, ml_dtypes.bfloat16),
    }
    checkpoints.write_file(folder / "model.safetensors", tensors, {"format": "pt"})
    (folder / "config.json").write_text(json.dumps({"model_type": "llama", "hidden_size": 64}))
    (folder / "tokenizer.json").write_text("{}")
    return folder, tensors


# ---- What it writes


def test_nothing_is_pruned_unless_asked(model, tmp_path, capsys):
    folder, tensors = model
    code, out, _ = run(capsys, "--input", folder, "--output", tmp_path / "out", "--json")
    assert code == 0
    rows = {row["layer"]: row for row in json.loads(out)["layers"]}
    assert rows["layers.0.up_proj.weight"]["after"] == "2:4 bf16" and rows["layers.0.up_proj.weight"]["was_sparse"]
    assert "not 2:4: 0.0% of its groups" in rows["layers.1.up_proj.weight"]["reason"]
    written = read_all(tmp_path / "out")
    assert list(written) == list(tensors)
    assert (written["layers.0.up_proj.weight"].dense() == tensors["layers.0.up_proj.weight"]).all()
    assert (written["layers.1.up_proj.weight"] == tensors["layers.1.up_proj.weight"]).all()


def test_magnitude_int8(model, tmp_path, capsys):
    folder, tensors = model
    arguments = ("--input", folder, "--output", tmp_path / "out", "--method", "magnitude", "--scheme", "int8")
    code, out, _ = run(capsys, *arguments, "--json")
    assert code == 0
    document = json.loads(out)
    row = next(row for row in document["layers"] if row["layer"] == "layers.1.up_proj.weight")
    assert row["was_sparse"] is False and 0.1 < row["error"] < 0.5
    assert document["totals"]["layers"] == 2
    weight = read_all(tmp_path / "out")["layers.1.up_proj.weight"]
    expected = sf.prune_24(tensors["layers.1.up_proj.weight"]).astype(np.float32)
    assert weight.scheme == "int8" and np.abs(weight.dense() - expected).max() <= np.abs(expected).max() / 200
    config = json.loads((tmp_path / "out" / "config.json").read_text())
    assert config["quantization_config"] == {
        "quant_method": "sparseflow", "format": 1, "scheme": "int8", "method": "magnitude", "skip": [],
        "layers": {"layers.0.up_proj": "int8", "layers.1.up_proj": "int8"},
    }  # fmt: skip
    assert config["hidden_size"] == 64 and (tmp_path / "out" / "tokenizer.json").read_text() == "{}"


def test_experts_that_transformers_cannot_load_are_told(model, rng, tmp_path, capsys):
    folder, tensors = model
    name = "layers.0.block_sparse_moe.experts.3.w1.weight"
    tensors = tensors | {name: random_24(rng, (96, 64), ml_dtypes.bfloat16)}
    checkpoints.write_file(folder / "model.safetensors", tensors)
    code, _, err = run(capsys, "--input", folder, "--output", tmp_path / "out")
    assert code == 0 and f"loads no 2:4 ones, of which this has 1 ('{name}'); --skip .experts. leaves them dense" in err
    for given, more in ((folder, ("--skip", ".experts.")), (tmp_path / "out", ("--format", "dense"))):
        code, _, err = run(capsys, "--input", given, "--output", tmp_path / more[0], *more)
        assert code == 0 and "experts" not in err


def test_shards_and_their_index(model, tmp_path, capsys):
    folder, tensors = model
    arguments = ("--input", folder, "--output", tmp_path / "out", "--max-shard-size", "10KiB")
    assert run(capsys, *arguments)[0] == 0
    index = json.loads((tmp_path / "out" / "model.safetensors.index.json").read_text())
    assert len(set(index["weight_map"].values())) > 1
    assert list(read_all(tmp_path / "out")) == list(tensors)


def test_other_programs_read_the_files(model, tmp_path, capsys):
    safetensors = pytest.importorskip("safetensors.torch")
    folder, _ = model
    output = tmp_path / "out.safetensors"
    assert run(capsys, "--input", folder, "--output", output, "--method", "magnitude", "--scheme", "fp8")[0] == 0
    names = set(safetensors.load_file(output))
    assert {
        "layers.0.up_proj.weight.values",
        "layers.0.up_proj.weight.bitmask",
        "layers.0.up_proj.weight.scale",
    } <= names


def test_marlin_stays_int4_and_comes_out_dense(rng, tmp_path, capsys):
    dense, scale = random_int4(rng, 64, 256, 2)
    tensors = {f"q_proj.{name}": array for name, array in reference.marlin(dense, scale).items()}
    checkpoints.write_file(tmp_path / "marlin.safetensors", tensors)
    assert run(capsys, "--input", tmp_path / "marlin.safetensors", "--output", tmp_path / "ours.safetensors")[0] == 0
    weight = read_all(tmp_path / "ours.safetensors")["q_proj.weight"]
    expected = dense * np.repeat(scale, 128, axis=1)
    assert weight.scheme == "int4" and (weight.dense() == expected).all()

    arguments = (
        "--input",
        tmp_path / "ours.safetensors",
        "--output",
        tmp_path / "dense.safetensors",
        "--format",
        "dense",
    )
    assert run(capsys, *arguments)[0] == 0
    assert (read_all(tmp_path / "dense.safetensors")["q_proj.weight"] == expected.astype(np.float16)).all()


def test_bitmask_with_scales_keeps_its_values(rng, tmp_path, capsys):
    dense = random_24(rng, (32, 64), ml_dtypes.float8_e4m3fn)
    tensors = {f"up.{name}": array for name, array in reference.bitmask(dense).items()}
    tensors |= {"up.weight_scale": np.full((32, 1), 0.5, np.float32), "up.input_scale": np.array([2.0], np.float32)}
    checkpoints.write_file(tmp_path / "in.safetensors", tensors)
    assert run(capsys, "--input", tmp_path / "in.safetensors", "--output", tmp_path / "out.safetensors")[0] == 0
    weight = read_all(tmp_path / "out.safetensors")["up.weight"]
    assert weight.scheme == "fp8" and weight.input_scale.tolist() == [2.0]
    assert (weight.dense() == dense.astype(np.float32) * 0.5).all()


def test_pt(tmp_path, capsys):
    torch = pytest.importorskip("torch")
    layer = torch.nn.Linear(64, 32)
    shared = torch.ones(16, 16)
    torch.save({"fc.weight": layer.weight, "fc.bias": layer.bias, "a": shared, "b": shared}, tmp_path / "model.pt")
    arguments = (
        "--input",
        tmp_path / "model.pt",
        "--output",
        tmp_path / "out",
        "--method",
        "magnitude",
        "--scheme",
        "f16",
    )
    code, _, err = run(capsys, *arguments)
    assert code == 0 and "a and b share their memory" in err
    pruned = sf.prune_24(layer.weight.detach().numpy()).astype(np.float16)
    assert (read_all(tmp_path / "out")["fc.weight"].dense() == pruned).all()


@pytest.mark.parametrize("scheme", ["bf16", "int8"])
def test_compiled(model, tmp_path, capsys, scheme):
    folder, tensors = model
    arguments = ("--output", tmp_path / "m.sf", "--method", "magnitude", "--scheme", scheme, "--targets", "sm_80")
    assert run(capsys, "--input", folder, *arguments)[0] == 0
    exe = sf.load(tmp_path / "m.sf", device="emulator")
    assert [each["name"] for each in exe.functions] == ["layers_0_up_proj", "layers_1_up_proj"]
    x = np.linspace(-1, 1, 3 * 64).reshape(3, 64).astype(ml_dtypes.bfloat16 if scheme == "bf16" else np.float16)
    y = exe(x, function="layers_0_up_proj").astype(np.float64)
    w = tensors["layers.0.up_proj.weight"].astype(np.float64)
    expected = x.astype(np.float64) @ w.T + tensors["layers.0.up_proj.bias"].astype(np.float64)
    assert np.abs(y - expected).max() < 0.02 * np.abs(expected).max()


def test_wanda_keeps_what_the_inputs_weigh(tmp_path, capsys):
    transformers = pytest.importorskip("transformers")
    config = transformers.LlamaConfig(
        vocab_size=64, hidden_size=64, intermediate_size=128, num_hidden_layers=2, num_attention_heads=2
    )
    folder = tmp_path / "model"
    transformers.LlamaForCausalLM(config).save_pretrained(folder)
    data = tmp_path / "data.jsonl"
    data.write_text("\n".join(json.dumps({"input_ids": list(range(i, i + 32))}) for i in range(4)))
    for method in ("wanda", "sparsegpt"):
        output = tmp_path / method
        arguments = ("--method", method, "--calibration", data, "--scheme", "f16", "--json")
        code, out, err = run(capsys, "--input", folder, "--output", output, *arguments)
        assert code == 0, err
        assert json.loads(out)["totals"]["layers"] == 14
    with checkpoints.open_checkpoint(folder) as checkpoint:
        name = "model.layers.1.mlp.down_proj.weight"
        dense = checkpoint.read(next(entry for entry in checkpoint.entries if entry.name == name))
    wanda, sparsegpt = (read_all(tmp_path / method)[name].dense() for method in ("wanda", "sparsegpt"))
    kept = wanda != 0
    assert (wanda[kept] == dense.astype(np.float16)[kept]).all()
    assert not (sparsegpt[sparsegpt != 0] == dense.astype(np.float16)[sparsegpt != 0]).all()


def test_layers_that_are_no_linear_ones_are_said_before_calibration(tmp_path, capsys, monkeypatch):
    transformers = pytest.importorskip("transformers")
    from sparseflow.torch import calibration

    monkeypatch.setattr(calibration, "calibrate", lambda *_: pytest.fail("the model ran"))
    config = transformers.BertConfig(
        vocab_size=64, hidden_size=64, intermediate_size=128, num_hidden_layers=1, num_attention_heads=2
    )
    transformers.BertModel(config).save_pretrained(tmp_path / "m")  # its pooler is none of a causal model's
    (tmp_path / "data.jsonl").write_text('{"input_ids": [1, 2, 3]}')
    arguments = ("--output", tmp_path / "out", "--method", "wanda", "--calibration", tmp_path / "data.jsonl")
    code, out, err = run(capsys, "--input", tmp_path / "m", *arguments)
    assert (code, out) == (1, "") and "of a causal language model for --method wanda, got " in err


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b'{"input_ids": [1, 64]}', "expected tokens from 0 to 63, the model's vocabulary, got 64"),
        (b'{"input_ids": [1, -2]}', "expected tokens from 0 to 63, the model's vocabulary, got -2"),
        (b'{"input_ids": [1180591620717411303424]}', "vocabulary, got 1180591620717411303424"),
        (b'{"input_ids": ["1"]}', "data.jsonl:1: expected JSON with text or input_ids"),
        (b'{"text": 5}', "data.jsonl:1: expected JSON with text or input_ids"),
        (b'{"text": "\xff"}', "data.jsonl: expected lines of JSON in UTF-8, got other bytes"),
        (b'{"text": "words"}', "expected a tokenizer in"),
        (b"\n", "expected lines of JSON with text or input_ids, got none"),
    ],
)
def test_calibration_data_that_do_not_fit_are_a_sentence(tmp_path, capsys, content, message):
    transformers = pytest.importorskip("transformers")
    config = transformers.LlamaConfig(
        vocab_size=64, hidden_size=32, intermediate_size=32, num_hidden_layers=1, num_attention_heads=2
    )
    folder, data = tmp_path / "model", tmp_path / "data.jsonl"
    transformers.LlamaForCausalLM(config).save_pretrained(folder)
    data.write_bytes(content)
    arguments = ("--input", folder, "--output", tmp_path / "out", "--method", "wanda", "--calibration", data)
    code, out, err = run(capsys, *arguments)
    assert (code, out) == (1, "") and message in err and not (tmp_path / "out").exists()


@pytest.mark.filterwarnings("ignore:the cpu has no sparse tensor cores")
@pytest.mark.parametrize("scheme", ["f16", "int8", "fp8"])
def test_transformers_loads_what_it_wrote(tmp_path, capsys, scheme):
    transformers = pytest.importorskip("transformers")
    torch = pytest.importorskip("torch")
    pytest.importorskip("sparseflow.torch.transformers")
    config = transformers.LlamaConfig(
        vocab_size=64,
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=1,
        num_attention_heads=2,
        dtype="float16",
    )
    transformers.LlamaForCausalLM(config).half().save_pretrained(tmp_path / "model")
    arguments = (
        "--input",
        tmp_path / "model",
        "--output",
        tmp_path / "out",
        "--method",
        "magnitude",
        "--scheme",
        scheme,
    )
    assert run(capsys, *arguments)[0] == 0

    loaded = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "out")
    pruned = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "model", dtype=torch.float32)
    state = pruned.state_dict()
    for name, weight in read_all(tmp_path / "out").items():
        if isinstance(weight, CanonicalWeight):
            state[name].copy_(torch.from_numpy(weight.dense().astype(np.float32)))
    tokens = torch.arange(8)[None]
    with torch.no_grad():
        expected, actual = pruned(tokens).logits, loaded(tokens).logits.float()
    assert (actual - expected).abs().max() < 0.1 * expected.abs().max()


# ---- Memory


def test_memory_is_bounded_by_the_largest_layer(rng, tmp_path):
    layer = rng.standard_normal((1024, 2048), np.float32).astype(np.float16)
    tensors = {f"layers.{i}.weight": layer for i in range(24)}  # 96 MiB
    checkpoints.write_file(tmp_path / "big.safetensors", tensors)
    code = (
        "import resource, sys; from sparseflow.tools import convert\n"
        "base = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss\n"
        "assert convert.main(sys.argv[1:]) == 0\n"
        "print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - base, file=sys.stderr)"
    )
    command = [sys.executable, "-c", code, "--input", tmp_path / "big.safetensors", "--output", tmp_path / "out"]
    command += ["--method", "magnitude", "--scheme", "int8", "--json"]
    result = subprocess.run(command, capture_output=True, text=True, check=True)
    # A layer is 8 MiB as float32, and a few copies of it live at once.
    assert int(result.stderr.split()[-1]) < 72 * 1024


# ---- Interruptions


def conversion(folder, output, *more):
    return ["--input", str(folder), "--output", str(output), "--method", "magnitude", "--scheme", "int8", *more]


def test_a_failed_write_is_resumed_and_gives_the_same_bytes(model, tmp_path, capsys, monkeypatch):
    folder, _ = model
    assert run(capsys, *conversion(folder, tmp_path / "whole"))[0] == 0
    original, count = storage.SafetensorsWriter.write, 0

    def full_disk(self, name, array):
        nonlocal count
        count += 1
        if count == 5:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        original(self, name, array)

    with monkeypatch.context() as patch:
        patch.setattr(storage.SafetensorsWriter, "write", full_disk)
        code, _, err = run(capsys, *conversion(folder, tmp_path / "out"))
    assert code == 1 and "it is full; free some and run the same command again" in err
    assert not (tmp_path / "out").exists()
    kept = re.search(r"(\d+ of \d+ entries) are kept", err)[1]
    code, _, err = run(capsys, *conversion(folder, tmp_path / "out"))
    assert code == 0 and "going on with" in err and f"{kept} are there" in err and kept[0] != "0"
    for name in ("model.safetensors", "config.json"):
        assert (tmp_path / "out" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()
    assert not (tmp_path / "out.partial").exists()


@pytest.mark.parametrize(
    ("failure", "kept"), [(KeyboardInterrupt(), 1), (OSError(errno.EIO, os.strerror(errno.EIO)), 0)]
)
def test_a_sync_that_ctrl_c_cut_short_is_made_again_and_one_that_failed_is_not(tmp_path, monkeypatch, failure, kept):
    """Behind a failed one the next succeeds, whether the bytes are on the disk or not."""
    specs = {"a": {"a": storage.Spec("F16", (2,))}}
    options = {"identity": 1, "single_file": True, "max_shard_bytes": 1 << 30}
    original, failures = storage.SafetensorsWriter.sync, [failure]

    def sync(self):
        if failures:
            raise failures.pop()
        original(self)

    monkeypatch.setattr(storage.SafetensorsWriter, "sync", sync)
    with (
        pytest.raises((KeyboardInterrupt, sf.FileError)),
        ResumableWriter(tmp_path / "out", specs, **options) as writer,
    ):
        writer.write("a", {"a": np.ones(2, np.float16)}, None)
        writer.finish({})
    with ResumableWriter(tmp_path / "out", specs, **options) as writer:
        assert len(writer.done) == kept


def test_a_full_disk_is_known_before_anything_is_written(model, tmp_path, capsys, monkeypatch):
    folder, _ = model
    monkeypatch.setattr("shutil.disk_usage", lambda path: type("Usage", (), {"free": 100})())
    code, _, err = run(capsys, *conversion(folder, tmp_path / "out"))
    assert code == 1 and "KiB of free disk" in err and "got 100 B; free some" in err
    assert not (tmp_path / "out.partial").exists()


def start_interruptible(command, **options):
    """A process that Ctrl-C reaches, also where the tests themselves run in the background and ignore it."""
    default = functools.partial(signal.signal, signal.SIGINT, signal.SIG_DFL)
    return subprocess.Popen(command, stderr=subprocess.PIPE, text=True, preexec_fn=default, **options)


@pytest.mark.parametrize("which", [signal.SIGINT, signal.SIGKILL])
def test_an_interrupted_conversion_goes_on(rng, tmp_path, capsys, which):
    layer = rng.standard_normal((256, 1024), np.float32)
    checkpoints.write_file(tmp_path / "in.safetensors", {f"layers.{i}.weight": layer for i in range(40)})
    # One sync a layer, so that a kill has something to lose.
    code = (
        "import sys; from sparseflow.checkpoints import writer; writer._SYNC_BYTES = 1\n"
        "from sparseflow.tools import convert; sys.exit(convert.main(sys.argv[1:]))"
    )
    arguments = conversion(tmp_path / "in.safetensors", tmp_path / "out", "--json")
    process = start_interruptible([sys.executable, "-c", code, *arguments])
    journal = tmp_path / "out.partial" / "journal.jsonl"
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline and not (journal.exists() and journal.read_text().count("\n") > 5):
        time.sleep(0.002)
    process.send_signal(which)
    _, err = process.communicate()
    assert not (tmp_path / "out").exists()
    if which == signal.SIGINT:
        assert process.returncode == 130 and "interrupted after" in err and "goes on with" in err
        assert "Traceback" not in err
    with open(journal, "a") as file:
        file.write('{"entry": "layers.39.wei')  # as a crash would leave it
    code, out, err = run(capsys, *arguments)
    assert code == 0 and "going on with" in err
    assert len(json.loads(out)["layers"]) == 40
    assert all(isinstance(weight, CanonicalWeight) for weight in read_all(tmp_path / "out").values())
    first, last = (read_all(tmp_path / "out")[f"layers.{i}.weight"] for i in (0, 39))
    assert (first.weight.blob == last.weight.blob).all()


def test_other_options_do_not_go_on_with_it(model, tmp_path, capsys, monkeypatch):
    folder, _ = model
    with monkeypatch.context() as patch:
        patch.setattr(ResumableWriter, "finish", lambda self, others: (_ for _ in ()).throw(KeyboardInterrupt))
        assert run(capsys, *conversion(folder, tmp_path / "out"))[0] == 130
    code, _, err = run(capsys, "--input", folder, "--output", tmp_path / "out", "--method", "magnitude")
    assert code == 1 and "of other options or of another input; remove it" in err


def interrupted(monkeypatch, capsys, arguments):
    """Runs a conversion up to the moment before its output is put into place."""
    with monkeypatch.context() as patch:
        patch.setattr(ResumableWriter, "finish", lambda self, others: (_ for _ in ()).throw(KeyboardInterrupt))
        assert run(capsys, *arguments)[0] == 130


def test_an_output_inside_the_input_goes_on(model, capsys, monkeypatch):
    folder, _ = model
    for output in (folder / "out", folder / "sparse.safetensors"):
        interrupted(monkeypatch, capsys, conversion(folder, output))
        code, _, err = run(capsys, *conversion(folder, output))
        assert code == 0 and "going on with" in err


def test_another_shard_behind_the_same_index_is_another_input(model, tmp_path, capsys, monkeypatch):
    folder, tensors = model
    index = folder / "model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": dict.fromkeys(tensors, "model.safetensors")}))
    interrupted(monkeypatch, capsys, conversion(index, tmp_path / "out"))
    checkpoints.write_file(folder / "model.safetensors", tensors | {"norm.weight": 2 * tensors["norm.weight"]})
    code, _, err = run(capsys, *conversion(index, tmp_path / "out"))
    assert code == 1 and "of other options or of another input" in err


@pytest.mark.parametrize("changed", ["data.jsonl", "model/tokenizer.json"])
def test_other_calibration_data_do_not_go_on_with_it(model, tmp_path, capsys, monkeypatch, changed):
    from sparseflow.tools import calibrated

    folder, _ = model
    data = tmp_path / "data.jsonl"
    data.write_text('{"input_ids": [1, 2, 3]}\n' * 200)
    monkeypatch.setattr(calibrated, "calibrated_pruner", lambda *_: lambda name, dense: sf.prune_24(dense))
    arguments = ["--input", folder, "--output", tmp_path / "out", "--method", "wanda", "--calibration", data]
    interrupted(monkeypatch, capsys, arguments)
    with open(tmp_path / changed, "a") as file:  # far behind the beginning
        file.write("\n")
    code, _, err = run(capsys, *arguments)
    assert code == 1 and "of other options or of another input" in err


def test_a_shard_that_was_lost_is_written_again(model, tmp_path, capsys, monkeypatch):
    folder, _ = model
    assert run(capsys, *conversion(folder, tmp_path / "whole.safetensors"))[0] == 0
    with monkeypatch.context() as patch:
        patch.setattr(ResumableWriter, "finish", lambda self, others: (_ for _ in ()).throw(KeyboardInterrupt))
        assert run(capsys, *conversion(folder, tmp_path / "out.safetensors"))[0] == 130
    (tmp_path / "out.safetensors.partial" / "out.safetensors").unlink()
    assert run(capsys, *conversion(folder, tmp_path / "out.safetensors"))[0] == 0
    assert (tmp_path / "out.safetensors").read_bytes() == (tmp_path / "whole.safetensors").read_bytes()


def test_a_folder_of_somebody_elses_is_left_alone(model, tmp_path, capsys):
    folder, _ = model
    (tmp_path / "out.partial").mkdir()
    (tmp_path / "out.partial" / "precious").write_text("x")
    code, _, err = run(capsys, *conversion(folder, tmp_path / "out"))
    assert code == 1 and "something else of that name; move it away" in err
    assert (tmp_path / "out.partial" / "precious").exists()


def test_two_conversions_do_not_write_the_same_output(model, tmp_path, capsys):
    folder, _ = model
    specs = {"a": {"a": storage.Spec("F16", (2,))}}
    options = {"identity": 1, "single_file": False, "max_shard_bytes": 1 << 30}
    with ResumableWriter(tmp_path / "out", specs, **options):
        code, _, err = run(capsys, *conversion(folder, tmp_path / "out"))
        assert code == 1 and "in use by another conversion" in err


@pytest.mark.parametrize(("chips", "is_told"), [("sm_80,sm_90a", False), ("sm_80, sm_90", True)])
def test_a_chip_that_has_faster_kernels_under_another_name_is_told(tmp_path, capsys, chips, is_told):
    checkpoints.write_file(tmp_path / "in.safetensors", {"fc.weight": np.ones((32, 32), np.float16)})
    arguments = ["--output", tmp_path / "m.sf", "--method", "magnitude", "--targets", chips]
    code, _, err = run(capsys, "--input", tmp_path / "in.safetensors", *arguments)
    assert code == 0 and ("kernels for sm_90a are faster" in err) == is_told


# ---- Bad input


def test_a_model_with_no_eligible_layer(tmp_path, capsys):
    tensors = {"embed.weight": np.ones((32, 16), np.float16), "norm.weight": np.ones(16, np.float16)}
    checkpoints.write_file(tmp_path / "in.safetensors", tensors)
    code, out, err = run(capsys, "--input", tmp_path / "in.safetensors", "--output", tmp_path / "out")
    assert (code, out) == (1, "") and "got none of 1: an embedding" in err
    assert not (tmp_path / "out").exists() and not (tmp_path / "out.partial").exists()


def test_nan_in_a_weight_names_the_layer(tmp_path, capsys):
    checkpoints.write_file(tmp_path / "in.safetensors", {"fc.weight": np.full((32, 16), np.nan, np.float16)})
    code, _, err = run(capsys, *conversion(tmp_path / "in.safetensors", tmp_path / "out"))
    assert code == 1 and "'fc.weight'" in err and "nan" in err.lower()


@pytest.mark.parametrize("force", [[], ["--force"]])
def test_no_folder_of_other_files_is_replaced(model, tmp_path, capsys, monkeypatch, force):
    folder, _ = model
    (tmp_path / "home" / "letters").mkdir(parents=True)
    (tmp_path / "home" / "letters" / "first").write_text("dear")
    monkeypatch.chdir(tmp_path / "home")
    for output in (tmp_path / "home", "."):
        code, _, err = run(capsys, *conversion(folder, output, *force))
        assert code == 1 and err.count("\n") == 1 and ("without weights" if force else "which exists") in err
    for output in (folder.parent, "/"):
        code, _, err = run(capsys, *conversion(folder, output, *force))
        assert code == 2 and "expected an output that does not hold the input" in err
    assert (tmp_path / "home" / "letters" / "first").read_text() == "dear" and folder.exists()


def test_a_checkpoint_may_replace_itself(model, tmp_path, capsys):
    folder, _ = model
    assert run(capsys, *conversion(folder, folder, "--force"))[0] == 0
    with checkpoints.open_checkpoint(folder) as checkpoint:
        assert checkpoint.formats["sparseflow"] > 0
    assert sorted(os.listdir(folder.parent)) == [folder.name]  # nothing is left beside it


def test_an_output_that_exists_is_kept_unless_forced(model, tmp_path, capsys):
    folder, _ = model
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "precious").write_text("x")
    (tmp_path / "out" / "model.safetensors").write_text("of yesterday")
    code, _, err = run(capsys, *conversion(folder, tmp_path / "out"))
    assert code == 1 and "which exists; remove it, or use --force" in err
    assert (tmp_path / "out" / "precious").exists()
    assert run(capsys, *conversion(folder, tmp_path / "out", "--force"))[0] == 0
    assert not (tmp_path / "out" / "precious").exists()


@pytest.mark.parametrize(
    ("more", "code", "message"),
    [
        (["--targets", "sm_80"], 2, "expected a .sf for --targets"),
        (["--format", "dense", "--scheme", "int8"], 2, "for --format dense, got int8"),
        (["--method", "wanda"], 2, "expected --calibration"),
        (["--format", "dense", "--method", "magnitude"], 2, "expected no --method for --format dense"),
        (["--calibration", "x.jsonl"], 2, "expected --calibration"),
        (["--skip", "lm_haed"], 1, "expected --skip to be part of a layer's name, got lm_haed, which no name has"),
    ],
)
def test_options_that_do_not_fit(model, tmp_path, capsys, more, code, message):
    folder, _ = model
    ended, _, err = run(capsys, "--input", folder, "--output", tmp_path / "out", *more)
    assert ended == code and message in err


def test_one_file_has_no_shards(model, tmp_path, capsys):
    folder, _ = model
    output = tmp_path / "out.safetensors"
    code, _, err = run(capsys, "--input", folder, "--output", output, "--max-shard-size", "1GiB")
    assert code == 2 and "expected a folder for --max-shard-size" in err


def test_a_program_for_a_folder_that_is_not_there_is_refused_before_it_is_compiled(
    model, tmp_path, capsys, monkeypatch
):
    monkeypatch.setattr(convert, "compile_layers", lambda *_, **__: pytest.fail("something was compiled"))
    code, _, err = run(capsys, "--input", model[0], "--output", tmp_path / "none" / "m.sf")
    assert code == 1 and "expected a folder" in err


def test_names_beyond_ascii_are_functions_too(rng, tmp_path, capsys):
    checkpoints.write_file(tmp_path / "in.safetensors", {"größe.up-1.weight": random_24(rng, (32, 64))})
    code, _, err = run(
        capsys, "--input", tmp_path / "in.safetensors", "--output", tmp_path / "m.sf", "--targets", "sm_80"
    )
    assert (code, err) == (0, "")
    assert [each["name"] for each in sf.load(tmp_path / "m.sf").functions] == ["gr__e_up_1"]


@pytest.mark.filterwarnings("ignore:the cpu has no sparse tensor cores")
@pytest.mark.parametrize("suffix", [".pt", ".safetensors"])
def test_the_state_of_a_layer_by_itself_is_a_checkpoint(tmp_path, capsys, suffix):
    torch = pytest.importorskip("torch")
    safetensors = pytest.importorskip("safetensors.torch")
    layer = sf.nn.SparseLinear.from_dense(torch.nn.Linear(64, 32).half())
    save = torch.save if suffix == ".pt" else safetensors.save_file
    save(layer.state_dict(), tmp_path / f"layer{suffix}")
    with checkpoints.open_checkpoint(tmp_path / f"layer{suffix}") as checkpoint:
        weight = checkpoint.read(next(entry for entry in checkpoint.entries if entry.name == "weight"))
    np.testing.assert_array_equal(weight.dense(), layer.weight.to_dense(torch.float32).numpy())
    code, _, err = run(
        capsys, "--input", tmp_path / f"layer{suffix}", "--output", tmp_path / "m.sf", "--targets", "sm_80"
    )
    assert (code, err) == (0, "")
    x = np.random.default_rng(1).standard_normal((3, 64)).astype(np.float16)
    y = sf.load(tmp_path / "m.sf", device="emulator")(x)
    assert np.abs(y - layer(torch.from_numpy(x)).numpy()).max() < 0.01  # with its bias


def test_a_wrong_bitmask_names_its_layer(rng, tmp_path, capsys):
    tensors = {f"up.{name}": array for name, array in reference.bitmask(random_24(rng, (32, 64))).items()}
    tensors["up.bitmask"][3, 1] = 0xFF
    checkpoints.write_file(tmp_path / "in.safetensors", tensors)
    code, _, err = run(capsys, "--input", tmp_path / "in.safetensors", "--output", tmp_path / "out")
    assert code == 1 and "'up': expected a bitmask with two bits" in err and "row 3" in err


def test_a_dense_weight_that_overflows_is_refused(rng, tmp_path, capsys):
    tensors = {f"up.{name}": array for name, array in reference.bitmask(random_24(rng, (32, 64), np.int8)).items()}
    tensors["up.weight_scale"] = np.full((32, 1), 1e6, np.float32)
    checkpoints.write_file(tmp_path / "in.safetensors", tensors)
    arguments = ("--input", tmp_path / "in.safetensors", "--output", tmp_path / "out.safetensors", "--format", "dense")
    code, _, err = run(capsys, *arguments)
    assert code == 1 and "'up.weight': expected finite elements of at most 65504 for f16" in err
    assert not (tmp_path / "out.safetensors").exists()


def test_a_pt_with_code_is_refused(tmp_path, capsys):
    torch = pytest.importorskip("torch")
    torch.save({"fc.weight": torch.ones(32, 32), "run": Payload()}, tmp_path / "evil.pt")
    code, out, err = run(capsys, *conversion(tmp_path / "evil.pt", tmp_path / "out"))
    assert (code, out) == (1, "") and "nothing was run" in err


def test_ctrl_c_while_compiling(rng, tmp_path):
    layers = {f"layers.{i}.weight": rng.standard_normal((64, 64 + 64 * i), np.float32) for i in range(40)}
    checkpoints.write_file(tmp_path / "in.safetensors", layers)
    command = [
        sys.executable,
        "-m",
        "sparseflow.tools.convert",
        *conversion(tmp_path / "in.safetensors", tmp_path / "m.sf"),
    ]
    environment = os.environ | {"SPARSEFLOW_CACHE_DIR": str(tmp_path / "cache")}
    process = start_interruptible(command, env=environment)
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline and not (tmp_path / "cache").exists():  # the compiler makes it
        time.sleep(0.01)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=30)
    assert process.returncode == 130 and "interrupted while compiling; nothing was written" in err
    assert not (tmp_path / "m.sf").exists()


def test_a_compiled_program_is_no_checkpoint(rng, tmp_path, capsys):
    checkpoints.write_file(tmp_path / "in.safetensors", {"up.weight": random_24(rng, (32, 64))})
    arguments = ("--output", tmp_path / "m.sf", "--scheme", "int8", "--targets", "sm_80")
    assert run(capsys, "--input", tmp_path / "in.safetensors", *arguments)[0] == 0
    code, _, err = run(capsys, "--input", tmp_path / "m.sf", "--output", tmp_path / "out")
    assert code == 1 and "m.sf: expected a checkpoint, got a compiled program" in err


def test_a_config_without_an_end_is_a_sentence(model, tmp_path, capsys):
    folder, _ = model
    (folder / "config.json").write_text("[" * 100_000)
    code, _, err = run(capsys, *conversion(folder, tmp_path / "out"))
    assert code == 1 and "config.json: expected a JSON object" in err


def test_paths_of_any_bytes(rng, tmp_path, capsys):
    given = Path(os.fsdecode(os.fsencode(tmp_path) + b"/\xff.safetensors"))
    checkpoints.write_file(given, {"up.weight": random_24(rng, (32, 64))})
    for name in (b"b\xff.sf", b"b\xff.safetensors", b"b\xff"):
        output = Path(os.fsdecode(os.fsencode(tmp_path) + b"/" + name))
        code, _, err = run(capsys, "--input", given, "--output", output)
        assert (code, err) == (0, "") and output.exists()


@pytest.mark.parametrize("arguments", [["--input", ""], ["--input", "x", "--output", ""], ["--targets", "sm_999"]])
def test_arguments_that_no_file_makes_right_end_with_2(arguments, capsys):
    with pytest.raises(SystemExit) as ended:
        convert.main(arguments)
    assert ended.value.code == 2
    assert re.search("expected a path, got none|expected some of sm_80,.*, got sm_999", capsys.readouterr().err)


def test_wrong_arguments_end_with_2():
    with pytest.raises(SystemExit) as ended:
        convert.main(["--input", "x"])
    assert ended.value.code == 2
