"""The benchmarks' own code: what is timed, how contenders are driven, and what the reports make of the figures."""

import json
import sys
import xml.dom.minidom
from concurrent.futures import ThreadPoolExecutor
from functools import partial

import pytest

pytest.importorskip("torch")

# A contender without a GPU, after the protocol of benchmarks/rivals/harness.cuh. It has four candidates and a default; the second ends
# the process, as libraries' algorithms do. Times are those of a machine of 1000 TFLOPS, by candidate.
CONTENDER = """#!{python}
import sys
slowness = {{0: 1.2, 2: 1.1, 3: 1.0, 4: 2.0}}
chosen = 0
print('{{"library": "scripted {name}"}}', flush=True)
for line in sys.stdin:
    command, *words = line.split()
    if command == "open":
        dtype, m, n, k, scales, file = words
        us = 2e-9 * int(m) * int(n) * int(k) * {factor}
        answer = '"candidates": 5, "default": 4'
    elif command == "try" or command == "use":
        if words[0] == "1":
            sys.exit(3)
        chosen = int(words[0])
        answer = f'"us": {{us * slowness[chosen]}}' if command == "try" else f'"candidate": "{{chosen}}", "relative_error": 1e-4'
    elif command == "close":
        answer = ""
    else:
        answer = f'"samples": [{{us * slowness[chosen]}}, {{us * slowness[chosen]}}]'
    print("{{" + answer + "}}", flush=True)
"""


@pytest.fixture
def benchmarks(root, monkeypatch):
    monkeypatch.syspath_prepend(str(root / "benchmarks"))


@pytest.fixture
def contender(benchmarks, tmp_path):
    """Makes a scripted contender of a name, `factor` times as slow as the first."""
    from contenders import Contender

    def make(name, factor=1.0, **options):
        program = tmp_path / f"{name}.py"
        program.write_text(CONTENDER.format(python=sys.executable, name=name, factor=factor))
        program.chmod(0o755)
        return Contender(name, program, **options)

    return make


def test_random_cases_repeat_and_stay_in_range(benchmarks):
    from cases import random_cases

    cases = random_cases(200, 7, "f16", "both")
    assert cases == random_cases(200, 7, "f16", "both") != random_cases(200, 8, "f16", "both")
    assert all(1 <= case.m <= 16384 and 512 <= case.n <= 16384 and 512 <= case.k <= 16384 for case in cases)
    assert sum(case.n % 16 == 0 and case.k % 16 == 0 for case in cases) >= 180
    assert all(case.k % 4 == 0 for case in cases)
    # Log-uniform: half of the numbers of tokens lie below 128.
    assert 70 < sum(case.m <= 128 for case in cases) < 130
    assert {case.scales for case in random_cases(20, 7, "i8", "both")} == {"both"}
    assert {case.scales for case in cases} == {"none"}


def test_a_crash_is_noted_and_the_rest_is_tried(contender):
    from cases import Case

    rival = contender("rival")
    found = rival.scan(Case("f16", 16, 256, 512), "-")
    rival.stop()
    assert found.count == 5 and found.crashed == [1] and found.fastest(2) == [3, 2]


def test_a_default_is_not_chosen(contender):
    from cases import Case

    rival = contender("rival", takes_default=True)
    assert rival.prepare(Case("f16", 16, 256, 512), "-")["candidate"] == "4"
    rival.stop()


def test_scouts_look_at_each_product_once(contender, tmp_path):
    from cases import Case
    from contenders import Scouts

    dense = contender("cublaslt")
    same = contender("cublaslt", dtype="f16")
    same.name = "cublaslt f16"
    cases = [Case("f16", 16, 256, 512), Case("i8", 16, 256, 512, "both", ("cublaslt", "cublaslt f16"))]
    with Scouts(2, tmp_path / "lock") as scouts:
        scouts.begin(cases, [dense, same])
        found = scouts.finish()
    assert {product[0] for _, product in found} == {"f16", "i8"} and len(found) == 2
    assert all(shortlist[0] == 3 and scan.crashed == [1] for shortlist, scan in found.values())


@pytest.mark.parametrize(
    ("dtype", "scales"), [("f16", "none"), ("i8", "both"), ("i8", "one"), ("e4m3", "both"), ("e4m3", "one")]
)
def test_programs_are_checked_with_their_scales(benchmarks, tmp_path, dtype, scales):
    from programs import compile_program

    import sparseflow as sf

    path = tmp_path / "p.sf"
    result = compile_program(str(path), dtype, 72, 128, scales, None, [1, 9], device="emulator", target="sm_90a")
    assert result["relative_error"] < (0.01 if dtype == "e4m3" else 1e-3)
    (function,) = sf.load(path, device="emulator").functions
    assert [each["name"] for each in function["inputs"]] == (["x", "token_scale"] if scales == "both" else ["x"])
    assert function["outputs"][0]["dtype"] == ("bf16" if dtype == "e4m3" else "f16")


