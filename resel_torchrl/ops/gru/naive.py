"""The GRU over time, one readable step at a time: specification and oracle."""

import torch
from torch import Tensor

from resel_torchrl.ops._resets import masked_state


def gru_scan_naive(
    gates: Tensor, is_init: Tensor, weight_hh: Tensor, bias_hh: Tensor, state: Tensor
) -> tuple[Tensor, Tensor]:
    """The specification of :func:`gru_scan`: the same arguments, one step at a time.

    Examples:
        >>> gates, is_init = torch.zeros(1, 3, 6), torch.zeros(1, 3, dtype=torch.bool)
        >>> h = torch.ones(1, 2)
        >>> y, _ = gru_scan_naive(gates, is_init, torch.zeros(6, 2), torch.zeros(6), h)
        >>> y[0, :, 0]
        tensor([0.5000, 0.2500, 0.1250])
    """
    outputs = []
    for t in range(gates.shape[1]):
        h = masked_state(is_init[:, t], state)
        x_r, x_z, x_n = gates[:, t].chunk(3, -1)
        h_r, h_z, h_n = torch.nn.functional.linear(h, weight_hh, bias_hh).chunk(3, -1)
        r, z = torch.sigmoid(x_r + h_r), torch.sigmoid(x_z + h_z)
        n = torch.tanh(x_n + r * h_n)
        state = (1 - z) * n + z * h
        outputs.append(state)
    return torch.stack(outputs, 1), state
