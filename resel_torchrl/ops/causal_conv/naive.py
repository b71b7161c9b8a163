"""The causal convolution, one readable step at a time: specification and oracle."""

import torch
from torch import Tensor

from resel_torchrl.ops._resets import masked_state


def causal_conv_naive(
    x: Tensor, weight: Tensor, bias: Tensor, is_init: Tensor, state: Tensor
) -> tuple[Tensor, Tensor]:
    """The specification of :func:`causal_conv`: :func:`causal_conv_step` over time.

    Examples:
        >>> x, is_init = torch.ones(1, 3, 1), torch.zeros(1, 3, dtype=torch.bool)
        >>> state = torch.zeros(1, 1, 1)
        >>> w, b = torch.ones(1, 2), torch.zeros(1)
        >>> causal_conv_naive(x, w, b, is_init, state)[0].flatten()
        tensor([1., 2., 2.])
    """
    outputs = []
    for t in range(x.shape[1]):
        y, state = causal_conv_step(x[:, t], weight, bias, is_init[:, t], state)
        outputs.append(y)
    return torch.stack(outputs, 1), state


def causal_conv_step(
    x: Tensor, weight: Tensor, bias: Tensor, is_init: Tensor, state: Tensor
) -> tuple[Tensor, Tensor]:
    """One time step of :func:`causal_conv`.

    Args:
        x: ``[B, D]``.
        weight: ``[D, K]``; the last tap meets the present input.
        bias: ``[D]``.
        is_init: start flags, bool ``[B]``.
        state: the last ``K - 1`` inputs, oldest first, ``[B, D, K - 1]``.

    Returns:
        The output ``[B, D]`` and the new state ``[B, D, K - 1]``.

    Examples:
        >>> w, b = torch.ones(1, 2), torch.zeros(1)
        >>> start = torch.tensor([True, False])
        >>> y, state = causal_conv_step(
        ...     torch.ones(2, 1), w, b, start, torch.ones(2, 1, 1)
        ... )
        >>> y.flatten()
        tensor([1., 2.])
    """
    window = torch.cat([masked_state(is_init, state), x.unsqueeze(-1)], -1)
    return (window * weight).sum(-1) + bias, window[..., 1:]
