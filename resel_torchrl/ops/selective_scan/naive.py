"""The selective scan, one readable step at a time: specification and oracle."""

import torch
from torch import Tensor

from resel_torchrl.ops._resets import masked_state


def selective_scan_naive(
    x: Tensor,
    dt: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    is_init: Tensor,
    state: Tensor,
) -> tuple[Tensor, Tensor]:
    """The recurrence over time by autograd; keeps ``3 · L · R · D · N`` numbers.

    Arguments and returns are those of
    :func:`~resel_torchrl.ops.selective_scan.selective_scan`, less skip and gate.

    Examples:
        >>> x, state = torch.ones(1, 2, 1), torch.zeros(1, 1, 1)
        >>> start = torch.tensor([[True, True]])
        >>> selective_scan_naive(x, x, -x[0, :1], x, x, start, state)[0].flatten()
        tensor([1., 1.])
    """
    outputs = []
    for t in range(x.shape[1]):
        y, state = recurrence_step(
            x[:, t], dt[:, t], A, B[:, t], C[:, t], is_init[:, t], state
        )
        outputs.append(y)
    return torch.stack(outputs, 1), state


def recurrence_step(
    x: Tensor, dt: Tensor, A: Tensor, B: Tensor, C: Tensor, is_init: Tensor, h: Tensor
) -> tuple[Tensor, Tensor]:
    """One step of the diagonal state space model, discretised as in Mamba-1.

    Source: arXiv 2312.00752, equations 2a, 2b and 4, with ``B̄ = Δ B``.

    Arguments are those of :func:`selective_scan_naive` without ``L``.
    """
    h = masked_state(is_init, h)
    h = torch.exp(dt.unsqueeze(-1) * A) * h + (dt * x).unsqueeze(-1) * B.unsqueeze(-2)
    return (h * C.unsqueeze(-2)).sum(-1), h