@pytest.fixture
def run(benchmarks, contender, monkeypatch, tmp_path):
    """run.py as a command, with scripted contenders and programs for the emulator; returns the document."""
    import programs
    import run as command

    def build(folder, library, names):
        rivals = {"cublaslt": contender("cublaslt", 1.6), "cusparselt": contender("cusparselt", 1.02)}
        rivals["cusparselt default"] = contender("cusparselt", 1.02, takes_default=True)
        rivals["cublaslt f16"] = contender("cublaslt", 1.6, dtype="f16")
        for name, each in rivals.items():
            each.name = name
        return {"sparseflow": contender("sparseflow")} | rivals

    monkeypatch.setattr(command, "build_contenders", build)
    monkeypatch.setattr(command, "ProcessPoolExecutor", lambda count, context: ThreadPoolExecutor(1))
    monkeypatch.setattr(
        programs, "compile_program", partial(programs.compile_program, device="emulator", target="sm_90")
    )
    monkeypatch.setattr(
        command, "compile_program", partial(programs.compile_program, device="emulator", target="sm_90")
    )

    def go(*arguments):
        out = tmp_path / "figures.json"
        monkeypatch.setattr(sys, "argv", ["run.py", f"--out={out}", *arguments])
        assert command.main() == 0
        return json.loads(out.read_text())

    return go


def test_a_run_reports_every_contender(run, capsys):
    document = run(
        "--shape", "16x72x128", "--dtype", "f16", "i8", "--protocol", "flushed", "--config", "tile = 64x16x64"
    )
    assert [case["dtype"] for case in document["cases"]] == ["f16", "i8"]
    for case in document["cases"]:
        results = case["results"]
        assert set(results) == {"sparseflow", "sparseflow[0]", "cublaslt", "cusparselt", "cusparselt default"}
        assert results["cusparselt"]["candidate"] == "3" and results["cusparselt"]["crashed"] == [1]
        assert results["cusparselt default"]["flushed"]["us"] == pytest.approx(
            2 * results["cusparselt"]["flushed"]["us"], rel=0.1
        )
        assert results["sparseflow"]["relative_error"] < 1e-3
    assert document["cases"][1]["scales"] == "both"
    assert set(document["launch_overhead"]) == {"sparseflow", "cublaslt", "cusparselt"}
    page = capsys.readouterr().out
    assert "cuSPARSELt's default" in page and "a scale for each feature and each token" in page


def test_a_run_without_contenders_fails_and_keeps_the_file(run, monkeypatch, tmp_path, capsys):
    (tmp_path / "figures.json").write_text("figures of an earlier run")
    monkeypatch.setattr("run.build_contenders", lambda folder, library, names: {})
    monkeypatch.setattr(sys, "argv", ["run.py", f"--out={tmp_path / 'figures.json'}"])
    assert sys.modules["run"].main() == 1
    assert (tmp_path / "figures.json").read_text() == "figures of an earlier run"
    assert "expected a contender that builds here, got none" in capsys.readouterr().err


def test_a_run_takes_up_what_an_earlier_one_left(run, tmp_path, capsys):
    common = ["--dtype", "f16", "--protocol", "flushed", "--only", "sparseflow"]
    earlier = run("--shape", "16x72x128", *common)
    file = tmp_path / "earlier.json"
    file.write_text(json.dumps(earlier | {"ended": "after 1 s, with 1 of 2 cases"}))
    document = run("--shape", "16x72x128", "32x72x128", f"--resume={file}", *common)
    assert document["cases"][0] == earlier["cases"][0]
    assert [case["m"] for case in document["cases"]] == [16, 32]
    assert "ended" not in document
    assert capsys.readouterr().out.count("32x72x128: TFLOPS") == 1


def test_a_run_takes_up_none_of_another_suite_or_gpu(run, tmp_path):
    file = tmp_path / "earlier.json"
    file.write_text("{")
    with pytest.raises(SystemExit, match=r"--resume: expected the result of an earlier run, got .*earlier\.json"):
        run(f"--resume={file}")
    earlier = run("--shape", "16x72x128", "--dtype", "f16", "--protocol", "flushed")
    earlier["environment"]["gpu"] = {"name": "another"}
    file.write_text(json.dumps(earlier))
    with pytest.raises(SystemExit, match="--resume: expected a run of .*, got one of .*another.*; begin anew"):
        run("--shape", "16x72x128", f"--resume={file}")


