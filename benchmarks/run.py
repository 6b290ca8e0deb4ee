"""Times SparseFlow beside cuBLASLt and cuSPARSELt, in one run on one GPU. README.md says what is measured and how.

    python benchmarks/run.py --library build/lib --out figures.json [--suite full|quick] [--dtype f16 ...] [--config ...]

Needs a GPU, nvcc, the package sparseflow and, for what is compared, the two libraries (toolkit or Python packages).
"""

from __future__ import annotations

import argparse
import datetime
import itertools
import json
import os
import re
import shutil
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from report import PROTOCOLS, report

HERE = Path(__file__).resolve().parent

# (M, N, K). The eleven of the published guide, larger ones, layers of known models, and few tokens.
GUIDE = [(n, n, n) for n in (512, 1024, 2048, 4096)]
GUIDE += [(m, 4096, 4096) for m in (128, 512, 2048)]
GUIDE += [(m, 11008, 4096) for m in (512, 2048)] + [(m, 4096, 11008) for m in (512, 2048)]
LARGE = [(4096, 4096, 4096), (8192, 8192, 8192)]
LAYERS = [(2048, 22016, 4096), (2048, 57344, 8192), (4096, 6144, 1536), (4096, 1536, 6144), (4096, 1280, 1280)]
FEW = [(m, 4096, 4096) for m in (1, 16, 64, 256)] + [(m, 22016, 4096) for m in (16, 64, 128, 256)]
FEW += [(m, 4096, 11008) for m in (16, 64)]
SUITES = {
    "full": {
        "f16": [*LARGE, *GUIDE, *LAYERS, *FEW],
        "i8": [*LARGE, (2048, 4096, 4096), (512, 4096, 4096), *LAYERS, *FEW[1:3], *FEW[4:6]],
        "bf16": LARGE,
        "e4m3": LARGE[:1],
    },
    "quick": {"f16": [*LARGE, (512, 4096, 4096), (16, 4096, 4096)], "i8": LARGE, "bf16": LARGE[:1]},
    "rivals": {"f16": LARGE[:1], "i8": LARGE[:1], "bf16": LARGE[:1], "e4m3": LARGE[:1]},
}
# Power decides these, and each takes a second: only where it matters.
SUSTAINED = {*LARGE}


@dataclass
class Case:
    dtype: str
    m: int
    n: int
    k: int

    def __str__(self) -> str:
        return f"{self.dtype} {self.m}x{self.n}x{self.k}"

    def teraflops(self, microseconds: float) -> float:
        """Dense-equivalent."""
        return 2e-6 * self.m * self.n * self.k / microseconds


class Dead(Exception):
    """A contender's process ended."""


@dataclass
class Scan:
    """What a contender's candidates take, in microseconds, and which of them crashed."""

    count: int = 0
    times: dict[int, float] = field(default_factory=dict)
    crashed: list[int] = field(default_factory=list)
    error: str = ""


