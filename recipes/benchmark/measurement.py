"""Rows of a benchmark, the machine they were taken on, and how they are shown."""

from __future__ import annotations

import contextlib
import csv
import os
import platform
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, fields
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import numpy as np
import torch

__all__ = [
    "WARM_UP",
    "Measurement",
    "at_least_one",
    "check_device",
    "describe_machine",
    "measurement_table",
    "on_threads",
    "seconds_of",
    "write_measurements",
]


@dataclass(frozen=True)
class Measurement:
    """One quantity, measured several times.

    Attributes:
        benchmark: What was run: replay, update, acting, end_to_end,
            cores or operations.
        case: The sizes it was run at.
        quantity: What was measured.
        unit: Its unit.
        median: Median of the repetitions.
        p10: Their 10 % quantile.
        p90: Their 90 % quantile.
        repetitions: How many there were, warm-up apart.
        threads: CPU threads of PyTorch.

    >>> row = Measurement("acting", "gru", "one step", "ms", 0.512, 0.5, 0.6, 1000, 1)
    >>> row.median, row.unit
    (0.512, 'ms')
    """

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
        """Summarises repetitions.

        Args:
            values: One number per repetition, in the unit.
            benchmark: As the attribute.
            case: As the attribute.
            quantity: As the attribute.
            unit: As the attribute.
            threads: As the attribute.

        Raises:
            ValueError: If there is no value.

        >>> labels = dict(benchmark="replay", case="", quantity="sampling", unit="ms")
        >>> row = Measurement.of([3.0, 1.0, 2.0], **labels, threads=1)
        >>> row.median, row.p10, row.p90, row.repetitions
        (2.0, 1.2, 2.8, 3)
        """
        if not len(values):
            raise ValueError("expected one value or more, got none; measure first.")
        p10, median, p90 = np.quantile(values, (0.1, 0.5, 0.9)).tolist()
        return cls(
            benchmark, case, quantity, unit, median, p10, p90, len(values), threads
        )


_PACKAGES = ("torchrl", "tensordict", "numba", "triton")


def describe_machine() -> dict[str, str]:
    """What a figure depends on beside the code.

    Returns:
        Model of the CPU, logical cores that this process may use, the GPU, system,
        versions of Python, PyTorch (and its build), TorchRL, TensorDict, Numba and
        Triton, and the load: the runnable processes of the last minute, which is well
        below 1 on an idle machine. ``none`` stands for what is not there.

    >>> ", ".join(describe_machine())
    'cpu, cores, gpu, system, python, torch, torchrl, tensordict, numba, triton, load'
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
        **{name: _version(name) for name in _PACKAGES},
        "load": load,
    }


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "none"


def measurement_table(measurements: Iterable[Measurement]) -> str:
    """The rows as a Markdown table.

    Args:
        measurements: The rows.

    >>> row = Measurement("acting", "gru", "one step", "ms", 0.512, 0.5, 0.6, 1000, 1)
    >>> print(measurement_table([row]))
    | benchmark | case | quantity | median | 10–90 % | unit | repetitions | threads |
    |---|---|---|---|---|---|---|---|
    | acting | gru | one step | 0.512 | 0.5–0.6 | ms | 1000 | 1 |
    """
    lines = [
        "| benchmark | case | quantity | median | 10–90 % | unit | repetitions | "
        "threads |",
        "|---|---|---|---|---|---|---|---|",
    ]
    lines += [
        f"| {m.benchmark} | {m.case} | {m.quantity} | {_number(m.median)} | "
        f"{_number(m.p10)}–{_number(m.p90)} | {m.unit} | {m.repetitions} | "
        f"{m.threads} |"
        for m in measurements
    ]
    return "\n".join(lines)


def write_measurements(
    path: str | Path,
    measurements: Iterable[Measurement],
    machine: dict[str, str] | None = None,
) -> None:
    """Writes the rows as CSV, the machine beside each.

    Args:
        path: The file; its folder is made, an older file replaced.
        measurements: The rows.
        machine: As :func:`describe_machine` returns it; None asks it.

    >>> import tempfile
    >>> row = Measurement("acting", "gru", "one step", "ms", 0.512, 0.5, 0.6, 1000, 1)
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     write_measurements(f"{folder}/speed.csv", [row], {"cpu": "Z80"})
    ...     print(Path(f"{folder}/speed.csv").read_text())
    benchmark,case,quantity,unit,median,p10,p90,repetitions,threads,cpu
    acting,gru,one step,ms,0.512,0.5,0.6,1000,1,Z80
    <BLANKLINE>
    """
    machine = describe_machine() if machine is None else machine
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    columns = [entry.name for entry in fields(Measurement)] + list(machine)
    with open(path, "w", newline="", encoding="utf-8") as stream:
        writer = csv.DictWriter(stream, columns, lineterminator="\n")
        writer.writeheader()
        writer.writerows(asdict(m) | machine for m in measurements)


def _number(value: float) -> str:
    """Three digits, without an exponent."""
    if abs(value) >= 100:
        return f"{value:.0f}"
    return np.format_float_positional(
        value, precision=3, fractional=False, unique=False, trim="-"
    )


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


WARM_UP = 3


def seconds_of(
    call: Callable[[], object],
    repetitions: int,
    device: str = "cpu",
    *,
    warm_up: int = WARM_UP,
) -> list[float]:
    """Seconds of each repetition, after a warm-up; on a GPU until it has finished."""
    on_gpu = torch.device(device).type == "cuda"
    for _ in range(warm_up):
        call()
    seconds = []
    for _ in range(repetitions):
        if on_gpu:
            torch.cuda.synchronize(device)
        start = time.perf_counter()
        call()
        if on_gpu:
            torch.cuda.synchronize(device)
        seconds.append(time.perf_counter() - start)
    return seconds


@contextlib.contextmanager
def on_threads(count: int) -> Iterator[None]:
    """Lets PyTorch use so many CPU threads inside."""
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def check_device(device: str) -> None:
    """Raises a ValueError if PyTorch does not see the device."""
    if torch.device(device).type == "cuda" and not torch.cuda.is_available():
        raise ValueError(
            f"device: expected one that PyTorch sees, got {device}; write device=cpu."
        )


def at_least_one(**values: int) -> None:
    """Raises a ValueError that names the first value below 1."""
    for name, value in values.items():
        if value < 1:
            raise ValueError(f"{name}: expected 1 or more, got {value}.")
