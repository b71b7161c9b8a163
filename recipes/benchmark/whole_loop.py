"""How long the loops around the networks take: acting with its environment, training.

Every function returns rows of :class:`Measurement` and steps the task's own simulator.
"""

from __future__ import annotations

import csv
import functools
import tempfile
import time
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np

from recipes.benchmark.measurement import (
    Measurement,
    at_least_one,
    on_threads,
    seconds_of,
)
from recipes.benchmark.synthetic import acting_policy, fill_buffer, task_sizes
from resel_torchrl._random import untouched_generators
from resel_torchrl.collect import Collector
from resel_torchrl.config import Config, make_training, to_yaml
from resel_torchrl.config.build import make_buffer
from resel_torchrl.envs import make_gym
from resel_torchrl.training import RunDirectory

__all__ = [
    "time_collecting",
    "time_end_to_end",
]

CHUNK = 100


class _TimedEnv:
    """An environment and the seconds spent in it."""

    def __init__(self, env: gymnasium.Env) -> None:
        self.env = env
        self.seconds = 0.0

    def _timed(self, call: Any, *args: Any, **kwargs: Any) -> Any:
        start = time.perf_counter()
        result = call(*args, **kwargs)
        self.seconds += time.perf_counter() - start
        return result

    def reset(self, **kwargs: Any) -> Any:
        return self._timed(self.env.reset, **kwargs)

    def step(self, action: np.ndarray) -> Any:
        return self._timed(self.env.step, action)

    def close(self) -> None:
        self.env.close()


def time_collecting(config: Config, *, repetitions: int = 20) -> list[Measurement]:
    """Times collecting: environment, policy and replay buffer, on one thread.

    The policy has its initial weights and samples. A repetition is 100 steps of
    :class:`~resel_torchrl.training.Collector`, resets and the writing of finished
    episodes among them; the seconds spent within the environment are those of the same
    steps.

    Args:
        config: Configuration, as :func:`resel_torchrl.config.compose` returns it.
        repetitions: Timed repetitions.

    Returns:
        A row of the environment alone and one of the whole, in milliseconds per step.

    Raises:
        ValueError: If there is no repetition, the task has discrete actions, or the
            device is not there.
        ModuleNotFoundError: If the simulator is not installed.

    >>> from resel_torchrl.config import compose
    >>> config = compose(["task=pendulum_v", "core=gru", "agent.hidden_size=8"])
    >>> rows = time_collecting(config, repetitions=2)
    >>> [row.quantity for row in rows], rows[0].median < rows[1].median
    (['environment alone', 'environment, policy and storing'], True)
    """
    at_least_one(repetitions=repetitions)
    with untouched_generators(), on_threads(1):
        environment, whole = _collecting_seconds(config, repetitions)
    row = functools.partial(
        Measurement.of,
        benchmark="acting",
        case=f"{config.task}, {config.agent.core}",
        unit="ms",
        threads=1,
    )
    return [
        row([1000 * s for s in environment], quantity="environment alone"),
        row([1000 * s for s in whole], quantity="environment, policy and storing"),
    ]


def _collecting_seconds(
    config: Config, repetitions: int
) -> tuple[list[float], list[float]]:
    """Seconds per step, of each chunk: within the environment, and all in all."""
    policy = acting_policy(config)
    horizon = task_sizes(config)[2]
    env = _TimedEnv(
        make_gym(config.env.id, horizon=config.env.horizon, **config.env.kwargs)
    )
    buffer = make_buffer(config)
    collector = Collector(env, policy, buffer, horizon=horizon, seed=config.seed)
    environment = []

    def steps() -> None:
        env.seconds = 0.0
        for _ in range(CHUNK):
            collector.step()
        environment.append(env.seconds / CHUNK)

    whole = seconds_of(steps, repetitions)
    collector.close()
    return environment[-repetitions:], [seconds / CHUNK for seconds in whole]


