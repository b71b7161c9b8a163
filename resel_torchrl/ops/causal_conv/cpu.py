"""The causal convolution as Numba kernels: one pass over time, for a CPU."""

import numpy as np
import torch
from torch import Tensor

from resel_torchrl.ops._numba import kernel, materialized, views
from resel_torchrl.ops._threads import run_items

# Channels that one item carries through time. Loops over them ask for the length of an
# array: of a constant the compiler unrolls them before it thinks of vectors.
_W = 64


def causal_conv_cpu(
    x: Tensor, weight: Tensor, bias: Tensor, is_init: Tensor, state: Tensor
) -> tuple[Tensor, Tensor]:
    """The convolution in one pass over the inputs; needs Numba, no compiler.

    Keeps its inputs for the backward pass, which cannot be differentiated again.
    Results do not depend on the number of threads, which is PyTorch's. Arguments and
    returns are those of :func:`~resel_torchrl.ops.causal_conv.causal_conv`.

    Examples:
        >>> from resel_torchrl.ops.causal_conv.cpu import causal_conv_cpu
        >>> x, is_init = torch.ones(1, 4, 1), torch.tensor([[True, False, True, False]])
        >>> y, state = causal_conv_cpu(
        ...     x, torch.ones(1, 3), torch.zeros(1), is_init, torch.ones(1, 1, 2)
        ... )
        >>> y.flatten(), state.flatten()
        (tensor([1., 2., 1., 2.]), tensor([1., 1.]))
    """
    return _conv(x, weight, bias, is_init, state)


