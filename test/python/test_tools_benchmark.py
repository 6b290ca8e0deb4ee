"""sparseflow-benchmark: the whole path in the emulator, the statistics, the pictures, bad input. GPUs: test/gpu."""

import json
import xml.etree.ElementTree as ElementTree

import numpy as np
import pytest

import sparseflow as sf
from sparseflow.tools import benchmark, contenders, plot, timing

SMALL = ["--device", "emulator", "--iterations", "2", "--rounds", "2"]


def run(capsys, *arguments):
    code = benchmark.main([str(argument) for argument in arguments])
    captured = capsys.readouterr()
    return code, captured.out, captured.err


@pytest.fixture(scope="module")
def document(request):
    torch = pytest.importorskip("torch")
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    request.addfinalizer(lambda: torch.set_num_threads(threads))
    cases = [contenders.Case(scheme, m, 96, 128) for scheme in ("f16", "int8") for m in (1, 9)]
    return benchmark.run_cases(cases, ["torch", "cublas"], on_gpu=False, iterations=2, rounds=2)


def test_every_contender_is_right_and_has_its_figures(document):
    for case in document["cases"]:
        for name in ("sparseflow", "torch"):
            result = case["results"][name]
            assert result["relative_error"] < 0.01 and "wrong" not in result
            assert 0 < result["p20_us"] <= result["median_us"] <= result["p80_us"]
            assert result["samples"] == 4 and result["tflops_p80"] <= result["tflops"] <= result["tflops_p20"]
        (kernel,) = case["results"]["sparseflow"]["kernels"]
        assert kernel["mma_sp"] > 0 and kernel["config"].startswith("#sf.kernel_config")


def test_what_cannot_run_says_why(document):
    assert document["cases"][0]["results"]["cublas"] == {"unavailable": "expected a GPU for cublas, got none"}
    assert "cublas is left out everywhere: expected a GPU for cublas" in benchmark.text(document)


def test_times_of_the_emulator_are_not_passed_off_as_a_gpus(document):
    assert "not the speed of a GPU" in document["protocol"] and document["environment"]["device"] == "emulator"
    assert "not the speed of a GPU" in benchmark.text(document)


def test_the_command(capsys, tmp_path):
    picture = tmp_path / "out.html"
    arguments = ("--size", "64x64", "--tokens", "1,3", "--dtype", "bf16", *SMALL, "--plot", picture)
    code, out, err = run(capsys, *arguments, "--json")
    assert code == 0 and [case["m"] for case in json.loads(out)["cases"]] == [1, 3]
    assert "wrote" in err and picture.exists()
    assert run(capsys, *arguments)[1].count("sparse mma.sp") == 2


def test_a_models_layers(capsys, tmp_path):
    config = {"model_type": "llama", "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 1,
              "num_attention_heads": 2}  # fmt: skip
    (tmp_path / "config.json").write_text(json.dumps(config))
    code, out, _ = run(capsys, "--model", tmp_path / "config.json", "--tokens", "2", *SMALL, "--json")
    assert code == 0 and {(case["n"], case["k"]) for case in json.loads(out)["cases"]} == {
        (96, 32), (32, 32), (128, 32), (32, 64),
    }  # fmt: skip


def test_a_wrong_result_fails_the_command(capsys, monkeypatch):
    monkeypatch.setattr(contenders.Reference, "relative_error", lambda *_: 0.5)
    code, out, err = run(capsys, "--size", "64x64", "--tokens", "2", *SMALL)
    assert code == 1 and "WRONG by 5.0e-01" in out and "expected results near float64" in err


def test_rounds_go_around_all_contenders():
    order = []

    class Clock(timing.HostClock):
        def samples(self, call, count):
            call()
            return [float(len(order))] * count

    found = timing.interleaved(Clock(), {name: (lambda name=name: order.append(name)) for name in "abc"}, 2, 3)
    assert order == list("abcabcabc")
    assert found["b"].samples == 6 and found["b"].median == 5.0


def test_percentiles():
    found = timing.Timing.of([float(x) for x in range(1, 12)][::-1])
    assert (found.p20, found.median, found.p80) == (3.0, 6.0, 9.0)


