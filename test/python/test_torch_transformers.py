"""Hugging Face models: pruned as they are loaded, saved, and loaded again; logits compared with the same pruned weights."""

import copy

import pytest

import sparseflow as sf

torch = pytest.importorskip("torch", reason="needs PyTorch: pip install 'sparseflow[torch]'")
import safetensors.torch  # noqa: E402

from sparseflow.tools import convert  # noqa: E402

transformers = pytest.importorskip("transformers", reason="needs Transformers: pip install transformers")

pytestmark = [
    pytest.mark.filterwarnings("ignore:the cpu has no sparse tensor cores"),
    pytest.mark.filterwarnings("ignore::UserWarning:transformers"),
]

SIZES = {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2, "num_attention_heads": 4}
TEXT = SIZES | {"vocab_size": 256}
MODELS = {
    "llama": (transformers.LlamaForCausalLM, transformers.LlamaConfig, TEXT | {"num_key_value_heads": 2}),
    "llama_tied": (
        transformers.LlamaForCausalLM,
        transformers.LlamaConfig,
        TEXT | {"num_key_value_heads": 2, "tie_word_embeddings": True},
    ),
    "qwen": (transformers.Qwen2ForCausalLM, transformers.Qwen2Config, TEXT | {"num_key_value_heads": 2}),
    "bert": (transformers.BertForMaskedLM, transformers.BertConfig, TEXT),
    "vit": (
        transformers.ViTForImageClassification,
        transformers.ViTConfig,
        SIZES | {"image_size": 32, "patch_size": 8},
    ),
}


@pytest.fixture(autouse=True)
def quiet():
    torch.set_num_threads(1)
    torch.manual_seed(2)
    transformers.utils.logging.disable_progress_bar()
    transformers.logging.set_verbosity_error()


def make(name, dtype):
    kind, config, sizes = MODELS[name]
    model = kind(config(**sizes)).to(dtype).eval()
    if name == "vit":
        return model, {"pixel_values": torch.randn(2, 3, 32, 32).to(dtype)}
    return model, {"input_ids": torch.randint(0, 256, (2, 12))}


def logits(model, inputs):
    with torch.no_grad():
        return model(**inputs).logits.double()


def error(value, reference):
    return float((value - reference).norm() / reference.norm())


@pytest.mark.parametrize("scheme", ["f16", "int8"])
@pytest.mark.parametrize("name", MODELS)
def test_load_save_and_load(name, scheme, tmp_path):
    model, inputs = make(name, torch.float16)
    model.save_pretrained(tmp_path / "dense")
    config = sf.SparseFlowConfig(scheme=scheme, skip=["lm_head", "classifier"] if name == "vit" else "lm_head")
    sparse = type(model).from_pretrained(tmp_path / "dense", quantization_config=config, dtype=torch.float16)
    layers = {name for name, each in sparse.named_modules() if isinstance(each, sf.nn.SparseLinear)}
    assert len(layers) >= 12 and "lm_head" not in layers

    pruned = copy.deepcopy(model)
    for layer in layers:
        pruned.get_submodule(layer).weight.data = sparse.get_submodule(layer).weight.to_dense(torch.float16)
    expected = logits(sparse, inputs)
    assert error(expected, logits(pruned, inputs)) < {"f16": 2e-3, "int8": 2e-2}[scheme]

    sparse.save_pretrained(tmp_path / "sparse")
    again = type(model).from_pretrained(tmp_path / "sparse", dtype=torch.float16)
    assert again.config.quantization_config.quant_method == "sparseflow"
    assert torch.equal(logits(again, inputs), expected)


HEADS = {
    "llama": (transformers.LlamaModel, transformers.LlamaForSequenceClassification),
    "bert": (transformers.BertModel, transformers.BertForSequenceClassification),
    "vit": (transformers.ViTModel, transformers.ViTForMaskedImageModeling),
}


