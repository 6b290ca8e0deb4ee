"""Opening checkpoints: files, shards, `.pt`, each format as layers, and every damage as a sentence."""

import contextlib
import json
import random

import layouts_reference as reference
import ml_dtypes
import numpy as np
import pytest
from test_checkpoints_layouts import random_24, random_int4

import sparseflow as sf
from sparseflow import checkpoints
from sparseflow.checkpoints import CanonicalWeight, canonical, cutlass

torch = pytest.importorskip("torch")
safetensors = pytest.importorskip("safetensors.numpy")


def prefixed(prefix, tensors):
    return {f"{prefix}.{name}": array for name, array in tensors.items()}


def entry_named(checkpoint, name):
    return next(entry for entry in checkpoint.entries if entry.name == name)


@pytest.fixture
def sharded(rng, tmp_path):
    """A folder of two shards with an index, and what is in it."""
    tensors = {f"layers.{i}.mlp.up_proj.weight": random_24(rng, (32, 64)) for i in range(4)}
    names = ["model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"]
    placement = {}
    for file, part in zip(names, (list(tensors)[:2], list(tensors)[2:]), strict=True):
        checkpoints.write_file(tmp_path / file, {name: tensors[name] for name in part}, {"format": "pt"})
        placement |= dict.fromkeys(part, file)
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": placement}))
    return tmp_path, tensors


# ---- Files


def test_safetensors_reads_what_we_write(rng, tmp_path):
    tensors = {"a": rng.standard_normal((3, 5)).astype(np.float32), "b": np.zeros((0, 4), np.int8), "c": np.array(2.5)}
    checkpoints.write_file(tmp_path / "x.safetensors", tensors, {"format": "pt"})
    read = safetensors.load_file(tmp_path / "x.safetensors")
    assert list(read) == list(tensors) and all((read[name] == tensors[name]).all() for name in tensors)


@pytest.mark.parametrize("name", ["float16", "bfloat16", "float32", "int8", "float8_e4m3fn", "float8_e5m2", "bool"])
def test_we_read_what_safetensors_writes(tmp_path, name):
    from safetensors.torch import save_file

    tensor = torch.arange(24).reshape(4, 6).remainder(2).to(getattr(torch, name))
    save_file({"w": tensor}, tmp_path / "x.safetensors")
    file = checkpoints.SafetensorsFile(tmp_path / "x.safetensors")
    assert (file.read("w").astype(np.float32) == tensor.float().numpy()).all()
    file.close()


@pytest.mark.parametrize("length", [0, 5, 8, 60, 200])
def test_a_cut_file_is_an_error(tmp_path, length):
    path = tmp_path / "x.safetensors"
    checkpoints.write_file(path, {"w": np.ones((8, 16), np.float16)})
    path.write_bytes(path.read_bytes()[:length])
    with pytest.raises(sf.InvalidProgramError, match="expected a whole safetensors file"):
        checkpoints.open_checkpoint(path)


@pytest.mark.parametrize(
    "header",
    [
        b"[]",
        b"{",
        b'{"w": 1}',
        b'{"w": {"dtype": "F16", "shape": [2], "data_offsets": [0, 5]}}',
        b'{"w": {"dtype": "F16", "shape": [-2], "data_offsets": [0, 4]}}',
        b'{"w": {"dtype": "X9", "shape": [2], "data_offsets": [0, 4]}}',
        b'{"w": {"dtype": "F16", "shape": [2], "data_offsets": [1, 5]}}',
        b'{"w": {"dtype": "F16", "shape": [0, 4611686018427387904], "data_offsets": [0, 0]}}',
        b'{"w": {"dtype": "F16", "shape": [%s2], "data_offsets": [0, 4]}}' % (b"1, " * 70),
    ],
)
def test_a_damaged_header_is_an_error(tmp_path, header):
    path = tmp_path / "x.safetensors"
    path.write_bytes(len(header).to_bytes(8, "little") + header + bytes(4))
    with pytest.raises(sf.InvalidProgramError, match="expected a whole safetensors file"):
        checkpoints.open_checkpoint(path)


