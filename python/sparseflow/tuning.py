"""Measures which configuration of a kernel is the fastest here, and keeps the answer for every later compile.

For each product and number of tokens, the cost model ranks the configurations, the best dozen are compiled in parallel, and those
that compile are timed in rounds that go around all of them; after each round those far behind are left out. The winner goes into
the tuning database, where `compile` looks first. A kernel serves any number of tokens, so each configuration is compiled once for a
product. docs/Tuning.md has the whole story.
"""

from __future__ import annotations

import json
import operator
import os
import re
import statistics
import tempfile
import time
import warnings
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import asdict, dataclass, replace
from typing import Any, Protocol

import numpy as np

from . import _sparseflow, dtypes, weights
from .errors import CompilerWarning, Error, InvalidArgumentError, UnsupportedError
from .executable import Executable, compile, devices, source_of, why_no_gpu
from .graph import Graph

#: How many configurations are compiled, if nobody says.
CANDIDATES = 12
_FAR_BEHIND = 1.3  # times the best: left out after a round
_ROUNDS = 3
_FIRST_SAMPLES, _MOST_SAMPLES = 3, 10
_MICROSECONDS_A_ROUND = 10_000  # of one candidate
_LIBRARY, _LIBRARY_CONFIG = "cublaslt", "#sf.library_config<cublaslt>"
_LIBRARIES_AHEAD = 4  # products; their weights are constants, of up to gigabytes
_SAME_SPEED = 1.02  # within noise: a range of tokens then shares its neighbour's kernel
_BLOCK = 4 * 262147  # elements; with a prime, so that columns of few weights line up
_SAME_RESULT = 0.01  # of the norm: the order of a sum, not another product


@dataclass(frozen=True)
class Product:
    """Y[M,N] = X[M,K] · W[N,K]ᵀ, any number of tokens M, as the tuning database knows it."""

    target: str  #: "sm_90a"; "" for what `tune` is asked for
    dtype: str  #: of X: "f16", "i8", "e4m3"
    features: int
    inner: int
    epilogue: str = "plain"  #: "plain", "gated" (two weights), or either and the bits moved for an element of Y
    weights: str = "sp24"  #: "sp24" or "dense"

    def __post_init__(self) -> None:
        """Raises InvalidArgumentError for what can be no product; sizes and dtypes may be NumPy's and the package's own."""
        for name in ("target", "epilogue", "weights"):
            if not isinstance(value := getattr(self, name), str):
                raise InvalidArgumentError(f"expected the {name} of a product as text, got {value!r}")
        object.__setattr__(self, "dtype", dtypes.dtype(self.dtype).name)
        for name in ("features", "inner"):
            object.__setattr__(self, name, _count(getattr(self, name), f"{name} of a product"))
        if self.inner % 4:
            raise InvalidArgumentError(f"expected inner of a product, K a multiple of 4, got {self.inner}")

    def __str__(self) -> str:
        return f"{self.dtype} {self.features}x{self.inner} {self.epilogue}"

    def key(self, tokens: int) -> tuple[str, str, str, str, int, int, int]:
        """What the library's functions take."""
        return self.target, self.dtype, self.weights, self.epilogue, self.features, self.inner, tokens

    def ranked(self, tokens: int, limit: int) -> list[tuple[str, float]]:
        """At most `limit` configurations with the microseconds that the cost model estimates, fastest first."""
        found = json.loads(_sparseflow.tuning_candidates(self.key(_count(tokens, "tokens")), _count(limit, "limit")))
        return [(each["config"], each["microseconds"]) for each in found]

    def graph(self, order: str) -> Graph:
        """The product as a function of x, its packed weights in an order, and what its epilogue takes.

        Without an order (""), the weights are constants in it, as products by a library want them. An 8-bit product takes a
        scale for each token and each feature. More than 16 bits for an element of Y are a residual. Raises UnsupportedError
        for an epilogue that no graph is known for.
        """
        kind, _, bits = self.epilogue.partition(", ")
        if kind not in ("plain", "gated") or bits not in ("", "32 bits"):
            raise UnsupportedError(
                f"expected an epilogue that can be tuned, plain or gated, with 16 or 32 bits, got '{self.epilogue}'"
            )
        element = dtypes.dtype(self.dtype)
        quantized = element.itemsize == 1
        graph = Graph("product")
        x = graph.input("x", (None, self.inner), element)
        shape, sparse = (self.features, self.inner), self.weights.startswith("sp24")
        weight, *gate = (
            graph.packed_weight(name, shape, element, sparse=sparse, order=order)
            if order
            else _random_24(shape, element)
            for name in (("weight", "gate") if kind == "gated" else ("weight",))
        )
        rows = graph.input("rows", (None, 1), dtypes.f32) if quantized else None
        columns = graph.input("columns", (self.features,), dtypes.f32) if quantized else None
        residual = graph.input("residual", (None, self.features), dtypes.f16) if bits else None
        product = graph.matmul(
            x,
            weight,
            gate=gate[0] if gate else None,
            activation="silu" if gate else None,
            row_scale=rows,
            feature_scale=columns,
            residual=residual,
            out_dtype=dtypes.f16,
            sparse=sparse,
        )
        graph.output(product)
        return graph


