"""The causal convolution as Numba kernels: one pass over time, for a CPU."""

import torch
from torch import Tensor

from resel_torchrl.ops._autograd import register_backward
from resel_torchrl.ops._numba import flat, flat_rows, views
from resel_torchrl.ops._threads import run_items
from resel_torchrl.ops.causal_conv._cpu_kernels import (
    CHANNELS,
    STEPS,
    backward,
    forward,
)


def causal_conv_cpu(
    x: Tensor,
    weight: Tensor,
    bias: Tensor,
    is_init: Tensor,
    state: Tensor,
    silu: bool = False,
) -> tuple[Tensor, Tensor]:
    """Run :func:`~resel_torchrl.ops.causal_conv` in one pass over the inputs.

    ``x`` is read where it lies if its rows are evenly spaced. The backward pass keeps
    the inputs only, from which it finds SiLU's slope; it cannot be differentiated
    again. Results do not depend on the number of threads, which is PyTorch's.
    """
    return _conv(x, weight, bias, is_init, state, silu)


@torch.library.custom_op("resel_torchrl::causal_conv_cpu", mutates_args=())
def _conv(
    x: Tensor, weight: Tensor, bias: Tensor, is_init: Tensor, state: Tensor, silu: bool
) -> tuple[Tensor, Tensor]:
    y, last = _conv_shapes(x, weight, bias, is_init, state, silu)
    rows = last.new_empty(last.mT.shape)
    run_items(
        x.shape[0] * max(-(-x.shape[1] // STEPS), 1) * -(-x.shape[2] // CHANNELS),
        forward,
        *flat_rows(x),
        *flat(weight.t(), bias),
        *views(is_init),
        *flat(state.mT, y, rows),
        silu,
    )
    last.copy_(rows.mT)
    return y, last


@_conv.register_fake
def _conv_shapes(x, weight, bias, is_init, state, silu):
    return x.new_empty(x.shape), x.new_empty(state.shape)


@torch.library.custom_op("resel_torchrl::causal_conv_cpu_backward", mutates_args=())
def _conv_backward(
    x: Tensor,
    weight: Tensor,
    bias: Tensor,
    is_init: Tensor,
    state: Tensor,
    grad_y: Tensor,
    grad_last: Tensor,
    silu: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Gradients of x, weight, bias and the first state."""
    (R, L, D), K = x.shape, weight.shape[1]
    blocks = -(-(L + K - 1) // STEPS)
    grad_x, grad_state = x.new_empty(x.shape), x.new_empty(R, K - 1, D)
    # Each block has its own share, added up below in a fixed order.
    grad_weight, grad_bias = x.new_empty(R, blocks, K, D), x.new_empty(R, blocks, D)
    run_items(
        R * blocks * -(-D // CHANNELS),
        backward,
        *flat_rows(x),
        *flat(weight.t(), bias),
        *views(is_init),
        *flat(state.mT, grad_y, grad_last.mT),
        *flat(grad_x, grad_weight, grad_bias, grad_state),
        silu,
    )
    return (
        grad_x,
        grad_weight.sum((0, 1)).t().contiguous(),
        grad_bias.sum((0, 1)),
        grad_state.mT.contiguous(),
    )


@_conv_backward.register_fake
def _gradient_shapes(x, weight, bias, is_init, state, grad_y, grad_last, silu):
    return tuple(x.new_empty(tensor.shape) for tensor in (x, weight, bias, state))


def _save(inputs, output):
    *tensors, silu = inputs
    return tensors, silu


def _gradients(saved, silu, grad_y, grad_last):
    *grads, grad_state = _conv_backward(*saved, grad_y, grad_last, silu)
    return *grads, None, grad_state, None


register_backward(_conv, _save, _gradients)