def test_damage_of_any_kind_is_one_of_our_errors(rng, tmp_path):
    tensors = prefixed("a", reference.bitmask(random_24(rng, (16, 16))))
    tensors |= prefixed("b", reference.marlin(*random_int4(rng, 64, 32, 1)))
    tensors |= canonical.encode("c.weight", canonical.quantized(random_24(rng, (16, 16), np.float32), "int8"))
    tensors |= {"d.weight": random_24(rng, (16, 16), np.int8), "d.weight_scale": np.ones((16, 1), np.float32)}
    path = tmp_path / "x.safetensors"
    checkpoints.write_file(path, tensors)
    whole = path.read_bytes()
    header = 8 + int.from_bytes(whole[:8], "little")
    draw, opened = random.Random(2), 0
    for _ in range(400):
        damaged = bytearray(whole)
        for _ in range(draw.choice([1, 2, 4])):
            place = draw.randrange(draw.choice([header, len(whole)]))
            damaged[place] = draw.choice([draw.randrange(256), ord(draw.choice('0123456789"{}[],:'))])
        path.write_bytes(damaged)
        with contextlib.suppress(sf.Error), checkpoints.open_checkpoint(path) as checkpoint:
            opened += 1
            for entry in checkpoint.entries:
                with contextlib.suppress(sf.Error):
                    checkpoint.read(entry)
    assert 0 < opened < 400


def test_a_file_cut_while_it_is_open_is_an_error(tmp_path):
    path = tmp_path / "x.safetensors"
    checkpoints.write_file(path, {"w": np.ones((512, 512), np.float16)})
    with checkpoints.open_checkpoint(path) as checkpoint:
        with open(path, "r+b") as file:
            file.truncate(1000)
        with pytest.raises(sf.FileError, match="cut short"):
            checkpoint.read(checkpoint.entries[0])


# ---- Folders


def test_shards_are_read_as_one(sharded):
    folder, tensors = sharded
    with checkpoints.open_checkpoint(folder) as checkpoint:
        assert [entry.name for entry in checkpoint.entries] == list(tensors)
        for entry in checkpoint.entries:
            assert (checkpoint.read(entry) == tensors[entry.name]).all()


def test_a_missing_shard_is_named(sharded):
    folder, _ = sharded
    (folder / "model-00002-of-00002.safetensors").unlink()
    with pytest.raises(sf.NotFoundError, match="expected 2 shards, got 1; download model-00002-of-00002"):
        checkpoints.open_checkpoint(folder)


def test_shards_without_an_index_are_an_error(sharded):
    folder, _ = sharded
    (folder / "model.safetensors.index.json").unlink()
    with pytest.raises(sf.NotFoundError, match="expected model.safetensors.index.json beside shards of 00002"):
        checkpoints.open_checkpoint(folder)


def test_a_shard_of_another_checkpoint_is_an_error(sharded):
    folder, _ = sharded
    checkpoints.write_file(folder / "model-00002-of-00002.safetensors", {"other": np.zeros(2, np.float16)})
    with pytest.raises(sf.InvalidProgramError, match="of another checkpoint"):
        checkpoints.open_checkpoint(folder)


def test_an_index_that_leads_out_of_its_folder_is_refused(sharded):
    folder, _ = sharded
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": {"a": "../secret.safetensors"}}))
    with pytest.raises(sf.InvalidProgramError, match="refused"):
        checkpoints.open_checkpoint(folder)


@pytest.mark.parametrize("shard", [1, None, ["x"], "..", "", "a\0b", "x" * 300])
def test_an_index_of_what_are_no_files_is_refused(sharded, shard):
    folder, tensors = sharded
    index = {"weight_map": dict.fromkeys(tensors, shard)}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(
        sf.InvalidProgramError, match=r"index.json: expected (JSON with a weight_map|shards in its own)"
    ):
        checkpoints.open_checkpoint(folder)


