"""sparseflow-benchmark and sparseflow-audit --calibrate on a GPU.

pytest test/gpu/test_tools.py -s
"""

import json

import pytest

import sparseflow as sf
from sparseflow.tools import audit, benchmark, contenders, hardware

torch = pytest.importorskip("torch")
pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")


@pytest.mark.parametrize("scheme", ["f16", "bf16", "int8"])
def test_every_contender_is_right_and_timed(scheme):
    cases = [contenders.Case(scheme, m, 1024, 2048) for m in (32, 1024)]
    document = benchmark.run_cases(cases, ["cublas", "cusparselt", "torch"], on_gpu=True, iterations=5, rounds=2)
    print(benchmark.text(document))
    for case in document["cases"]:
        ours = case["results"]["sparseflow"]
        assert ours["timed_as"] == "CUDA graph" and ours["relative_error"] < 0.02
        assert 1 < ours["median_us"] < 1000 and ours["kernels"]
        assert "median_us" in case["results"]["cublas"]
        assert not any(result.get("wrong") for result in case["results"].values())
    assert document["environment"]["gpu"] and document["environment"]["driver"]


def test_a_chip_that_is_known_has_its_roofline_share():
    try:
        hardware.load().chip(torch.cuda.get_device_name())
    except sf.InvalidArgumentError:
        pytest.skip("not in the table of chips")
    case = contenders.Case("f16", 4096, 4096, 4096)
    document = benchmark.run_cases([case], ["cublas"], on_gpu=True, iterations=5, rounds=1)
    for result in document["cases"][0]["results"].values():
        assert 0.1 < result["roofline_share"] < 1 and result["bound_by"] == "compute"


def test_calibrate_measures_for_later_audits(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(audit, "_CALIBRATED_SIZES", ((1024, 1024),))
    monkeypatch.setattr(audit, "_CALIBRATED_TOKENS", (64,))
    assert audit.main(["--calibrate", "--output", str(tmp_path / "kernels.json")]) == 0
    groups = json.loads((tmp_path / "kernels.json").read_text())["measurements"]
    assert {"sparse-f16", "dense-f16", "sparse-int8", "dense-int8"} <= {group["scheme"] for group in groups}
    chip = groups[0]["gpu"]
    found = hardware.load([tmp_path / "kernels.json"]).predict(
        hardware.load().chips[chip], "sparse-f16", 64, 1024, 1024
    )
    assert found.measured
