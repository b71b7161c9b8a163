"""How long a step of acting takes: of the policy, the environment, and both."""

from __future__ import annotations

import functools
import time
from typing import Any

import gymnasium
import numpy as np
from torch.utils.benchmark import set_torch_threads

from recipes.benchmark.measurement import Measurement, at_least_one, seconds_of
from recipes.benchmark.synthetic import acting_policy, task_sizes
from resel_torchrl._random import untouched_generators
from resel_torchrl.collect import EpisodeCollector
from resel_torchrl.config import Config
from resel_torchrl.config.build import make_buffer
from resel_torchrl.envs import make_gym

#: Steps of a repetition of collecting.
CHUNK = 100


def time_acting(config: Config, *, repetitions: int = 1000) -> list[Measurement]:
    """Time one step of the policy that collects, in ms, on one thread.

    It is a call of `RecurrentPolicy` with one observation and a sampled action. The
    environment is not in it.
    """
    at_least_one(repetitions=repetitions)
    with untouched_generators(), set_torch_threads(1):
        policy = acting_policy(config)
        observation = np.random.default_rng(config.seed).standard_normal(
            policy.observation_size, dtype=np.float32
        )
        seconds = seconds_of(lambda: policy(observation, 0.0), repetitions)
    return [_row(config)([1000 * s for s in seconds], quantity="policy alone")]


def time_collecting(config: Config, *, repetitions: int = 20) -> list[Measurement]:
    """Time collecting, in ms per step, on one thread.

    A repetition is 100 steps of the collector, resets and the writing of finished
    episodes among them. Two rows: the environment alone, of the same steps, and the
    whole.

    Raises:
        ModuleNotFoundError: If the simulator is not installed.
    """
    at_least_one(repetitions=repetitions)
    environment, whole = collecting_seconds(config, repetitions)
    row = _row(config)
    return [
        row([1000 * s for s in environment], quantity="environment alone"),
        row([1000 * s for s in whole], quantity="environment, policy and storing"),
    ]


def collecting_seconds(
    config: Config, repetitions: int
) -> tuple[list[float], list[float]]:
    """Seconds per step, of each chunk: within the environment, and all in all."""
    with untouched_generators(), set_torch_threads(1):
        policy = acting_policy(config)
        horizon = task_sizes(config)[2]
        kwargs = {"horizon": config.env.horizon, **config.env.kwargs}
        env = _TimedEnv(make_gym(config.env.id, **kwargs))
        buffer = make_buffer(config)
        collector = EpisodeCollector(
            env, policy, buffer, horizon=horizon, seed=config.seed
        )
        environment = []

        def steps() -> None:
            env.seconds = 0.0
            for _ in range(CHUNK):
                collector.step()
            environment.append(env.seconds / CHUNK)

        whole = seconds_of(steps, repetitions)
        collector.close()
    return environment[-repetitions:], [seconds / CHUNK for seconds in whole]


def _row(config: Config) -> functools.partial:
    case = f"{config.task}, {config.agent.core}"
    labels = {"benchmark": "acting", "case": case, "unit": "ms", "threads": 1}
    return functools.partial(Measurement.of, **labels)


class _TimedEnv:
    """An environment and the seconds spent in it."""

    def __init__(self, env: gymnasium.Env) -> None:
        self.env = env
        self.seconds = 0.0

    def reset(self, **kwargs: Any) -> Any:
        return self._timed(self.env.reset, **kwargs)

    def step(self, action: np.ndarray) -> Any:
        return self._timed(self.env.step, action)

    def close(self) -> None:
        self.env.close()

    def _timed(self, call: Any, *args: Any, **kwargs: Any) -> Any:
        start = time.perf_counter()
        result = call(*args, **kwargs)
        self.seconds += time.perf_counter() - start
        return result