def test_a_folder_without_weights_and_a_path_that_is_none(tmp_path):
    with pytest.raises(sf.NotFoundError, match="a folder with neither"):
        checkpoints.open_checkpoint(tmp_path)
    with pytest.raises(sf.NotFoundError, match="does not exist"):
        checkpoints.open_checkpoint(tmp_path / "none.safetensors")


def test_a_config_that_is_no_object_is_an_error(tmp_path):
    checkpoints.write_file(tmp_path / "model.safetensors", {"w": np.zeros(2, np.float16)})
    (tmp_path / "config.json").write_text("[1]")
    with pytest.raises(sf.InvalidProgramError, match="config.json: expected a JSON object"):
        checkpoints.open_checkpoint(tmp_path)


# ---- .pt


class Payload:
    """What a malicious file holds: unpickling it calls print."""

    def __reduce__(self):
        return print, ("code ran",)


def test_pt_with_a_state_dict(tmp_path):
    layer = torch.nn.Linear(32, 16, dtype=torch.bfloat16)
    for name, content in (("a.pt", layer.state_dict()), ("b.bin", {"state_dict": layer.state_dict(), "epoch": 3})):
        torch.save(content, tmp_path / name)
        with checkpoints.open_checkpoint(tmp_path / name) as checkpoint:
            assert [entry.name for entry in checkpoint.entries] == ["weight", "bias"]
            read = checkpoint.read(checkpoint.entries[0]).astype(np.float32)
            assert (read == layer.weight.detach().float().numpy()).all()


def test_pt_of_before_the_zip_format(tmp_path):
    torch.save({"w": torch.ones(4, 8)}, tmp_path / "old.pt", _use_new_zipfile_serialization=False)
    with checkpoints.open_checkpoint(tmp_path / "old.pt") as checkpoint:
        assert checkpoint.read(checkpoint.entries[0]).shape == (4, 8)


def test_pt_with_code_is_refused_and_nothing_runs(tmp_path, capfd):
    torch.save({"w": torch.ones(4), "x": Payload()}, tmp_path / "evil.pt")
    with pytest.raises(sf.InvalidProgramError, match="a pickle that would run code.*nothing was run"):
        checkpoints.open_checkpoint(tmp_path / "evil.pt")
    assert "code ran" not in capfd.readouterr().out


@pytest.mark.filterwarnings("ignore:The PyTorch API of SparseSemiStructuredTensor")
def test_pt_with_pytorchs_own_2_4_tensors(rng, tmp_path):
    dense = random_24(rng, (64, 96))
    tensor = cutlass.to_torch(sf.compress(dense))
    torch.save({"fc.weight": tensor, "fc.bias": torch.ones(64)}, tmp_path / "semi.pt")
    with checkpoints.open_checkpoint(tmp_path / "semi.pt") as checkpoint:
        weight = checkpoint.read(entry_named(checkpoint, "fc.weight"))
        assert isinstance(weight, CanonicalWeight) and (weight.dense() == dense).all()
        assert [entry.name for entry in checkpoint.entries] == ["fc.weight", "fc.bias"]


@pytest.mark.parametrize("content", [b"", b"hello", b"PK\x03\x04 half of a zip file"])
def test_pt_that_is_none(tmp_path, content):
    (tmp_path / "x.pt").write_bytes(content)
    with pytest.raises(sf.InvalidProgramError, match="expected a file of torch.save"):
        checkpoints.open_checkpoint(tmp_path / "x.pt")


