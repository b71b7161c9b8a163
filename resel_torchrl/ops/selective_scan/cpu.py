"""The selective scan as Numba kernels: fused over time, for a CPU."""

import math

import numpy as np
import torch
from torch import Tensor

from resel_torchrl.ops._numba import exp2, kernel, materialized, views
from resel_torchrl.ops._resets import any_requires_grad
from resel_torchrl.ops._threads import run_items

# Channels that one item carries through time, so that their [N, W] states stay in a
# core's first caches. Loops over them ask for the length of an array: of a constant the
# compiler unrolls them before it thinks of vectors.
_W = 64
# Steps between two states that the forward pass keeps. The backward pass recomputes
# that many at a time: [K, N, W] decays and states, which fit into a second cache.
_K = 16


def selective_scan_cpu(
    x: Tensor,
    dt: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    is_init: Tensor,
    state: Tensor,
) -> tuple[Tensor, Tensor]:
    """The recurrence in one pass over time, with a backward pass that recomputes.

    Needs Numba (``pip install resel_torchrl[cpu]``), no compiler. An item of work is
    one row and 64 channels; results do not depend on the number of threads, which is
    PyTorch's. Every 16th state is kept for the backward pass, ``L / 16 · R · D · N``
    numbers, and nothing without gradients. The backward pass cannot be differentiated
    again. Made for float32; float64 works and is slow.

    Arguments and returns are those of
    :func:`~resel_torchrl.ops.selective_scan.selective_scan`, less skip and gate.

    Examples:
        >>> from resel_torchrl.ops.selective_scan.cpu import selective_scan_cpu
        >>> x, state = torch.ones(1, 2, 1), torch.zeros(1, 1, 1)
        >>> start = torch.tensor([[True, True]])
        >>> selective_scan_cpu(x, x, -x[0, :1], x, x, start, state)[0].flatten()
        tensor([1., 1.])
    """
    keep = any_requires_grad(x, dt, A, B, C, state)
    y, last, _ = _scan(x, dt, A, B, C, is_init, state, keep)
    return y, last


