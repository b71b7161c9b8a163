"""The selective scan as Numba kernels: fused over time, for a CPU."""

import math

import torch
from torch import Tensor

from resel_torchrl.ops._autograd import register_backward
from resel_torchrl.ops._numba import flat_rows, views
from resel_torchrl.ops._resets import any_requires_grad
from resel_torchrl.ops._threads import run_items
from resel_torchrl.ops.selective_scan._cpu_kernels import (
    CHANNELS,
    KEPT,
    backward,
    forward,
)


def selective_scan_cpu(
    x: Tensor,
    dt: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor,
    is_init: Tensor,
    state: Tensor,
    z: Tensor | None = None,
    dt_softplus: bool = False,
) -> tuple[Tensor, Tensor]:
    """Run :func:`~resel_torchrl.ops.selective_scan` in one pass over time, and back.

    An item of work is one row and 64 channels; results do not depend on the number of
    threads, which is PyTorch's. Parts of wider tensors are read where they lie. Beside
    its inputs the backward pass keeps every 16th state, ``L / 16 · R · D · N`` numbers,
    and makes the others again. It cannot be differentiated again. Made for float32;
    float64 works and is slow.
    """
    keep = any_requires_grad(x, dt, A, B, C, D, state, z)
    y, last, _ = _scan(x, dt, A, B, C, D, is_init, state, z, dt_softplus, keep)
    return y, last


@torch.library.custom_op("resel_torchrl::selective_scan_cpu", mutates_args=())
def _scan(
    x: Tensor,
    dt: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor,
    is_init: Tensor,
    state: Tensor,
    z: Tensor | None,
    dt_softplus: bool,
    keep: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    """Outputs, last state, and the kept states ``[⌈L / KEPT⌉, items, N, CHANNELS]``."""
    y, last, kept = _shapes(x, dt, A, B, C, D, is_init, state, z, dt_softplus, keep)
    run_items(
        x.shape[0] * _tiles(x),
        forward,
        *_rows(x, dt, B, C, z),
        *views(A * math.log2(math.e), D, is_init, state, y, last, kept),
        dt_softplus,
        keep,
    )
    return y, last, kept


@_scan.register_fake
def _shapes(x, dt, A, B, C, D, is_init, state, z, dt_softplus, keep):
    R, L, width = x.shape
    N = A.shape[1]
    kept = (-(-L // KEPT), R * _tiles(x), N, CHANNELS) if keep else (0, 0, 0, 0)
    return x.new_empty(x.shape), x.new_empty(R, width, N), x.new_empty(kept)


@torch.library.custom_op("resel_torchrl::selective_scan_cpu_backward", mutates_args=())
def _scan_backward(
    x: Tensor,
    dt: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor,
    is_init: Tensor,
    z: Tensor | None,
    kept: Tensor,
    grad_y: Tensor,
    grad_last: Tensor,
    dt_softplus: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Gradients of x, dt, A, B, C, D, the first state, and z (empty without one)."""
    (R, L, width), N = x.shape, A.shape[1]
    grad_x, grad_dt = x.new_empty(x.shape), x.new_empty(x.shape)
    grad_z = x.new_empty(x.shape if z is not None else (0, 0, 0))
    grad_A, grad_state = x.new_empty(R, width, N), x.new_empty(R, width, N)
    grad_D = x.new_empty(R, width)
    # Each tile of channels has its own share, added up below in a fixed order.
    grad_B, grad_C = x.new_empty(2, _tiles(x), R, L, N).unbind(0)
    run_items(
        R * _tiles(x),
        backward,
        *_rows(x, dt, B, C, z),
        *views(A, A * math.log2(math.e), D, is_init, kept, grad_y, grad_last),
        *views(grad_x, grad_dt, grad_A, grad_B, grad_C, grad_D, grad_state, grad_z),
        dt_softplus,
    )
    sums = grad_A.sum(0), grad_B.sum(0), grad_C.sum(0), grad_D.sum(0)
    return grad_x, grad_dt, *sums, grad_state, grad_z


@_scan_backward.register_fake
def _gradient_shapes(
    x, dt, A, B, C, D, is_init, z, kept, grad_y, grad_last, dt_softplus
):
    gate = x.new_empty(x.shape if z is not None else (0, 0, 0))
    like = (x, dt, A, B, C, D, grad_last)
    return (*(x.new_empty(tensor.shape) for tensor in like), gate)


def _save(inputs, output):
    *tensors, _state, z, dt_softplus, _keep = inputs
    return (*tensors, z, output[2]), dt_softplus


def _gradients(saved, dt_softplus, grad_y, grad_last):
    *first, grad_state, grad_z = _scan_backward(*saved, grad_y, grad_last, dt_softplus)
    gated = saved[-2] is not None
    return *first, None, grad_state, grad_z if gated else None, None, None


register_backward(_scan, _save, _gradients)


def _rows(*tensors: Tensor | None) -> list:
    """Memory and distance between steps of each; nothing of one that is absent."""
    absent = torch.empty(0, 0, 0, dtype=tensors[0].dtype)
    return [
        part
        for tensor in tensors
        for part in flat_rows(absent if tensor is None else tensor)
    ]


def _tiles(x: Tensor) -> int:
    return -(-x.shape[2] // CHANNELS)
