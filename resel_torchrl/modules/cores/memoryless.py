"""Control that sees the current observation only."""

from resel_torchrl.modules.cores.positionwise import PositionwiseCore


class MemorylessCore(PositionwiseCore):
    """Control without any memory: an encoder that has it drops the previous inputs.

    What an agent with this core reaches is what the current observation alone allows.

    Args:
        size: width of input and output.

    Raises:
        ValueError: if ``size`` is not a positive integer.

    Examples:
        >>> core = MemorylessCore(4)
        >>> core.state_size, core.uses_previous
        (0, False)
    """

    uses_previous = False
