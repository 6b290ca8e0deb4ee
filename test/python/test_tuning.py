"""The tuner, with a clock of the test's own in place of a GPU, and what compiling makes of what it recorded."""

from __future__ import annotations

import sqlite3
from collections.abc import Collection
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import sparseflow as sf
from sparseflow import tuning
from sparseflow.tools import tune as tune_command

SHAPE = (128, 128)
TOKENS = (16, 256)


class FakeTimer:
    """Takes so long for a configuration as the test says, by the features of its tile."""

    def __init__(self, microseconds: dict[str, float], odd: str = "", library: float = 60.0):
        self.microseconds, self.odd, self.library = microseconds, odd, library
        self.begun: list[tuple[tuning.Product, int, list[str]]] = []
        self.sampled: list[str] = []

    def begin(self, product: tuning.Product, tokens: int, orders: Collection[str]) -> None:
        self.begun.append((product, tokens, list(orders)))

    def result(self, executable: sf.Executable, order: str, tokens: int) -> np.ndarray:
        return np.full(4, 2.0 if self.odd and self.odd in config_of(executable, tokens) else 1.0)

    def difference(self, result: Any, other: Any) -> float:
        return float(np.linalg.norm(result - other) / np.linalg.norm(other))

    def samples(self, executable: sf.Executable, order: str, tokens: int, count: int) -> list[float]:
        if not order:
            return [self.library] * count
        config = config_of(executable, tokens)
        self.sampled += [config] * count
        return [next((time for part, time in self.microseconds.items() if part in config), 50.0)] * count


def config_of(executable: sf.Executable, tokens: int) -> str:
    return str(executable.report(tokens=tokens).kernels[0]["config"])


@pytest.fixture
def database(tmp_path: Path) -> Path:
    return tmp_path / "tuning.sqlite"


def tune(database: Path, timer: FakeTimer, model: Any = (SHAPE,), **options: Any) -> sf.TuningReport:
    options = {"tokens": TOKENS, "candidates": 4, "workers": 2} | options
    return sf.tune(list(model), target="sm_80", database=database, timer=timer, **options)


def product_graph() -> sf.Graph:
    graph = sf.Graph()
    x = graph.input("x", (None, SHAPE[1]), sf.f16)
    weight = sf.prune_24(np.random.default_rng(0).standard_normal(SHAPE, np.float32))
    graph.output(graph.matmul(x, weight, bias=np.zeros(SHAPE[0], np.float16), activation="relu"))
    return graph


def build(database: Path | str, target: str = "sm_80", **options: Any) -> sf.Executable:
    return sf.compile(product_graph(), target=target, device="emulator", tuning=database, **options)


def test_candidates_come_fastest_first() -> None:
    ranked = tuning.Product("sm_90a", "f16", 4096, 4096).ranked(16, 8)
    assert len(ranked) == 8
    assert [time for _, time in ranked] == sorted(time for _, time in ranked)
    assert all("wgmma_sp" in config for config, _ in ranked)


def test_the_compiler_takes_what_was_measured(database: Path) -> None:
    ranked = tuning.Product("sm_80", "f16", *SHAPE).ranked(256, 4)
    slowest = ranked[-1][0]
    timer = FakeTimer({slowest.removeprefix("#sf.kernel_config<").removesuffix(">"): 7.0})
    report = tune(database, timer)
    assert [(row["tokens"], row["config"], row["us"]) for row in report.rows][0] == (256, slowest, 7.0)
    assert timer.begun[0][1:] == (256, ["mma"])
    assert report.rows[0]["model_us"] == 50.0
    assert report.summary["model_over_tuned_worst"] == pytest.approx(50 / 7, abs=1e-3)

    found = build(database).report(tokens=200)
    assert found.kernels[0]["config"].replace("max_tokens = 256, ", "") == slowest
    assert "tuned: 7.0 us, cuBLASLt 60.0 us at 256 tokens" in str(found)
    assert "tuned" not in str(build("").report(tokens=200))
    assert "estimated by the cost model" in str(build("").report(tokens=200))