def test_pt_without_tensors_and_with_meta_tensors(tmp_path):
    torch.save([1, 2], tmp_path / "list.pt")
    with pytest.raises(sf.InvalidProgramError, match="expected a state dict"):
        checkpoints.open_checkpoint(tmp_path / "list.pt")
    torch.save({"w": torch.empty(4, 8, device="meta")}, tmp_path / "meta.pt")
    with pytest.raises(sf.InvalidProgramError, match="meta tensor, which has none"):
        checkpoints.open_checkpoint(tmp_path / "meta.pt")


def test_tied_weights_are_known(tmp_path):
    weight = torch.ones(16, 16)
    torch.save({"wte.weight": weight, "lm_head.weight": weight, "b": torch.ones(2)}, tmp_path / "tied.pt")
    with checkpoints.open_checkpoint(tmp_path / "tied.pt") as checkpoint:
        assert checkpoint.tied == [["wte.weight", "lm_head.weight"]]


# ---- Formats


@pytest.mark.parametrize("dtype", [np.float16, ml_dtypes.bfloat16, ml_dtypes.float8_e4m3fn, np.int8])
def test_sparse_24_bitmask(rng, tmp_path, dtype):
    dense = random_24(rng, (32, 64), dtype)
    tensors = prefixed("model.layers.0.mlp.up_proj", reference.bitmask(dense))
    expected = dense.astype(np.float32)
    if np.dtype(dtype).itemsize == 1:
        scale = rng.random((32, 1)).astype(np.float32)
        tensors["model.layers.0.mlp.up_proj.weight_scale"] = scale
        tensors["model.layers.0.mlp.up_proj.input_scale"] = np.array([0.5], np.float32)
        expected = expected * scale
    tensors["model.norm.weight"] = np.ones(64, np.float16)
    # A .pt keeps this order, in which the scale comes before the tensors that tell the format.
    checkpoints.write_file(tmp_path / "model.safetensors", dict(reversed(tensors.items())))
    with checkpoints.open_checkpoint(tmp_path) as checkpoint:
        assert checkpoint.formats == {"sparse-24-bitmask": 1}
        assert sorted(entry.name for entry in checkpoint.entries) == [
            "model.layers.0.mlp.up_proj.weight",
            "model.norm.weight",
        ]
        entry = entry_named(checkpoint, "model.layers.0.mlp.up_proj.weight")
        assert entry.shape == (32, 64) and entry.is_sparse
        weight = checkpoint.read(entry)
        assert isinstance(weight, CanonicalWeight) and (weight.dense().astype(np.float32) == expected).all()
        assert (weight.input_scale is None) == (np.dtype(dtype).itemsize == 2)


def test_marlin_24(rng, tmp_path):
    dense, scale = random_int4(rng, 64, 256, 2)
    checkpoints.write_file(tmp_path / "model.safetensors", prefixed("q_proj", reference.marlin(dense, scale)))
    with checkpoints.open_checkpoint(tmp_path) as checkpoint:
        (entry,) = checkpoint.entries
        assert (entry.format, entry.shape, entry.dtype) == ("marlin-24", (64, 256), "int4")
        assert (checkpoint.read(entry).dense() == dense * np.repeat(scale, 128, axis=1)).all()


def test_sparseflows_own(rng, tmp_path):
    weight = canonical.quantized(random_24(rng, (32, 64), np.float32), "int8")
    dense, scale = random_int4(rng, 32, 128, 1)
    int4 = CanonicalWeight.of_dense(dense, scale.reshape(-1), "int4")
    tensors = canonical.encode("a.weight", weight) | canonical.encode("b.weight", int4)
    checkpoints.write_file(tmp_path / "model.safetensors", tensors)
    with checkpoints.open_checkpoint(tmp_path) as checkpoint:
        first, second = checkpoint.entries
        assert (first.shape, first.dtype, second.shape, second.dtype) == ((32, 64), "i8", (32, 128), "int4")
        assert (checkpoint.read(first).dense() == weight.dense()).all()
        assert (checkpoint.read(second).dense() == int4.dense()).all()


