"""Times SparseFlow beside cuBLASLt and cuSPARSELt, in one run on one GPU. README.md says what is measured and how.

    python benchmarks/run.py --library build/lib --out figures.json [--suite full|quick|targets] [--dtype f16 ...] [--config ...]
    python benchmarks/run.py --library build/lib --out random.json --random 200 [--seed 1] [--seconds 480] [--resume random.json]

Needs a GPU, nvcc, the package sparseflow and, for what is compared, the two libraries (toolkit or Python packages).
"""

from __future__ import annotations

import argparse
import itertools
import json
import multiprocessing
import os
import statistics
import sys
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

from cases import PROTOCOLS, SUITES, SUSTAINED, Case, Shape, random_cases, scales_of, suite_cases
from contenders import Contender, Scouts, Shortlists, build_contenders
from programs import Programs, compile_program, compile_programs, key_of
from report import report
from targets import target_cases
from timing import environment, measure
from traffic import INSTRUCTION_CEILING

from sparseflow.files import replacing

#: Cases that are compiled, looked at and then timed together: programs of more would fill a disk, and a run that ends early
#: would have compiled for nothing.
_BATCH = 40
#: What a suite is timed by unless told.
_SUITE_PROTOCOLS = {"targets": ["flushed", "sustained"], "random": ["flushed"]}


def shape_of(text: str) -> Shape:
    """M, N and K of what --shape takes."""
    try:
        m, n, k = map(int, text.split("x"))
    except ValueError:
        raise argparse.ArgumentTypeError(f"expected MxNxK, such as 64x4096x4096, got {text}") from None
    return m, n, k


def read_options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--library", type=Path, default="build/lib", help="folder with libsparseflow.so")
    parser.add_argument("--out", type=Path, required=True, help="JSON file to write")
    parser.add_argument("--suite", choices=(*SUITES, "targets"), default="full")
    parser.add_argument(
        "--random", type=int, metavar="COUNT", help="so many random shapes instead of a suite; f16 unless --dtype"
    )
    parser.add_argument("--seed", type=int, default=1, help="of --random")
    parser.add_argument("--dtype", nargs="*", choices=INSTRUCTION_CEILING, help="only these dtypes")
    parser.add_argument(
        "--shape", nargs="*", type=shape_of, metavar="MxNxK", help="these shapes instead of the suite's"
    )
    parser.add_argument(
        "--scales",
        choices=("both", "one"),
        default="both",
        help="of 8-bit results: a scale a feature and a token, or a constant",
    )
    parser.add_argument("--protocol", nargs="*", choices=PROTOCOLS)
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument(
        "--seconds", type=float, default=float("inf"), help="begins nothing after this, and writes what it has"
    )
    parser.add_argument(
        "--resume", type=Path, metavar="FILE", help="result of a run that ended early: goes on with the cases it lacks"
    )
    parser.add_argument(
        "--config", nargs="*", default=[], help="also time these kernel configurations, e.g. 'tile = 256x128x64, ...'"
    )
    parser.add_argument("--only", nargs="*", choices=("sparseflow", "cublaslt", "cusparselt"))
    return parser.parse_args()


def choose_cases(options: argparse.Namespace) -> list[Case]:
    if options.random:
        dtypes = options.dtype or ["f16"]
        return [case for dtype in dtypes for case in random_cases(options.random, options.seed, dtype, options.scales)]
    cases = target_cases(options.scales) if options.suite == "targets" else suite_cases(options.suite, options.scales)
    if options.shape:
        dtypes = dict.fromkeys(options.dtype or [case.dtype for case in cases])
        return [Case(dtype, *shape, scales_of(dtype, options.scales)) for dtype in dtypes for shape in options.shape]
    return [case for case in cases if not options.dtype or case.dtype in options.dtype]


def begin_document(options: argparse.Namespace) -> dict[str, Any]:
    """A result without cases, or that of an earlier run here; SystemExit when that was another suite or elsewhere."""
    document: dict[str, Any] = {"environment": environment(), "suite": "random" if options.random else options.suite}
    if options.random:
        document["random"] = {"count": options.random, "seed": options.seed}
    document |= {"contenders": {}, "cases": []}
    if options.resume is None:
        return document
    try:
        earlier = json.loads(options.resume.read_text())
    except (OSError, ValueError) as error:
        raise SystemExit(f"--resume: expected the result of an earlier run, got {options.resume}: {error}") from None

    def origin(of: dict[str, Any]) -> dict[str, Any]:
        where = {key: of["environment"].get(key) for key in ("gpu", "ptxas")}
        return where | {"suite": of["suite"], "seed": of.get("random", {}).get("seed")}

    if origin(earlier) != origin(document):
        raise SystemExit(f"--resume: expected a run of {origin(document)}, got one of {origin(earlier)}; begin anew")
    return document | {"environment": earlier["environment"], "cases": earlier["cases"]}


def is_measured(case: Case, document: dict[str, Any]) -> bool:
    wanted = {key: getattr(case, key) for key in ("dtype", "m", "n", "k", "scales")}
    return any(wanted.items() <= each.items() for each in document["cases"])