def test_the_library_runs_where_it_was_measured_faster(database: Path) -> None:
    report = tune(database, FakeTimer({}, library=48.0))
    assert [row["library_us"] for row in report.rows] == [48.0, 48.0]
    executable = build(database)
    for tokens, path in ((300, "sparse mma.sp"), (256, "dense cublasLt"), (1, "dense cublasLt")):
        assert executable.report(tokens=tokens).steps[0]["path"] == path
    step = executable.report(tokens=200).steps[0]
    assert step["time_us"] == {"sparse": 50.0, "dense": 48.0}
    assert "tuned: 50.0 us, cuBLASLt 48.0 us at 256 tokens; dense was measured faster" in step["reason"]
    x = np.random.default_rng(1).standard_normal((5, SHAPE[1])).astype(np.float16)
    np.testing.assert_allclose(np.asarray(executable(x), np.float32), np.asarray(build("")(x), np.float32), atol=0.05)


def test_the_library_does_not_run_within_the_noise(database: Path) -> None:
    tune(database, FakeTimer({}, library=49.5))
    executable = build(database)
    assert executable.report(tokens=200).steps[0]["path"] == "sparse mma.sp"
    assert "cuBLASLt 49.5 us" in executable.report(tokens=256).steps[0]["reason"]


def test_a_result_is_the_same_with_every_choice(database: Path) -> None:
    ranked = tuning.Product("sm_80", "f16", *SHAPE).ranked(16, 4)
    tune(database, FakeTimer({ranked[-1][0][18:-1]: 7.0}))
    x = np.random.default_rng(1).standard_normal((5, SHAPE[1])).astype(np.float16)
    np.testing.assert_allclose(
        np.asarray(build(database)(x), np.float32), np.asarray(build("")(x), np.float32), atol=0.05
    )


