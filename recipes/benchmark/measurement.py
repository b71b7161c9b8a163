"""Rows of a benchmark, how their times are taken, and on which machine."""

from __future__ import annotations

import csv
import os
import platform
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass, fields
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import numpy as np
import torch
import torch.utils.benchmark

#: Calls before the timed ones.
WARM_UP = 3
PACKAGES = ("torchrl", "tensordict", "numba", "triton")

Call = Callable[[], object]


@dataclass(frozen=True)
class Measurement:
    """One quantity, measured several times; p10 and p90 are quantiles."""

    benchmark: str
    case: str
    quantity: str
    unit: str
    median: float
    p10: float
    p90: float
    repetitions: int
    threads: int

    @classmethod
    def of(
        cls,
        values: Sequence[float],
        *,
        benchmark: str,
        case: str,
        quantity: str,
        unit: str,
        threads: int,
    ) -> Measurement:
        """Summarise repetitions, one number each, in the unit."""
        if not len(values):
            raise ValueError("expected one value or more, got none; measure first.")
        p10, median, p90 = np.quantile(values, (0.1, 0.5, 0.9)).tolist()
        return cls(
            benchmark, case, quantity, unit, median, p10, p90, len(values), threads
        )


def seconds_of(
    call: Call, repetitions: int, device: str = "cpu", *, warm_up: int = WARM_UP
) -> list[float]:
    """Seconds of each repetition, after a warm-up; on a GPU until it has finished."""
    return seconds_in_turns([call], repetitions, device, warm_up=warm_up)[0]


def seconds_in_turns(
    calls: Sequence[Call], repetitions: int, device: str = "cpu", *, warm_up: int = 0
) -> list[list[float]]:
    """Seconds of each repetition of each call; they take turns."""
    on_gpu = torch.device(device).type == "cuda"
    clock = torch.utils.benchmark.timer if on_gpu else time.perf_counter
    for call in calls:
        for _ in range(warm_up):
            call()
    seconds: list[list[float]] = [[] for _ in calls]
    for _ in range(repetitions):
        for call, of_call in zip(calls, seconds, strict=True):
            start = clock()
            call()
            of_call.append(clock() - start)
    return seconds


def check_device(device: str) -> None:
    """Raise a ValueError if PyTorch does not see the device."""
    if torch.device(device).type == "cuda" and not torch.cuda.is_available():
        raise ValueError(
            f"device: expected one that PyTorch sees, got {device}; write device=cpu."
        )


def at_least_one(**values: int) -> None:
    """Raise a ValueError that names the first value below 1."""
    for name, value in values.items():
        if value < 1:
            raise ValueError(f"{name}: expected 1 or more, got {value}.")


def measurement_table(measurements: Iterable[Measurement]) -> str:
    """The rows as a Markdown table."""
    lines = [
        "| benchmark | case | quantity | median | 10–90 % | unit | repetitions | "
        "threads |",
        "|---|---|---|---|---|---|---|---|",
    ]
    lines += [
        f"| {m.benchmark} | {m.case} | {m.quantity} | {three_digits(m.median)} | "
        f"{three_digits(m.p10)}–{three_digits(m.p90)} | {m.unit} | {m.repetitions} | "
        f"{m.threads} |"
        for m in measurements
    ]
    return "\n".join(lines)


def write_measurements(
    path: str | Path,
    measurements: Iterable[Measurement],
    machine: dict[str, str] | None = None,
) -> None:
    """Write the rows as CSV, the machine (as :func:`describe_machine`) beside each."""
    machine = describe_machine() if machine is None else machine
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    columns = [entry.name for entry in fields(Measurement)] + list(machine)
    with open(path, "w", newline="", encoding="utf-8") as stream:
        writer = csv.DictWriter(stream, columns, lineterminator="\n")
        writer.writeheader()
        writer.writerows(asdict(m) | machine for m in measurements)


def three_digits(value: float) -> str:
    """Three digits, without an exponent."""
    if abs(value) >= 100:
        return f"{value:.0f}"
    return np.format_float_positional(
        value, precision=3, fractional=False, unique=False, trim="-"
    )


def describe_machine() -> dict[str, str]:
    """What a figure depends on beside the code; `none` stands for what is not there.

    The load is that of the last minute, well below 1 on an idle machine.
    """
    cores = os.cpu_count() or 1
    if hasattr(os, "sched_getaffinity"):
        cores = len(os.sched_getaffinity(0))
    load = f"{os.getloadavg()[0]:.1f}" if hasattr(os, "getloadavg") else "unknown"
    return {
        "cpu": _cpu_model(),
        "cores": str(cores),
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else "none",
        "system": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
        "torch": str(torch.__version__),
        **{name: _version(name) for name in PACKAGES},
        "load": load,
    }


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "none"


def _cpu_model() -> str:
    if sys.platform == "linux":
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            name, _, value = line.partition(":")
            if name.strip() == "model name":
                return value.strip()
    if sys.platform == "darwin":
        command = ["sysctl", "-n", "machdep.cpu.brand_string"]
        return subprocess.check_output(command, text=True).strip()
    return platform.processor() or platform.machine()
