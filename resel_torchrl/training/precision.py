"""How matrices of float32 are multiplied."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Iterator
from typing import Literal

import torch

__all__ = ["in_bfloat16", "matmul_precision", "set_matmul_precision"]

Precision = Literal["highest", "high", "medium"]


def set_matmul_precision(precision: Precision) -> None:
    """Sets it for the whole process, cuDNN's operations included.

    PyTorch by itself lets cuDNN use TF32, which keeps 10 bits of the 23 behind the
    point, wherever a GPU has it.

    Args:
        precision: `highest` for float32 throughout, `high` or `medium` as
            `torch.set_float32_matmul_precision` has them.

    >>> with matmul_precision("highest"):
    ...     set_matmul_precision("high")
    ...     torch.get_float32_matmul_precision(), torch.backends.cudnn.allow_tf32
    ('high', True)
    """
    torch.set_float32_matmul_precision(precision)
    torch.backends.cudnn.allow_tf32 = precision != "highest"


@contextlib.contextmanager
def matmul_precision(precision: Precision) -> Iterator[None]:
    """Sets it inside, and what it was before at the end.

    Args:
        precision: As of :func:`set_matmul_precision`.

    >>> with matmul_precision("high"):
    ...     torch.get_float32_matmul_precision()
    'high'
    """
    before = torch.get_float32_matmul_precision(), torch.backends.cudnn.allow_tf32
    set_matmul_precision(precision)
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before[0])
        torch.backends.cudnn.allow_tf32 = before[1]


def in_bfloat16(function: Callable, device_type: str) -> Callable:
    """Has a function's matrix products made in bfloat16, by :class:`torch.autocast`.

    Args:
        function: Of tensors.
        device_type: `cpu` or `cuda`.

    >>> def product():
    ...     return torch.ones(2, 2) @ torch.ones(2, 2)
    >>> product().dtype, in_bfloat16(product, "cpu")().dtype
    (torch.float32, torch.bfloat16)
    """

    @functools.wraps(function)
    def run(*arguments):
        # CUDA graphs allow no cache of cast weights, and few are met twice in a call.
        with torch.autocast(device_type, torch.bfloat16, cache_enabled=False):
            return function(*arguments)

    return run
