"""The matrix products of a computation, recorded and repeated alone."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_map

__all__ = ["record_products"]

PRODUCTS = {
    op
    for packet in (
        torch.ops.aten.mm,
        torch.ops.aten.addmm,
        torch.ops.aten.addmm_,
        torch.ops.aten.bmm,
        torch.ops.aten.baddbmm,
    )
    for op in (getattr(packet, overload) for overload in packet.overloads())
}


class _Recorder(TorchDispatchMode):
    def __init__(self) -> None:
        super().__init__()
        self.calls: list[tuple[Callable, tuple]] = []

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple = (), kwargs: dict | None = None
    ) -> Any:
        if func in PRODUCTS and not kwargs:
            self.calls.append((func, tree_map(_like, args)))
        return func(*args, **(kwargs or {}))


def _like(value: Any) -> Any:
    """A tensor of the same shape, strides and device, of random numbers."""
    if not isinstance(value, Tensor):
        return value
    if 0 in value.stride():  # an expanded tensor: its memory is the smaller one's
        shape = [
            1 if stride == 0 else size
            for size, stride in zip(value.shape, value.stride(), strict=True)
        ]
        return torch.randn(shape, dtype=value.dtype, device=value.device).expand(
            value.shape
        )
    like = torch.empty_strided(
        value.shape, value.stride(), dtype=value.dtype, device=value.device
    )
    return like.normal_()


def record_products(run: Callable[[], object]) -> Callable[[], None]:
    """Runs a computation and returns one that makes its matrix products alone.

    Products of the same shapes and memory layouts, in the same order, on random
    numbers: a floor for the time of the whole. Counted are those that PyTorch hands to
    a library of matrix products; products within a kernel (a GRU's own over time) are
    not among them.

    Args:
        run: The computation, backward passes included; it is run once.

    Returns:
        A function that makes the products. It keeps an operand for each.

    >>> a, b = torch.ones(2, 3), torch.ones(3, 2)
    >>> products = record_products(lambda: (a @ b) @ a)
    >>> products()
    """
    recorder = _Recorder()
    with recorder:
        run()

    @torch.no_grad()
    def products() -> None:
        for function, arguments in recorder.calls:
            function(*arguments)

    products.calls = recorder.calls
    return products
