"""Operations that compute in float32 where autocast would give them fewer bits."""

from __future__ import annotations

import functools
from collections.abc import Callable

import torch
from torch import Tensor

__all__ = ["in_full_precision"]


def in_full_precision(operation: Callable) -> Callable:
    """Run an operation outside of autocast, on float32 in place of lower types.

    A recurrence adds up what it rounds. Under :class:`torch.autocast` the products
    before it come in bfloat16; its own inputs, states and sums are float32 all the
    same. Elsewhere nothing is changed.

    Args:
        operation: of tensors on one device.
    """

    @functools.wraps(operation)
    def run(*arguments, **options):
        given = (*arguments, *options.values())
        device = next(v for v in given if isinstance(v, Tensor)).device.type
        if not (_has_autocast(device) and torch.is_autocast_enabled(device)):
            return operation(*arguments, **options)
        with torch.autocast(device, enabled=False):
            arguments = [_raised(value) for value in arguments]
            options = {name: _raised(value) for name, value in options.items()}
            return operation(*arguments, **options)

    return run


@torch.compiler.assume_constant_result  # PyTorch 2.11 cannot trace the question
def _has_autocast(device: str) -> bool:
    return torch.amp.is_autocast_available(device)


def _raised(value):
    lower = isinstance(value, Tensor) and value.dtype in (torch.bfloat16, torch.float16)
    return value.float() if lower else value
