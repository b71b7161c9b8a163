"""Control that sees one step of history."""

from resel_torchrl.modules.cores.positionwise import PositionwiseCore


class OneStepCore(PositionwiseCore):
    """Control without recurrence that still sees the previous inputs.

    What an agent with this core reaches beyond a memoryless one is due to the previous
    observation, action and reward, and needs no recurrence.

    Args:
        size: width of input and output.

    Raises:
        ValueError: if ``size`` is not a positive integer.

    Examples:
        >>> core = OneStepCore(4)
        >>> core.state_size, core.uses_previous
        (0, True)
    """
