"""The matrix products of a computation alone: a floor for the time of the whole."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_map

PRODUCTS = {
    getattr(packet, overload)
    for packet in (
        torch.ops.aten.mm,
        torch.ops.aten.addmm,
        torch.ops.aten.addmm_,
        torch.ops.aten.bmm,
        torch.ops.aten.baddbmm,
    )
    for overload in packet.overloads()
}


@dataclass(frozen=True)
class MatrixProducts:
    """Matrix products, function and arguments of each, to be made by a call."""

    calls: list[tuple[Callable, tuple]]

    @torch.no_grad()
    def __call__(self) -> None:
        """Make them, one after another."""
        for function, arguments in self.calls:
            function(*arguments)


def record_products(run: Callable[[], object]) -> MatrixProducts:
    """Run a computation once; return one that makes its matrix products alone.

    Products of the same shapes and memory layouts, in the same order, on random
    numbers. Counted are those that PyTorch hands to a library of matrix products, one
    by one where a recurrence in plain PyTorch makes one per step; products within a
    kernel of a recurrence are not among them.
    """
    recorder = _Recorder()
    with recorder:
        run()
    return MatrixProducts(recorder.calls)


class _Recorder(TorchDispatchMode):
    def __init__(self) -> None:
        super().__init__()
        self.calls: list[tuple[Callable, tuple]] = []
        self._operands: dict[tuple, Tensor] = {}

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple = (), kwargs: dict | None = None
    ) -> Any:
        if func in PRODUCTS and not kwargs:
            self.calls.append((func, tree_map(self._like, args)))
        return func(*args, **(kwargs or {}))

    def _like(self, value: Any) -> Any:
        """Random numbers of the same layout; one tensor serves all of a layout."""
        if not isinstance(value, Tensor):
            return value
        layout = value.shape, value.stride(), value.dtype, value.device
        if layout not in self._operands:
            self._operands[layout] = _random(*layout)
        return self._operands[layout]


def _random(
    shape: torch.Size, stride: tuple[int, ...], dtype: torch.dtype, device: torch.device
) -> Tensor:
    if 0 not in stride:
        return torch.empty_strided(shape, stride, dtype=dtype, device=device).normal_()
    # An expanded tensor: its memory is that of a smaller one.
    held = [1 if s == 0 else size for size, s in zip(shape, stride, strict=True)]
    return torch.randn(held, dtype=dtype, device=device).expand(shape)
