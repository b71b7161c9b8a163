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


def suggestion(name: str, known: Iterable[str], count: int = 3) -> str:
    """A sentence that lists the names nearest to `name`, or all of a short list.

    >>> suggestion("pendulm_v", ["pendulum_v", "pendulum_p", "walker_v"])
    'Nearest: pendulum_v, pendulum_p.'
    >>> suggestion("xyz", ["gru", "lstm"])
    'Known: gru, lstm.'
    >>> suggestion("t_maze", ["tmaze_active", "tmaze_passive", "walker_v"])
    'Nearest: tmaze_active, tmaze_passive.'
    """
    known = sorted(known)
    close = difflib.get_close_matches(name, known, n=count, cutoff=0.6)
    if close:
        return f"Nearest: {', '.join(close)}."
    tails = {key: key.rsplit(".", 1)[-1] for key in known}
    tail = name.rsplit(".", 1)[-1]
    close = [
        key
        for key in known
        if difflib.SequenceMatcher(None, tail, tails[key]).ratio() > 0.6
    ]
    close.sort(key=lambda key: -difflib.SequenceMatcher(None, tail, tails[key]).ratio())
    letters = name.replace("_", "")
    if not close and letters:  # what begins alike, underscores apart
        close = [key for key in known if key.replace("_", "").startswith(letters)]
    if close:
        return f"Nearest: {', '.join(close[:count])}."
    return f"Known: {', '.join(known)}."
