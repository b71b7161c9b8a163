"""LSTM over time with resets, and a backward pass written by hand."""

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from resel_torchrl.ops._precision import in_full_precision
from resel_torchrl.ops._resets import any_requires_grad, masked_state, reset_steps


# A compiler would write the steps of time out, one by one.
@torch.compiler.disable
@in_full_precision
def lstm_scan(
    gates: Tensor, is_init: Tensor, weight_hh: Tensor, bias_hh: Tensor, state: Tensor
) -> tuple[Tensor, Tensor]:
    """Run an LSTM over time, starting from zero wherever ``is_init`` is true.

    The gates, their order and the equations are those of :class:`torch.nn.LSTM`; the
    input's share of the gates comes ready-made, since it needs no recurrence. Without
    gradients nothing is saved; with them ``6 · R · L · H`` numbers are (four gates,
    cell, output). The backward pass cannot be differentiated again.

    Args:
        gates: ``x W_ihᵀ + b_ih`` in the order input, forget, cell, output:
            ``[R, L, 4H]``.
        is_init: start flags, bool ``[R, L]``.
        weight_hh: ``[4H, H]``.
        bias_hh: ``[4H]``.
        state: hidden and cell state before the first step, side by side, ``[R, 2H]``.
            It is ignored, with no gradient, in rows whose first flag is true.

    Returns:
        The outputs ``[R, L, H]`` and the state after the last step ``[R, 2H]``.

    Examples:
        >>> gates = torch.zeros(1, 3, 4)
        >>> is_init = torch.tensor([[False, False, True]])
        >>> h_c = torch.ones(1, 2)
        >>> y, h_c = lstm_scan(gates, is_init, torch.zeros(4, 1), torch.zeros(4), h_c)
        >>> h_c
        tensor([[0., 0.]])
    """
    if any_requires_grad(gates, weight_hh, bias_hh, state):
        return _LSTMScan.apply(gates, is_init, weight_hh, bias_hh, state)
    outputs, _, cells = _forward(
        gates, reset_steps(is_init), is_init, weight_hh, bias_hh, state
    )
    return outputs.transpose(0, 1), torch.cat([outputs[-1], cells[-1]], -1)


def lstm_scan_naive(
    gates: Tensor, is_init: Tensor, weight_hh: Tensor, bias_hh: Tensor, state: Tensor
) -> tuple[Tensor, Tensor]:
    """The specification of :func:`lstm_scan`: same arguments, one step at a time.

    Examples:
        >>> gates, is_init = torch.zeros(1, 3, 4), torch.zeros(1, 3, dtype=torch.bool)
        >>> h_c = torch.ones(1, 2)
        >>> _, h_c = lstm_scan_naive(
        ...     gates, is_init, torch.zeros(4, 1), torch.zeros(4), h_c
        ... )
        >>> h_c[:, 1]
        tensor([0.1250])
    """
    outputs = []
    for t in range(gates.shape[1]):
        h, c = masked_state(is_init[:, t], state).chunk(2, -1)
        hidden = torch.nn.functional.linear(h, weight_hh, bias_hh)
        i, f, g, o = (gates[:, t] + hidden).chunk(4, -1)
        c = torch.sigmoid(f) * c + torch.sigmoid(i) * torch.tanh(g)
        h = torch.sigmoid(o) * torch.tanh(c)
        state = torch.cat([h, c], -1)
        outputs.append(h)
    return torch.stack(outputs, 1), state


def _forward(gates, resets, is_init, weight_hh, bias_hh, state):
    """Time-major outputs [L, R, H], gates [L, R, 4H] and cells [L, R, H]."""
    H = state.shape[-1] // 2
    activated = gates.transpose(0, 1) + bias_hh  # [L, R, 4H]
    L, R, _ = activated.shape
    outputs, cells = torch.empty(2, L, R, H, dtype=gates.dtype, device=gates.device)
    cell_tanh = torch.empty_like(cells[0])
    start = is_init.t().unsqueeze(-1).unbind(0)
    zero = state.new_zeros(())
    weight = weight_hh.t()
    h, c = state.split(H, -1)
    for all_gates, i_f, i, f, g, o, y, cell, reset, start_t in zip(
        activated.unbind(0),
        activated[..., : 2 * H].unbind(0),
        activated[..., :H].unbind(0),
        activated[..., H : 2 * H].unbind(0),
        activated[..., 2 * H : 3 * H].unbind(0),
        activated[..., 3 * H :].unbind(0),
        outputs.unbind(0),
        cells.unbind(0),
        resets,
        start,
        strict=True,
    ):
        if reset:
            h, c = torch.where(start_t, zero, h), torch.where(start_t, zero, c)
        all_gates.addmm_(h, weight)
        i_f.sigmoid_()
        g.tanh_()
        o.sigmoid_()
        c = torch.mul(i, g, out=cell).addcmul_(f, c)
        h = torch.mul(o, torch.tanh(c, out=cell_tanh), out=y)
    return outputs, activated, cells