def test_a_run_goes_on_from_batch_to_batch(run, monkeypatch, capsys):
    monkeypatch.setattr("run._BATCH", 2)
    document = run("--shape", "1x72x128", "9x72x128", "3x40x64", "--dtype", "f16", "--protocol", "flushed")
    assert [case["m"] for case in document["cases"]] == [1, 9, 3] and "ended" not in document
    assert capsys.readouterr().out.count("candidates found after") == 2


def test_a_run_out_of_time_writes_what_it_has(run):
    document = run("--random", "3", "--seconds", "0")
    assert document["cases"] == [] and document["ended"] == "after 0 s, with 0 of 3 cases"


def made_up(cases, us):
    """A document of these cases; us gives the microseconds of a contender in a case."""
    names = ["sparseflow", "cublaslt", "cublaslt f16", "cusparselt", "cusparselt default"]

    def result(case, name):
        time = us(case, name)
        return {protocol: {"us": time, "tflops": case.teraflops(time)} for protocol in ("flushed", "sustained")}

    rows = [
        {"dtype": c.dtype, "m": c.m, "n": c.n, "k": c.k, "scales": c.scales}
        | {"results": {name: result(c, name) for name in names if name == "sparseflow" or name in c.rivals}}
        for c in cases
    ]
    environment = {"date": "2026-01-01", "gpu": {"name": "a GPU"}, "ptxas": "13.0"}
    return {"environment": environment, "contenders": {name: {"library": name} for name in names}, "cases": rows}


def test_the_report_of_random_shapes(benchmarks):
    from cases import random_cases
    from report import report

    slowness = {"cusparselt": 1.1, "cusparselt default": 2.2, "cublaslt": 1.5}
    cases = random_cases(40, 1, "f16", "both")
    document = made_up(
        cases,
        lambda case, name: 10 * slowness.get(name, 1.0) * (1.2 if case is cases[5] and name == "sparseflow" else 1),
    )
    document |= {"suite": "random", "random": {"count": 40, "seed": 1}}
    text = report(document)
    assert "40 of 40 shapes, seed 1" in text
    mean = 1.1 / 1.2 ** (1 / 40)
    assert f"| f16 | all | {mean:.3f} (40) | {2 * mean:.3f} (40) |" in text
    assert "cuBLASLt's best: 1 of 40; behind cuSPARSELt, which no dispatch to cuBLASLt mends: 1." in text
    worst = cases[5]
    assert f"| f16 {worst.m},{worst.n},{worst.k} | 12.0 µs | 11.0 µs | 22.0 µs | 15.0 µs | 0.92 |" in text


def test_targets_are_hit_and_missed(benchmarks):
    from report import report
    from targets import goals, target_cases
    from traffic import READ_BANDWIDTH, floor_microseconds, least_bytes

    cases = target_cases("both")
    assert len({(case.dtype, case.m, case.n, case.k) for case in cases}) == len(cases)
    assert {(goal.dtype, goal.shape) for goal in goals()} == {(c.dtype, (c.m, c.n, c.k)) for c in cases}
    assert all(case.scales == ("both" if case.dtype in ("i8", "e4m3") else "none") for case in cases)

    def us(case, name):
        floor = floor_microseconds(least_bytes(case.dtype, case.m, case.n, case.k, scales=case.scales), READ_BANDWIDTH)
        return 1.1 * floor * (2.0 if name.startswith("cublaslt") else 1.04 if name == "cusparselt" else 1.0)

    text = report(made_up(cases, us) | {"suite": "targets"})
    assert "| 1 to 32 tokens | 81 | 0 | 0 |" in text
    # Twice as fast as dense f16: enough for f16, too little for 8-bit types.
    assert "| 64 to 256 tokens | 27 | 54 | 0 |" in text
    assert "| Medium | 0 | 12 | 0 |" in text and "| 1.05 × cuSPARSELt's best | 1.04 | miss |" in text


def test_least_bytes(benchmarks):
    from traffic import least_bytes

    # 2:4 f16: half of 2 bytes, and 4 bits for each four elements.
    assert least_bytes("f16", 2, 8, 16) == 2 * 16 * 2 + 8 * 16 * 1.125 + 2 * 8 * 2
    assert least_bytes("i8", 2, 8, 16, scales="both") == 2 * 16 + 8 * 16 * 0.625 + 2 * 8 * 2 + 4 * 10
    assert least_bytes("f16", 2, 8, 16, sparse=False) == 2 * (2 * 16 + 8 * 16 + 2 * 8)


