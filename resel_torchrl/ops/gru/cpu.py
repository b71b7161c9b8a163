"""The GRU over time as Numba kernels, for a CPU."""

import numpy as np
import torch
from torch import Tensor

from resel_torchrl.ops._autograd import register_backward
from resel_torchrl.ops._numba import add_product, kernel, sigmoid, views
from resel_torchrl.ops._resets import any_requires_grad
from resel_torchrl.ops._threads import run_items


def gru_scan_cpu(
    gates: Tensor, is_init: Tensor, weight_hh: Tensor, bias_hh: Tensor, state: Tensor
) -> tuple[Tensor, Tensor]:
    """Run :func:`~resel_torchrl.ops.gru_scan` row by row, without a call per step.

    PyTorch's threads share the rows out: one row is one thread's. With gradients
    ``5 · R · L · H`` numbers are kept. The backward pass cannot be differentiated
    again.
    """
    keep = any_requires_grad(gates, weight_hh, bias_hh, state)
    y, last, *_ = _scan(gates, is_init, weight_hh, bias_hh, state, keep)
    return y, last


@torch.library.custom_op("resel_torchrl::gru_scan_cpu", mutates_args=())
def _scan(
    gates: Tensor,
    is_init: Tensor,
    weight_hh: Tensor,
    bias_hh: Tensor,
    state: Tensor,
    keep: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Outputs, last state, (r, z, h_n) ``[R, L, 3H]`` and n ``[R, L, H]``."""
    y, last, activated, new = _scan_shapes(
        gates, is_init, weight_hh, bias_hh, state, keep
    )
    run_items(
        gates.shape[0],
        _forward,
        *views(gates, is_init, weight_hh.t(), bias_hh, state),
        *views(y, activated, new),
        keep,
    )
    last.copy_(y[:, -1])
    return y, last, activated, new


@_scan.register_fake
def _scan_shapes(gates, is_init, weight_hh, bias_hh, state, keep):
    R, L, H = *gates.shape[:2], weight_hh.shape[1]
    kept = (R, L) if keep else (0, 0)
    return (
        gates.new_empty(R, L, H),
        gates.new_empty(R, H),
        gates.new_empty(*kept, 3 * H),
        gates.new_empty(*kept, H),
    )


@torch.library.custom_op("resel_torchrl::gru_scan_cpu_backward", mutates_args=())
def _scan_backward(
    is_init: Tensor,
    weight_hh: Tensor,
    state: Tensor,
    y: Tensor,
    activated: Tensor,
    new: Tensor,
    grad_y: Tensor,
    grad_last: Tensor,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Gradients of gates, weight, bias and the first state."""
    previous = torch.cat([state.unsqueeze(1), y[:, :-1]], 1)  # [R, L, H]
    previous.masked_fill_(is_init.unsqueeze(-1), 0)
    grad_gates, grad_hidden = y.new_empty(2, *activated.shape).unbind(0)
    grad_state = y.new_empty(state.shape)
    run_items(
        y.shape[0],
        _backward,
        *views(is_init, weight_hh, previous, activated, new, grad_y, grad_last),
        *views(grad_gates, grad_hidden, grad_state),
    )
    grad_hidden, previous = grad_hidden.flatten(0, 1), previous.flatten(0, 1)
    return grad_gates, grad_hidden.t() @ previous, grad_hidden.sum(0), grad_state


@_scan_backward.register_fake
def _gradient_shapes(is_init, weight_hh, state, y, activated, new, grad_y, grad_last):
    return (
        y.new_empty(activated.shape),
        y.new_empty(weight_hh.shape),
        y.new_empty(weight_hh.shape[0]),
        y.new_empty(state.shape),
    )


def _save(inputs, output):
    _gates, is_init, weight_hh, _bias, state, _keep = inputs
    y, _last, activated, new = output
    return (is_init, weight_hh, state, y, activated, new), None


def _gradients(saved, _, grad_y, grad_last):
    grad_gates, *grads = _scan_backward(*saved, grad_y, grad_last)
    return grad_gates, None, *grads, None


register_backward(_scan, _save, _gradients)


@kernel
def _forward(first, last, gates, is_init, weight, bias, state, y, activated, new, keep):
    """Rows ``first`` to ``last - 1``; ``weight`` is ``[H, 3H]``."""
    L, H = gates.shape[1], weight.shape[0]
    one, two = gates.dtype.type(1), gates.dtype.type(2)
    h, hidden = np.zeros(H, gates.dtype), np.zeros(3 * H, gates.dtype)
    for row in range(first, last):
        h[:] = state[row]
        for t in range(L):
            if is_init[row, t]:
                h[:] = 0
            hidden[:] = bias
            add_product(h, weight, hidden)
            for i in range(H):
                r = sigmoid(gates[row, t, i] + hidden[i])
                z = sigmoid(gates[row, t, H + i] + hidden[H + i])
                a = gates[row, t, 2 * H + i] + r * hidden[2 * H + i]
                n = two * sigmoid(two * a) - one  # tanh
                h[i] = n + z * (h[i] - n)
                y[row, t, i] = h[i]
                if keep:
                    activated[row, t, i] = r
                    activated[row, t, H + i] = z
                    activated[row, t, 2 * H + i] = hidden[2 * H + i]
                    new[row, t, i] = n


@kernel
def _backward(
    first,
    last,
    is_init,
    weight,
    previous,
    activated,
    new,
    grad_y,
    grad_last,
    grad_gates,
    grad_hidden,
    grad_state,
):
    """Rows ``first`` to ``last - 1``, last step first; ``weight`` is ``[3H, H]``."""
    L, H = new.shape[1:]
    one = new.dtype.type(1)
    grad_h = np.zeros(H, new.dtype)
    for row in range(first, last):
        grad_h[:] = grad_last[row]
        for t in range(L - 1, -1, -1):
            for i in range(H):
                r, z = activated[row, t, i], activated[row, t, H + i]
                h_n, n = activated[row, t, 2 * H + i], new[row, t, i]
                g = grad_h[i] + grad_y[row, t, i]
                grad_n = g * (one - z) * (one - n * n)
                grad_r = grad_n * h_n * r * (one - r)
                grad_z = g * (previous[row, t, i] - n) * z * (one - z)
                grad_gates[row, t, i] = grad_r
                grad_gates[row, t, H + i] = grad_z
                grad_gates[row, t, 2 * H + i] = grad_n
                grad_hidden[row, t, i] = grad_r
                grad_hidden[row, t, H + i] = grad_z
                grad_hidden[row, t, 2 * H + i] = grad_n * r
                grad_h[i] = g * z
            if is_init[row, t]:
                grad_h[:] = 0
            else:
                add_product(grad_hidden[row, t], weight, grad_h)
        grad_state[row] = grad_h
