"""sparseflow-audit: honest where 2:4 loses, arithmetic that can be done by hand, refusals."""

import json
import math

import pytest

import sparseflow as sf
from sparseflow.tools import audit, hardware, models, serving

ASK = ["--model", "llama-7b", "--qps", "1000", "--input-tokens", "512", "--output-tokens", "128", "--gpu", "h100"]


@pytest.fixture(autouse=True)
def no_calibration(monkeypatch, tmp_path):
    """Figures of this machine are none of the test's."""
    monkeypatch.setenv("SPARSEFLOW_CACHE_DIR", str(tmp_path / "cache"))


def run(capsys, *arguments):
    code = audit.main([str(argument) for argument in arguments])
    captured = capsys.readouterr()
    return code, captured.out, captured.err


def changed(**options):
    given = dict(zip(ASK[0::2], ASK[1::2], strict=True))
    given |= {f"--{name.replace('_', '-')}": str(value) for name, value in options.items()}
    return [part for pair in given.items() if pair[1] != "None" for part in pair]


def table_of(points, chip="h100"):
    """A kernel table in which only these were measured."""
    whole = hardware.load()
    whole.points = [hardware.Point(chip, *point) for point in points]
    return whole


# ---- Shapes


@pytest.mark.parametrize(
    ("name", "billions"),
    [("gpt2", 0.124), ("gpt2-xl", 1.557), ("llama-7b", 6.74), ("llama-70b", 68.98), ("llama-3.1-8b", 8.03),
     ("mistral-7b", 7.24), ("qwen2.5-0.5b", 0.494), ("qwen2.5-7b", 7.62), ("vit-large", 0.303), ("dinov2-giant", 1.136)],
)  # fmt: skip
def test_built_in_shapes_have_the_published_number_of_parameters(name, billions):
    model = models.model_named(name)
    linears = model.layers * sum(linear.features * linear.inner for linear in model.linears)
    assert (linears + model.other_weights) / 1e9 == pytest.approx(billions, rel=0.02)


def test_a_config_gives_the_same_shapes(tmp_path):
    (tmp_path / "config.json").write_text(json.dumps(models.BUILT_IN["llama-3.1-8b"] | {"extra": [1]}))
    assert models.model_named(str(tmp_path)).linears == models.model_named("llama-3.1-8b").linears


@pytest.mark.parametrize("content", ["{}", '{"model_type": "mamba"}', "[1]", "nonsense", '{"model_type": "llama"}', '{"model_type": "llama", "hidden_size": "64"}',
                                     '{"model_type": "llama", "hidden_size": 64, "num_hidden_layers": 0}',
                                     json.dumps(models.BUILT_IN["llama-7b"] | {"hidden_size": True}),
                                     json.dumps(models.BUILT_IN["llama-7b"] | {"hidden_size": 4}),
                                     json.dumps(models.BUILT_IN["llama-7b"] | {"num_attention_heads": 33}),
                                     json.dumps(models.BUILT_IN["llama-7b"] | {"num_key_value_heads": 5}),
                                     "[" * 100_000], ids=lambda content: content[:40])  # fmt: skip
def test_a_config_of_something_else_is_a_sentence(tmp_path, content):
    (tmp_path / "config.json").write_text(content)
    with pytest.raises(sf.InvalidArgumentError, match="expected"):
        models.model_named(str(tmp_path))


def test_kv_cache_by_hand():
    # 2 (K and V) x 32 layers x 8 heads x 128 x 2 bytes
    assert models.model_named("llama-3.1-8b").kv_bytes(1) == 131072


# ---- Kernel times


def test_weight_bytes():
    assert hardware.weight_bytes("dense-f16", 64, 64) == 8192
    assert hardware.weight_bytes("sparse-f16", 64, 64) == 8192 / 2 + 4096 / 8
    assert hardware.weight_bytes("sparse-int8", 64, 64) == 4096 * 5 / 8 + 4 * 64