def test_weights_do_not_depend_on_the_tokens():
    first, second = (contenders.operands(contenders.Case("f16", m, 64, 32))[1] for m in (1, 50))
    assert (first == second).all() and sf.validate_24(first)
    x, w = contenders.operands(contenders.Case("f16", 64, 64, 64))
    assert not (x[w != 0] == w[w != 0]).any()
    assert np.abs(contenders.operands(contenders.Case("int8", 64, 64, 64))[0]).max() <= 127


def test_the_html_picture_stands_alone_and_parses(document):
    page = plot.page(document)
    svg = ElementTree.fromstring(page[page.index("<svg") : page.index("</svg>") + 6])
    bars = [e for e in svg.iter() if e.tag.endswith("rect")]
    assert len(bars) == 8 and all(0 <= float(bar.get("width")) <= 620 for bar in bars)
    assert "src=" not in page and "script" not in page.replace("description", "")


def test_png_by_matplotlib_or_a_sentence(document, tmp_path):
    try:
        plot.write(document, tmp_path / "out.png")
    except plot.Failure as error:
        assert "expected matplotlib" in str(error)
    else:
        assert (tmp_path / "out.png").read_bytes()[:4] == b"\x89PNG"


def test_without_a_gpu_it_says_so(capsys):
    if any(device.kind == "cuda" for device in sf.devices()):
        pytest.skip("there is a GPU")
    code, out, err = run(capsys, "--size", "64x64")
    assert (code, out) == (1, "") and "expected a GPU to time, got none" in err and "--device=emulator" in err


@pytest.mark.parametrize(
    "arguments",
    [[], ["--size", "64"], ["--size", "64x63"], ["--size", "0x64"], ["--size", "64x64", "--tokens", "0"],
     ["--size", "64x64", "--tokens", "99999999999999999999"], ["--size", "64x64", "--tokens", "9" * 5000],
     ["--size", "999999999999x4"], ["--size", "64x64", "--target", "sm_999"], ["--size", "64x64", "--plot", ""],
     ["--size", "64x64", "--dtype", "f12"], ["--size", "64x64", "--vs", "magic"], ["--size", "64x64", "--iterations", "x"],
     ["--size", "64x64", "--iterations", "0"]],
)  # fmt: skip
def test_wrong_arguments_end_with_2(arguments):
    with pytest.raises(SystemExit) as ended:
        benchmark.main(arguments)
    assert ended.value.code == 2


def test_a_plot_of_another_kind_is_refused_before_anything_runs(capsys):
    code, _, err = run(capsys, "--size", "64x64", "--plot", "x.gif", *SMALL)
    assert code == 2 and "expected --plot to name a .png or .html" in err


def test_a_picture_that_cannot_be_written_is_refused_before_anything_runs(capsys, monkeypatch, tmp_path):
    monkeypatch.setattr(benchmark, "run_cases", lambda *_, **__: pytest.fail("something ran"))
    code, _, err = run(capsys, "--size", "64x64", "--plot", tmp_path / "none" / "x.html", *SMALL)
    assert code == 1 and "expected a folder" in err
    monkeypatch.setattr(plot.importlib.util, "find_spec", lambda name: None)
    code, _, err = run(capsys, "--size", "64x64", "--plot", tmp_path / "x.png", *SMALL)
    assert code == 1 and "expected matplotlib" in err


def test_figures_are_printed_before_the_picture_is_written(capsys, monkeypatch, tmp_path):
    monkeypatch.setattr(plot, "write", lambda *_: (_ for _ in ()).throw(OSError(28, "No space left on device")))
    code, out, err = run(capsys, "--size", "64x64", "--tokens", "1", "--plot", tmp_path / "x.html", *SMALL, "--json")
    assert code == 1 and json.loads(out)["cases"] and "No space left" in err


def test_an_unknown_model_is_said_before_a_gpu_is_asked_for(capsys):
    code, _, err = run(capsys, "--model", "llama-9000b")
    assert code == 1 and "expected a config.json or one of gpt2" in err
