"""What all benchmarks share: a clock after a warm-up, and a number of threads."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator

import torch

__all__ = ["WARM_UP", "at_least_one", "check_device", "on_threads", "seconds_of"]

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