def test_a_new_entry_is_not_hidden_by_the_cache_of_kernels(database: Path, tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    ranked = tuning.Product("sm_80", "f16", *SHAPE).ranked(4096, 2)
    opened = tuning._open(database)
    for config, _ in ranked:
        opened.record(tuning.Product("sm_80", "f16", *SHAPE).key(4096), config, 9.0)
        assert config_of(build(database, cache_dir=cache), 5000) == config


def test_candidates_far_behind_are_left_out(database: Path) -> None:
    ranked = tuning.Product("sm_80", "f16", *SHAPE).ranked(16, 3)
    timer = FakeTimer({config[18:-1]: time for (config, _), time in zip(ranked, (10, 12, 14), strict=True)})
    tune(database, timer, tokens=(16,), candidates=3)
    counts = [timer.sampled.count(config) for config, _ in ranked]
    assert counts[0] == counts[1] > counts[2] == 3


def test_a_range_shares_its_neighbours_kernel_within_the_noise(database: Path) -> None:
    def nearly(config: str) -> float:
        return 10.1 if config == ranked[1][0] else 10.0

    ranked = tuning.Product("sm_80", "f16", *SHAPE).ranked(256, 2)
    report = tune(database, FakeTimer({config[18:-1]: nearly(config) for config, _ in ranked}), candidates=2)
    assert len({row["config"] for row in report.rows}) == 1


def test_a_wrong_candidate_is_named_and_never_recorded(database: Path) -> None:
    ranked = tuning.Product("sm_80", "f16", *SHAPE).ranked(16, 4)
    for odd in (ranked[0][0], ranked[2][0]):
        report = tune(database, FakeTimer({odd[18:-1]: 1.0}, odd=odd[18:-1]), tokens=(16,))
        assert report.rows[0]["wrong"] == [odd]
        assert report.rows[0]["config"] != odd


@pytest.mark.parametrize("dtype, epilogue", [("i8", "plain"), ("f16", "gated"), ("f16", "plain, 32 bits")])
def test_every_kind_of_product_has_candidates(database: Path, dtype: str, epilogue: str) -> None:
    report = tune(database, FakeTimer({}), tokens=(16,), dtype=dtype, epilogue=epilogue, candidates=2)
    assert [(row["dtype"], row["epilogue"]) for row in report.rows] == [(dtype, epilogue)]
    assert report.rows[0]["library_us"] == 60.0


def test_the_products_of_a_model_are_tuned(database: Path) -> None:
    found = tuning.products_of(product_graph(), "sm_80")
    assert found == [tuning.Product("sm_80", "f16", *SHAPE)]
    report = sf.tune(
        product_graph(), target="sm_80", database=database, tokens=(16,), candidates=1, timer=FakeTimer({})
    )
    assert [row["features"] for row in report.rows] == [SHAPE[0]]


def test_equal_types_share_an_entry(database: Path) -> None:
    opened = tuning._open(database)
    opened.record(tuning.Product("sm_80", "bf16", *SHAPE).key(3), "#text", 4.0)
    assert opened.lookup(tuning.Product("sm_80", "f16", *SHAPE).key(16)) == '{"config":"#text","microseconds":4}'
    assert opened.lookup(tuning.Product("sm_80", "f16", *SHAPE).key(17)) is None


@pytest.mark.parametrize(
    "config",
    [
        "#sf.kernel_config<",
        "garbage",
        "unit",
        "#sf.kernel_config<tile = 64x16x64, warps = 1x2, split_k = 1, raster = 8, atom = mma>",
        "#sf.kernel_config<tile = 64x16x64, warps = 4x1, split_k = 1, raster = 8, atom = wgmma_sp>",
        "#sf.kernel_config<tile = 64x16x64, warps = 1x2, stages = 16, split_k = 64, raster = 8, atom = mma_sp>",
        "#sf.kernel_config<tile = 256x256x512, warps = 4x2, stages = 8, split_k = 1, raster = 8, atom = mma_sp>",
    ],
)
def test_an_entry_that_does_not_fit_is_a_warning(database: Path, config: str) -> None:
    tuning._open(database).record(tuning.Product("sm_80", "f16", *SHAPE).key(16), config, 1.0)
    with pytest.warns(sf.CompilerWarning, match="a configuration for 16 tokens that this product can run"):
        executable = build(database)
    assert "estimated by the cost model" in str(executable.report(tokens=16))


def test_a_stage_that_no_layout_describes_is_a_warning(database: Path) -> None:
    config = "#sf.kernel_config<tile = 64x48x128, warps = 4x1, split_k = 1, raster = 8, atom = wgmma_sp>"
    tuning._open(database).record(tuning.Product("sm_90a", "f16", *SHAPE).key(16), config, 1.0)
    with pytest.warns(sf.CompilerWarning, match="a configuration for 16 tokens that this product can run"):
        executable = build(database, target="sm_90a")
    assert "estimated by the cost model" in str(executable.report(tokens=16))


@pytest.mark.parametrize("time", [-1.0, 0.0, float("inf")])
def test_what_is_no_time_is_a_warning(database: Path, time: float) -> None:
    config = "#sf.kernel_config<tile = 64x16x64, warps = 1x2, split_k = 1, raster = 8, atom = mma_sp>"
    tuning._open(database).record(tuning.Product("sm_80", "f16", *SHAPE).key(16), config, 1.0)
    with sqlite3.connect(database) as connection:
        connection.execute("UPDATE choices SET microseconds = ?", (time,))
    with pytest.warns(sf.CompilerWarning, match="expected the tuning database to hold a time above 0 for 16 tokens"):
        executable = build(database)
    assert "estimated by the cost model" in str(executable.report(tokens=16))


def test_a_damaged_database_is_set_aside_by_who_writes(database: Path) -> None:
    database.write_bytes(b"not a database" * 100)
    for _ in range(2):
        with pytest.warns(sf.CompilerWarning, match="file is not a database; going on without it"):
            build(database)
    with pytest.warns(sf.CompilerWarning, match="got a damaged file"):
        tune(database, FakeTimer({}))
    assert list(database.parent.glob("*.corrupt-*"))


def test_another_ones_database_is_left_alone(database: Path) -> None:
    with sqlite3.connect(database) as connection:
        connection.execute("CREATE TABLE theirs (x)")
    before = database.read_bytes()
    with pytest.warns(sf.CompilerWarning, match="got another SQLite file"):
        build(database)
    assert database.read_bytes() == before


def test_a_database_that_is_not_there_is_a_warning_and_is_not_begun(database: Path) -> None:
    with pytest.warns(sf.CompilerWarning, match="got no such file"):
        build(database)
    assert not database.exists()


def test_what_does_not_fit_is_an_error(database: Path) -> None:
    with pytest.raises(sf.InvalidArgumentError, match="a chip of sm_80"):
        sf.tune([SHAPE], target="sm_1", database=database, timer=FakeTimer({}))


@pytest.mark.parametrize(
    ("model", "options", "message"),
    [
        ([SHAPE], {"candidates": 0}, "candidates of at least 1"),
        ([SHAPE], {"workers": 0}, "workers of at least 1"),
        ([SHAPE], {"tokens": (0,)}, "numbers of tokens of at least 1"),
        ([SHAPE], {"tokens": ()}, "numbers of tokens such as"),
        ([SHAPE], {"tokens": 16}, "numbers of tokens such as"),
        ([SHAPE], {"tokens": "16"}, "numbers of tokens such as"),
        ([SHAPE], {"dtype": "int64"}, "expected one of f16"),
        ([SHAPE], {"epilogue": None}, "the epilogue of a product as text"),
        ([], {}, "at least one weight shape"),
        ([(64, 66)], {}, "K a multiple of 4"),
        ([(64.0, 64)], {}, "features of a product of at least 1"),
        ([(64,)], {}, "weight shapes"),
        ([64], {}, "weight shapes"),
        (3, {}, "expected a Graph, a path or MLIR text"),
        (sf.Graph(), {}, "a graph with an output"),
    ],
)
def test_arguments_are_checked_before_a_gpu_is_needed(
    database: Path, model: Any, options: dict[str, Any], message: str
) -> None:
    with pytest.raises(sf.InvalidArgumentError, match=message):
        sf.tune(model, database=database, **options)
    assert not database.exists()


def test_a_product_takes_numpys_numbers_and_the_packages_dtypes() -> None:
    product = tuning.Product("sm_80", sf.f16, np.int64(128), np.int32(128))  # type: ignore[arg-type]
    assert product == tuning.Product("sm_80", "f16", *SHAPE)
    assert product.ranked(np.int64(16), 2) == tuning.Product("sm_80", "f16", *SHAPE).ranked(16, 2)  # type: ignore[arg-type]
    for tokens, limit in ((16.0, 2), (True, 2), (0, 2), (16, 0), ("16", 2), (1 << 40, 2)):
        with pytest.raises(sf.InvalidArgumentError, match="of at least 1"):
            product.ranked(tokens, limit)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        ([], 2, "expected --shape, --model or --program to tune, or --export, got none; see --help"),
        (["--program", "a.mlir", "--dtype", "f16"], 2, "expected --dtype for --shape or --model"),
        (["--model", "gpt2", "--epilogue", "gated"], 2, "expected --epilogue for --shape"),
        (["--model", "llama-9000b"], 1, "expected a config.json or one of gpt2"),
        (["--program", "nowhere.mlir"], 1, "got nowhere.mlir, which does not exist"),
        (["--shape", "64x64", "--export", "nowhere/all.sqlite"], 1, "expected a folder for nowhere/all.sqlite"),
        (["--shape", "64x64", "--export", "."], 1, "a tuning database to replace, got ., which is something else"),
        (["--export", "all.sqlite", "--tokens", "16"], 2, "expected --tokens with --shape, --model or --program"),
        (["--export", "all.sqlite", "--candidates", "4"], 2, "expected --candidates with --shape"),
    ],
)
def test_the_command_checks_its_arguments_before_a_gpu_is_needed(
    capsys: pytest.CaptureFixture[str], arguments: list[str], code: int, message: str
) -> None:
    assert tune_command.main(arguments) == code
    captured = capsys.readouterr()
    assert message in captured.err and not captured.out


