"""The causal convolution with resets on a GPU, fused forward and backward."""

import math

import torch
from torch import Tensor

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
    """:func:`~resel_torchrl.ops.causal_conv` in one kernel for each pass.

    ``x`` is read where it lies if its last dimension is contiguous. The backward pass
    keeps the inputs and, with ``silu``, the outputs before it; its sums have a fixed
    order, and it cannot be differentiated again. The host never waits.

    Args:
        x: ``[R, L, D]``.
        weight: ``[D, K]``; the last tap meets the present input.
        bias: ``[D]``.
        is_init: start flags, bool ``[R, L]``.
        state: the ``K - 1`` inputs before the first step, oldest first,
            ``[R, D, K - 1]``.
        silu: whether SiLU is applied to the outputs.

    Returns:
        The outputs ``[R, L, D]`` and the last ``K - 1`` inputs ``[R, D, K - 1]``,
        those of earlier episodes set to zero.

    Raises:
        ModuleNotFoundError: if Triton is not installed.
        ValueError: if a shape does not fit or a tensor is not on the CUDA device.
        TypeError: if the types are not all float32 or all float64.

    Examples:
        >>> if torch.cuda.is_available():
        ...     x = torch.ones(1, 4, 1, device="cuda")
        ...     is_init = torch.tensor([[True, False, True, False]], device="cuda")
        ...     y, state = causal_conv_triton(
        ...         x, x[0, :3].t(), x[0, 0], is_init, x[:, :2].mT
        ...     )
        ...     assert y.flatten().tolist() == [2, 3, 2, 3]
    """
    R, L, D = x.shape
    K = weight.shape[-1]
    check_tensors(
        "causal_conv_triton",
        {
            **{"x": (R, L, D), "weight": (D, K), "bias": (D,)},
            **{"is_init": (R, L), "state": (R, D, K - 1)},
        },
        **{"x": x, "weight": weight, "bias": bias},
        **{"is_init": is_init, "state": state},
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


def _setup_context(ctx, inputs, output):
    x, weight, _, is_init, state, ctx.silu, _ = inputs
    y, last, linear = output
    ctx.mark_non_differentiable(linear)
    ctx.set_materialize_grads(False)
    ctx.like_outputs = y.shape, last.shape
    ctx.save_for_backward(x, weight, is_init, state, linear)


def _gradients(ctx, grad_y, grad_last, _):
    x, *saved = ctx.saved_tensors
    grad_y, grad_last = (
        x.new_zeros(shape) if grad is None else grad
        for shape, grad in zip(ctx.like_outputs, (grad_y, grad_last), strict=True)
    )
    grad_x, grad_weight, grad_bias, grad_state = _backward(
        x, *saved, grad_y, grad_last, ctx.silu
    )
    return grad_x, grad_weight, grad_bias, None, grad_state, None, None


_forward.register_autograd(_gradients, setup_context=_setup_context)
