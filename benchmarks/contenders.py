"""Who is timed: a process each, told line by line what to do (rivals/harness.cuh), and the search for its best candidate."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from cases import Case

HERE = Path(__file__).resolve().parent
_ANSWER_SECONDS = 60


class Dead(Exception):
    """A contender's process ended."""


@dataclass
class Scan:
    """What a contender's candidates take, in microseconds, and which of them crashed."""

    count: int = 0
    times: dict[int, float] = field(default_factory=dict)
    crashed: list[int] = field(default_factory=list)
    error: str = ""

    def fastest(self, length: int) -> list[int]:
        return sorted(self.times, key=self.times.__getitem__)[:length]


@dataclass
class Contender:
    """A process that holds one product ready, started again after a crash."""

    name: str
    program: Path
    dtype: str | None = None  #: multiplies this one, whatever the case's dtype
    takes_default: bool = False  #: runs the candidate that it would take unasked, not the fastest
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
            # A line that a dead process did not take is of no use.
            with contextlib.suppress(BrokenPipeError):
                self.process.communicate()
            self.process = None

    def ask(self, command: str) -> dict[str, Any]:
        """The answer to one line; Dead if there is none. An answer with "error" is one."""
        if not self.process or not self.process.stdin:
            raise Dead(f"{self.name}: not running at '{command}'")
        try:
            self.process.stdin.write(command + "\n")
            self.process.stdin.flush()
        except BrokenPipeError:
            raise Dead(f"{self.name}: ended before '{command}'") from None
        return self._read()

    def _read(self) -> dict[str, Any]:
        assert self.process and self.process.stdout
        watchdog = threading.Timer(_ANSWER_SECONDS, self.process.kill)
        watchdog.start()
        line = self.process.stdout.readline()
        watchdog.cancel()
        if not line:
            raise Dead(f"{self.name}: ended with code {self.process.wait()}")
        answer = json.loads(line)
        if "fatal" in answer:
            raise Dead(f"{self.name}: {answer['fatal']}")
        return answer

    def product(self, case: Case) -> tuple[str, int, int, int]:
        """What it multiplies in this case: dtype, M, N, K."""
        return self.dtype or case.dtype, case.m, case.n, case.k

    def scan(self, case: Case, file: str, wanted: list[int] | None = None) -> Scan:
        """Roughly times the candidates, or those wanted, started again after each crash. Leaves the product open."""
        found = Scan()
        left = wanted
        dtype, m, n, k = self.product(case)
        while True:
            candidate = -1
            try:
                if self.process is None:
                    self.start()
                answer = self.ask(f"open {dtype} {m} {n} {k} {case.scales} {file}")
                if "error" in answer:
                    found.error = answer["error"]
                    return found
                found.count = answer["candidates"]
                if left is None:
                    left = [answer["default"]] if self.takes_default else list(range(found.count))
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

    def prepare(self, case: Case, file: str, wanted: list[int] | None = None) -> dict[str, Any]:
        """Opens the product and selects the fastest candidate: what it is, or why there is none."""
        found = self.scan(case, file, wanted)
        error = found.error or "no candidate works"
        for best in found.fastest(found.count):
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


#: The fastest few candidates of a contender's program for a product, and how they were found.
Shortlists = dict[tuple[Path, tuple[str, int, int, int]], tuple[list[int], Scan]]


class Scouts:
    """Look for each library's fastest few candidates, in processes of their own.

    A candidate's first use in a process loads or even compiles its kernel, which takes far longer than to time it. So there
    are several processes, which go on from product to product, and take turns on the GPU only to time.
    """

    def __init__(self, count: int, lock: Path, shortlist: int = 4) -> None:
        self._pool = ThreadPoolExecutor(count)
        self._own = threading.local()
        self._all: list[Contender] = []
        self._environment = {"SPARSEFLOW_BENCHMARK_LOCK": str(lock)}
        self._shortlist = shortlist
        self._jobs: dict[tuple[Path, tuple[str, int, int, int]], Future[tuple[list[int], Scan]]] = {}

    def __enter__(self) -> Scouts:
        return self

    def __exit__(self, *_: object) -> None:
        self._pool.shutdown(cancel_futures=True)
        for contender in self._all:
            contender.stop()

    def begin(self, cases: Iterable[Case], rivals: Iterable[Contender]) -> None:
        """Looks at these in the background. Who takes a default has no choice, so nothing is looked for."""
        rivals = [rival for rival in rivals if not rival.takes_default]
        for case in cases:
            for rival in rivals:
                key = rival.program, rival.product(case)
                if rival.name in case.rivals and key not in self._jobs:
                    self._jobs[key] = self._pool.submit(self._look, rival, case)

    def finish(self) -> Shortlists:
        """All that was found so far, when all that was begun is done."""
        return {key: job.result() for key, job in self._jobs.items()}

    def _look(self, rival: Contender, case: Case) -> tuple[list[int], Scan]:
        processes: dict[Path, Contender] = self._own.__dict__.setdefault("processes", {})
        if rival.program not in processes:
            processes[rival.program] = replace(rival, environment=self._environment, process=None)
            self._all.append(processes[rival.program])
        scout = processes[rival.program]
        scout.dtype = rival.dtype
        found = scout.scan(case, "-")
        try:
            scout.ask("close")
        except Dead:
            scout.stop()
        return found.fastest(self._shortlist), found


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
        built = {name: contender for name, contender in zip(names, pool.map(build, names), strict=True) if contender}
    if "cusparselt" in built:
        built["cusparselt default"] = replace(built["cusparselt"], name="cusparselt default", takes_default=True)
    if "cublaslt" in built:
        built["cublaslt f16"] = replace(built["cublaslt"], name="cublaslt f16", dtype="f16")
    return built