def test_a_measured_product_is_said_to_be_measured():
    table = table_of([("dense-f16", "cuBLAS", 4096, 4096, 4096, 200.0)])
    found = table.predict(table.chips["h100"], "dense-f16", 4096, 4096, 4096)
    assert found.measured and found.mid == 200.0
    near = table.predict(table.chips["h100"], "dense-f16", 4096, 4096, 4100)
    assert near.kind == "projected" and near.low < near.mid < near.high
    assert near.mid == pytest.approx(found.mid, rel=0.05)


@pytest.mark.parametrize(
    ("name", "key"),
    [("NVIDIA H100 80GB HBM3", "h100"), ("NVIDIA H200", "h200"), ("NVIDIA A100-SXM4-80GB", "a100"), ("NVIDIA A10", "a10"),
     ("NVIDIA A100-SXM4-40GB", "a100-40gb"), ("NVIDIA GeForce RTX 4090", "rtx4090"), ("H100", "h100")],
)  # fmt: skip
def test_chips_by_the_names_that_drivers_give_them(name, key):
    assert hardware.load().chip(name).key == key


def test_every_scheme_was_measured_with_few_tokens_and_with_many():
    table = hardware.load()
    h100 = table.chips["h100"]
    for scheme in hardware.SCHEMES:
        for tokens in (16, 4096):
            basis = table.predict(h100, scheme, tokens, 4096, 4096).basis
            assert ("SparseFlow" if scheme.startswith("sparse") else "cuBLASLt") in basis and "on " not in basis
    sparse, dense = (table.predict(h100, f"{form}-f16", 4096, 4096, 4096) for form in ("sparse", "dense"))
    assert sparse.measured and dense.measured and dense.mid / sparse.mid > 1.3


def test_predictions_are_never_faster_than_the_roofline():
    table = hardware.load()
    for chip in table.chips.values():
        for scheme in chip.teraflops:
            for m in (1, 16, 300, 8192):
                found = table.predict(chip, scheme, m, 5000, 3000)
                roof, _ = table.roofline(chip, scheme, m, 5000, 3000)
                assert roof <= found.low * 1.0001 and found.low <= found.mid <= found.high


def test_farther_from_what_was_measured_is_less_certain():
    table = table_of([("dense-f16", "cuBLAS", 1024, 4096, 4096, 60.0)])
    chip = table.chips["h100"]
    near, far = (table.predict(chip, "dense-f16", m, 4096, 4096) for m in (2048, 65536))
    assert far.high / far.low > near.high / near.low
    other = table.predict(table.chips["a100"], "dense-f16", 2048, 4096, 4096)
    assert other.high / other.low > near.high / near.low and "on h100" in other.basis


def test_a_slow_instruction_does_not_go_along_to_another_chip():
    point = hardware.Point("h100", "sparse-f16", "SparseFlow", 4096, 4096, 4096, 190.0, 941)
    table = table_of([])
    table.points = [point]
    here = table.predict(table.chips["h100"], "sparse-f16", 4096, 4096, 4096).mid
    there = table.predict(table.chips["a100"], "sparse-f16", 4096, 4096, 4096).mid
    specified = table.chips["h100"].teraflops["sparse-f16"] / table.chips["a100"].teraflops["sparse-f16"]
    assert there < here * specified * 0.6


# ---- The audit


def test_the_text_says_what_an_audit_owes(capsys):
    code, out, err = run(capsys, *ASK, "--price", "2.5")
    assert (code, err) == (0, "")
    order = [
        out.index(title) for title in ("\nFit\n", "\nPrefill", "\nDecode", "\nCapacity", "\nVerdict", "\nAssumptions")
    ]
    assert order == sorted(order)
    for wanted in ("projected", "to ", "KV MiB a sequence", "PUE", "accuracy", "MWh a year"):
        assert wanted in out