def test_an_epilogue_without_a_graph_is_said_to_be_left_out(database: Path) -> None:
    report = tune(database, FakeTimer({}), epilogue="plain, 48 bits")
    assert "plain, 48 bits" in next(iter(report.skipped.values()))
    assert not report.rows
    assert "is left out" in str(report)


def test_what_was_tuned_is_exported_without_a_gpu(database: Path, capsys: pytest.CaptureFixture[str]) -> None:
    key = tuning.Product("sm_80", "f16", *SHAPE).key(16)
    tuning._open(database).record(key, "#text", 4.0)
    whole = database.with_name("whole.sqlite")
    assert tune_command.main(["--database", str(database), "--export", str(whole)]) == 0
    assert tuning._open(whole).lookup(key) == '{"config":"#text","microseconds":4}'
    assert tune_command.main(["--database", str(database), "--export", str(whole)]) == 0
    precious = database.with_name("precious.txt")
    for other in (b"", b"dear", b"SQLite format 3\0" + bytes(100)):
        precious.write_bytes(other)
        assert tune_command.main(["--database", str(database), "--export", str(precious)]) == 1
        assert "precious.txt, which is something else" in capsys.readouterr().err and precious.read_bytes() == other
    missing = database.with_name("missing.sqlite")
    assert tune_command.main(["--database", str(missing), "--export", str(whole)]) == 1
    assert "missing.sqlite, which does not exist" in capsys.readouterr().err and not missing.exists()


