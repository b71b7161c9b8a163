"""The GRU over time in plain PyTorch, with a backward pass written by hand."""

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from resel_torchrl.ops._resets import any_requires_grad, reset_steps


def gru_scan_plain(
    gates: Tensor, is_init: Tensor, weight_hh: Tensor, bias_hh: Tensor, state: Tensor
) -> tuple[Tensor, Tensor]:
    """Run :func:`~resel_torchrl.ops.gru_scan` step by step, on any device.

    Without gradients nothing is kept; with them ``5 · R · L · H`` numbers are (r, z, n,
    the hidden state's share of n, output), and the weights get their gradient from one
    product after the loop. The backward pass cannot be differentiated again.
    """
    if any_requires_grad(gates, weight_hh, bias_hh, state):
        return _GRUScan.apply(gates, is_init, weight_hh, bias_hh, state)
    outputs, *_ = _forward(
        gates, reset_steps(is_init), is_init, weight_hh, bias_hh, state
    )
    return outputs.transpose(0, 1), outputs[-1].clone()


def _forward(gates, resets, is_init, weight_hh, bias_hh, state):
    """Time-major outputs [L, R, H], r and z and h_n [L, R, 3H], n [L, R, H]."""
    H = state.shape[-1]
    gates = gates.transpose(0, 1)  # [L, R, 3H]
    activated = torch.empty(gates.shape, dtype=gates.dtype, device=gates.device)
    torch.add(gates[..., : 2 * H], bias_hh[: 2 * H], out=activated[..., : 2 * H])
    activated[..., 2 * H :] = bias_hh[2 * H :]
    new = gates[..., 2 * H :].clone(memory_format=torch.contiguous_format)
    outputs = torch.empty_like(new)
    start = is_init.t().unsqueeze(-1).unbind(0)
    zero = state.new_zeros(())
    weight = weight_hh.t()
    h = state
    for all_gates, r_z, r, z, h_n, n, y, reset, start_t in zip(
        activated.unbind(0),
        activated[..., : 2 * H].unbind(0),
        activated[..., :H].unbind(0),
        activated[..., H : 2 * H].unbind(0),
        activated[..., 2 * H :].unbind(0),
        new.unbind(0),
        outputs.unbind(0),
        resets,
        start,
        strict=True,
    ):
        if reset:
            h = torch.where(start_t, zero, h)
        all_gates.addmm_(h, weight)
        r_z.sigmoid_()
        n.addcmul_(r, h_n).tanh_()
        h = torch.lerp(n, h, z, out=y)
    return outputs, activated, new


class _GRUScan(torch.autograd.Function):
    @staticmethod
    def forward(ctx, gates, is_init, weight_hh, bias_hh, state):
        resets = reset_steps(is_init)
        outputs, activated, new = _forward(
            gates, resets, is_init, weight_hh, bias_hh, state
        )
        ctx.save_for_backward(is_init, weight_hh, state, outputs, activated, new)
        ctx.resets = resets
        return outputs.transpose(0, 1), outputs[-1].clone()

    @staticmethod
    @once_differentiable
    def backward(ctx, grad_outputs, grad_state):
        is_init, weight_hh, state, outputs, activated, new = ctx.saved_tensors
        L, R, H = outputs.shape
        start = is_init.t().unsqueeze(-1)  # [L, R, 1]
        r, z, h_n = activated.split(H, -1)
        previous = torch.cat([state.unsqueeze(0), outputs[:-1]])
        previous = torch.where(start, state.new_zeros(()), previous)

        # d(pre-activations of r, z, h_n)/dh, all known before the loop: [L, R, 3, H].
        slope = torch.empty(L, R, 3, H, dtype=new.dtype, device=new.device)
        slope_n = (1 - z) * (1 - new * new)
        torch.mul(slope_n, r, out=slope[:, :, 2])
        torch.mul(slope[:, :, 2] * h_n, 1 - r, out=slope[:, :, 0])
        torch.mul((previous - new) * z, 1 - z, out=slope[:, :, 1])

        # grad[t] becomes dLoss/dh_t in full, from the last step to the first.
        grad = torch.empty(L + 1, R, H, dtype=new.dtype, device=new.device)
        grad[0] = 0
        grad[1:] = grad_outputs.transpose(0, 1)
        grad[L] += grad_state
        grad_hidden = torch.empty_like(slope)
        grads, starts = grad.unbind(0), start.unbind(0)
        carried, flat = z.unbind(0), grad_hidden.view(L, R, 3 * H).unbind(0)
        slopes, products = slope.unbind(0), grad_hidden.unbind(0)
        wide = grad.unsqueeze(2).unbind(0)
        for t in range(L - 1, -1, -1):
            torch.mul(slopes[t], wide[t + 1], out=products[t])
            if ctx.resets[t]:
                through = torch.addmm(carried[t] * grads[t + 1], flat[t], weight_hh)
                grads[t].add_(through.masked_fill_(starts[t], 0))
            else:
                grads[t].addcmul_(carried[t], grads[t + 1]).addmm_(flat[t], weight_hh)

        grad_hidden = grad_hidden.view(L * R, 3 * H)
        grad_gates = grad_hidden.view(L, R, 3 * H).clone()
        torch.mul(slope_n, grad[1:], out=grad_gates[..., 2 * H :])
        grad_weight = grad_hidden.t() @ previous.reshape(L * R, H)
        return (
            grad_gates.transpose(0, 1),
            None,
            grad_weight,
            grad_hidden.sum(0),
            grad[0],
        )
