"""Known names near to one that is not known: for error messages."""

import difflib
from collections.abc import Iterable


def nearest(name: str, known: Iterable[str], count: int = 3) -> list[str]:
    """The known names nearest to ``name``, best first; case does not matter.

    Args:
        name: what was written.
        known: what could have been meant.
        count: how many at most.

    Returns:
        The names, none of them if nothing is near.

    Examples:
        >>> nearest("pendulum-v", ["Pendulum-P", "Pendulum-V", "Walker-V"])
        ['Pendulum-V', 'Pendulum-P']
        >>> nearest("pendulum-v", ["gru", "lstm"])
        []
    """
    lower = {str(k).lower(): k for k in known}
    close = difflib.get_close_matches(str(name).lower(), lower, n=count, cutoff=0.6)
    return [lower[match] for match in close]


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """The end of an error message: the nearest known name, or nothing.

    Examples:
        >>> "Unknown core." + did_you_mean("gruu", ["gru", "lstm"])
        "Unknown core. Did you mean 'gru'?"
        >>> did_you_mean("transformer", ["gru", "lstm"])
        ''
    """
    return "".join(f" Did you mean {near!r}?" for near in nearest(name, known, 1))
