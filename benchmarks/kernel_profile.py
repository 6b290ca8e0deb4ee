"""What holds the three main kernels up, from Nsight Compute: stalls by reason, and how busy tensor cores and memories are.

    python benchmarks/kernel_profile.py FOLDER

Needs a GPU and ncu. Prints a table and writes it to FOLDER as profile.json, beside all that ncu said (profile-*.csv).
Where ncu may not read the counters it says so, and that is no error. (Not named profile.py: Python has a module of that name.)
"""

from __future__ import annotations

import csv
import json
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from cases import Case, scales_of
from programs import compile_program

SHAPES = [("f16", 4096, 4096, 4096), ("i8", 4096, 4096, 4096), ("f16", 64, 4096, 11008)]
CASES = [Case(dtype, m, n, k, scales_of(dtype, "both")) for dtype, m, n, k in SHAPES]
_SECTIONS = (
    "SpeedOfLight",
    "WarpStateStats",
    "SchedulerStats",
    "ComputeWorkloadAnalysis",
    "MemoryWorkloadAnalysis",
    "LaunchStats",
)
#: Beside the sections, which leave these out; not every chip and version of ncu has them.
_METRICS = (
    "sm__pipe_tensor_cycles_active.avg.pct_of_peak_sustained_elapsed",
    "l1tex__data_bank_reads.avg.pct_of_peak_sustained_elapsed",
    "l1tex__data_bank_writes.avg.pct_of_peak_sustained_elapsed",
)
#: Rows of the table: the first pattern that is a metric's name, and of several metrics the largest.
_ROWS = {
    "time, µs": (r"gpu__time_duration\.(sum|avg)$",),
    "tensor cores, %": (
        r"sm__pipe_tensor\w*_cycles_active\.avg\.pct_of_peak",
        r"sm__inst_executed_pipe_tensor\w*\.avg\.pct_of_peak",
    ),
    "shared memory: bank reads, %": (
        r"l1tex__data_bank_reads\.avg\.pct_of_peak",
        r"l1tex__data_pipe_lsu_wavefronts\w*\.\w+\.pct",
    ),
    "shared memory: bank writes, %": (r"l1tex__data_bank_writes\.avg\.pct_of_peak",),
    "L2, %": (r"lts__throughput\.avg\.pct_of_peak", r"lts__t_sectors\.avg\.pct_of_peak"),
    "DRAM, %": (r"(gpu__)?dram__?throughput\.avg\.pct_of_peak",),
    "issue slots, %": (r"smsp?__issue_active\.avg\.pct_of_peak", r"sm__inst_issued\.avg\.pct_of_peak"),
    "warps a scheduler": (r"smsp__warps_active\.avg\.per_cycle_active$",),
    "registers a thread": (r"launch__registers_per_thread$",),
}
_STALL = re.compile(
    r"smsp__average_warps?_(?:latency_)?issue_stalled_(?!\w*not_issued)(\w+?)(?:_per_issue_active)?\.ratio$"
)
_MICROSECONDS = {"ns": 1e-3, "nsecond": 1e-3, "us": 1, "usecond": 1, "ms": 1e3, "msecond": 1e3}


def run_once(file: str, dtype: str, tokens: int, inner: int, scales: str) -> None:
    """Calls a program twice; the second call is what the profiler sees."""
    import torch

    import sparseflow as sf

    exe = sf.load(file, device="cuda")
    x = torch.randn(tokens, inner, device="cuda")
    inputs = [(32 * x).round().clamp(-127, 127).to(torch.int8) if dtype == "i8" else x.half()]
    if scales == "both":
        inputs.append(0.5 + torch.rand(tokens, 1, device="cuda"))
    exe(*inputs)
    torch.cuda.synchronize()
    torch.cuda.profiler.start()
    exe(*inputs)
    torch.cuda.synchronize()
    torch.cuda.profiler.stop()


def read_kernels(text: str) -> list[dict[str, Any]]:
    """The kernels in ncu's raw page as CSV: "Kernel Name" and a number for each metric; times in microseconds."""
    lines = text.splitlines()
    start = next((index for index, line in enumerate(lines) if line.startswith('"ID"')), None)
    if start is None:
        return []
    header, units, *rows = csv.reader(lines[start:])
    kernels = []
    for row in rows:
        kernel: dict[str, Any] = {}
        for name, unit, value in zip(header, units, row, strict=False):
            if name == "Kernel Name":
                kernel[name] = value
                continue
            try:
                kernel[name] = float(value.replace(",", "")) * _MICROSECONDS.get(unit, 1)
            except ValueError:
                continue
        if "Kernel Name" in kernel:
            kernels.append(kernel)
    return kernels


