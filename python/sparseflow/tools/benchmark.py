"""``sparseflow-benchmark``: SparseFlow's 2:4 products beside cuBLAS, cuSPARSELt and PyTorch's own, on this machine's GPU."""

from __future__ import annotations

import argparse
import datetime
import itertools
import shutil
import subprocess
import sys
from collections.abc import Callable, Sequence
from typing import Any

from .. import _sparseflow
from ..errors import Error, UnsupportedError
from ..executable import devices, why_no_gpu
from ..targets import targets
from . import cli, contenders, hardware, models, plot, timing
from .contenders import Case, Contender

NAME = "sparseflow-benchmark"
_EMULATOR = "; --device=emulator runs the same kernels on the CPU, whose times say nothing of a GPU"
# A result further from float64 is of another product.
_TOLERANCE = {"f16": 0.01, "bf16": 0.03, "int8": 0.02, "fp8": 0.06}


def parser() -> argparse.ArgumentParser:
    made = cli.parser(NAME, "Times products of 2:4 weights: interleaved, with cold caches, medians of many.")
    what = made.add_mutually_exclusive_group(required=True)
    what.add_argument(
        "--size", type=cli.sizes, metavar="NxK", help="weights, features x inner: 4096x4096, or several by comma"
    )
    what.add_argument("--model", help="the weights of a model: a built-in name or a config.json")
    made.add_argument("--tokens", type=cli.counts, default="1,16,256,4096", help="token counts (default 1,16,256,4096)")
    made.add_argument(
        "--dtype",
        type=cli.names(list(contenders.SCHEMES)),
        default="f16",
        help="f16, bf16, int8, fp8; several by comma",
    )
    made.add_argument(
        "--vs", type=cli.names(contenders.RIVALS), default=[], help="cublas, cusparselt, torch; several by comma"
    )
    made.add_argument("--iterations", type=cli.positive, default=20, help="timed calls in each round (default 20)")
    made.add_argument("--rounds", type=cli.positive, default=3, help="times around all contenders (default 3)")
    made.add_argument(
        "--device", choices=("auto", "cuda", "emulator"), default="auto", help="default: the GPU; the emulator is slow"
    )
    made.add_argument(
        "--target", choices=list(targets()), metavar="SM", help="compile for this chip (default: the device's own)"
    )
    made.add_argument(
        "--plot", type=cli.path, metavar="FILE", help="also write a picture: .html, or .png where matplotlib is"
    )
    return made


def main(arguments: Sequence[str] | None = None) -> int:
    """The entry point; returns the exit code."""
    options = parser().parse_args(arguments)
    return cli.run(NAME, lambda: _command(options))


def _command(options: argparse.Namespace) -> int:
    if options.plot:
        plot.check(options.plot)
    if options.model:
        linears = models.model_named(options.model).linears
        sizes = list(dict.fromkeys((linear.features, linear.inner) for linear in linears))
    else:
        sizes = options.size
    on_gpu = find_gpu(options.device, _EMULATOR)
    cases = [Case(scheme, m, n, k) for scheme, (n, k), m in itertools.product(options.dtype, sizes, options.tokens)]
    document = run_cases(
        cases, options.vs, on_gpu=on_gpu, target=options.target, iterations=options.iterations, rounds=options.rounds
    )
    if options.json:
        cli.print_json(document)
    else:
        print(text(document))
    if options.plot:  # what was measured is out by now, should the disk be full
        plot.write(document, options.plot)
        cli.note(f"{NAME}: wrote {options.plot}")
    wrong = [name for case in document["cases"] for name, result in case["results"].items() if result.get("wrong")]
    if wrong:
        raise cli.Failure(
            f"expected results near float64, got others from {', '.join(sorted(set(wrong)))}; see the table"
        )
    return cli.OK


def find_gpu(device: str, otherwise: str = "") -> bool:
    """Whether to run on the GPU. Raises UnsupportedError where there is none to be had, and nobody asked for the emulator;
    `otherwise` ends its sentence.
    """
    if device == "emulator":
        return False
    if not any(each.kind == "cuda" for each in devices()):
        raise UnsupportedError(f"expected a GPU to time, got none ({why_no_gpu()}){otherwise}")
    try:
        import torch
    except ImportError:
        raise UnsupportedError("expected PyTorch, whose events time the GPU, got none; pip install torch") from None
    if not torch.cuda.is_available():
        raise UnsupportedError(f"expected a PyTorch for CUDA, got {torch.__version__}; install one that sees the GPU")
    return True


