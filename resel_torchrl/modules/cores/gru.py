"""GRU core."""

import torch
from torch import Tensor, nn

from resel_torchrl.modules.cores.base import SequenceCore, xavier_zero_bias_
from resel_torchrl.ops import gru_scan
from resel_torchrl.ops._backends import device_type
from resel_torchrl.ops._resets import masked_state
from resel_torchrl.ops.gru import BACKENDS, check_backend


class GRUCore(SequenceCore):
    """One GRU layer with resets, as wide as its input.

    Parameters have the names, shapes and meaning of a single-layer
    :class:`torch.nn.GRU`, whose state dict loads as it is. Matrices start
    Xavier-uniform, biases at zero (arXiv 2405.15384, appendix). The state is the hidden
    state.

    Args:
        size: width of input, output and hidden state.
        backend: implementation of the recurrence, as in
            :func:`~resel_torchrl.ops.gru_scan`.

    Raises:
        ValueError: if ``size`` is not a positive integer or the backend is unknown.
        ModuleNotFoundError: if the backend needs a package that is not installed.

    Examples:
        >>> core = GRUCore(8)
        >>> _ = core.load_state_dict(nn.GRU(8, 8).state_dict())
        >>> is_init = torch.zeros(2, 5, dtype=torch.bool)
        >>> y, state = core(torch.randn(2, 5, 8), is_init)
        >>> y.shape, bool((y[:, -1] == state).all())
        (torch.Size([2, 5, 8]), True)
    """

    def __init__(self, size: int, backend: str = "auto"):
        super().__init__(size, state_size=size)
        self.backend = check_backend(backend)
        self.device_type = device_type(backend, BACKENDS)
        self.weight_ih_l0 = nn.Parameter(torch.empty(3 * size, size))
        self.weight_hh_l0 = nn.Parameter(torch.empty(3 * size, size))
        self.bias_ih_l0 = nn.Parameter(torch.empty(3 * size))
        self.bias_hh_l0 = nn.Parameter(torch.empty(3 * size))
        xavier_zero_bias_(self)

    def forward(
        self, x: Tensor, is_init: Tensor, state: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """See :meth:`SequenceCore.forward`."""
        state = self.check_sequence(x, is_init, state)
        # Time-major gates save a scan step by step a copy of three times the width.
        gates = nn.functional.linear(
            x.transpose(0, 1), self.weight_ih_l0, self.bias_ih_l0
        )
        return gru_scan(
            gates.transpose(0, 1),
            is_init,
            self.weight_hh_l0,
            self.bias_hh_l0,
            state,
            backend=self.backend,
        )

    def step(self, x: Tensor, is_init: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
        """See :meth:`SequenceCore.step`."""
        self.check_step(x, is_init, state)
        h = torch.gru_cell(
            x,
            masked_state(is_init, state),
            self.weight_ih_l0,
            self.weight_hh_l0,
            self.bias_ih_l0,
            self.bias_hh_l0,
        )
        return h, h
