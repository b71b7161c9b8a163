"""Two learners that take turns: a ratio that stands on a machine of changing speed."""

from __future__ import annotations

import functools
import math

from resel_torchrl.analysis.measurements import Measurement
from resel_torchrl.analysis.synthetic import synthetic_learner
from resel_torchrl.analysis.timing import at_least_one, on_threads, seconds_of
from resel_torchrl.config import Config
from resel_torchrl.config.composition import to_dict
from resel_torchrl.training import (
    Learner,
    keep_freed_memory,
    matmul_precision,
    untouched_generators,
)

__all__ = ["compare_updates"]

# A turn lasts about as long, so that starting it costs nothing.
_TURN_SECONDS = 0.5


def compare_updates(
    config: Config, other: Config, *, repetitions: int = 10
) -> list[Measurement]:
    """Times the updates of two configurations in turns, in one process.

    Updates and episodes are those of :func:`~resel_torchrl.analysis.time_update`. In a
    repetition each of the two makes as many updates as the first makes in about half a
    second; the ratio is taken of neighbours in time.

    Args:
        config: What the other is compared with; it gives the threads.
        other: The same but for some values.
        repetitions: Turns of each, after a warm-up in which graphs are made.

    Returns:
        Rows of the updates per second of both, and of their ratio: above 1 where
        `other` is faster.

    Raises:
        ValueError: If there is no repetition, or a task has discrete actions.

    >>> from resel_torchrl.config import compose
    >>> small = ["task=pendulum_v", "core=gru", "agent.hidden_size=8"]
    >>> other = compose([*small, "agent.n_critics=3"])
    >>> rows = compare_updates(compose(small), other, repetitions=1)
    >>> [row.unit for row in rows], rows[2].case
    (['updates/s', 'updates/s', '×'], 'pendulum_v, gru, agent.n_critics=3')
    """
    at_least_one(repetitions=repetitions)
    configs, speeds = (config, other), ([], [])
    keep_freed_memory()  # as a training run does
    with untouched_generators(), on_threads(config.threads):
        learners = [synthetic_learner(each)[0] for each in configs]
        delay = math.lcm(*(each.train.policy_delay for each in configs))
        for each, learner in zip(configs, learners, strict=True):
            _seconds(each, learner, 4 * delay)  # what is built or recorded once
        count = delay * math.ceil(_TURN_SECONDS / _seconds(config, learners[0], delay))
        for _ in range(repetitions):
            for each, learner, rates in zip(configs, learners, speeds, strict=True):
                rates.append(count / _seconds(each, learner, count))
    changed = ", ".join(_differences(to_dict(config), to_dict(other)))
    case = f"{config.task}, {config.agent.core}"
    row = functools.partial(
        Measurement.of, benchmark="compare", threads=config.threads, unit="updates/s"
    )
    ratios = [second / first for first, second in zip(*speeds, strict=True)]
    return [
        row(speeds[0], case=case, quantity="updates"),
        row(speeds[1], case=f"{case}, {changed}", quantity="updates"),
        row(ratios, case=f"{case}, {changed}", quantity="ratio", unit="×"),
    ]


def _seconds(config: Config, learner: Learner, updates: int) -> float:
    def make_updates() -> None:
        for _ in range(updates):
            learner.update()

    with matmul_precision(config.train.matmul_precision):
        return seconds_of(make_updates, 1, config.device, warm_up=0)[0]


def _differences(first: dict, second: dict, prefix: str = "") -> list[str]:
    """`group.name=value` of each value of the second that is another in the first."""
    found = []
    for name in first.keys() | second.keys():
        one, two = first.get(name), second.get(name)
        if isinstance(one, dict) and isinstance(two, dict):
            found += _differences(one, two, f"{prefix}{name}.")
        elif one != two:
            value = str(two).lower() if isinstance(two, bool) else two
            found.append(f"{prefix}{name}={value}")
    return sorted(found)