def test_the_roofline_shows_every_contender(benchmarks):
    from xml.etree import ElementTree

    from cases import suite_cases
    from roofline import points, svg

    document = made_up(suite_cases("quick", "both"), lambda case, name: 5 + case.m * case.n * case.k / 5e8)
    root = ElementTree.fromstring(svg(document))
    drawn = [each.text for each in root.iter("{http://www.w3.org/2000/svg}title")]
    # Four contenders in each of the seven cases, and in the legend.
    assert len(drawn) == 4 * 7 + 4 and "SparseFlow, 2:4: 16,4096,4096, 97 TFLOPS" in drawn
    ours, dense = (
        next(each for each in points(document, "f16", "flushed") if each.series == name)
        for name in ("sparseflow", "cublaslt")
    )
    # The dense weight is 16 bits an element, the sparse one 9.
    assert ours.intensity / dense.intensity == pytest.approx((2 + 2 + 2) / (2 + 2 + 1.125))


# What ncu prints of a kernel, on its raw page as CSV.
STALL = "smsp__average_warps_issue_stalled_{}_per_issue_active.ratio"


def raw_page():
    names = ["ID", "Kernel Name", "gpu__time_duration.sum", "lts__throughput.avg.pct_of_peak_sustained_elapsed"]
    names += [STALL.format("gmma"), STALL.format("gmma_not_issued"), STALL.format("sleeping")]
    names += ["sm__pipe_tensor_op_gmma_cycles_active.avg.pct_of_peak_sustained_active"]
    rows = [
        names,
        ["", "", "us", "%", "inst", "inst", "inst", "%"],
        ["0", "main_matmul_0", "1,120.5", "41.2", "3.5", "9", "0.01", "79"],
    ]
    return "==PROF== Connected\n" + "\n".join(",".join(f'"{cell}"' for cell in row) for row in rows)


def test_a_profile_becomes_a_table(benchmarks):
    from kernel_profile import read_kernels, summarize, table

    (kernel,) = read_kernels(raw_page())
    found = summarize(kernel)
    assert found == {
        "time, µs": 1120.5,
        "tensor cores, %": 79,
        "L2, %": 41.2,
        "stalled: gmma": 3.5,
        "stalled: sleeping": 0.01,
    }
    lines = table({"a product": found}).splitlines()
    assert lines[0] == "| | a product |" and lines[-1] == "| stalled: gmma | 3.5 |"
    assert read_kernels("==ERROR== nothing") == []


@pytest.fixture
def pytorch(benchmarks):
    pytest.importorskip("transformers")
    import pytorch  # benchmarks/pytorch.py

    return pytorch


def test_the_most_important_figures_come_first(pytorch):
    assert pytorch.schedule(["graph", "eager", "compile"], [1, 16, 2048], [2048]) == [
        [("graph", 2048), ("graph", 1)],
        [("eager", 2048), ("breakdown", 2048)],
        [("eager", 1), ("graph", 16)],
        [("compile", 2048)],
        [("eager", 16)],
        [("compile", 1), ("compile", 16)],
    ]
    assert pytorch.schedule(["reduce-overhead", "compile"], [2048, 16], []) == [
        [("compile", count), ("reduce-overhead", count)] for count in (2048, 16)
    ]
    assert pytorch.schedule(["eager"], [16], []) == [[("eager", 16)]]


def test_paths_are_listed_once_for_layers_that_are_alike(pytorch):
    layers = [
        {"layer": f"layers.{i}", "shape": shape, "path": "sparse"} for i, shape in enumerate(("8x8", "8x8", "8x4"))
    ]
    assert pytorch.paths_of_shapes(layers) == [
        {"shape": "8x8", "path": "sparse", "layers": 2},
        {"shape": "8x4", "path": "sparse", "layers": 1},
    ]


def test_no_step_is_begun_that_would_end_too_late(pytorch, monkeypatch):
    now = [100.0]
    monkeypatch.setattr(pytorch.time, "monotonic", lambda: now[0])
    budget = pytorch.Budget(60)
    assert budget.allows("row") and not budget.allows("compile", 70)
    with budget.step("row"):
        now[0] += 25
    assert budget.allows("row") and budget.spent() == 25
    now[0] += 15
    assert not budget.allows("row") and budget.allows("another")
    assert pytorch.Budget(None).allows("row", 1e9)