class _LSTMScan(torch.autograd.Function):
    @staticmethod
    def forward(ctx, gates, is_init, weight_hh, bias_hh, state):
        resets = reset_steps(is_init)
        outputs, activated, cells = _forward(
            gates, resets, is_init, weight_hh, bias_hh, state
        )
        ctx.save_for_backward(is_init, weight_hh, state, outputs, activated, cells)
        ctx.resets = resets
        return outputs.transpose(0, 1), torch.cat([outputs[-1], cells[-1]], -1)

    @staticmethod
    @once_differentiable
    def backward(ctx, grad_outputs, grad_state):
        is_init, weight_hh, state, outputs, activated, cells = ctx.saved_tensors
        L, R, H = outputs.shape
        start = is_init.t().unsqueeze(-1)  # [L, R, 1]
        i, f, g, o = activated.split(H, -1)
        state_h, state_c = state.split(H, -1)
        zero = state.new_zeros(())
        previous = torch.cat([state_h.unsqueeze(0), outputs[:-1]])
        previous = torch.where(start, zero, previous)
        previous_c = torch.cat([state_c.unsqueeze(0), cells[:-1]])
        previous_c = torch.where(start, zero, previous_c)

        cells_tanh = cells.tanh()
        # d(pre-activations of i, f, g)/dc and d(that of o)/dh, known before the loop.
        slope = torch.empty(L, R, 3, H, dtype=i.dtype, device=i.device)
        torch.mul(g * i, 1 - i, out=slope[:, :, 0])
        torch.mul(previous_c * f, 1 - f, out=slope[:, :, 1])
        torch.mul(i, 1 - g * g, out=slope[:, :, 2])
        slope_o = cells_tanh * o * (1 - o)
        cell_from_hidden = o * (1 - cells_tanh * cells_tanh)

        # grad[t] becomes dLoss/dh_t in full, from the last step to the first.
        grad = torch.empty(L + 1, R, H, dtype=i.dtype, device=i.device)
        grad[0] = 0
        grad[1:] = grad_outputs.transpose(0, 1)
        grad_h, grad_c = grad_state.split(H, -1)
        grad[L] += grad_h
        grad_c = grad_c.clone()
        wide_c = grad_c.unsqueeze(1)
        grad_gates = torch.empty(L, R, 4, H, dtype=i.dtype, device=i.device)
        grads, starts, forget = grad.unbind(0), start.unbind(0), f.unbind(0)
        slopes, slopes_o = slope.unbind(0), slope_o.unbind(0)
        into_c = cell_from_hidden.unbind(0)
        out_ifg, out_o = (
            grad_gates[:, :, :3].unbind(0),
            grad_gates[:, :, 3].unbind(0),
        )
        flat = grad_gates.view(L, R, 4 * H).unbind(0)
        for t in range(L - 1, -1, -1):
            grad_c.addcmul_(grads[t + 1], into_c[t])
            torch.mul(slopes[t], wide_c, out=out_ifg[t])
            torch.mul(slopes_o[t], grads[t + 1], out=out_o[t])
            grad_c.mul_(forget[t])
            if ctx.resets[t]:
                through = torch.mm(flat[t], weight_hh)
                grads[t].add_(through.masked_fill_(starts[t], 0))
                grad_c.masked_fill_(starts[t], 0)
            else:
                grads[t].addmm_(flat[t], weight_hh)

        grad_hidden = grad_gates.view(L * R, 4 * H)
        return (
            grad_gates.view(L, R, 4 * H).transpose(0, 1),
            None,
            grad_hidden.t() @ previous.reshape(L * R, H),
            grad_hidden.sum(0),
            torch.cat([grad[0], grad_c], -1),
        )
