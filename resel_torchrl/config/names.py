"""The names that a mistyped one may have meant."""

from __future__ import annotations

import difflib
from collections.abc import Iterable

__all__ = ["nearest"]


def nearest(name: str, known: Iterable[str], count: int = 3) -> str:
    """A sentence that lists the names nearest to `name`, or all of a short list.

    >>> nearest("pendulm_v", ["pendulum_v", "pendulum_p", "walker_v"])
    'Nearest: pendulum_v, pendulum_p.'
    >>> nearest("xyz", ["gru", "lstm"])
    'Known: gru, lstm.'
    >>> nearest("t_maze", ["tmaze_active", "tmaze_passive", "walker_v"])
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