def test_2_4_does_not_help_a_decode_that_attention_binds(capsys):
    code, out, _ = run(capsys, *changed(input_tokens=32, output_tokens=4000), "--json")
    document = json.loads(out)
    assert code == 0 and document["schemes"]["sparse-f16"]["decode"]["linear_share"] < 0.3
    assert "does not help here" in document["verdict"][-1]


def test_2_4_does_not_help_where_one_gpu_serves_everything(capsys):
    arguments = changed(qps=0.1, output_tokens=16, gpu="a100")
    verdict = json.loads(run(capsys, *arguments, "--json")[1])["verdict"]
    assert len(verdict) == 3 and all("does not help here" in line for line in verdict)
    assert all("1 GPU is needed either way" in line for line in verdict)


def plan_of(scheme, gpus, microseconds):
    """A prompt takes so long on a replica of so many GPUs, all of it in linear layers."""
    time = hardware.Estimate(microseconds, microseconds, microseconds, True, "measured")
    return serving.Plan(
        scheme, serving.Fit(gpus, 1, 1, 1, 64), 64, serving.Phase(64, time, hardware.ZERO), 1, None, time
    )


def test_2_4_does_not_help_where_its_fastest_replica_is_of_more_gpus():
    plans = {each.scheme: each for each in (plan_of("dense-f16", 1, 1e6), plan_of("sparse-f16", 2, 0.45e6))}
    verdict = audit.verdict(plans, 0.01, serving.Assumptions())
    assert all("does not help here" in line and "2:4 needs 2 GPUs instead of 1" in line for line in verdict)
    assert "1.11 times" in verdict[0] and verdict[-1].endswith("Take dense-f16.")


def test_one_gpu_is_no_gpus():
    plans = {each.scheme: each for each in (plan_of("dense-f16", 2, 1e6), plan_of("sparse-f16", 1, 1e6))}
    assert ", 1 GPU instead of 2." in audit.verdict(plans, 0.01, serving.Assumptions())[0]


def test_2_4_helps_where_its_kernels_are_twice_as_fast_and_prefill_is_all(capsys, tmp_path):
    groups = []
    for scheme, library, rate in (("dense-int8", "cuBLAS", 1400), ("sparse-int8", "SparseFlow", 2600)):
        points = [[m, n, k, 2e-6 * m * n * k / rate] for m in (2048, 4096) for n, k in ((4096, 4096), (14336, 4096))]
        groups.append({"gpu": "h100", "scheme": scheme, "library": library, "how": "", "points": points})
    (tmp_path / "fast.json").write_text(json.dumps({"format": 1, "measurements": groups}))
    arguments = changed(input_tokens=2048, output_tokens=1)
    document = json.loads(run(capsys, *arguments, "--kernels", tmp_path / "fast.json", "--json")[1])
    assert 1.2 < document["schemes"]["sparse-int8"]["speedup"]["mid"] < 2
    assert any("sparse-int8: 2:4 helps" in line for line in document["verdict"])


def test_an_encoder_has_no_decode(capsys):
    document = json.loads(
        run(capsys, *changed(model="dinov2-large", input_tokens=257, output_tokens=None), "--json")[1]
    )
    assert all(row["decode"] is None and row["prefill"]["prompts"] == 7 for row in document["schemes"].values())


def test_amdahl_bounds_the_speedup():
    table = table_of(
        [("dense-f16", "cuBLAS", 2048, 4096, 4096, 100.0), ("sparse-f16", "SparseFlow", 2048, 4096, 4096, 50.0)]
    )
    planner = serving.Planner(table, table.chips["h100"], models.model_named("llama-7b"), serving.Assumptions())
    dense, sparse = (planner.plan(scheme, 2048, 1) for scheme in ("dense-f16", "sparse-f16"))
    assert dense.prefill.rest.mid == pytest.approx(sparse.prefill.rest.mid)
    share = dense.prefill.linear_share
    factor = dense.prefill.linears.mid / sparse.prefill.linears.mid
    assert dense.prefill.total.mid / sparse.prefill.total.mid == pytest.approx(1 / (1 - share + share / factor))