@pytest.mark.parametrize(
    ("scheme", "part", "change", "message"),
    [
        (
            "int8",
            "scale",
            None,
            "'a.weight': expected scales beside values of int8, got none; the checkpoint is incomplete",
        ),
        ("fp8", "scale", None, "'a.weight': expected scales beside values of fp8, got none"),
        ("int8", "scale", np.nan, "'a.weight': expected finite scales, got others in row 3"),
        ("f16", "values", np.inf, "'a.weight': expected finite values, got others in row 3"),
        ("bf16", "values", np.nan, "'a.weight': expected finite values, got others in row 3"),
        ("fp8", "values", np.nan, "'a.weight': expected finite values, got others in row 3"),
    ],
)
def test_what_is_incomplete_or_not_finite_names_its_layer(rng, tmp_path, scheme, part, change, message):
    tensors = canonical.encode("a.weight", canonical.quantized(random_24(rng, (32, 64), np.float32), scheme))
    array = tensors.pop(f"a.weight.{part}")
    if change is not None:
        array = array.copy()
        array[3] = change
        tensors[f"a.weight.{part}"] = array
    checkpoints.write_file(tmp_path / "model.safetensors", tensors)
    with checkpoints.open_checkpoint(tmp_path) as checkpoint, pytest.raises(sf.InvalidArgumentError, match=message):
        checkpoint.read(entry_named(checkpoint, "a.weight"))


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"q.weight_scale": np.ones((16, 3), np.float32)}, "'q.weight': expected scales for groups that divide K = 16"),
        (
            {"q.weight_scale": np.full((16, 1), 3e38, np.float32)},
            "'q.weight': expected finite weights, got .* in row 0",
        ),
        ({"q.weight_scale": np.ones((16, 1), np.uint8)}, "'q.weight_scale': expected scales of F64, F32.*, got U8"),
        (
            {"b.weight_scale": np.ones((16, 1), np.float32)},
            "'b.weight': expected values of 8 or 4 bits beside its scale",
        ),
        ({"b.compressed": np.ones((16, 8), np.uint16)}, "'b': values expected f16, .*, got u16"),
        ({"b.bitmask": np.ones((0, 2), np.uint8), "b.compressed": np.ones((0, 8), np.float16)}, "the shape .0, 16. of"),
        ({"b.shape": np.ones(5000, np.int64)}, r"'b': expected the shape \[16, 16\] of .*, got 5000 numbers"),
        ({"b.shape": np.full(2, np.nan)}, r"'b': expected the shape \[16, 16\]"),
        ({"m.scale_packed": np.ones((0, 64), np.float16)}, "'m': expected scales for groups of 128 .*, got 0 groups"),
    ],
)
def test_tensors_that_do_not_fit_each_other_are_an_error(rng, tmp_path, changed, message):
    tensors = {"q.weight": random_24(rng, (16, 16), np.int8), "q.weight_scale": np.ones((16, 1), np.float32)}
    tensors |= prefixed("b", reference.bitmask(random_24(rng, (16, 16))))
    tensors |= prefixed("m", reference.marlin(*random_int4(rng, 64, 32, 1)))
    tensors["q.weight"][0, 0] = 100
    checkpoints.write_file(tmp_path / "model.safetensors", tensors | changed)
    stem = next(iter(changed)).partition(".")[0]
    with checkpoints.open_checkpoint(tmp_path) as checkpoint, pytest.raises(sf.Error, match=message):
        checkpoint.read(entry_named(checkpoint, f"{stem}.weight"))


def test_a_quantized_convolution_is_carried(tmp_path):
    tensors = {"conv.weight": np.ones((16, 8, 3, 3), np.int8), "conv.weight_scale": np.ones((16, 1), np.float32)}
    checkpoints.write_file(tmp_path / "model.safetensors", tensors)
    with checkpoints.open_checkpoint(tmp_path) as checkpoint:
        assert [entry.format for entry in checkpoint.entries] == ["dense", "dense"]


