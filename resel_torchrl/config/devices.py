"""What is wrong with the device, and with options that want one."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

__all__ = ["device_problems"]


def device_problems(value: Callable[[str], Any]) -> list[str]:
    """What is wrong with a device and what needs a GPU, beside the types.

    Args:
        value: From a dotted key to its value.

    >>> device_problems({"device": "cpu", "train.cudagraph": True}.get)
    ['train.cudagraph: expected false with device=cpu, which has no CUDA graphs, got \
true; leave it out, or write device=cuda.']
    """
    device, problems = value("device"), []
    if not isinstance(device, str):
        return []
    if not re.fullmatch(r"cpu|cuda(:\d+)?", device):
        problems.append(
            f"device: expected cpu, cuda or cuda:NUMBER, got {device!r}; write "
            "device=cpu."
        )
    if device == "cpu" and value("train.cudagraph") is True:
        problems.append(
            "train.cudagraph: expected false with device=cpu, which has no CUDA "
            "graphs, got true; leave it out, or write device=cuda."
        )
    if value("train.parallel_passes") is True:
        if device == "cpu":
            problems.append(
                "train.parallel_passes: expected false with device=cpu, whose threads "
                "work on one pass, got true; leave it out, or write device=cuda."
            )
        if value("train.compile") is True:
            problems.append(
                "train.parallel_passes: expected false with train.compile=true, which "
                "makes one stream of each term, got true; leave one of them out."
            )
    return problems