@torch.library.custom_op("resel_torchrl::selective_scan_cpu", mutates_args=())
def _scan(
    x: Tensor,
    dt: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    is_init: Tensor,
    state: Tensor,
    keep: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    """Outputs, last state, and the kept states ``[⌈L / K⌉, items, N, W]``."""
    y, last, kept = _scan_shapes(x, dt, A, B, C, is_init, state, keep)
    run_items(
        x.shape[0] * _tiles(x),
        _forward,
        *views(x, dt, A * math.log2(math.e), B, C, is_init, state),
        *views(y, last, kept),
        keep,
    )
    return y, last, kept


@_scan.register_fake
def _scan_shapes(x, dt, A, B, C, is_init, state, keep):
    R, L, D = x.shape
    kept = (-(-L // _K), R * _tiles(x), A.shape[1], _W) if keep else (0, 0, 0, 0)
    return x.new_empty(R, L, D), x.new_empty(R, D, A.shape[1]), x.new_empty(kept)


@torch.library.custom_op("resel_torchrl::selective_scan_cpu_backward", mutates_args=())
def _scan_backward(
    x: Tensor,
    dt: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    is_init: Tensor,
    kept: Tensor,
    grad_y: Tensor,
    grad_last: Tensor,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Gradients of x, dt, A, B, C and the first state."""
    (R, L, D), N = x.shape, A.shape[1]
    grad_x, grad_dt = x.new_empty(R, L, D), x.new_empty(R, L, D)
    grad_A, grad_state = x.new_empty(R, D, N), x.new_empty(R, D, N)
    # Each tile of channels has its own share, added up below in a fixed order.
    grad_B, grad_C = x.new_empty(2, _tiles(x), R, L, N).unbind(0)
    run_items(
        R * _tiles(x),
        _backward,
        *views(x, dt, A, A * math.log2(math.e), B, C, is_init, kept),
        *views(grad_y, grad_last),
        *views(grad_x, grad_dt, grad_A, grad_B, grad_C, grad_state),
    )
    return grad_x, grad_dt, grad_A.sum(0), grad_B.sum(0), grad_C.sum(0), grad_state


@_scan_backward.register_fake
def _gradient_shapes(x, dt, A, B, C, is_init, kept, grad_y, grad_last):
    like = (x, dt, A, B, C, grad_last)
    return tuple(x.new_empty(tensor.shape) for tensor in like)


def _save(ctx, inputs, output):
    *tensors, _state, _keep = inputs
    y, last, kept = output
    ctx.mark_non_differentiable(kept)
    ctx.set_materialize_grads(False)
    ctx.outputs = (y.shape, y.dtype), (last.shape, last.dtype)
    ctx.save_for_backward(*tensors, kept)


def _apply_backward(ctx, grad_y, grad_last, _):
    grad_y, grad_last = materialized(ctx, grad_y, grad_last)
    x, dt, A, B, C, is_init, kept = ctx.saved_tensors
    *gradients, grad_state = _scan_backward(
        x, dt, A, B, C, is_init, kept, grad_y, grad_last
    )
    return *gradients, None, grad_state, None


_scan.register_autograd(_apply_backward, setup_context=_save)


def _tiles(x: Tensor) -> int:
    return -(-x.shape[2] // _W)


@kernel
def _forward(first, last, x, dt, A, B, C, is_init, state, y, last_state, kept, keep):
    """Items ``first`` to ``last - 1``; ``A`` times log2(e)."""
    _, L, D = x.shape
    N = A.shape[1]
    tiles = (D + _W - 1) // _W
    a, h = np.zeros((N, _W), x.dtype), np.zeros((N, _W), x.dtype)
    step, u, out = (
        np.zeros(_W, x.dtype),
        np.zeros(_W, x.dtype),
        np.zeros(_W, x.dtype),
    )
    for item in range(first, last):
        r, channel = item // tiles, item % tiles * _W
        width = min(_W, D - channel)
        for n in range(N):
            for j in range(width):
                a[n, j] = A[channel + j, n]
                h[n, j] = state[r, channel + j, n]
        for t in range(L):
            if is_init[r, t]:
                h[:] = 0
            if keep and t % _K == 0:
                kept[t // _K, item] = h
            for j in range(width):
                step[j] = dt[r, t, channel + j]
                u[j] = step[j] * x[r, t, channel + j]
            out[:] = 0
            for n in range(N):
                b, c = B[r, t, n], C[r, t, n]
                for j in range(a.shape[1]):
                    new = exp2(step[j] * a[n, j]) * h[n, j] + u[j] * b
                    h[n, j] = new
                    out[j] += c * new
            for j in range(width):
                y[r, t, channel + j] = out[j]
        for n in range(N):
            for j in range(width):
                last_state[r, channel + j, n] = h[n, j]


@kernel
def _backward(
    first,
    last,
    x,
    dt,
    A,
    A_log2,
    B,
    C,
    is_init,
    kept,
    grad_y,
    grad_last,
    grad_x,
    grad_dt,
    grad_A,
    grad_B,
    grad_C,
    grad_state,
):
    """Items ``first`` to ``last - 1``, from the last step to the first."""
    _, L, D = x.shape
    N = A.shape[1]
    tiles = (D + _W - 1) // _W
    zero = x.dtype.type(0)
    # h[k] is the state before step k of a block, h[_K + 1] the zero after a reset.
    h, decay = np.zeros((_K + 2, N, _W), x.dtype), np.zeros((_K, N, _W), x.dtype)
    step, u = np.zeros((_K, _W), x.dtype), np.zeros((_K, _W), x.dtype)
    a, a_log2 = np.zeros((N, _W), x.dtype), np.zeros((N, _W), x.dtype)
    grad_h, grad_a = np.zeros((N, _W), x.dtype), np.zeros((N, _W), x.dtype)
    dy, grad_u = np.zeros(_W, x.dtype), np.zeros(_W, x.dtype)
    grad_step = np.zeros(_W, x.dtype)
    for item in range(first, last):
        r, tile = item // tiles, item % tiles
        channel = tile * _W
        width = min(_W, D - channel)
        a[:], a_log2[:], grad_h[:], grad_a[:] = 0, 0, 0, 0
        step[:], u[:], dy[:] = 0, 0, 0
        for n in range(N):
            for j in range(width):
                a[n, j] = A[channel + j, n]
                a_log2[n, j] = A_log2[channel + j, n]
                grad_h[n, j] = grad_last[r, channel + j, n]
        for block in range((L - 1) // _K, -1, -1):
            begin = block * _K
            steps = min(_K, L - begin)
            h[0] = kept[block, item]
            for k in range(steps):
                t = begin + k
                before = _K + 1 if is_init[r, t] else k
                for j in range(width):
                    step[k, j] = dt[r, t, channel + j]
                    u[k, j] = step[k, j] * x[r, t, channel + j]
                for n in range(N):
                    b = B[r, t, n]
                    for j in range(a.shape[1]):
                        e = exp2(step[k, j] * a_log2[n, j])
                        decay[k, n, j] = e
                        h[k + 1, n, j] = e * h[before, n, j] + u[k, j] * b
            for k in range(steps - 1, -1, -1):
                t = begin + k
                before = _K + 1 if is_init[r, t] else k
                for j in range(width):
                    dy[j] = grad_y[r, t, channel + j]
                grad_u[:], grad_step[:] = 0, 0
                for n in range(N):
                    b, c = B[r, t, n], C[r, t, n]
                    sum_B, sum_C = zero, zero
                    for j in range(a.shape[1]):
                        g = grad_h[n, j] + c * dy[j]
                        sum_C += dy[j] * h[k + 1, n, j]
                        sum_B += g * u[k, j]
                        grad_u[j] += g * b
                        g *= decay[k, n, j]
                        grad_h[n, j] = g
                        g *= h[before, n, j]  # now of the exponent dt · A
                        grad_step[j] += g * a[n, j]
                        grad_a[n, j] += g * step[k, j]
                    grad_B[tile, r, t, n] = sum_B
                    grad_C[tile, r, t, n] = sum_C
                if is_init[r, t]:
                    grad_h[:] = 0
                for j in range(width):
                    grad_x[r, t, channel + j] = grad_u[j] * step[k, j]
                    grad_dt[r, t, channel + j] = (
                        grad_step[j] + grad_u[j] * x[r, t, channel + j]
                    )
        for n in range(N):
            for j in range(width):
                grad_A[r, channel + j, n] = grad_a[n, j]
                grad_state[r, channel + j, n] = grad_h[n, j]
