"""The causal convolution as Numba kernels: one pass over time, for a CPU."""

import numpy as np
import torch
from torch import Tensor

from resel_torchrl.ops._numba import (
    add_products,
    flat,
    flat_rows,
    kernel,
    materialized,
    sigmoid,
    views,
)
from resel_torchrl.ops._threads import run_items

# Steps and channels of one item: its rows stay in a core's first caches, and the loops
# over channels are long enough to hide what it costs to begin one.
_T, _W = 64, 256


def causal_conv_cpu(
    x: Tensor,
    weight: Tensor,
    bias: Tensor,
    is_init: Tensor,
    state: Tensor,
    silu: bool = False,
) -> tuple[Tensor, Tensor]:
    """The convolution in one pass over the inputs; needs Numba, no compiler.

    ``x`` is read where it lies if its rows are evenly spaced. The backward pass keeps
    the inputs only, from which it finds SiLU's slope; it cannot be differentiated
    again. Results do not depend on the number of threads, which is PyTorch's. Arguments
    and returns are those of :func:`~resel_torchrl.ops.causal_conv.causal_conv`.

    Examples:
        >>> from resel_torchrl.ops.causal_conv.cpu import causal_conv_cpu
        >>> x, is_init = torch.ones(1, 4, 1), torch.tensor([[True, False, True, False]])
        >>> y, state = causal_conv_cpu(
        ...     x, torch.ones(1, 3), torch.zeros(1), is_init, torch.ones(1, 1, 2)
        ... )
        >>> y.flatten(), state.flatten()
        (tensor([1., 2., 1., 2.]), tensor([1., 1.]))
    """
    return _conv(x, weight, bias, is_init, state, silu)