@pytest.mark.parametrize("name", HEADS)
def test_a_checkpoint_loads_into_a_bare_model_and_under_other_heads(name, tmp_path):
    model, inputs = make(name, torch.float16)
    sf.sparsify_model(model)  # the head too
    model.save_pretrained(tmp_path / "whole")

    def hidden(model):
        with torch.no_grad():
            base = getattr(model, model.base_model_prefix, model)
            return base(**inputs).last_hidden_state

    bare, other = HEADS[name]
    expected = hidden(type(model).from_pretrained(tmp_path / "whole", dtype=torch.float16))
    of_bare = bare.from_pretrained(tmp_path / "whole", dtype=torch.float16)
    assert torch.equal(hidden(of_bare), expected)
    of_bare.save_pretrained(tmp_path / "bare")
    for kind, folder in ((other, "whole"), (other, "bare"), (type(model), "bare"), (bare, "bare")):
        again = kind.from_pretrained(tmp_path / folder, dtype=torch.float16)
        assert torch.equal(hidden(again), expected)
        converted = {layer for layer, each in again.named_modules() if isinstance(each, sf.nn.SparseLinear)}
        assert set(again.config.quantization_config.layers) == converted


def test_a_checkpoint_of_another_model_is_refused(tmp_path):
    model, _ = make("llama", torch.float16)
    sf.sparsify_model(model)
    model.save_pretrained(tmp_path)
    shallow = transformers.LlamaConfig.from_pretrained(tmp_path, num_hidden_layers=1)
    with pytest.raises(sf.InvalidArgumentError, match=r"linear layer 'model.layers.1.\S+' in LlamaModel.* got none"):
        transformers.LlamaModel.from_pretrained(tmp_path, config=shallow)
    with pytest.raises(sf.InvalidArgumentError, match="expected layers of BertModel in .* got none; it has 'model.lay"):
        config = transformers.BertConfig(**TEXT, quantization_config=model.config.quantization_config.to_dict())
        transformers.BertModel.from_pretrained(tmp_path, config=config)


def test_experts_are_no_layers_of_their_own(tmp_path):
    sizes = TEXT | {"num_key_value_heads": 2, "num_local_experts": 4}
    model = transformers.MixtralForCausalLM(transformers.MixtralConfig(**sizes))
    model.save_pretrained(tmp_path / "dense")
    arguments = ["--input", str(tmp_path / "dense"), "--method", "magnitude", "--scheme", "int8", "--output"]
    assert convert.main([*arguments, str(tmp_path / "all")]) == 0
    assert convert.main([*arguments, str(tmp_path / "some"), "--skip", ".experts."]) == 0
    with pytest.raises(sf.InvalidArgumentError, match="0.w1' in Mixtral.* got none; convert with --skip .experts."):
        type(model).from_pretrained(tmp_path / "all")
    again = type(model).from_pretrained(tmp_path / "some", dtype=torch.float32)
    assert sum(isinstance(each, sf.nn.SparseLinear) for each in again.modules()) == 8
    assert torch.equal(again.model.layers[1].mlp.experts.down_proj, model.model.layers[1].mlp.experts.down_proj)


@pytest.mark.parametrize("kind", ["Wav2Vec2", "Hubert", "WavLM"])
def test_layers_that_a_model_initializes_by_name(kind, tmp_path):
    sizes = SIZES | {"conv_dim": (32, 32), "conv_kernel": (10, 3), "conv_stride": (5, 2), "num_feat_extract_layers": 2}
    sizes |= {"num_conv_pos_embeddings": 16, "num_conv_pos_embedding_groups": 4, "vocab_size": 32}
    config, kind = getattr(transformers, f"{kind}Config")(**sizes), getattr(transformers, f"{kind}ForCTC")
    model, inputs = kind(config).eval(), {"input_values": torch.randn(1, 400)}
    sf.sparsify_model(model)
    model.save_pretrained(tmp_path)
    again = kind.from_pretrained(tmp_path, dtype=torch.float32)
    assert torch.equal(logits(again, inputs), logits(model, inputs))


@pytest.mark.parametrize("scheme", ["int8", "fp8"])
def test_dense_8_bit_layers_are_saved_and_loaded(scheme, tmp_path):
    """Beside 2:4 ones. Without a note in the config, Transformers would read int8 into layers of floats."""
    model, inputs = make("llama", torch.float16)
    sf.dense_int8(model, scheme=scheme, skip=["mlp", "lm_head"])
    sf.sparsify_model(model, skip="lm_head")
    expected = logits(model, inputs)
    model.save_pretrained(tmp_path)
    again = type(model).from_pretrained(tmp_path, dtype=torch.float16)
    assert all(torch.equal(each, again.state_dict()[name]) for name, each in model.state_dict().items())
    assert error(logits(again, inputs), expected) < 1e-3  # the dense head's sum goes by where its weight lies
    attention, mlp = again.model.layers[0].self_attn.q_proj, again.model.layers[0].mlp.up_proj
    assert type(attention) is sf.nn.QuantizedLinear and type(mlp) is sf.nn.SparseLinear
    assert attention.weight.element_size() == 1 and attention.scale.dtype is torch.float32
    path = tmp_path / "model.safetensors"
    state = {
        name: each for name, each in safetensors.torch.load_file(path).items() if "1.self_attn.k_proj.sc" not in name
    }
    safetensors.torch.save_file(state, path, {"format": "pt"})
    with pytest.raises(
        sf.InvalidArgumentError, match="expected model.layers.1.self_attn.k_proj.scale in the checkpoint"
    ):
        type(model).from_pretrained(tmp_path)


