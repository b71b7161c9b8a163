"""Sequence cores of the context encoder, by name."""

import inspect

from resel_torchrl._nearest import did_you_mean
from resel_torchrl.modules.cores.base import SequenceCore
from resel_torchrl.modules.cores.gru import GRUCore
from resel_torchrl.modules.cores.lru import LRUCore
from resel_torchrl.modules.cores.lstm import LSTMCore
from resel_torchrl.modules.cores.mamba import MambaCore, MambaMixer
from resel_torchrl.modules.cores.min_gru import MinGRUCore
from resel_torchrl.modules.cores.positionwise import MemorylessCore, OneStepCore
from resel_torchrl.modules.cores.transformer import TransformerCore

__all__ = [
    "CORES",
    "GRUCore",
    "LRUCore",
    "LSTMCore",
    "MambaCore",
    "MambaMixer",
    "MemorylessCore",
    "MinGRUCore",
    "OneStepCore",
    "SequenceCore",
    "TransformerCore",
    "make_core",
]

CORES: dict[str, type[SequenceCore]] = {
    "gru": GRUCore,
    "lru": LRUCore,
    "lstm": LSTMCore,
    "mamba": MambaCore,
    "memoryless": MemorylessCore,
    "min_gru": MinGRUCore,
    "one_step": OneStepCore,
    "transformer": TransformerCore,
}
"""Sequence cores by name. An entry of one's own makes its name known to make_core."""


def make_core(name: str, size: int, **kwargs) -> SequenceCore:
    """Build a sequence core by its name.

    Args:
        name: a key of :data:`CORES`.
        size: width of input and output.
        **kwargs: further arguments of that core's constructor.

    Raises:
        ValueError: if the name or an argument is unknown (the message lists what there
            is and the nearest, or the new name of one renamed), or a value is out of
            range.

    Examples:
        >>> make_core("gru", 4)
        GRUCore(size=4, state_size=4)
    """
    if name not in CORES:
        raise ValueError(
            f"Unknown core {name!r}: expected one of {sorted(CORES)}."
            + did_you_mean(name, CORES)
        )
    core = CORES[name]
    accepted = [p for p in inspect.signature(core).parameters if p != "size"]
    for argument in kwargs:
        if argument in core.renamed:
            raise ValueError(
                f"Argument {argument!r} of core {name!r} was renamed to "
                f"{core.renamed[argument]}."
            )
        if argument not in accepted:
            raise ValueError(
                f"Unknown argument {argument!r} for core {name!r}: expected some of "
                f"{accepted}." + did_you_mean(argument, accepted)
            )
    return core(size, **kwargs)