def _count(value: Any, what: str) -> int:
    """A number of at least 1 as the library takes it."""
    try:
        count = operator.index(value)
    except TypeError:
        count = 0
    if isinstance(value, bool) or not 1 <= count < 1 << 31:
        raise InvalidArgumentError(f"expected {what} of at least 1 and below 2^31, got {value!r}")
    return count


def _random_24(shape: tuple[int, int], element: dtypes.DType) -> np.ndarray:
    """A normal 2:4 weight whose elements repeat: drawing and pruning each would take longer than what is timed."""
    block = weights.prune_24(np.random.default_rng(0).standard_normal((1, _BLOCK), np.float32))
    if element is dtypes.i8:
        block = np.clip(np.rint(32 * block), -127, 127)
    return np.resize(block.astype(element.numpy), shape)


class Timer(Protocol):
    """Times executables of `Product.graph`, in an order. The tuner's own runs them on a GPU, through PyTorch."""

    def begin(self, product: Product, tokens: int, orders: Collection[str]) -> None:
        """Makes the operands that all candidates share, for up to so many tokens; weights in each packed order."""

    def result(self, executable: Executable, order: str, tokens: int) -> Any:
        """Runs once; what `difference` takes, valid until `begin`."""

    def difference(self, result: Any, other: Any) -> float:
        """‖a - b‖ / ‖b‖ of two results."""

    def samples(self, executable: Executable, order: str, tokens: int, count: int) -> list[float]:
        """Microseconds of each of so many calls, each with cold caches."""


def _open(database: str | os.PathLike[str] | None) -> Any:
    opened = _sparseflow.TuningDatabase(None if database is None else os.fsencode(database))
    for line in filter(None, opened.warnings.splitlines()):
        warnings.warn(line, CompilerWarning, stacklevel=3)
    return opened


class TuningReport:
    """What was measured: `rows`, one for each product and number of tokens, and ``str()``, a table."""

    def __init__(self, rows: list[dict[str, Any]], skipped: dict[str, str]):
        self.rows = rows
        self.skipped = skipped  #: products that could not be tuned, and why

    @property
    def data(self) -> dict[str, Any]:
        """All of it, for JSON."""
        return {"summary": self.summary, "rows": self.rows, "skipped": self.skipped}

    @property
    def summary(self) -> dict[str, Any]:
        """How far the cost model's own choice is behind: median and worst of time over tuned time."""
        ratios = sorted(row["model_us"] / row["us"] for row in self.rows)
        if not ratios:
            return {"choices": 0}
        return {
            "choices": len(ratios),
            "model_over_tuned_median": round(statistics.median(ratios), 4),
            "model_over_tuned_p90": round(ratios[int(0.9 * (len(ratios) - 1))], 4),
            "model_over_tuned_worst": round(ratios[-1], 4),
        }

    def __str__(self) -> str:
        from .tools import cli

        header = ("product", "tokens", "µs", "model µs", "cuBLASLt µs", "timed", "configuration")
        rows = [
            [f"{row['dtype']} {row['features']}x{row['inner']} {row['epilogue']}", row["tokens"], f"{row['us']:.1f}",
             f"{row['model_us']:.1f}", f"{row['library_us']:.1f}" if row["library_us"] else "", row["timed"], row["config"]]
            for row in self.rows
        ]  # fmt: skip
        lines = [cli.table(header, rows, "lrrrrrl")]
        if self.summary["choices"]:
            lines.append(
                f"the cost model's own choice takes {self.summary['model_over_tuned_median']:.3f} of the tuned time "
                f"(median of {self.summary['choices']}, worst {self.summary['model_over_tuned_worst']:.2f})"
            )
        lines += [f"{product} is left out: {reason}" for product, reason in self.skipped.items()]
        return "\n".join(lines)

    __repr__ = __str__