@dataclass
class Contender:
    """A process that holds one product ready, started again after a crash."""

    name: str
    program: Path
    environment: dict[str, str] = field(default_factory=dict)
    description: dict[str, Any] = field(default_factory=dict)
    process: subprocess.Popen[str] | None = None

    def start(self) -> None:
        self.stop()
        self.process = subprocess.Popen(
            [self.program], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=os.environ | self.environment
        )
        self.description = self._read()

    def stop(self) -> None:
        if self.process:
            self.process.kill()
            self.process.wait()
            self.process = None

    def ask(self, command: str) -> dict[str, Any]:
        """The answer to one line; Dead if there is none. An answer with "error" is one."""
        assert self.process and self.process.stdin
        try:
            self.process.stdin.write(command + "\n")
            self.process.stdin.flush()
        except BrokenPipeError:
            raise Dead(f"{self.name}: ended before '{command}'") from None
        return self._read()

    def _read(self) -> dict[str, Any]:
        assert self.process and self.process.stdout
        watchdog = threading.Timer(60, self.process.kill)
        watchdog.start()
        line = self.process.stdout.readline()
        watchdog.cancel()
        if not line:
            raise Dead(f"{self.name}: ended with code {self.process.wait()}")
        answer = json.loads(line)
        if "fatal" in answer:
            raise Dead(f"{self.name}: {answer['fatal']}")
        return answer

    def scan(self, case: Case, file: str, wanted: list[int] | None = None) -> Scan:
        """Roughly times the candidates, or those wanted, started again after each crash. Leaves the product open."""
        found = Scan()
        left = wanted
        while True:
            candidate = -1
            try:
                if self.process is None:
                    self.start()
                answer = self.ask(f"open {case.dtype} {case.m} {case.n} {case.k} {file}")
                if "error" in answer:
                    found.error = answer["error"]
                    return found
                found.count = answer["candidates"]
                left = list(range(found.count)) if left is None else left
                while left:
                    candidate = left[0]
                    left = left[1:]
                    answer = self.ask(f"try {candidate}")
                    if "us" in answer:
                        found.times[candidate] = answer["us"]
                    else:
                        found.error = answer["error"]
                return found
            except Dead as error:
                self.stop()
                found.error = str(error)
                if candidate < 0:
                    return found
                found.crashed.append(candidate)

    def shortlist(self, case: Case, length: int = 4) -> tuple[list[int], Scan]:
        """The fastest candidates, found in a process apart."""
        scout = Contender(self.name, self.program, self.environment)
        found = scout.scan(case, "-")
        scout.stop()
        return sorted(found.times, key=found.times.__getitem__)[:length], found

    def prepare(self, case: Case, file: str, wanted: list[int] | None = None) -> dict[str, Any]:
        """Opens the product and selects the fastest candidate: what it is, or why there is none."""
        found = self.scan(case, file, wanted)
        error = found.error or "no candidate works"
        for best in sorted(found.times, key=found.times.__getitem__):
            try:
                answer = self.ask(f"use {best}")
            except Dead as dead:
                self.stop()
                return {"error": str(dead)}
            # A candidate that fails now, or computes something else, is no candidate.
            if "error" not in answer and answer.get("relative_error", 0) < 0.02:
                return answer
            error = answer.get("error", f"a result with relative error {answer.get('relative_error')}")
        return {"error": error}