@pytest.mark.skipif(any(device.kind == "cuda" for device in sf.devices()), reason="there is a GPU")
def test_without_a_gpu_it_says_so(database: Path) -> None:
    with pytest.raises(sf.UnsupportedError, match="expected a GPU to tune for, got none") as error:
        sf.tune([SHAPE], database=database)
    assert "or use the devices" not in str(error.value)  # they cannot be tuned for


@pytest.mark.parametrize("target", ["sm_80", "sm_90a"])
@pytest.mark.parametrize(
    "dtype, epilogue, weights",
    [
        ("f16", "plain", "sp24"),
        ("f16", "gated", "sp24"),
        ("f16", "plain, 32 bits", "sp24"),
        ("f16", "plain", "dense"),
        ("i8", "plain", "sp24"),
        ("i8", "gated", "sp24"),
        ("e4m3", "plain", "sp24"),
    ],
)
def test_what_the_timer_runs_is_the_product(target: str, dtype: str, epilogue: str, weights: str) -> None:
    torch = pytest.importorskip("torch")
    from sparseflow.tools.kernel_timer import Runner

    if dtype == "e4m3" and target == "sm_80":
        pytest.skip("sm_80 has no 8-bit floats")
    product = tuning.Product(target, dtype, *SHAPE, epilogue, weights)
    configs = [config for config, _ in product.ranked(16, 2)]
    runner = Runner(torch, "cpu")
    runner.begin(product, 20, [tuning.order_of(configs[0])])
    results = []
    for config in configs:
        order = tuning.order_of(config)
        executable = sf.compile(product.graph(order), target=target, device="emulator", config=config, tuning="")
        results.append(runner.result(executable, order, 9))
    assert results[0].shape == (9, SHAPE[0])
    assert torch.isfinite(results[0]).all()
    assert results[0].float().std() > 0.5
    assert runner.difference(results[1], results[0]) <= 0.01


def test_time_that_is_over_leaves_products_out(database: Path) -> None:
    report = tune(database, FakeTimer({}), seconds=0)
    assert "seconds were over" in next(iter(report.skipped.values()))
    assert not report.rows