def time_end_to_end(
    config: Config, *, repetitions: int = 4, steps: int = 50
) -> list[Measurement]:
    """Times whole training runs, collecting in turn with the updates and beside them.

    A run starts with a replay buffer of random episodes of full length, twice as many
    as a batch holds, and no random phase, so that it updates from its first step on.
    Its own rows of the log give its speed; the first row, in which processes start, is
    left out. Right after it the updates alone are timed, of the same learner on the
    buffer that it was left with. The learner computes on ``config.threads`` threads, a
    collecting process on one more.

    Args:
        config: Configuration, as :func:`resel_torchrl.config.compose` returns it.
        repetitions: Rows of the log of each run.
        steps: Environment steps per row.

    Returns:
        A row of collecting alone, in environment steps per second; then for each way
        of collecting the run's environment steps per second, the updates per second of
        its updates alone, and the share of what these allow that the run reached, in
        percent.

    Raises:
        ValueError: If a number is below 1, the task has discrete actions, or the device
            is another than the CPU.
        ModuleNotFoundError: If the simulator is not installed.

    >>> from resel_torchrl.config import compose
    >>> small = ["core=gru", "agent.hidden_size=8", "replay.batch_size=200"]
    >>> config = compose(["task=pendulum_v", *small])
    >>> for row in time_end_to_end(config, repetitions=1, steps=2):
    ...     print(row.quantity, "/", row.unit)
    collecting alone / steps/s
    whole loop, collection=sync / steps/s
    updates alone, collection=sync / updates/s
    share of the updates' speed, collection=sync / %
    whole loop, collection=process / steps/s
    updates alone, collection=process / updates/s
    share of the updates' speed, collection=process / %
    """
    at_least_one(repetitions=repetitions, steps=steps)
    row = functools.partial(
        Measurement.of,
        benchmark="end_to_end",
        case=f"{config.task}, {config.agent.core}, updates on {config.threads} and "
        "collecting on 1 thread",
        threads=config.threads,
    )
    with untouched_generators(), on_threads(1):
        _, seconds = _collecting_seconds(config, repetitions)
    rows = [row([1 / s for s in seconds], quantity="collecting alone", unit="steps/s")]
    for collection in ("sync", "process"):
        with untouched_generators(), on_threads(config.threads):
            rates, seconds = _run(config, collection, repetitions, steps)
        label = f"collection={collection}"
        whole = row(rates, quantity=f"whole loop, {label}", unit="steps/s")
        alone = row(
            [1 / s for s in seconds],
            quantity=f"updates alone, {label}",
            unit="updates/s",
        )
        allowed = alone.median / config.train.updates_per_step
        share = row(
            [100 * rate / allowed for rate in rates],
            quantity=f"share of the updates' speed, {label}",
            unit="%",
        )
        rows += [whole, alone, share]
    return rows


def _run(
    config: Config, collection: str, repetitions: int, steps: int
) -> tuple[list[float], list[float]]:
    """Steps per second of each row of a run's log, and seconds per update after it."""
    with tempfile.TemporaryDirectory() as folder:
        total = steps * (repetitions + 1)
        train = {"collection": collection, "random_steps": 0}
        log = {"interval": steps, "console": False, "loggers": []}
        log["checkpoint_interval"] = total
        config = config.model_copy(
            update={
                "steps": total,
                "run_dir": str(Path(folder, "run")),
                "train": config.train.model_copy(update=train),
                "eval": config.eval.model_copy(update={"interval": 0}),
                "log": config.log.model_copy(update=log),
            }
        )
        run = RunDirectory.create(config.run_dir, to_yaml(config))
        training = make_training(config, run)
        learner = training.learner
        fill_buffer(learner.replay_buffer, config)
        training.run()
        with open(run.metrics, newline="") as stream:
            rows = list(csv.DictReader(stream))
    rates = [float(row["env_steps_per_second"]) for row in rows[1:]]
    delay = config.train.policy_delay

    def some_updates() -> None:
        for _ in range(delay):
            learner.update()

    return rates, [seconds / delay for seconds in seconds_of(some_updates, repetitions)]
