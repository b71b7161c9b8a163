"""How matrices of float32 are multiplied."""

from __future__ import annotations

from typing import Literal

import torch

__all__ = ["set_matmul_precision"]


def set_matmul_precision(precision: Literal["highest", "high", "medium"]) -> None:
    """Sets it for the whole process, cuDNN's operations included.

    PyTorch by itself lets cuDNN use TF32, which keeps 10 bits of the 23 behind the
    point, wherever a GPU has it.

    Args:
        precision: `highest` for float32 throughout, `high` or `medium` as
            `torch.set_float32_matmul_precision` has them.

    >>> set_matmul_precision("highest")
    >>> torch.get_float32_matmul_precision(), torch.backends.cudnn.allow_tf32
    ('highest', False)
    """
    torch.set_float32_matmul_precision(precision)
    torch.backends.cudnn.allow_tf32 = precision != "highest"