@torch.library.custom_op("resel_torchrl::causal_conv_cpu", mutates_args=())
def _conv(
    x: Tensor, weight: Tensor, bias: Tensor, is_init: Tensor, state: Tensor, silu: bool
) -> tuple[Tensor, Tensor]:
    y, last = _conv_shapes(x, weight, bias, is_init, state, silu)
    rows = last.new_empty(last.mT.shape)
    run_items(
        x.shape[0] * max(-(-x.shape[1] // _T), 1) * -(-x.shape[2] // _W),
        _forward,
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
    blocks = -(-(L + K - 1) // _T)
    grad_x, grad_state = x.new_empty(x.shape), x.new_empty(R, K - 1, D)
    # Each block has its own share, added up below in a fixed order.
    grad_weight, grad_bias = x.new_empty(R, blocks, K, D), x.new_empty(R, blocks, D)
    run_items(
        R * blocks * -(-D // _W),
        _backward,
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


def _save(ctx, inputs, output):
    *tensors, ctx.silu = inputs
    ctx.set_materialize_grads(False)
    ctx.outputs = [(tensor.shape, tensor.dtype) for tensor in output]
    ctx.save_for_backward(*tensors)


def _apply_backward(ctx, grad_y, grad_last):
    gradients = materialized(ctx, grad_y, grad_last)
    grad_x, grad_weight, grad_bias, grad_state = _conv_backward(
        *ctx.saved_tensors, *gradients, ctx.silu
    )
    return grad_x, grad_weight, grad_bias, None, grad_state, None


_conv.register_autograd(_apply_backward, setup_context=_save)

# Input i of a row meets outputs i - K + 1 to i: the state is inputs 0 to K - 2, x the
# ones from K - 1 on, and the state after the last step inputs L to L + K - 2. Rows lie
# in flat arrays; `at` is where row 0 of an episode's x begins, `channel` included.


@kernel
def _taps(starts, t, K):
    """How many taps of output t are within its episode, or before the first step."""
    seen = 1
    while seen < K and (t - seen + 1 < 0 or not starts[t - seen + 1]):
        seen += 1
    return seen


@kernel
def _convolve(t, taps, x, at, stride, weights, state, before, D, K, bias, out, to, n):
    """Writes n channels of output t to ``out[to:]``."""
    outputs = out[to : to + n]
    for j in range(n):
        outputs[j] = bias[j]
    first = K - taps
    inside = min(max(K - 1 - t, first), K)  # taps before this one meet the state
    channel = before % D
    add_products(
        out,
        to,
        weights,
        first * D + channel,
        D,
        state,
        before + (t + first) * D,
        D,
        inside - first,
        n,
    )
    add_products(
        out,
        to,
        weights,
        inside * D + channel,
        D,
        x,
        at + (t + inside - K + 1) * stride,
        stride,
        K - inside,
        n,
    )


@kernel
def _forward(first, last, x, stride, weights, bias, is_init, state, y, after, silu):
    """Items ``first`` to ``last - 1``; weights and states have their channels last."""
    L = is_init.shape[1]
    D = len(bias)
    K = len(weights) // D
    tiles, blocks = (D + _W - 1) // _W, max((L + _T - 1) // _T, 1)
    zero = y.dtype.type(0)
    for item in range(first, last):
        r, block = item // (tiles * blocks), item // tiles % blocks
        channel = item % tiles * _W
        n = min(_W, D - channel)
        at, before = r * L * stride + channel, r * (K - 1) * D + channel
        own = bias[channel : channel + n]
        for t in range(block * _T, min((block + 1) * _T, L)):
            to = (r * L + t) * D + channel
            taps = _taps(is_init[r], t, K)
            _convolve(
                t, taps, x, at, stride, weights, state, before, D, K, own, y, to, n
            )
            if silu:
                outputs = y[to : to + n]
                for j in range(n):
                    outputs[j] *= sigmoid(outputs[j])
        if block < blocks - 1:
            continue
        lost = K - 1 - _taps(is_init[r], L - 1, K)
        for s in range(K - 1):
            for j in range(n):
                value = zero
                if s >= lost and L + s < K - 1:
                    value = state[before + (L + s) * D + j]
                elif s >= lost:
                    value = x[at + (L + s - K + 1) * stride + j]
                after[before + s * D + j] = value


@kernel
def _backward(
    first,
    last,
    x,
    stride,
    weights,
    bias,
    is_init,
    state,
    grad_y,
    grad_after,
    grad_x,
    grad_weights,
    grad_bias,
    grad_state,
    silu,
):
    """Items ``first`` to ``last - 1``: a block of inputs, and the outputs they meet."""
    R, L = is_init.shape
    D = len(bias)
    K = len(weights) // D
    tiles, blocks = (D + _W - 1) // _W, len(grad_bias) // (R * D)
    zero, one = x.dtype.type(0), x.dtype.type(1)
    # Gradients of the outputs before SiLU, from K - 1 before the block's first on.
    grads = np.zeros((_T + K - 1) * _W, x.dtype)
    sums = np.zeros(K * _W, x.dtype)
    for item in range(first, last):
        r, block = item // (tiles * blocks), item // tiles % blocks
        channel = item % tiles * _W
        n = min(_W, D - channel)
        at, before = r * L * stride + channel, r * (K - 1) * D + channel
        begin = block * _T
        end = min(begin + _T, L + K - 1)
        ahead = begin - K + 1
        own, starts = bias[channel : channel + n], is_init[r]
        for t in range(max(ahead, 0), min(end, L)):
            to, source = (t - ahead) * _W, (r * L + t) * D + channel
            grad, given = grads[to : to + n], grad_y[source : source + n]
            if silu:
                _convolve(
                    t,
                    _taps(starts, t, K),
                    x,
                    at,
                    stride,
                    weights,
                    state,
                    before,
                    D,
                    K,
                    own,
                    grads,
                    to,
                    n,
                )
                for j in range(n):
                    s = sigmoid(grad[j])
                    grad[j] = given[j] * (s * (one + grad[j] * (one - s)))
            else:
                grad[:] = given

        sums[:] = 0
        t = begin
        while t < min(end, L):
            # Four steps in one go, where all of their taps meet inputs of the row.
            steps = 4 if K - 1 <= t <= min(end, L) - 4 else 1
            for s in range(steps):
                steps = steps if _taps(starts, t + s, K) == K else 1
            to = (t - ahead) * _W
            for k in range(K - _taps(starts, t, K), K):
                if t + k < K - 1:
                    add_products(
                        sums, k * _W, grads, to, 0, state, before + (t + k) * D, 0, 1, n
                    )
                else:
                    source = at + (t + k - K + 1) * stride
                    add_products(
                        sums, k * _W, grads, to, _W, x, source, stride, steps, n
                    )
            t += steps
        share = (r * blocks + block) * D + channel
        total = grad_bias[share : share + n]
        total[:] = zero
        for t in range(begin, min(end, L)):
            grad = grads[(t - ahead) * _W : (t - ahead) * _W + n]
            for j in range(n):
                total[j] += grad[j]
        for k in range(K):
            to = ((r * blocks + block) * K + k) * D + channel
            grad_weights[to : to + n] = sums[k * _W : k * _W + n]

        for i in range(begin, end):
            t = i - K + 1  # the first output that the input may meet
            near = max(-t, 0)
            far = near  # outputs t + near to t + far - 1 meet it
            while far < K and t + far < L and not (far and starts[t + far]):
                far += 1
            out, to = (
                (grad_state, before + i * D)
                if i < K - 1
                else (grad_x, (r * L + t) * D + channel)
            )
            kept = i >= L and t + far == L
            after = before + (i - L) * D
            if kept:
                out[to : to + n] = grad_after[after : after + n]
            else:
                out[to : to + n] = zero
            add_products(
                out,
                to,
                weights,
                (K - 1 - near) * D + channel,
                -D,
                grads,
                (t + near - ahead) * _W,
                _W,
                far - near,
                n,
            )