def summarize(kernel: dict[str, Any]) -> dict[str, float]:
    """The rows of the table that ncu had, and the stalls: warps that wait for a reason, on average when one issues."""
    found: dict[str, float] = {}
    for row, patterns in _ROWS.items():
        for pattern in patterns:
            values = [value for name, value in kernel.items() if re.match(pattern, name)]
            if values:
                found[row] = max(values)
                break
    for name, value in kernel.items():
        if match := _STALL.match(name):
            found[f"stalled: {match[1].replace('_', ' ')}"] = value
    return found


def table(columns: dict[str, dict[str, float]], least_stall: float = 0.05) -> str:
    """Markdown; stalls by the size of their largest, and only those that matter somewhere."""
    names = list(dict.fromkeys(name for column in columns.values() for name in column))
    largest = {name: max(column.get(name, 0) for column in columns.values()) for name in names}
    stalls = sorted(
        (n for n in names if n.startswith("stalled") and largest[n] >= least_stall), key=lambda n: -largest[n]
    )
    lines = ["| | " + " | ".join(columns) + " |", "|---|" + "---:|" * len(columns)]
    for name in [*(name for name in _ROWS if name in names), *stalls]:
        cells = [f"{column[name]:.3g}" if name in column else "–" for column in columns.values()]
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def profile(ncu: str, command: Iterable[str]) -> tuple[str, str]:
    """ncu's raw page of what the command does between the profiler's start and stop, and its complaints."""
    options = [ncu, "--csv", "--page", "raw", "--profile-from-start", "off", "--clock-control", "none"]
    options += [each for section in _SECTIONS for each in ("--section", section)]
    complaints = ""
    for extra in (["--metrics", ",".join(_METRICS)], []):
        result = subprocess.run([*options, *extra, *command], capture_output=True, text=True)
        if read_kernels(result.stdout) or "ERR_NVGPUCTRPERM" in result.stdout + result.stderr:
            return result.stdout, result.stdout + result.stderr
        complaints += result.stdout + result.stderr
    return "", complaints


def main() -> int:
    if len(sys.argv) > 2 and sys.argv[1] == "run":
        file, dtype, tokens, inner, scales = sys.argv[2:]
        run_once(file, dtype, int(tokens), int(inner), scales)
        return 0
    if len(sys.argv) != 2:
        print(__doc__, file=sys.stderr)
        return 2
    out = Path(sys.argv[1])
    ncu = shutil.which("ncu") or shutil.which("/usr/local/cuda/bin/ncu")
    if not ncu:
        print("No kernel was profiled: there is no ncu on PATH or in /usr/local/cuda/bin.")
        return 0
    out.mkdir(parents=True, exist_ok=True)
    columns: dict[str, dict[str, float]] = {}
    with tempfile.TemporaryDirectory() as folder:
        for index, case in enumerate(CASES):
            file = str(Path(folder, f"{index}.sf"))
            checked = compile_program(file, case.dtype, case.n, case.k, case.scales, None, [case.m])
            title = f"{case.dtype} {case.m},{case.n},{case.k}" + (", both scales" if case.scales == "both" else "")
            print(f"{title}: relative error {checked['relative_error']:.2g}", flush=True)
            run = [sys.executable, __file__, "run", file, case.dtype, str(case.m), str(case.k), case.scales]
            text, complaints = profile(ncu, run)
            if "ERR_NVGPUCTRPERM" in complaints:
                print(
                    "No kernel was profiled: the driver does not let this user read the GPU's counters (ERR_NVGPUCTRPERM)."
                )
                return 0
            Path(out, f"profile-{index}.csv").write_text(text or complaints)
            kernels = read_kernels(text)
            if not kernels:
                print(f"{title}: ncu gave no kernel:\n{complaints[-2000:]}")
            for kernel in kernels:
                name = title if len(kernels) == 1 else f"{title}: {kernel['Kernel Name']}"
                columns[name] = summarize(kernel)
    Path(out, "profile.json").write_text(json.dumps(columns, indent=1) + "\n")
    print(table(columns))
    return 0 if columns else 1


if __name__ == "__main__":
    sys.exit(main())