@pytest.mark.filterwarnings("ignore")
def test_whole_models_and_their_page(pytorch, benchmarks, tmp_path, monkeypatch):
    """Tiny models on the host; then a second run that has time for nothing more than one of them."""
    import pytorch_report

    out = tmp_path / "pytorch.json"
    base = ["pytorch.py", "--out", str(out), "--scheme", "int8", "--tokens", "1", "300", "--rounds", "2"]
    monkeypatch.setattr(sys, "argv", base)
    assert pytorch.main() == 0
    data = json.loads(out.read_text())
    assert list(data["models"]) == ["llama-3.1-8b", "dinov2-large", "bert-base"] and not data["left_out"]
    for name, model in data["models"].items():
        assert list(model["models"]) == ["dense f16", "2:4 int8", "dense int8"] and not model["missing"]
        assert [row["tokens"] for row in model["times"]] == ([5] if name == "dinov2-large" else [1, 300])
        assert all(each["error"] < 0.02 for each in model["models"].values())
    monkeypatch.setattr(sys, "argv", [*base, "--seconds", "0.01", "--model", "bert-base", "dinov2-large"])
    assert pytorch.main() == 0
    data["models"] = {"cut short": json.loads(out.read_text())["models"]["bert-base"]} | data["models"]
    data |= {"left_out": json.loads(out.read_text())["left_out"]}
    assert data["left_out"] == ["dinov2-large"] and len(data["models"]["cut short"]["left_out"]) == 2
    out.write_text(json.dumps(data))
    monkeypatch.setattr(sys, "argv", ["pytorch_report.py", str(out), str(tmp_path / "page.md")])
    assert pytorch_report.main() == 0
    page = (tmp_path / "page.md").read_text()
    assert "There was no time for eager of 1 tokens; eager of 300 tokens." in page
    assert "There was no time for dinov2-large." in page and page.count("### eager") == 3
    xml.dom.minidom.parse(str(tmp_path / "pytorch.svg"))


@pytest.fixture
def profile(benchmarks, monkeypatch, tmp_path, capsys):
    """kernel_profile.py as a command, on a small product, with an ncu that prints this; returns what it printed."""
    import kernel_profile
    from cases import Case

    def go(page, code=0):
        ncu = tmp_path / "ncu"
        ncu.write_text(f"#!/bin/sh\ncat <<'END'\n{page}\nEND\nexit {code}\n")
        ncu.chmod(0o755)
        monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
        monkeypatch.setattr(kernel_profile, "CASES", [Case("i8", 16, 72, 128, "both")])
        emulated = partial(kernel_profile.compile_program, device="emulator", target="sm_90")
        monkeypatch.setattr(kernel_profile, "compile_program", emulated)
        monkeypatch.setattr(sys, "argv", ["kernel_profile.py", str(tmp_path)])
        assert kernel_profile.main() == 0
        return capsys.readouterr().out

    return go


def test_a_profile_is_printed_and_kept(profile, tmp_path):
    assert "| stalled: gmma | 3.5 |" in profile(raw_page())
    assert json.loads((tmp_path / "profile.json").read_text())["i8 16,72,128, both scales"]["L2, %"] == 41.2
    assert (tmp_path / "profile-0.csv").read_text().startswith("==PROF==")


def test_counters_that_may_not_be_read_are_no_error(profile, tmp_path):
    text = profile("==ERROR== ERR_NVGPUCTRPERM - The user does not have permission", code=1)
    assert "No kernel was profiled: the driver does not let this user read the GPU's counters" in text
    assert not (tmp_path / "profile.json").exists()


def test_the_audits_table_is_that_of_the_runs_that_are_kept(benchmarks, root):
    import kernel_table

    documents = [json.loads((root / "docs" / f"{name}.json").read_text()) for name in ("targets", "figures", "random")]
    table = kernel_table.table(documents)
    shipped = root / "python" / "sparseflow" / "data" / "measured-h100.json"
    assert shipped.read_text() == kernel_table.text(table), "stale: benchmarks/README.md says how it is made"
    assert json.loads(kernel_table.text(table)) == table
    groups = {
        group["scheme"]: {tuple(point[:3]): point[3] for point in group["points"]} for group in table["measurements"]
    }
    ours = {case["dtype"]: case["results"] for case in documents[0]["cases"] if case["m"] == 8192}
    assert groups["sparse-int8"][8192, 8192, 8192] == ours["i8"]["sparseflow"]["flushed"]["us"]
    assert groups["dense-f16"][8192, 8192, 8192] == ours["f16"]["cublaslt f16"]["flushed"]["us"]
    assert all(k % 8 == 0 and n % 8 == 0 for _, n, k in groups["sparse-f16"])
