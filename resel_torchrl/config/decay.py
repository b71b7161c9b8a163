"""Learning rates that fall, from a configuration."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from resel_torchrl.config.schema import Config
from resel_torchrl.training import LearningRateDecay

__all__ = ["decay_problems", "make_decay"]


def make_decay(config: Config) -> LearningRateDecay | None:
    """How the learning rates fall, if they do.

    >>> from resel_torchrl.config import compose
    >>> make_decay(compose(["task=hopper_v"])) is None
    True
    >>> decay = make_decay(compose(["task=hopper_v", "optim.decay_steps=[0,100]"]))
    >>> decay.share(75)
    0.25
    """
    if config.optim.decay_steps is None:
        return None
    return LearningRateDecay(*config.optim.decay_steps, to=config.optim.decay_to)


def decay_problems(value: Callable[[str], Any]) -> list[str]:
    """What is wrong with a decay beside the types of its values.

    Args:
        value: From a dotted key to its value.

    >>> decay_problems({"optim.decay_steps": [100]}.get)
    ['optim.decay_steps: expected a first step of 0 or more and a later last one, got \
[100]; write optim.decay_steps=[FIRST,LAST], or optim.decay_steps=null for none.']
    """
    steps = value("optim.decay_steps")
    if not isinstance(steps, list) or not all(type(step) is int for step in steps):
        return []
    problems = []
    if len(steps) != 2 or not 0 <= steps[0] < steps[1]:
        problems.append(
            "optim.decay_steps: expected a first step of 0 or more and a later last "
            f"one, got {steps}; write optim.decay_steps=[FIRST,LAST], or "
            "optim.decay_steps=null for none."
        )
    if value("train.cudagraph") is True:
        problems.append(
            "optim.decay_steps: expected null with train.cudagraph=true, whose graphs "
            f"hold the learning rates, got {steps}; leave one of them out."
        )
    return problems