class Monitor:
    """Clocks, power and temperature while something runs, from NVML; nothing where it is missing."""

    def __init__(self) -> None:
        try:
            import pynvml

            pynvml.nvmlInit()
            self.nvml: Any = pynvml
            self.device = pynvml.nvmlDeviceGetHandleByIndex(0)
        except Exception:
            self.nvml = None

    def __enter__(self) -> Monitor:
        self.samples: list[tuple[float, float, float]] = []
        self.running = threading.Event()
        self.thread = threading.Thread(target=self._sample)
        self.thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.running.set()
        self.thread.join()

    def _sample(self) -> None:
        while self.nvml and not self.running.wait(0.02):
            nvml, device = self.nvml, self.device
            self.samples.append(
                (
                    nvml.nvmlDeviceGetClockInfo(device, nvml.NVML_CLOCK_SM),
                    nvml.nvmlDeviceGetPowerUsage(device) / 1e3,
                    nvml.nvmlDeviceGetTemperature(device, nvml.NVML_TEMPERATURE_GPU),
                )
            )

    def summary(self) -> dict[str, float]:
        """Of the second half, when the load has settled."""
        settled = self.samples[len(self.samples) // 2 :]
        if not settled:
            return {}
        return {
            name: round(statistics.median(column))
            for name, column in zip(("sm_mhz", "watts", "celsius"), zip(*settled, strict=True), strict=True)
        }


def build_contenders(folder: Path, library: Path, names: list[str]) -> dict[str, Contender]:
    """The contenders that can be built here, by name; those that cannot are reported and left out."""
    nvcc = shutil.which("nvcc") or "/usr/local/cuda/bin/nvcc"
    # Toolkit first; then the libraries' Python packages, whose shared objects have no unversioned name.
    roots = [Path(nvcc).resolve().parents[1], Path("/usr/local/cuda")]
    roots += [Path(entry) for path in sys.path for entry in sorted(Path(path or ".").glob("nvidia/*"))]
    includes = [root / "include" for root in roots if (root / "include").is_dir()]
    libraries = [root / name for root in roots for name in ("lib64", "lib") if (root / name).is_dir()]

    def find(stem: str) -> Path | None:
        return next((file for folder in libraries for file in sorted(folder.glob(f"{stem}.so*"))), None)

    needs = {
        "sparseflow": library / "libsparseflow.so",
        "cublaslt": find("libcublasLt"),
        "cusparselt": find("libcusparseLt"),
    }

    def build(name: str) -> Contender | None:
        needed = needs[name]
        if needed is None:
            print(f"{name}: no such library here, left out")
            return None
        command = [nvcc, "-std=c++17", "-O2", "-arch=native", HERE / "rivals" / f"{name}.cu", "-o", folder / name]
        command += [f"-I{path}" for path in [HERE.parent / "include", *includes]]
        command += [f"-Xlinker={needed}", f"-Xlinker=-rpath,{needed.parent}"]
        result = subprocess.run(list(map(str, command)), capture_output=True, text=True)
        if result.returncode:
            print(f"{name}: does not build here, left out\n{result.stdout}{result.stderr}")
            return None
        return Contender(name, folder / name)

    with ThreadPoolExecutor() as pool:
        return {name: contender for name, contender in zip(names, pool.map(build, names), strict=True) if contender}


def compile_program(
    path: str, dtype: str, n: int, k: int, config: str | None, checked_tokens: list[int]
) -> dict[str, Any]:
    """Compiles a product with a random 2:4 weight into a .sf file, and checks it at these token counts."""
    import numpy as np
    import torch

    import sparseflow as sf

    rng = np.random.default_rng(n * 31 + k)
    weight = rng.standard_normal((n, k), np.float32)
    graph = sf.Graph()
    x = graph.input("x", (None, k), dtype)
    if dtype == "i8":
        weight = sf.prune_24(np.clip(np.rint(32 * weight), -127, 127).astype(np.int8))
        graph.output(graph.matmul(x, weight, row_scale=1 / 256))
    else:
        weight = sf.prune_24(weight.astype(x.dtype.numpy))
        graph.output(graph.matmul(x, weight))
    begin = time.perf_counter()
    exe = sf.compile(graph, config=config, device="cuda", cache_dir="")
    seconds = time.perf_counter() - begin
    exe.save(path)

    reference = torch.from_numpy(weight.astype(np.float32)).cuda().double()
    worst = 0.0
    for m in checked_tokens:
        tokens = torch.randn(m, k, device="cuda")
        tokens = (
            (32 * tokens).round().clamp(-127, 127).to(torch.int8) if dtype == "i8" else tokens.to(_torch_dtype(dtype))
        )
        actual = exe(tokens)
        rows = torch.randperm(m, device="cuda")[:128]
        expected = tokens[rows].double() @ reference.T * (1 / 256 if dtype == "i8" else 1)
        error = (actual[rows].double() - expected).norm() / expected.norm()
        worst = max(worst, float("inf") if error.isnan() else error.item())
    return {"compile_seconds": round(seconds, 2), "relative_error": worst}


def _torch_dtype(name: str) -> Any:
    import torch

    return {"f16": torch.float16, "bf16": torch.bfloat16, "e4m3": torch.float8_e4m3fn}[name]


def quantile(samples: list[float], q: float) -> float:
    ordered = sorted(samples)
    return ordered[min(len(ordered) - 1, round(q * (len(ordered) - 1)))]


def measure(contenders: dict[str, Contender], case: Case, protocols: list[str], rounds: int) -> dict[str, Any]:
    """Samples of every contender, interleaved: each round goes once around all of them."""
    monitor = Monitor()
    samples: dict[tuple[str, str], list[float]] = {}
    conditions: dict[tuple[str, str], list[dict[str, float]]] = {}
    broken: dict[str, str] = {}
    for protocol in protocols:
        # A sustained run is many samples already, and heats the chip for the others: last and once.
        for _, name in itertools.product(range(1 if protocol == "sustained" else rounds), contenders):
            if name in broken:
                continue
            try:
                with monitor:
                    answer = contenders[name].ask(protocol)
                samples.setdefault((name, protocol), []).extend(answer["samples"])
                conditions.setdefault((name, protocol), []).append(monitor.summary())
            except (Dead, KeyError) as error:
                broken[name] = str(error)
                contenders[name].stop()
    results: dict[str, Any] = {name: {"error": text} for name, text in broken.items()}
    for (name, protocol), values in samples.items():
        median = statistics.median(values)
        results.setdefault(name, {})[protocol] = {
            "us": round(median, 2),
            "us_p20": round(quantile(values, 0.2), 2),
            "us_p80": round(quantile(values, 0.8), 2),
            "tflops": round(case.teraflops(median), 1),
            **conditions[name, protocol][-1],
        }
    return results


def environment() -> dict[str, Any]:
    """What the figures depend on."""

    def output(*command: str) -> str:
        try:
            return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
        except (OSError, subprocess.CalledProcessError):
            return ""

    fields = "name,driver_version,memory.total,power.limit,clocks.max.sm,clocks.max.mem"
    values = output("nvidia-smi", f"--query-gpu={fields}", "--format=csv,noheader", "-i", "0").split(", ")
    ptxas = output(shutil.which("ptxas") or "/usr/local/cuda/bin/ptxas", "--version")
    release = re.search(r"V([\d.]+)", ptxas)
    return {
        "date": datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%d"),
        "gpu": dict(zip(fields.split(","), values, strict=False)),
        "ptxas": release[1] if release else None,
    }


def read_options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--library", type=Path, default="build/lib", help="folder with libsparseflow.so")
    parser.add_argument("--out", type=Path, required=True, help="JSON file to write")
    parser.add_argument("--suite", choices=SUITES, default="full")
    parser.add_argument("--dtype", nargs="*", help="only these dtypes")
    parser.add_argument("--shape", nargs="*", metavar="MxNxK", help="these shapes instead of the suite's")
    parser.add_argument("--protocol", nargs="*", choices=PROTOCOLS, default=list(PROTOCOLS))
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument(
        "--config", nargs="*", default=[], help="also time these kernel configurations, e.g. 'tile = 256x128x64, ...'"
    )
    parser.add_argument("--only", nargs="*", choices=("sparseflow", "cublaslt", "cusparselt"))
    return parser.parse_args()


def choose_cases(options: argparse.Namespace) -> list[Case]:
    suite = {key: shapes for key, shapes in SUITES[options.suite].items() if not options.dtype or key in options.dtype}
    if options.shape:
        chosen = [tuple(map(int, text.split("x"))) for text in options.shape]
        suite = dict.fromkeys(suite, chosen)
    return [Case(dtype, *shape) for dtype, shapes in suite.items() for shape in dict.fromkeys(shapes)]


#: What was compiled for a contender, a dtype, N and K: a file, or why there is none.
Programs = dict[tuple[str, str, int, int], dict[str, Any]]


def compile_programs(folder: Path, cases: list[Case], configs: dict[str, str | None]) -> Programs:
    """One program for all numbers of tokens of a product, several at a time."""
    programs: Programs = {}
    with ProcessPoolExecutor(max(1, min(8, (os.cpu_count() or 2) // 2))) as pool:
        jobs = {}
        for case, name in itertools.product(cases, configs):
            key = (name, case.dtype, case.n, case.k)
            if key not in jobs:
                tokens = sorted({other.m for other in cases if (name, other.dtype, other.n, other.k) == key})
                path = str(folder / f"{len(jobs)}.sf")
                jobs[key] = path, pool.submit(compile_program, path, *key[1:], configs[name], tokens)
        for key, (path, job) in jobs.items():
            try:
                programs[key] = {"file": path, **job.result()}
            except Exception as error:
                programs[key] = {"failure": f"{type(error).__name__}: {error}"}
    return programs


def scout(cases: list[Case], rivals: dict[str, Contender]) -> dict[tuple[str, int], Any]:
    """The libraries' fastest few candidates. They compile some when they are first used, which takes far longer than to
    time them: all are looked at in several processes at once, and these again, with the GPU to themselves."""
    with ThreadPoolExecutor(8) as pool:
        jobs = {(name, id(case)): pool.submit(rivals[name].shortlist, case) for case in cases for name in rivals}
        return {key: job.result() for key, job in jobs.items()}


def run_case(
    case: Case,
    contenders: dict[str, Contender],
    programs: Programs,
    shortlists: dict[tuple[str, int], Any],
    options: argparse.Namespace,
) -> dict[str, Any]:
    """What every contender took for one product, which is printed too."""
    results: dict[str, Any] = {}
    ready = {}
    for name, contender in contenders.items():
        program = programs.get((name, case.dtype, case.n, case.k), {"file": "-"})
        if "failure" in program:
            results[name] = {"error": program["failure"]}
            continue
        wanted = None
        if (name, id(case)) in shortlists:
            wanted, scan = shortlists[name, id(case)]
            results[name] = {"candidates": scan.count, "crashed": scan.crashed}
        answer = contender.prepare(case, program["file"], wanted)
        results.setdefault(name, {}).update({key: value for key, value in program.items() if key != "file"} | answer)
        if "error" in results[name]:
            print(f"{case}: {name}: {results[name]['error']}", flush=True)
        else:
            ready[name] = contender
    protocols = [p for p in options.protocol if p != "sustained" or (case.m, case.n, case.k) in SUSTAINED]
    for name, measured in measure(ready, case, protocols, options.rounds).items():
        results[name] |= measured
    summary = ", ".join(
        f"{name} {results[name][protocol]['tflops']:.0f}"
        for name, protocol in itertools.product(ready, protocols)
        if protocol in results[name]
    )
    print(f"{case}: TFLOPS {'/'.join(protocols)}: {summary}", flush=True)
    return {"dtype": case.dtype, "m": case.m, "n": case.n, "k": case.k, "results": results}


def main() -> int:
    options = read_options()
    cases = choose_cases(options)
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        document: dict[str, Any] = {"environment": environment(), "contenders": {}, "cases": []}
        contenders = build_contenders(
            folder, options.library.resolve(), options.only or ["sparseflow", "cublaslt", "cusparselt"]
        )
        rivals = {name: contender for name, contender in contenders.items() if name != "sparseflow"}
        # Ours once for the compiler's own choice, and once for each configuration asked for.
        configs: dict[str, str | None] = {"sparseflow": None} if "sparseflow" in contenders else {}
        if configs:
            for index, config in enumerate(options.config):
                name = f"sparseflow[{index}]"
                configs[name] = config
                contenders[name] = Contender(name, contenders["sparseflow"].program)

        programs = compile_programs(folder, cases, configs)
        shortlists = scout(cases, rivals)
        for case in cases:
            document["cases"].append(run_case(case, contenders, programs, shortlists, options))
            options.out.write_text(json.dumps(document, indent=1) + "\n")

        document["launch_overhead"] = launch_overhead(contenders, folder)
        for name, contender in contenders.items():
            document["contenders"][name] = contender.description | (
                {"config": configs[name]} if configs.get(name) else {}
            )
            contender.stop()
        options.out.write_text(json.dumps(document, indent=1) + "\n")
        print(report(document))
    return 0


def launch_overhead(contenders: dict[str, Contender], folder: Path) -> dict[str, float]:
    """Median host microseconds of one call of a product too small to keep the GPU busy."""
    case = Case("f16", 16, 256, 512)
    overheads = {}
    for name, contender in contenders.items():
        file = str(folder / "small.sf")
        if name.startswith("sparseflow["):
            continue
        try:
            if name == "sparseflow":
                compile_program(file, case.dtype, case.n, case.k, None, [case.m])
            if "samples" in (answer := contender.prepare(case, file) and contender.ask("calls")):
                overheads[name] = round(statistics.median(answer["samples"]), 2)
        except Exception as error:
            print(f"launch overhead of {name}: {error}")
    return overheads


if __name__ == "__main__":
    sys.exit(main())