def test_scales_of_another_dtype_are_read(rng, tmp_path):
    weight = canonical.quantized(random_24(rng, (32, 64), np.float32), "int8")
    tensors = canonical.encode("a.weight", weight)
    tensors["a.weight.scale"] = tensors["a.weight.scale"].astype(np.float64)
    checkpoints.write_file(tmp_path / "model.safetensors", tensors)
    with checkpoints.open_checkpoint(tmp_path) as checkpoint:
        (entry,) = checkpoint.entries
        assert (checkpoint.read(entry).dense() == weight.dense()).all()


def test_a_weight_that_is_there_twice_is_refused(rng, tmp_path):
    weight = canonical.quantized(random_24(rng, (32, 64), np.float32), "f16")
    tensors = canonical.encode("a.weight", weight) | {"a.weight": weight.dense()}
    checkpoints.write_file(tmp_path / "model.safetensors", tensors)
    with pytest.raises(sf.InvalidProgramError, match="expected 'a.weight' once, got it as sparseflow and as dense"):
        checkpoints.open_checkpoint(tmp_path)


def test_dense_with_zeros_is_told_by_scanning(rng, tmp_path):
    tensors = {
        "layers.0.up_proj.weight": random_24(rng, (32, 64), ml_dtypes.bfloat16),
        "layers.1.up_proj.weight": rng.standard_normal((32, 64)).astype(ml_dtypes.bfloat16),
        "embed_tokens.weight": random_24(rng, (100, 64)),
        "lm_head.weight": random_24(rng, (100, 64)),
        "norm.weight": np.ones(64, np.float16),
        "conv.weight": np.ones((8, 4, 3, 3), np.float16),
        "odd.weight": np.ones((32, 30), np.float16),
        "layers.0.mlp.gate.weight": np.ones((64, 64), np.float16),
    }
    checkpoints.write_file(tmp_path / "model.safetensors", tensors)
    with checkpoints.open_checkpoint(tmp_path) as checkpoint:
        eligible = [entry for entry in checkpoint.entries if checkpoint.why_not_linear(entry) is None]
        assert [entry.name for entry in eligible] == ["layers.0.up_proj.weight", "layers.1.up_proj.weight"]
        assert checkpoint.scan(eligible[0])
        found = checkpoint.scan(eligible[1])
        assert found.layer == "layers.1.up_proj.weight" and found.violations == found.groups == 32 * 16
        reasons = {entry.name: checkpoint.why_not_linear(entry) for entry in checkpoint.entries}
        assert "embedding" in reasons["embed_tokens.weight"] and "head" in reasons["lm_head.weight"]
        assert "router" in reasons["layers.0.mlp.gate.weight"]
        assert "multiple of 4" in reasons["odd.weight"] and "matrix" in reasons["norm.weight"]


@pytest.mark.parametrize(("config", "shape", "is_transposed"), [({"model_type": "gpt2"}, (96, 32), True), (None, (32, 96), True), (None, (96, 32), False)])  # fmt: skip
def test_layers_stored_k_by_n_are_left_alone(rng, tmp_path, config, shape, is_transposed):
    checkpoints.write_file(tmp_path / "model.safetensors", {"h.0.attn.c_attn.weight": np.ones(shape, np.float16)})
    if config:
        (tmp_path / "config.json").write_text(json.dumps(config))
    with checkpoints.open_checkpoint(tmp_path) as checkpoint:
        reason = checkpoint.why_not_linear(checkpoint.entries[0])
        assert (reason is not None and "Conv1D" in reason) is is_transposed