def test_a_config_that_is_none():
    with pytest.raises(sf.InvalidArgumentError, match="expected layers to be schemes by name, got list"):
        sf.SparseFlowConfig(layers=["q_proj"])
    with pytest.raises(sf.InvalidArgumentError, match="expected scheme, method, skip or layers, got schem"):
        sf.SparseFlowConfig(schem="fp8")
    assert (
        sf.SparseFlowConfig.from_dict({"quant_method": "sparseflow", "format": 2, "later": 1, "scheme": "fp8"}).scheme
        == "fp8"
    )
    with pytest.raises(sf.InvalidArgumentError, match="got 'int4'; sparseflow-convert --scheme makes a checkpoint"):
        sf.SparseFlowConfig(scheme="int4")
    with pytest.raises(sf.InvalidArgumentError, match="'q': expected a scheme of f16, .*, dense fp8, got 'dense f16'"):
        sf.SparseFlowConfig(layers={"q": "dense f16"})


def test_names_to_skip_are_checked_and_kept(tmp_path):
    model, _ = make("llama", torch.float16)
    model.save_pretrained(tmp_path)
    with pytest.raises(sf.InvalidArgumentError, match="got 'q_porj', which fits none; there is q_proj"):
        type(model).from_pretrained(tmp_path, quantization_config=sf.SparseFlowConfig(skip=["q_porj"]))
    sf.sparsify_model(model, skip="lm_head")
    assert model.config.quantization_config.skip == ["lm_head"]


@pytest.mark.parametrize("scheme", ["f16", "bf16", "int8", "fp8"])
def test_layers_that_a_model_keeps_in_f32_stay_so(scheme, tmp_path):
    sizes = {"d_model": 64, "d_ff": 128, "num_layers": 1, "num_heads": 4, "d_kv": 16, "vocab_size": 256}
    transformers.T5EncoderModel(transformers.T5Config(**sizes)).save_pretrained(tmp_path)
    kind, tokens = transformers.T5EncoderModel, torch.randint(0, 256, (2, 9))
    sparse = kind.from_pretrained(tmp_path, quantization_config=sf.SparseFlowConfig(scheme), dtype=torch.float16).eval()
    assert sparse.encoder.block[0].layer[-1].DenseReluDense.wo.weight.dtype is torch.float32
    sparse.save_pretrained(tmp_path / "sparse")
    again = kind.from_pretrained(tmp_path / "sparse", dtype=torch.float16).eval()
    with torch.no_grad():
        assert torch.equal(again(tokens).last_hidden_state, sparse(tokens).last_hidden_state)


def test_what_is_no_linear_layer_is_in_the_report():
    sizes = TEXT | {"num_key_value_heads": 2, "num_hidden_layers": 1, "num_local_experts": 4}
    report = sf.sparsify_model(transformers.MixtralForCausalLM(transformers.MixtralConfig(**sizes)))
    assert any("holds 4 weights in one tensor" in row.reason for row in report)
    gpt2 = transformers.GPT2LMHeadModel(transformers.GPT2Config(n_embd=64, n_layer=1, n_head=4, vocab_size=256))
    with pytest.raises(
        sf.InvalidArgumentError, match="is a Conv1D, whose weight stands as .K, N.; make it an nn.Linear"
    ):
        sf.sparsify_model(gpt2)


def test_a_layer_that_mamba_multiplies_by_itself_stays_dense():
    sizes = {"hidden_size": 64, "num_hidden_layers": 2, "vocab_size": 256, "state_size": 8, "time_step_rank": 16}
    model = transformers.MambaForCausalLM(transformers.MambaConfig(**sizes)).eval()
    report = sf.sparsify_model(model, skip=["lm_head"])
    assert {row.name.rpartition(".")[2] for row in report.converted} == {"in_proj", "x_proj", "out_proj"}
    assert "is read by MambaMixer" in report["backbone.layers.0.mixer.dt_proj"].reason
    assert torch.isfinite(logits(model, {"input_ids": torch.randint(0, 256, (2, 9))})).all()


