"""GRU core."""

import torch
from torch import Tensor, nn

from resel_torchrl.modules.cores.base import GatedCore
from resel_torchrl.ops import gru_scan
from resel_torchrl.ops._resets import masked_state
from resel_torchrl.ops.gru import BACKENDS


class GRUCore(GatedCore):
    """One GRU layer with resets, as wide as its input.

    Parameters have the names, shapes and meaning of a single-layer
    :class:`torch.nn.GRU`, whose state dict loads as it is. Matrices start
    Xavier-uniform, biases at zero (arXiv 2405.15384, appendix), by which an untrained
    unit keeps about half of its state at each step. The state is the hidden state.

    Args:
        size: width of input, output and hidden state.
        backend: implementation of the recurrence, as in
            :func:`~resel_torchrl.ops.gru_scan`.
        max_memory: steps over which the slowest units of an untrained core forget, such
            as the horizon. The biases of the update gate then start at ``log(u)``,
            ``u`` uniform in [1, max_memory - 1], so that a unit keeps ``u / (1 + u)``
            of its state (chrono initialization, `arXiv 1804.11188
            <https://arxiv.org/abs/1804.11188>`_, section 2). ``None`` leaves them zero.

    Raises:
        ValueError: if ``size`` is not a positive integer, the backend is unknown or
            ``max_memory`` is not a whole number of 2 or more.
        ModuleNotFoundError: if the backend needs a package that is not installed.

    Examples:
        >>> core = GRUCore(8)
        >>> _ = core.load_state_dict(nn.GRU(8, 8).state_dict())
        >>> is_init = torch.zeros(2, 5, dtype=torch.bool)
        >>> y, state = core(torch.randn(2, 5, 8), is_init)
        >>> y.shape, bool((y[:, -1] == state).all())
        (torch.Size([2, 5, 8]), True)
    """

    def __init__(self, size: int, backend: str = "auto", max_memory: int | None = None):
        if max_memory is not None and (type(max_memory) is not int or max_memory < 2):
            raise ValueError(
                "expected max_memory to be a whole number of 2 steps or more, or None, "
                f"got {max_memory!r}; the horizon is a good start."
            )
        super().__init__(size, 3, state_size=size)
        self.backend = BACKENDS.check(backend)
        self.device_type = BACKENDS.device_type(backend)
        if max_memory is not None:
            with torch.no_grad():
                kept = self.bias_ih_l0[size : 2 * size]  # of reset, update, new
                kept.uniform_(1, max_memory - 1).log_()

    def forward(
        self, x: Tensor, is_init: Tensor, state: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """See :meth:`SequenceCore.forward`."""
        state = self.check_sequence(x, is_init, state)
        # A loop over time reads its gates step by step, a kernel row by row.
        by_step = BACKENDS.choose(self.backend, x).loops
        x = x.transpose(0, 1).contiguous() if by_step else x
        gates = nn.functional.linear(x, self.weight_ih_l0, self.bias_ih_l0)
        return gru_scan(
            gates.transpose(0, 1) if by_step else gates,
            is_init,
            self.weight_hh_l0,
            self.bias_hh_l0,
            state,
            backend=self.backend,
        )

    def step(self, x: Tensor, is_init: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
        """See :meth:`SequenceCore.step`."""
        self.check_step(x, is_init, state)
        h = torch.gru_cell(x, masked_state(is_init, state), *self.cell_parameters)
        return h, h
