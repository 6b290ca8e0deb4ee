"""How ``sparseflow-benchmark`` times: interleaved, with a cold L2, between GPU events; and what the chip did meanwhile.

Every round goes once around all contenders, because clocks and power drift. Before each sample 256 MB are written, so that
neither X nor W is in a cache, and the host runs ahead of the GPU: its own work is hidden. Where it can be, a call is captured
as a CUDA graph and the graph is timed, so that a contender whose call is slow on the host is not blamed for its kernel.
"""

from __future__ import annotations

import contextlib
import shutil
import statistics
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

_FLUSH_BYTES = 256 << 20
_IDLE_SECONDS = 0.05  # before each burst, so that none begins with the heat of the one before


@dataclass(frozen=True)
class Timing:
    """Microseconds of one contender."""

    median: float
    p20: float
    p80: float
    samples: int

    @classmethod
    def of(cls, samples: list[float]) -> Timing:
        ordered = sorted(samples)

        def quantile(q: float) -> float:
            return ordered[min(len(ordered) - 1, round(q * (len(ordered) - 1)))]

        return cls(statistics.median(ordered), quantile(0.2), quantile(0.8), len(ordered))


class HostClock:
    """For programs that run in host memory: the emulator, PyTorch on a CPU. No cache is emptied."""

    def prepare(self, call: Callable[[], Any]) -> tuple[Callable[[], Any], str]:
        """The call to time, and how it is run."""
        call()
        return call, "call"

    def samples(self, call: Callable[[], Any], count: int) -> list[float]:
        """Microseconds of each of so many calls."""
        times = []
        for _ in range(count):
            begin = time.perf_counter()
            call()
            times.append(1e6 * (time.perf_counter() - begin))
        return times


class GpuClock:
    """For calls that enqueue work on PyTorch's current stream."""

    def __init__(self) -> None:
        import torch

        self._torch = torch
        self._flush = torch.empty(_FLUSH_BYTES // 4, dtype=torch.int32, device="cuda")

    def prepare(self, call: Callable[[], Any]) -> tuple[Callable[[], Any], str]:
        """A CUDA graph of the call, or the call itself where it cannot be captured."""
        torch = self._torch
        stream = torch.cuda.Stream()
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            for _ in range(3):
                call()
        torch.cuda.current_stream().wait_stream(stream)
        torch.cuda.synchronize()
        graph = torch.cuda.CUDAGraph()
        try:
            with torch.cuda.graph(graph):
                held = call()
        except RuntimeError:
            torch.cuda.synchronize()
            return call, "call, with the host's part"
        graph.replay()
        torch.cuda.synchronize()

        # What the graph reads and writes lives as long as it does.
        def replay(kept: Any = (call, held)) -> None:
            graph.replay()

        return replay, "CUDA graph"

    def samples(self, call: Callable[[], Any], count: int) -> list[float]:
        """Microseconds of each of so many calls, each with a cold L2."""
        torch = self._torch
        time.sleep(_IDLE_SECONDS)
        call()
        events = []
        for _ in range(count):
            self._flush.zero_()
            begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
            begin.record()
            call()
            end.record()
            events.append((begin, end))
        torch.cuda.synchronize()
        return [1000 * begin.elapsed_time(end) for begin, end in events]


Clock = HostClock | GpuClock


class Monitor:
    """SM clock, power and temperature of GPU 0 while something runs, by nvidia-smi; nothing where it is missing."""

    _FIELDS = ("clocks.sm", "power.draw", "temperature.gpu")

    def __init__(self) -> None:
        self._program = shutil.which("nvidia-smi")
        self._rows: list[list[float]] = []

    @contextlib.contextmanager
    def watching(self) -> Iterator[None]:
        """Samples until the end of the ``with`` statement."""
        if self._program is None:
            yield
            return
        query = [
            self._program,
            "-i",
            "0",
            f"--query-gpu={','.join(self._FIELDS)}",
            "--format=csv,noheader,nounits",
            "-lms",
            "50",
        ]
        process = subprocess.Popen(query, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
        reader = threading.Thread(target=self._read, args=(process,))
        reader.start()
        try:
            yield
        finally:
            process.terminate()
            process.wait()
            reader.join()

    def _read(self, process: subprocess.Popen[str]) -> None:
        assert process.stdout
        for line in process.stdout:
            with contextlib.suppress(ValueError):
                self._rows.append([float(cell) for cell in line.split(",")])
        process.stdout.close()

    def summary(self) -> dict[str, float]:
        """Medians over all that was watched."""
        names = ("sm_mhz", "watts", "celsius")
        if not self._rows:
            return {}
        return {
            name: round(statistics.median(column))
            for name, column in zip(names, zip(*self._rows, strict=True), strict=True)
        }


def interleaved(
    clock: Clock,
    calls: dict[str, Callable[[], Any]],
    iterations: int,
    rounds: int,
    progress: Callable[[str], None] = lambda name: None,
) -> dict[str, Timing]:
    """Times several calls in rounds that go around all of them."""
    samples: dict[str, list[float]] = {name: [] for name in calls}
    for _ in range(rounds):
        for name, call in calls.items():
            progress(name)
            samples[name] += clock.samples(call, iterations)
    return {name: Timing.of(times) for name, times in samples.items()}