def test_a_calibrated_model_is_saved_as_it_is(tmp_path):
    model, inputs = make("llama", torch.float32)
    batches = [{"input_ids": torch.randint(0, 256, (2, 24))} for _ in range(3)]
    sf.sparsify_model(model, "fp8", "sparsegpt", calibration=batches, skip=["lm_head"])
    model.save_pretrained(tmp_path)
    again = transformers.AutoModelForCausalLM.from_pretrained(tmp_path, dtype=torch.float32)
    assert torch.equal(logits(again, inputs), logits(model, inputs))
    tokens = again.generate(inputs["input_ids"], max_new_tokens=3, do_sample=False)
    assert tokens.shape == (2, 15)


@pytest.mark.parametrize("kind", ["Bloom", "Mpt", "GPTNeo", "CodeGen"])
def test_a_cache_by_another_name_is_not_filled_twice(kind):
    names = {
        "Mpt": {"d_model": 64, "n_layers": 2, "n_heads": 4, "vocab_size": 256},
        "GPTNeo": TEXT | {"num_layers": 2, "attention_types": [[["global", "local"], 1]], "num_heads": 4},
        "CodeGen": {"n_embd": 64, "n_layer": 2, "n_head": 4, "rotary_dim": 8, "vocab_size": 256},
    }
    config = getattr(transformers, f"{kind}Config")(**names.get(kind, TEXT))
    model = getattr(transformers, f"{kind}ForCausalLM")(config).eval()
    batches = [{"input_ids": torch.randint(0, 256, (2, 9))} for _ in range(2)]
    report = sf.sparsify_model(model, "int8", "wanda", calibration=batches, skip=["lm_head"])
    assert len(report.converted) >= 8 and torch.isfinite(logits(model, batches[0])).all()


@pytest.mark.parametrize(("name", "pieces", "products"), [("llama", 2, 8), ("bert", 5, 8), ("vit", 4, 7)])
def test_an_exported_model_is_kernels_with_attention_in_pytorch(name, pieces, products):
    kind, config, sizes = MODELS[name]
    model = kind(config(**sizes | {"num_hidden_layers": 1})).half().eval().requires_grad_(False)
    sf.sparsify_model(model, "f16", skip=["classifier"] if name == "vit" else ())
    _, inputs = make(name, torch.float16)
    named = inputs | ({"use_cache": False} if name == "llama" else {})
    batch = {each: {0: torch.export.Dim("batch", max=64)} for each in inputs} | dict.fromkeys(
        named.keys() - inputs.keys()
    )
    program = torch.export.export(model, (), named, dynamic_shapes=batch, strict=False)
    compiled = sf.compile(program, target="sm_80")
    done = [operation for piece in compiled.pieces for operation in piece.operations]
    assert len(compiled.pieces) == pieces
    assert done.count("sparseflow.linear") + done.count("aten.linear") == products
    assert {"aten.scaled_dot_product_attention"} <= compiled.in_pytorch.keys()
    assert (
        not {"sparseflow.linear", "aten.linear", "aten.mean.dim", "aten.gelu", "aten.silu"} & compiled.in_pytorch.keys()
    )
    larger = {each: torch.cat([value, value]) for each, value in inputs.items()}
    assert error(compiled(**named | larger).logits.double(), logits(model, larger)) < 3e-3


def test_methods_that_need_data_are_refused_on_loading(tmp_path):
    model, _ = make("llama", torch.float16)
    model.save_pretrained(tmp_path)
    with pytest.raises(sf.InvalidArgumentError, match="calibration"):
        type(model).from_pretrained(tmp_path, quantization_config=sf.SparseFlowConfig(method="wanda"))


def test_a_checkpoint_that_lacks_a_part_says_which(tmp_path):
    from safetensors.torch import load_file, save_file

    model, _ = make("llama", torch.float16)
    sf.sparsify_model(model, "f16", skip=["lm_head"])
    model.save_pretrained(tmp_path)
    tensors = load_file(tmp_path / "model.safetensors")
    del tensors["model.layers.1.mlp.up_proj.weight.values"]
    save_file(tensors, tmp_path / "model.safetensors", {"format": "pt"})
    with pytest.raises(sf.InvalidArgumentError, match=r"layers.1.mlp.up_proj.weight.values in the checkpoint"):
        type(model).from_pretrained(tmp_path)