def test_capacity_by_hand():
    plan = serving.Plan(
        "dense-f16", serving.Fit(2, 1, 1, 1, 1), 1, None, 1, None, hardware.Estimate(5e5, 1e6, 2e6, False)
    )
    # A replica of two GPUs serves one request a second; at 70% utilization 10 a second take 15 replicas.
    assert plan.rate.mid == 0.5
    assert plan.gpus(10, serving.Assumptions()) == (2 * math.ceil(10 / 1.4), 30, 2 * math.ceil(10 / 0.35))


def test_cost_and_energy_by_hand(capsys):
    document = json.loads(run(capsys, *ASK, "--price", "2", "--pue", "1.5", "--kg-co2-per-kwh", "0.1", "--json")[1])
    row = document["schemes"]["dense-f16"]
    assert row["cost_per_year"] == [gpus * 8760 * 2 for gpus in row["gpus"]]
    assert row["mwh_per_year"][2] == pytest.approx(row["gpus"][2] * 8760 * 700e-6 * 1.5, abs=0.1)
    assert row["tonnes_co2_per_year"][1] == pytest.approx(row["mwh_per_year"][1] * 0.1, abs=0.1)


def test_without_a_price_there_is_no_cost(capsys):
    document = json.loads(run(capsys, *ASK, "--json")[1])
    assert all(row["cost_per_year"] is None for row in document["schemes"].values())


def test_a_model_too_large_for_one_gpu_is_shared(capsys):
    document = json.loads(run(capsys, *changed(model="llama-70b"), "--json")[1])
    assert document["schemes"]["dense-f16"]["fit"]["gpus_per_replica"] > 1
    table = hardware.load()
    planner = serving.Planner(table, table.chips["h100"], models.model_named("llama-70b"), serving.Assumptions())
    assert [fit.gpus for fit in planner.fits("dense-f16", 640)] == [2, 4, 8]
    assert [fit.gpus for fit in planner.fits("sparse-int8", 640)] == [1, 2, 4, 8]


def test_a_replica_has_as_many_gpus_as_serve_most(capsys):
    # On one GPU dense int8 leaves room for nine sequences: memory alone must not make 2:4 look good.
    arguments = changed(model="llama-70b", input_tokens=2048, output_tokens=256)
    best = json.loads(run(capsys, *arguments, "--json")[1])["schemes"]["dense-int8"]
    for count in (1, 2, 4, 8):
        forced = json.loads(run(capsys, *arguments, "--gpus-per-replica", count, "--json")[1])["schemes"]["dense-int8"]
        assert best["requests_per_second_per_gpu"]["mid"] >= forced["requests_per_second_per_gpu"]["mid"]


def test_what_a_chip_cannot_do_is_left_out_with_the_reason(capsys):
    document = json.loads(run(capsys, *changed(gpu="a100"), "--json")[1])
    assert document["left_out"]["sparse-fp8"] == "A100 SXM 80 GB has no tensor cores for it"
    phases = [row["prefill"]["linears_ms"] for row in document["schemes"].values()]
    assert all("on h100" in each["basis"] and each["kind"] == "projected" for each in phases)


def test_figures_of_another_chip_prove_nothing():
    groups = [("dense-f16", "cuBLAS", 2048, 4096, 4096, 100.0), ("sparse-f16", "SparseFlow", 2048, 4096, 4096, 40.0)]
    table = table_of(groups)
    model = models.model_named("llama-7b")
    for chip, said in (("h100", "2:4 helps"), ("a100", "projected from another GPU, so run --calibrate on one")):
        planner = serving.Planner(table, table.chips[chip], model, serving.Assumptions())
        plans = {scheme: planner.plan(scheme, 2048, 1) for scheme in ("dense-f16", "sparse-f16")}
        assert said in audit.verdict(plans, 1000, serving.Assumptions())[0]


