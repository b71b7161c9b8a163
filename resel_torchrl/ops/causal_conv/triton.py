"""The causal convolution with resets on a GPU, fused forward and backward."""

import math

import torch
from torch import Tensor

from resel_torchrl.ops._autograd import register_backward
from resel_torchrl.ops._resets import any_requires_grad
from resel_torchrl.ops._triton import (
    OPTIONS,
    check_tensors,
    dense_last,
    import_kernels,
    next_power_of_2,
)

_KERNELS = "resel_torchrl.ops.causal_conv._triton_kernels"
# A tile of 32 steps and 64 channels reads whole cache lines, finds all but the first of
# its K taps in the cache, and at two rows of the paper's size makes 512 programs.
_STEPS, _CHANNELS = 32, 64


def causal_conv_triton(
    x: Tensor,
    weight: Tensor,
    bias: Tensor,
    is_init: Tensor,
    state: Tensor,
    silu: bool = False,
) -> tuple[Tensor, Tensor]:
    """Run :func:`~resel_torchrl.ops.causal_conv` in one kernel for each pass.

    ``x`` is read where it lies if its last dimension is contiguous. The backward pass
    keeps the inputs and, with ``silu``, the outputs before it; its sums have a fixed
    order, and it cannot be differentiated again. The host never waits. Raises
    ValueError or TypeError for a shape, device or type that does not fit.
    """
    R, L, D = x.shape
    K = weight.shape[-1]
    check_tensors(
        "causal_conv_triton",
        x=(x, (R, L, D)),
        weight=(weight, (D, K)),
        bias=(bias, (D,)),
        is_init=(is_init, (R, L)),
        state=(state, (R, D, K - 1)),
    )
    keep = any_requires_grad(x, weight, bias, state)
    y, last, _ = _forward(x, weight, bias, is_init, state, silu, keep)
    return y, last


@torch.library.custom_op("resel_torchrl::causal_conv", mutates_args=())
def _forward(
    x: Tensor,
    weight: Tensor,
    bias: Tensor,
    is_init: Tensor,
    state: Tensor,
    silu: bool,
    keep: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    y, last, linear = _outputs(x, weight, bias, is_init, state, silu, keep)
    x = dense_last(x)
    weight, bias, is_init, state = (
        tensor.contiguous() for tensor in (weight, bias, is_init, state)
    )
    R, L, D = x.shape
    block = min(_CHANNELS, next_power_of_2(D))
    with torch.cuda.device_of(x):
        import_kernels(_KERNELS).forward_kernel[
            (math.ceil(D / block), math.ceil(L / _STEPS), R)
        ](
            *(x, weight, bias, is_init, state, y, linear, last),
            *(x.stride(0), L, x.stride(1)),
            D=D,
            K=weight.shape[1],
            SILU=silu,
            KEEP=keep,
            BLOCK_L=_STEPS,
            BLOCK_D=block,
            **OPTIONS,
        )
    return y, last, linear


@_forward.register_fake
def _outputs(x, weight, bias, is_init, state, silu, keep):
    linear = x.new_empty(x.shape if silu and keep else 0)
    return x.new_empty(x.shape), x.new_empty(state.shape), linear


@torch.library.custom_op("resel_torchrl::causal_conv_backward", mutates_args=())
def _backward(
    x: Tensor,
    weight: Tensor,
    is_init: Tensor,
    state: Tensor,
    linear: Tensor,
    grad_y: Tensor,
    grad_last: Tensor,
    silu: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    x = dense_last(x)
    weight, is_init, state, grad_y, grad_last = (
        tensor.contiguous() for tensor in (weight, is_init, state, grad_y, grad_last)
    )
    R, L, D = x.shape
    K = weight.shape[1]
    block = min(_CHANNELS, next_power_of_2(D))
    grid = (math.ceil(D / block), math.ceil((L + K - 1) / _STEPS), R)
    grad_x, grad_state = x.new_empty(x.shape), x.new_empty(state.shape)
    parts_weight = x.new_empty(R, grid[1], D, K)
    parts_bias = x.new_empty(R, grid[1], D)
    with torch.cuda.device_of(x):
        import_kernels(_KERNELS).backward_kernel[grid](
            *(x, weight, is_init, state, linear, grad_y, grad_last),
            *(grad_x, grad_state, parts_weight, parts_bias),
            *(x.stride(0), L, x.stride(1)),
            D=D,
            K=K,
            SILU=silu,
            BLOCK_L=_STEPS,
            BLOCK_D=block,
            **OPTIONS,
        )
    return grad_x, parts_weight.sum((0, 1)), parts_bias.sum((0, 1)), grad_state


@_backward.register_fake
def _(x, weight, is_init, state, linear, grad_y, grad_last, silu):
    like_bias = x.new_empty(weight.shape[0])
    return (
        x.new_empty(x.shape),
        x.new_empty(weight.shape),
        like_bias,
        x.new_empty(state.shape),
    )


def _save(inputs, output):
    x, weight, _, is_init, state, silu, _ = inputs
    return (x, weight, is_init, state, output[2]), silu


def _gradients(saved, silu, grad_y, grad_last):
    *grads, grad_state = _backward(*saved, grad_y, grad_last, silu)
    return *grads, None, grad_state, None, None


register_backward(_forward, _save, _gradients)