def run_cases(
    cases: Sequence[Case],
    rivals: Sequence[str],
    *,
    on_gpu: bool,
    target: str | None = None,
    iterations: int = 20,
    rounds: int = 3,
) -> dict[str, Any]:
    """Times every case and returns the JSON of the command. A contender that cannot do a case says why in its place."""
    clock: timing.Clock = timing.GpuClock() if on_gpu else timing.HostClock()
    programs = contenders.Programs("cuda" if on_gpu else "emulator", target)
    table = hardware.load()
    about = environment(on_gpu)
    chip = _chip(table, about)
    progress = cli.Progress(len(cases), "products")
    rows = []
    for done, case in enumerate(cases):
        progress.show(done, f"{case}: making ready")
        x, w = contenders.operands(case)
        reference = contenders.Reference(x, w)
        results: dict[str, dict[str, Any]] = {}
        calls: dict[str, Callable[[], Any]] = {}
        for name in ("sparseflow", *rivals):
            try:
                contender = _contender(name, case, x, w, programs, on_gpu)
                error = reference.relative_error(contender)
                calls[name], how = clock.prepare(contender.call)
                results[name] = contender.about | {"timed_as": how, "relative_error": error}
                if not error <= _TOLERANCE[case.scheme]:
                    results[name]["wrong"] = True
            except UnsupportedError as reason:
                results[name] = {"unavailable": str(reason)}
            except RuntimeError as reason:  # of PyTorch, where a library refuses a shape or dtype
                if isinstance(reason, Error):
                    raise
                results[name] = {"unavailable": str(reason).splitlines()[0]}
        monitor = timing.Monitor()
        with monitor.watching():
            timings = timing.interleaved(
                clock,
                calls,
                iterations,
                rounds,
                lambda name, c=case, d=done: progress.show(d, f"{c}: {name}"),  # type: ignore[misc]
            )
        for name, found in timings.items():
            results[name] |= _figures(case, name, found, table, chip)
        rows.append(
            {"scheme": case.scheme, "m": case.m, "n": case.n, "k": case.k, "results": results} | monitor.summary()
        )
    progress.clear()
    return {"environment": about, "protocol": _protocol(on_gpu, iterations, rounds), "cases": rows}


def _contender(name: str, case: Case, x: Any, w: Any, programs: contenders.Programs, on_gpu: bool) -> Contender:
    if name == "sparseflow":
        return contenders.sparseflow(case, x, w, programs, on_gpu)
    return contenders.rival(name, case, x, w, on_gpu)


def _figures(
    case: Case, name: str, found: timing.Timing, table: hardware.KernelTable, chip: hardware.Chip | None
) -> dict[str, Any]:
    figures: dict[str, Any] = {
        "median_us": round(found.median, 2),
        "p20_us": round(found.p20, 2),
        "p80_us": round(found.p80, 2),
        "samples": found.samples,
        "tflops": _rounded(case.teraflops(found.median)),
        "tflops_p20": _rounded(case.teraflops(found.p20)),
        "tflops_p80": _rounded(case.teraflops(found.p80)),
    }
    precision = "f16" if case.scheme == "bf16" else case.scheme
    scheme = f"{'dense' if name == 'cublas' else 'sparse'}-{precision}"
    if chip and scheme in chip.teraflops:
        roof, memory_bound = table.roofline(chip, scheme, case.m, case.n, case.k)
        figures["roofline_share"] = round(roof / found.median, 3)
        figures["bound_by"] = "memory" if memory_bound else "compute"
    return figures


def _rounded(value: float) -> float:
    return float(f"{value:.4g}")


def _protocol(on_gpu: bool, iterations: int, rounds: int) -> str:
    samples = f"{rounds} rounds around all contenders, {iterations} calls each"
    if not on_gpu:
        return f"emulator and host, wall clock, {samples}: not the speed of a GPU"
    return f"GPU events, 256 MB written before each call, {samples}"


def _chip(table: hardware.KernelTable, about: dict[str, Any]) -> hardware.Chip | None:
    try:
        return table.chip(about.get("gpu") or "none")
    except Error:
        return None


def environment(on_gpu: bool) -> dict[str, Any]:
    """What the figures depend on."""
    about: dict[str, Any] = {
        "date": datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%d"),
        "sparseflow": _sparseflow.version(),
    }
    if "torch" in sys.modules:
        about["torch"] = sys.modules["torch"].__version__
    if on_gpu and (program := shutil.which("nvidia-smi")):
        fields = {
            "gpu": "name",
            "driver": "driver_version",
            "power_limit": "power.limit",
            "max_sm_clock": "clocks.max.sm",
        }
        query = [program, "-i", "0", f"--query-gpu={','.join(fields.values())}", "--format=csv,noheader"]
        result = subprocess.run(query, capture_output=True, text=True, check=False)
        if result.returncode == 0:
            about |= dict(zip(fields, result.stdout.strip().split(", "), strict=False))
    if not on_gpu:
        about["device"] = "emulator"
    return about


def text(document: dict[str, Any]) -> str:
    """The tables of a run."""
    about = ", ".join(f"{key} {value}" for key, value in document["environment"].items() if value)
    lines = [about, document["protocol"]]
    header = ("product", "contender", "median µs", "p20", "p80", "TFLOPS", "roofline", "vs sparseflow", "what ran")
    rows, reasons = [], dict[tuple[str, str], list[str]]()
    for case in document["cases"]:
        title = f"{case['scheme']} {case['m']}x{case['n']}x{case['k']}"
        ours = case["results"]["sparseflow"].get("median_us")
        for name, result in case["results"].items():
            if "unavailable" in result:
                reasons.setdefault((name, result["unavailable"]), []).append(title)
                continue
            share = f"{result['roofline_share']:.0%} of {result['bound_by']}" if "roofline_share" in result else ""
            ratio = f"{result['median_us'] / ours:.2f}x" if ours and name != "sparseflow" else ""
            ran = result.get("path") or result.get("library", "")
            if result.get("wrong"):
                ran += f", WRONG by {result['relative_error']:.1e}"
            rows.append(
                [title, name, f"{result['median_us']:.1f}", f"{result['p20_us']:.1f}", f"{result['p80_us']:.1f}",
                 f"{result['tflops']:.4g}", share, ratio, ran]
            )  # fmt: skip
    lines += ["", cli.table(header, rows, "llrrrrlrl")]
    for (name, reason), titles in reasons.items():
        where = "everywhere" if len(titles) == len(document["cases"]) else f"for {', '.join(titles)}"
        lines.append(f"{name} is left out {where}: {reason}")
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())