def test_measurements_of_this_machine_replace_those_built_in(tmp_path, monkeypatch, capsys):
    group = {"gpu": "h100", "scheme": "dense-f16", "library": "cuBLAS", "how": "", "points": [[16, 4096, 4096, 99.0]]}
    path = hardware.calibration_file()
    path.parent.mkdir(parents=True)
    path.write_text(json.dumps({"format": 1, "measurements": [group]}))
    table = audit.load_table([])
    dense = [point for point in table.points if (point.chip, point.scheme) == ("h100", "dense-f16")]
    assert [point.microseconds for point in dense] == [99.0] and str(path) in table.sources


@pytest.fixture
def calibrates(monkeypatch, tmp_path):
    """--calibrate as on a GPU of that name, with the emulator's and the host's times of a small product."""
    pytest.importorskip("torch")
    from sparseflow.tools import benchmark

    real = benchmark.run_cases
    cache = tmp_path / "cache"
    monkeypatch.setenv("SPARSEFLOW_CACHE_DIR", str(cache))
    monkeypatch.setattr(benchmark, "find_gpu", lambda *_: True)
    monkeypatch.setattr(audit, "_CALIBRATED_SIZES", [(128, 256)])
    monkeypatch.setattr(audit, "_CALIBRATED_TOKENS", [16])
    monkeypatch.setattr(
        benchmark, "run_cases", lambda cases, rivals, on_gpu: real(cases, rivals, on_gpu=False, iterations=1, rounds=2)
    )

    def named(gpu):
        monkeypatch.setattr(benchmark, "environment", lambda on_gpu: {"gpu": gpu, "driver": "1.2"})
        return cache / "kernels.json"

    return named


def test_calibrate_writes_what_later_audits_use(calibrates, capsys, tmp_path):
    path = calibrates("NVIDIA A10")
    code, out, _ = run(capsys, "--calibrate")
    assert (code, out) == (0, f"{path}: 2 products measured on A10\n")  # the host multiplies no dense products
    written = json.loads(path.read_text())["measurements"]
    assert [(group["gpu"], group["scheme"], group["library"]) for group in written] == [
        ("a10", "sparse-f16", "SparseFlow"),
        ("a10", "sparse-int8", "SparseFlow"),
    ]
    assert "2 rounds" in written[0]["how"] and "driver 1.2" in written[0]["how"]
    (m, n, k, us) = written[0]["points"][0]
    table = audit.load_table([])
    estimate = table.predict(table.chips["a10"], "sparse-f16", m, n, k)
    assert (m, n, k) == (16, 128, 256) and estimate.measured and estimate.mid == us
    code, out, _ = run(capsys, *ASK, "--gpu", "a10")
    assert code == 0 and str(path) in out
    other = tmp_path / "mine.json"
    code, out, _ = run(capsys, "--calibrate", "--output", other, "--json")
    assert code == 0 and json.loads(out) == json.loads(other.read_text())
    assert run(capsys, "--calibrate", "--output", other)[0] == 0
    other.write_text("dear")
    code, _, err = run(capsys, "--calibrate", "--output", other)
    assert code == 1 and "mine.json: expected a table of" in err and other.read_text() == "dear"


def test_calibrating_says_why_it_cannot(calibrates, capsys, monkeypatch):
    path = calibrates("NVIDIA GeForce 256")
    code, _, err = run(capsys, "--calibrate")
    assert code == 1 and "expected a GPU that is known" in err and not path.exists()
    path = calibrates("NVIDIA A10")
    monkeypatch.setattr(audit, "_CALIBRATED_SIZES", [])
    code, _, err = run(capsys, "--calibrate")
    assert code == 1 and "expected products to be measured on A10, got none" in err and not path.exists()


# ---- Refusals


