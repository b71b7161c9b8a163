"""Cores without recurrence: the controls of an experiment on memory."""

from torch import Tensor, nn

from resel_torchrl.modules.cores.base import SequenceCore, xavier_zero_bias_


class PositionwiseCore(SequenceCore):
    """A Linear layer and ELU at each time step on its own; no state.

    Args:
        size: width of input and output.

    Raises:
        ValueError: if ``size`` is not a positive integer.
    """

    def __init__(self, size: int):
        super().__init__(size, state_size=0)
        self.linear = nn.Linear(size, size)
        xavier_zero_bias_(self.linear)

    def forward(
        self, x: Tensor, is_init: Tensor, state: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """See :meth:`SequenceCore.forward`."""
        state = self.check_sequence(x, is_init, state)
        return nn.functional.elu_(self.linear(x)), state

    def step(self, x: Tensor, is_init: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
        """See :meth:`SequenceCore.step`."""
        self.check_step(x, is_init, state)
        return nn.functional.elu_(self.linear(x)), state


class MemorylessCore(PositionwiseCore):
    """Control that sees the current observation only: an encoder drops the rest.

    What an agent with this core reaches is what the current observation alone allows.

    Args:
        size: width of input and output.

    Examples:
        >>> core = MemorylessCore(4)
        >>> core.state_size, core.uses_previous
        (0, False)
    """

    uses_previous = False


class OneStepCore(PositionwiseCore):
    """Control without recurrence that still sees the previous inputs.

    What an agent with this core reaches beyond a memoryless one is due to the previous
    observation, action and reward, and needs no recurrence.

    Args:
        size: width of input and output.

    Examples:
        >>> core = OneStepCore(4)
        >>> core.state_size, core.uses_previous
        (0, True)
    """