def test_quantized_and_dense(rng, tmp_path):
    dense = random_24(rng, (16, 64), np.int8)
    scale = rng.random((16, 1)).astype(np.float32)
    tensors = {"a.weight": dense, "a.weight_scale": scale, "a.weight_zero_point": np.zeros((16, 1), np.int8)}
    checkpoints.write_file(tmp_path / "model.safetensors", tensors)
    with checkpoints.open_checkpoint(tmp_path) as checkpoint:
        (entry,) = checkpoint.entries
        assert entry.format == "quantized" and checkpoint.scan(entry)
        assert (checkpoint.read(entry) == dense * scale).all()


def test_zero_points_are_refused(tmp_path):
    tensors = {
        "a.weight": np.zeros((16, 16), np.int8), "a.weight_scale": np.ones((16, 1), np.float32),
        "a.weight_zero_point": np.ones((16, 1), np.int8),
    }  # fmt: skip
    checkpoints.write_file(tmp_path / "model.safetensors", tensors)
    with (
        checkpoints.open_checkpoint(tmp_path) as checkpoint,
        pytest.raises(sf.UnsupportedError, match="symmetric quantization"),
    ):
        checkpoint.read(checkpoint.entries[0])


def test_a_fused_weight_takes_its_parts_from_the_config(rng, tmp_path):
    dense = random_24(rng, (64, 64), np.int8)
    tensors = prefixed("qkv_proj", reference.bitmask(dense))
    tensors["qkv_proj.weight_scale"] = np.array([1.0, 2.0, 3.0], np.float32)
    checkpoints.write_file(tmp_path / "model.safetensors", tensors)
    config = {"hidden_size": 32, "num_attention_heads": 2, "num_key_value_heads": 1}
    (tmp_path / "config.json").write_text(json.dumps(config))
    with checkpoints.open_checkpoint(tmp_path) as checkpoint:
        scale = checkpoint.read(checkpoint.entries[0]).scale
        assert scale.tolist() == [1.0] * 32 + [2.0] * 16 + [3.0] * 16


@pytest.mark.parametrize("change", [{"num_attention_heads": "2"}, {"num_key_value_heads": -1}, {"head_dim": "16"}])
def test_a_config_that_does_not_count_says_nothing_of_fused_parts(rng, tmp_path, change):
    tensors = prefixed("qkv_proj", reference.bitmask(random_24(rng, (48, 64), np.int8)))
    tensors["qkv_proj.weight_scale"] = np.array([1.0, 2.0, 3.0], np.float32)
    checkpoints.write_file(tmp_path / "model.safetensors", tensors)
    config = {"hidden_size": 32, "num_attention_heads": 2, "num_key_value_heads": 2} | change
    (tmp_path / "config.json").write_text(json.dumps(config))
    with checkpoints.open_checkpoint(tmp_path) as checkpoint:
        scale = checkpoint.read(checkpoint.entries[0]).scale
        assert scale.tolist() == [1.0] * 16 + [2.0] * 16 + [3.0] * 16


@pytest.mark.parametrize("lost", ["compressed", "bitmask"])
def test_a_half_loaded_layer_is_named(rng, tmp_path, lost):
    tensors = prefixed("q_proj", reference.bitmask(random_24(rng, (16, 16))))
    del tensors[f"q_proj.{lost}"]
    checkpoints.write_file(tmp_path / "model.safetensors", tensors)
    with pytest.raises(sf.InvalidProgramError, match=f"expected 'q_proj.{lost}' beside .*incomplete"):
        checkpoints.open_checkpoint(tmp_path)


@pytest.mark.parametrize("lost", ["weight_packed", "scale_packed", "meta"])
def test_a_half_loaded_marlin_layer_is_named(rng, tmp_path, lost):
    tensors = prefixed("q_proj", reference.marlin(*random_int4(rng, 64, 32, 1)))
    del tensors[f"q_proj.{lost}"]
    checkpoints.write_file(tmp_path / "model.safetensors", tensors)
    with pytest.raises(sf.InvalidProgramError, match=f"expected 'q_proj.{lost}' beside"):
        checkpoints.open_checkpoint(tmp_path)
