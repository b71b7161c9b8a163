"""Settings of the whole process, which a run's results do or do not depend on."""

from __future__ import annotations

import contextlib
import ctypes
import logging
import platform
from collections.abc import Iterator
from typing import Literal

import torch
from torchrl import torchrl_logger

__all__ = [
    "keep_freed_memory",
    "matmul_precision",
    "quiet_storages",
    "set_matmul_precision",
]

Precision = Literal["highest", "high", "medium"]


def set_matmul_precision(precision: Precision) -> None:
    """Set the precision of float32 matrix products, cuDNN's operations included.

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
    """Set the precision inside, and what it was before at the end.

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


# Of glibc's mallopt, number and value: blocks of up to 32 MiB (the most it takes) come
# from the heap, which grows by 64 MiB and never shrinks.
_OPTIONS = {-3: 32 << 20, -2: 64 << 20, -1: 2**31 - 1}


def keep_freed_memory() -> bool:
    """Have malloc keep freed pages for the process's next use, where glibc's is used.

    Every update needs the same memory as the one before. By itself glibc returns much
    of it to the system in between, which has to clear it page by page when it is asked
    for again: some twentieth of the time of an update on a CPU. The process then stays
    as large as it has been at its largest. Results do not change. The command `train`
    calls it; a program of one's own may.

    Returns:
        Whether the C library has this choice.

    >>> keep_freed_memory() in (True, False)
    True
    """
    if platform.libc_ver()[0] != "glibc":
        return False
    mallopt = ctypes.CDLL(None).mallopt
    return all([mallopt(option, value) for option, value in _OPTIONS.items()])


def quiet_storages() -> None:
    """Keep TorchRL from logging the shape of each new storage of a buffer.

    Its other messages stay.

    >>> from torchrl.data import LazyTensorStorage
    >>> quiet_storages()
    >>> LazyTensorStorage(3).set(0, torch.zeros(1))
    """
    torchrl_logger.addFilter(_is_no_storage_shape)


def _is_no_storage_shape(record: logging.LogRecord) -> bool:
    return not record.getMessage().startswith("Initialized Lazy")