@pytest.mark.parametrize(
    ("options", "code", "message"),
    [
        (
            {"input_tokens": None, "output_tokens": None},
            2,
            "expected --input-tokens and --output-tokens, got none: prefill and",
        ),
        ({"output_tokens": None}, 2, "expected --output-tokens, got none"),
        ({"model": "vit-base"}, 2, "expected no --output-tokens for vit-base"),
        ({"model": "llama-9000b"}, 1, "expected a config.json or one of gpt2"),
        ({"gpu": "abacus"}, 2, "--gpu: expected a GPU that is known, a100"),
        ({"gpu": None}, 2, "expected --gpu, got none; see --help"),
        ({"model": None}, 2, "expected --model, got none"),
        ({"qps": None}, 2, "expected --qps, got none"),
        ({"input_tokens": 0}, 2, "expected --input-tokens of at least 1"),
        ({"qps": "nan"}, 2, "expected --qps"),
        ({"price": -1}, 2, "expected --price of at least 0"),
        ({"input_tokens": 10**400}, 2, "expected --input-tokens below 1e+12"),
        ({"qps": 1e300}, 2, "expected --qps below 1e+12, got 1e+300"),
        (
            {"model": "gpt2", "input_tokens": 1000},
            2,
            "at most 1024 tokens of a request, the positions that gpt2 knows, got 1128",
        ),
        ({"output": "table.json"}, 2, "expected --output with --calibrate"),
        ({"model": "llama-70b", "gpu": "a10", "gpus_per_replica": 1}, 1, "to fit on 1 A10"),
        ({"kernels": "/nowhere.json"}, 1, "which does not exist"),
    ],
)
def test_bad_input_is_a_sentence(capsys, options, code, message):
    ended, out, err = run(capsys, *changed(**options))
    assert (ended, out) == (code, "") and message in err and "Traceback" not in err


def test_calibrating_without_a_place_to_keep_it(capsys, monkeypatch):
    monkeypatch.setenv("SPARSEFLOW_CACHE_DIR", "")
    code, out, err = run(capsys, "--calibrate")
    assert (code, out) == (2, "") and "expected --output, for there is no cache folder" in err
    assert run(capsys, *ASK)[0] == 0


def test_calibrating_takes_nothing_of_an_audit(capsys):
    code, out, err = run(capsys, "--calibrate", *ASK)
    assert (code, out) == (2, "") and "expected --calibrate without what an audit takes, got it with --model" in err


def test_calibrating_takes_no_assumption_of_an_audit(capsys):
    code, out, err = run(capsys, "--calibrate", "--pue", "2")
    assert (code, out) == (2, "") and "got it with --pue" in err


def test_a_damaged_table_is_a_sentence(capsys, tmp_path):
    unknown = {"gpu": "x", "scheme": "dense-f16", "library": "l", "points": [[1, 4, 4, 1]]}
    for content, message in (
        ("{", "got Expecting property name"),
        ("[]", "got JSON of another format than 1"),
        (json.dumps({"format": 2, "measurements": [unknown]}), "got JSON of another format than 1"),
        ('{"format": 1, "measurements": {}}', "got one without a list of measurements"),
        ('{"format": 1, "measurements": [{"gpu": "h100"}]}', "got something else"),
        (json.dumps({"format": 1, "measurements": [unknown]}), "expected GPUs that are known"),
        ("[" * 100_000, "got something else"),
    ):
        (tmp_path / "t.json").write_text(content)
        code, _, err = run(capsys, *ASK, "--kernels", tmp_path / "t.json")
        assert code == 1 and message in err and err.count("\n") == 1


def test_calibrating_without_a_gpu_is_a_sentence(capsys):
    if any(device.kind == "cuda" for device in sf.devices()):
        pytest.skip("there is a GPU")
    code, _, err = run(capsys, "--calibrate")
    assert code == 1 and "expected a GPU to time, got none" in err and "emulator" not in err