def buckets() -> list[int]:
    """The numbers of tokens that are told apart; each stands for those from the one before, the last for all larger ones."""
    found: list[int] = json.loads(_sparseflow.tuning_buckets())
    return found


def _bucket(tokens: int) -> int:
    known = buckets()
    return next((each for each in known if each >= tokens), known[-1])


def products_of(model: Any, target: str) -> list[Product]:
    """The products that a model's kernels for a target compute, each once. `model` as for `compile`."""
    executable = compile(model, target=target)
    found = json.loads(_sparseflow.tuning_products(executable._program, target))
    return [Product(**each) for each in found]


def gpu_target() -> str:
    """The chip of the first GPU, as the compiler names it. Raises UnsupportedError where there is none."""
    gpu = next((each for each in devices() if each.kind == "cuda"), None)
    if gpu is None:
        raise UnsupportedError(
            f"expected a GPU to tune for, got none ({why_no_gpu()}); the emulator's times say nothing of a GPU"
        )
    # What the compiler takes for that GPU when nothing is said.
    graph = Graph("probe")
    graph.output(graph.elementwise("relu", graph.input("x", (None, 8), dtypes.f16)))
    return str(compile(graph).targets[0])


def tune(
    model: Any,
    *,
    tokens: Sequence[int] | None = None,
    dtype: Any = dtypes.f16,
    epilogue: str = "plain",
    target: str | None = None,
    database: str | os.PathLike[str] | None = None,
    candidates: int = CANDIDATES,
    seconds: float | None = None,
    progress: Callable[[int, int, str], None] | None = None,
    workers: int | None = None,
    timer: Timer | None = None,
) -> TuningReport:
    """Times the best candidates of every product on this machine's GPU and records the fastest for later compiles.

    Args:
        model: what `compile` takes, or a list of weight shapes (N, K), or of `Product` (one without a target is of `target`).
        tokens: numbers of tokens, each rounded up to one of `buckets`; default: all of those.
        dtype: of X, for weight shapes. bf16 shares the entries of f16, e5m2 those of e4m3.
        epilogue: for weight shapes, see `Product`.
        target: the chip; default: that of the first GPU.
        database: path of the tuning database; default: tuning.sqlite in $SPARSEFLOW_CACHE_DIR, else in ~/.cache/sparseflow.
        candidates: how many of the cost model's best are compiled for a number of tokens.
        seconds: products that are not begun by then are left out; default: none are.
        progress: called with products done, their number, and what is worked on.
        workers: threads that compile; default: two fewer than there are processors.
        timer: what runs and times; default: the GPU, through PyTorch.

    Raises:
        UnsupportedError: without a GPU, or without PyTorch for its events.
        InvalidArgumentError: for shapes, tokens or dtypes that do not fit.
    """
    # What is wrong with what was asked for is said before a GPU is needed.
    candidates = _count(candidates, "candidates")
    counts = _token_counts(tokens)
    listed = [_product(each, dtype, epilogue) for each in model] if isinstance(model, (list, tuple)) else None
    if listed is None:
        source_of(model)
    elif not listed:
        raise InvalidArgumentError("expected at least one weight shape or product to tune, got none")
    workers = max(1, len(os.sched_getaffinity(0)) - 2) if workers is None else _count(workers, "workers")
    if timer is None:
        from .tools.kernel_timer import GpuTimer

        timer = GpuTimer()
    target = target or gpu_target()
    wanted = sorted({_bucket(each) for each in counts}, reverse=True)
    products = (
        products_of(model, target)
        if listed is None
        else [replace(each, target=each.target or target) for each in listed]
    )
    opened = _open(database)
    begin = time.monotonic()
    rows: list[dict[str, Any]] = []
    skipped: dict[str, str] = {}
    with (
        tempfile.TemporaryDirectory() as cache,  # thousands of kernels that nobody runs again are not for the user's
        _Compiling(workers, cache) as compiling,
    ):
        jobs = [_Job(product, wanted, candidates, compiling) for product in dict.fromkeys(products)]
        for done, job in enumerate(jobs):
            if seconds is not None and time.monotonic() - begin > seconds:
                skipped[str(job.product)] = f"{seconds:g} seconds were over"
                continue
            if progress:
                progress(done, len(jobs), str(job.product))
            try:
                for upcoming in jobs[done : done + _LIBRARIES_AHEAD]:
                    upcoming.begin_library()
                for row in job.measure(timer):
                    opened.record(job.product.key(row["tokens"]), row["config"], row["us"])
                    if row["library_us"]:
                        dense = replace(job.product, weights=_LIBRARY)
                        opened.record(dense.key(row["tokens"]), _LIBRARY_CONFIG, row["library_us"])
                    rows.append(row)
            except UnsupportedError as reason:
                skipped[str(job.product)] = str(reason)
    return TuningReport(rows, skipped)