@torch.library.custom_op("resel_torchrl::causal_conv_cpu", mutates_args=())
def _conv(
    x: Tensor, weight: Tensor, bias: Tensor, is_init: Tensor, state: Tensor
) -> tuple[Tensor, Tensor]:
    y, last = _conv_shapes(x, weight, bias, is_init, state)
    run_items(
        x.shape[0] * -(-x.shape[2] // _W),
        _forward,
        *views(x, weight.t(), bias, is_init, state.mT),
        *views(y),
        rows := last.new_empty(last.mT.shape).numpy(),
    )
    last.copy_(torch.from_numpy(rows).mT)
    return y, last


@_conv.register_fake
def _conv_shapes(x, weight, bias, is_init, state):
    return x.new_empty(x.shape), x.new_empty(state.shape)


@torch.library.custom_op("resel_torchrl::causal_conv_cpu_backward", mutates_args=())
def _conv_backward(
    x: Tensor,
    weight: Tensor,
    is_init: Tensor,
    state: Tensor,
    grad_y: Tensor,
    grad_last: Tensor,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Gradients of x, weight, bias and the first state."""
    (R, _, D), K = x.shape, weight.shape[1]
    grad_x, grad_state = x.new_empty(x.shape), x.new_empty(R, K - 1, D)
    # Each row has its own share, added up below in a fixed order.
    grad_weight, grad_bias = x.new_empty(R, K, D), x.new_empty(R, D)
    run_items(
        R * -(-D // _W),
        _backward,
        *views(x, weight.t(), is_init, state.mT, grad_y, grad_last.mT),
        *views(grad_x, grad_weight, grad_bias, grad_state),
    )
    return (
        grad_x,
        grad_weight.sum(0).t().contiguous(),
        grad_bias.sum(0),
        grad_state.mT.contiguous(),
    )


@_conv_backward.register_fake
def _gradient_shapes(x, weight, is_init, state, grad_y, grad_last):
    return (
        x.new_empty(x.shape),
        x.new_empty(weight.shape),
        x.new_empty(x.shape[2]),
        x.new_empty(state.shape),
    )


def _save(ctx, inputs, output):
    x, weight, _bias, is_init, state = inputs
    ctx.set_materialize_grads(False)
    ctx.outputs = [(tensor.shape, tensor.dtype) for tensor in output]
    ctx.save_for_backward(x, weight, is_init, state)


def _apply_backward(ctx, grad_y, grad_last):
    grad_y, grad_last = materialized(ctx, grad_y, grad_last)
    grad_x, grad_weight, grad_bias, grad_state = _conv_backward(
        *ctx.saved_tensors, grad_y, grad_last
    )
    return grad_x, grad_weight, grad_bias, None, grad_state


_conv.register_autograd(_apply_backward, setup_context=_save)


@kernel
def _forward(first, last, x, weight, bias, is_init, state, y, last_state):
    """Items ``first`` to ``last - 1``; taps and states have their channels last."""
    _, L, D = x.shape
    K = weight.shape[0]
    tiles = (D + _W - 1) // _W
    zero = x.dtype.type(0)
    inputs = np.zeros((K - 1 + L, _W), x.dtype)  # the state in front
    taps, sums = np.zeros((K, _W), x.dtype), np.zeros(_W, x.dtype)
    for item in range(first, last):
        r, channel = item // tiles, item % tiles * _W
        width = min(_W, D - channel)
        for j in range(width):
            for k in range(K):
                taps[k, j] = weight[k, channel + j]
        for s in range(K - 1):
            for j in range(width):
                inputs[s, j] = state[r, s, channel + j]
        for t in range(L):
            for j in range(width):
                inputs[K - 1 + t, j] = x[r, t, channel + j]
        reach = K - 1  # how many earlier inputs belong to the episode
        for t in range(L):
            reach = 0 if is_init[r, t] else min(reach + 1, K - 1)
            sums[:] = 0
            for k in range(K - 1 - reach, K):
                for j in range(len(sums)):
                    sums[j] += taps[k, j] * inputs[t + k, j]
            for j in range(width):
                y[r, t, channel + j] = sums[j] + bias[channel + j]
        for s in range(K - 1):
            own = s >= K - 2 - reach
            for j in range(width):
                last_state[r, s, channel + j] = inputs[L + s, j] if own else zero


@kernel
def _backward(
    first,
    last,
    x,
    weight,
    is_init,
    state,
    grad_y,
    grad_last,
    grad_x,
    grad_weight,
    grad_bias,
    grad_state,
):
    """Items ``first`` to ``last - 1``."""
    _, L, D = x.shape
    K = weight.shape[0]
    tiles = (D + _W - 1) // _W
    inputs, grad_inputs = (
        np.zeros((K - 1 + L, _W), x.dtype),
        np.zeros((K - 1 + L, _W), x.dtype),
    )
    taps, grad_taps = np.zeros((K, _W), x.dtype), np.zeros((K, _W), x.dtype)
    dy, sums = np.zeros(_W, x.dtype), np.zeros(_W, x.dtype)
    for item in range(first, last):
        r, channel = item // tiles, item % tiles * _W
        width = min(_W, D - channel)
        grad_inputs[:], grad_taps[:], sums[:], dy[:] = 0, 0, 0, 0
        for j in range(width):
            for k in range(K):
                taps[k, j] = weight[k, channel + j]
        for s in range(K - 1):
            for j in range(width):
                inputs[s, j] = state[r, s, channel + j]
        for t in range(L):
            for j in range(width):
                inputs[K - 1 + t, j] = x[r, t, channel + j]
        reach = K - 1
        for t in range(L):
            reach = 0 if is_init[r, t] else min(reach + 1, K - 1)
            for j in range(width):
                dy[j] = grad_y[r, t, channel + j]
            for j in range(len(sums)):
                sums[j] += dy[j]
            for k in range(K - 1 - reach, K):
                for j in range(len(sums)):
                    grad_inputs[t + k, j] += taps[k, j] * dy[j]
                    grad_taps[k, j] += inputs[t + k, j] * dy[j]
        for s in range(max(K - 2 - reach, 0), K - 1):
            for j in range(width):
                grad_inputs[L + s, j] += grad_last[r, s, channel + j]
        for s in range(K - 1):
            for j in range(width):
                grad_state[r, s, channel + j] = grad_inputs[s, j]
        for t in range(L):
            for j in range(width):
                grad_x[r, t, channel + j] = grad_inputs[K - 1 + t, j]
        for j in range(width):
            grad_bias[r, channel + j] = sums[j]
            for k in range(K):
                grad_weight[r, k, channel + j] = grad_taps[k, j]