def run_case(
    case: Case,
    contenders: dict[str, Contender],
    programs: Programs,
    shortlists: Shortlists,
    protocols: list[str],
    rounds: int,
) -> dict[str, Any]:
    """What every contender took for one product, which is printed too."""
    results: dict[str, Any] = {}
    ready = {}
    for name, contender in contenders.items():
        is_ours = key_of(name, case) in programs
        if not is_ours and name not in case.rivals:
            continue
        program = programs.get(key_of(name, case), {"file": "-"})
        if "failure" in program:
            results[name] = {"error": program["failure"]}
            continue
        wanted = None
        if not contender.takes_default and (found := shortlists.get((contender.program, contender.product(case)))):
            shortlist, scan = found
            # Of none, whatever the reason, all are tried here.
            wanted = shortlist or None
            results[name] = {"candidates": scan.count, "crashed": scan.crashed}
        answer = contender.prepare(case, program["file"], wanted)
        results.setdefault(name, {}).update({key: value for key, value in program.items() if key != "file"} | answer)
        if "error" in results[name]:
            print(f"{case}: {name}: {results[name]['error']}", flush=True)
        else:
            ready[name] = contender
    protocols = [p for p in protocols if p != "sustained" or (case.m, case.n, case.k) in SUSTAINED]
    for name, measured in measure(ready, case, protocols, rounds).items():
        results[name] |= measured
    summary = ", ".join(
        f"{name} {results[name][protocol]['tflops']:.0f}"
        for name, protocol in itertools.product(ready, protocols)
        if protocol in results[name]
    )
    print(f"{case}: TFLOPS {'/'.join(protocols)}: {summary}", flush=True)
    return {
        "dtype": case.dtype,
        "m": case.m,
        "n": case.n,
        "k": case.k,
        "scales": case.scales,
        "results": results,
    }


def run_cases(
    cases: list[Case],
    contenders: dict[str, Contender],
    configs: dict[str, str | None],
    document: dict[str, Any],
    options: argparse.Namespace,
    deadline: float,
    folder: Path,
) -> None:
    """Compiles, looks for the libraries' candidates and times what was not, batch by batch, until all is done or time is over."""
    protocols = options.protocol or _SUITE_PROTOCOLS.get(document["suite"], list(PROTOCOLS))
    rivals = [contender for name, contender in contenders.items() if name not in configs]
    cores = os.cpu_count() or 2
    # Fresh processes: this one has threads, which a fork would not take along.
    compilers = ProcessPoolExecutor(max(1, min(8, cores // 2)), multiprocessing.get_context("spawn"))
    left = [case for case in cases if not is_measured(case, document)]
    with compilers, Scouts(max(1, min(8, cores // 2)), folder / "lock") as scouts:
        for batch in (left[i : i + _BATCH] for i in range(0, len(left), _BATCH)):
            if time.monotonic() > deadline:
                break
            begin = time.monotonic()
            scouts.begin(batch, rivals)
            programs = compile_programs(compilers, folder, batch, configs)
            compiled = time.monotonic()
            shortlists = scouts.finish()
            print(
                f"{len(batch)} cases: compiled after {compiled - begin:.0f} s, candidates found after "
                f"{time.monotonic() - begin:.0f} s",
                flush=True,
            )
            for case in batch:
                if time.monotonic() > deadline:
                    break
                document["cases"].append(run_case(case, contenders, programs, shortlists, protocols, options.rounds))
                write(document, options.out)
            for program in programs.values():
                Path(program.get("file", "-")).unlink(missing_ok=True)
    if len(document["cases"]) < len(cases):
        document["ended"] = f"after {options.seconds:.0f} s, with {len(document['cases'])} of {len(cases)} cases"


def write(document: dict[str, Any], path: Path) -> None:
    """The whole file or, when that fails, the one before."""
    with replacing(path) as partial:
        partial.write_text(json.dumps(document, indent=1) + "\n")


def launch_overhead(contenders: dict[str, Contender], configs: dict[str, str | None], folder: Path) -> dict[str, float]:
    """Median host microseconds of one call of a product too small to keep the GPU busy."""
    case = Case("f16", 16, 256, 512)
    overheads = {}
    for name, contender in contenders.items():
        file = str(folder / "small.sf")
        if configs.get(name) or (name not in configs and name not in ("cublaslt", "cusparselt")):
            continue
        try:
            if name in configs:
                compile_program(file, case.dtype, case.n, case.k, case.scales, None, [case.m])
            if "samples" in (answer := contender.prepare(case, file) and contender.ask("calls")):
                overheads[name] = round(statistics.median(answer["samples"]), 2)
        except Exception as error:
            print(f"launch overhead of {name}: {error}")
    return overheads


def main() -> int:
    options = read_options()
    deadline = time.monotonic() + options.seconds
    document = begin_document(options)
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        contenders = build_contenders(
            folder, options.library.resolve(), options.only or ["sparseflow", "cublaslt", "cusparselt"]
        )
        if not contenders:
            print("expected a contender that builds here, got none; nothing was timed or written", file=sys.stderr)
            return 1
        # Ours once for the compiler's own choice, and once for each configuration asked for.
        configs: dict[str, str | None] = {"sparseflow": None} if "sparseflow" in contenders else {}
        if configs:
            for index, config in enumerate(options.config):
                name = f"sparseflow[{index}]"
                configs[name] = config
                contenders[name] = Contender(name, contenders["sparseflow"].program)
        try:
            run_cases(choose_cases(options), contenders, configs, document, options, deadline, folder)
            if time.monotonic() < deadline:
                document["launch_overhead"] = launch_overhead(contenders, configs, folder)
        finally:
            for name, contender in contenders.items():
                if contender.description:
                    document["contenders"][name] = contender.description | (
                        {"config": configs[name]} if configs.get(name) else {}
                    )
                contender.stop()
            write(document, options.out)
        print(report(document))
    return 0


if __name__ == "__main__":
    sys.exit(main())