def _token_counts(tokens: Any) -> list[int]:
    if tokens is None:
        return buckets()
    if not isinstance(tokens, Iterable) or isinstance(tokens, str) or not (given := list(tokens)):
        raise InvalidArgumentError(f"expected numbers of tokens such as [1, 256], got {tokens!r}")
    return [_count(each, "numbers of tokens") for each in given]


def _product(entry: Any, dtype: Any, epilogue: str) -> Product:
    """An entry of the list that `tune` takes."""
    if isinstance(entry, Product):
        return entry
    if not isinstance(entry, Sequence) or isinstance(entry, str) or len(entry) != 2:
        raise InvalidArgumentError(f"expected weight shapes (N, K) or products to tune, got {entry!r}")
    return Product("", dtype, entry[0], entry[1], epilogue)


class _Compiling:
    """Threads that compile, in the order of asking; compiling holds no lock of Python's."""

    def __init__(self, workers: int, cache: str):
        self._pool = ThreadPoolExecutor(workers, "compile")
        # Asked for late and needed soon, so not behind all kernels.
        self._libraries = ThreadPoolExecutor(2, "compile-library")
        self._cache = cache

    def __enter__(self) -> _Compiling:
        return self

    def __exit__(self, *error: object) -> None:
        for pool in (self._pool, self._libraries):
            pool.shutdown(wait=True, cancel_futures=True)

    def submit(self, product: Product, config: str) -> Future[Executable]:
        return self._pool.submit(self._compile, product, config)

    def submit_library(self, product: Product, kernel: str) -> Future[Executable]:
        """Dense products by the library; behind them a kernel that any program has to have, one of those that are tried."""
        return self._libraries.submit(self._compile_library, product, kernel)

    def _compile_library(self, product: Product, kernel: str) -> Executable:
        graph = product.graph("")
        text, count = re.subn(
            r"sf\.matmul %x(, %[\w.]+)+", rf"\g<0> {{configs = [{_LIBRARY_CONFIG}, {kernel}]}}", str(graph)
        )
        assert count == 1
        constants = graph.constants
        found: Executable = compile(text, target=product.target, constants=constants, tuning="", cache_dir=self._cache)
        return found

    def _compile(self, product: Product, config: str) -> Executable:
        graph = product.graph(order_of(config))
        found: Executable = compile(graph, target=product.target, config=config, tuning="", cache_dir=self._cache)
        return found


def order_of(config: str) -> str:
    """The packed order of the weights that a configuration's kernels read."""
    return "wgmma" if "wgmma" in config else "mma"


