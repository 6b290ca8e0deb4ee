"""Interleaved samples of contenders, with the GPU's clock, power and temperature meanwhile, and what the figures depend on."""

from __future__ import annotations

import datetime
import itertools
import re
import shutil
import statistics
import subprocess
import threading
from typing import Any

from cases import Case
from contenders import Contender, Dead


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
            except Dead as error:
                answer = {"error": str(error)}
            if "error" in answer:
                broken[name] = answer["error"]
                contenders[name].stop()
                continue
            samples.setdefault((name, protocol), []).extend(answer["samples"])
            conditions.setdefault((name, protocol), []).append(monitor.summary())
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
