"""How matrices of float32 are multiplied."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Literal

import torch

__all__ = ["matmul_precision", "set_matmul_precision"]

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