class _Job:
    """One product: its kernels on their way, then its measurements."""

    def __init__(self, product: Product, tokens: Sequence[int], candidates: int, compiling: _Compiling):
        self.product = product
        self._ranked = {each: product.ranked(each, candidates) for each in tokens}
        configs = dict.fromkeys(config for ranked in self._ranked.values() for config, _ in ranked)
        self._kernels = {config: compiling.submit(product, config) for config in configs}
        self._compiling = compiling
        self._library: Future[Executable] | None = None

    def begin_library(self) -> None:
        """Has the library's product compiled; the weight is made for it, so not before it is soon needed."""
        if self._library is None and self._kernels:
            self._library = self._compiling.submit_library(self.product, next(iter(self._kernels)))

    def measure(self, timer: Timer) -> Iterator[dict[str, Any]]:
        """A row for each number of tokens, from many to few. Raises UnsupportedError when no candidate compiles."""
        executables: dict[str, Executable] = {}
        reason = "the cost model knows no configuration for it"
        for config in list(self._kernels):
            try:
                executables[config] = self._kernels.pop(config).result()
            except Error as error:  # spilled registers, most often
                reason = str(error)
        if not executables:
            raise UnsupportedError(f"expected a configuration that compiles, got none: {reason}")
        timer.begin(self.product, max(self._ranked), dict.fromkeys(map(order_of, executables)))
        library = self._finished_library()
        neighbour = ""
        for tokens, ranked in self._ranked.items():
            row = self._choose(timer, tokens, ranked, executables, neighbour)
            row["library_us"] = _library_time(timer, library, tokens, row["us"])
            neighbour = row["config"]
            yield row

    def _finished_library(self) -> Executable | None:
        """None where the library has no such product."""
        if self._library is None:
            return None
        try:
            return self._library.result()
        except Error:
            return None
        finally:
            self._library = None

    def _choose(
        self,
        timer: Timer,
        tokens: int,
        ranked: list[tuple[str, float]],
        executables: dict[str, Executable],
        neighbour: str,
    ) -> dict[str, Any]:
        estimates = dict(ranked)
        configs = [config for config, _ in ranked if config in executables]
        if neighbour and neighbour not in configs:
            configs.append(neighbour)
        configs, wrong = _agreeing(timer, {config: executables[config] for config in configs}, tokens)
        times = _race(timer, {config: executables[config] for config in configs}, tokens)
        best = min(times, key=times.__getitem__)
        # Every variant is a kernel to compile and ship.
        if times.get(neighbour, float("inf")) <= _SAME_SPEED * times[best]:
            best = neighbour
        # What the cost model would have had: of those that compile, since the compiler passes over what spills too.
        model = next(config for config, _ in ranked if config in times)
        return asdict(self.product) | {
            "tokens": tokens,
            "config": best,
            "us": round(times[best], 3),
            "estimated_us": round(estimates.get(best, 0), 3) or None,
            "model_config": model,
            "model_us": round(times[model], 3),
            "timed": len(times),
            "wrong": wrong,
        }


def _library_time(timer: Timer, library: Executable | None, tokens: int, kernel: float) -> float | None:
    """Median microseconds of the dense product by the library; None where there is no library."""
    if library is None:
        return None
    try:
        library.warm_up(tokens)
        if not library.report(tokens=tokens).steps[-1]["path"].startswith("dense cublas"):
            return None
    except Error:  # the library takes no such product
        return None
    samples = timer.samples(library, "", tokens, _FIRST_SAMPLES)
    count = _sample_count(statistics.median(samples))
    for _ in range(_ROUNDS - 1 if statistics.median(samples) <= _FAR_BEHIND * kernel else 0):
        samples += timer.samples(library, "", tokens, count)
    return round(statistics.median(samples), 3)


def _sample_count(microseconds: float) -> int:
    return max(_FIRST_SAMPLES, min(_MOST_SAMPLES, int(_MICROSECONDS_A_ROUND / microseconds)))


def _agreeing(timer: Timer, executables: dict[str, Executable], tokens: int) -> tuple[list[str], list[str]]:
    """The configurations whose results agree, and those of a minority that computes something else."""
    first, *others = executables
    result = timer.result(executables[first], order_of(first), tokens)
    differing = [
        config
        for config in others
        if not timer.difference(timer.result(executables[config], order_of(config), tokens), result) <= _SAME_RESULT
    ]
    if 2 * len(differing) > len(executables):  # then the first is the odd one out
        return differing, [config for config in executables if config not in differing]
    return [config for config in executables if config not in differing], differing


def _race(timer: Timer, executables: dict[str, Executable], tokens: int) -> dict[str, float]:
    """Median microseconds of each configuration: in rounds, the next one among those that are not far behind."""
    samples: dict[str, list[float]] = {config: [] for config in executables}
    running, count = list(executables), _FIRST_SAMPLES
    for _ in range(_ROUNDS):
        for config in running:
            samples[config] += timer.samples(executables[config], order_of(config), tokens, count)
        medians = {config: statistics.median(samples[config]) for config in running}
        fastest = min(medians.values())
        running = [config for config in running if medians[config] <= _FAR_BEHIND * fastest]
        count = _sample_count(fastest)
    return {config: statistics.median(times) for config, times in samples.items()}
