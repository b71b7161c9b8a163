"""LSTM core."""

import torch
from torch import Tensor, nn

from resel_torchrl.modules.cores.base import GatedCore, check_positive
from resel_torchrl.ops import has_fused_lstm, lstm_layer, lstm_scan
from resel_torchrl.ops._resets import masked_state


class LSTMCore(GatedCore):
    """One LSTM layer with resets, as wide as its input.

    Parameters have the names, shapes and meaning of a single-layer
    :class:`torch.nn.LSTM`, whose state dict loads as it is. Matrices start
    Xavier-uniform, biases at zero, as the GRU's do. The state is the hidden state and
    the cell state, side by side.

    Args:
        size: width of input, output and hidden state.

    Raises:
        ValueError: if ``size`` is not a positive integer.

    Examples:
        >>> core = LSTMCore(8)
        >>> _ = core.load_state_dict(nn.LSTM(8, 8).state_dict())
        >>> is_init = torch.zeros(2, 5, dtype=torch.bool)
        >>> y, state = core(torch.randn(2, 5, 8), is_init)
        >>> y.shape, state.shape
        (torch.Size([2, 5, 8]), torch.Size([2, 16]))
    """

    def __init__(self, size: int):
        super().__init__(size, 4, state_size=2 * check_positive(size, "size"))

    def forward(
        self, x: Tensor, is_init: Tensor, state: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """See :meth:`SequenceCore.forward`."""
        state = self.check_sequence(x, is_init, state)
        if has_fused_lstm(x):
            return lstm_layer(x, is_init, *self.cell_parameters, state)
        by_step = x.transpose(0, 1).contiguous()
        gates = nn.functional.linear(by_step, self.weight_ih_l0, self.bias_ih_l0)
        return lstm_scan(
            gates.transpose(0, 1), is_init, self.weight_hh_l0, self.bias_hh_l0, state
        )

    def step(self, x: Tensor, is_init: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
        """See :meth:`SequenceCore.step`."""
        self.check_step(x, is_init, state)
        before = masked_state(is_init, state).chunk(2, -1)
        h, c = torch.lstm_cell(x, before, *self.cell_parameters)
        return h, torch.cat([h, c], -1)
