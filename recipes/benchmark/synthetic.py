"""The parts of a configured training run on random episodes, without a simulator."""

from __future__ import annotations

import numpy as np
import torch
from tensordict import TensorDict
from torchrl.data import ReplayBuffer

from recipes.benchmark.measurement import check_device
from resel_torchrl.collect import RecurrentPolicy, flat_episode
from resel_torchrl.config import Config
from resel_torchrl.config.build import (
    agent_options,
    make_buffer,
    make_learner,
    resolve_algorithm,
)
from resel_torchrl.envs import classic_pomdp, task_info
from resel_torchrl.modules import Agent, make_agent
from resel_torchrl.training import Learner

__all__ = [
    "acting_policy",
    "fill_buffer",
    "flat_episodes",
    "synthetic_learner",
    "task_sizes",
]


def task_sizes(config: Config) -> tuple[int, int, int]:
    """Sizes of the configured task; of a PyBullet task without PyBullet.

    Args:
        config: The configuration.

    Returns:
        Entries of an observation, entries of an action, steps of a full episode.

    Raises:
        ValueError: If the task has discrete actions: random episodes have none.

    >>> from resel_torchrl.config import compose
    >>> task_sizes(compose(["task=walker_v"]))
    (9, 6, 1000)
    """
    env = config.env
    if env.id in classic_pomdp.TASKS:
        task = classic_pomdp.TASKS[env.id]
        _, joints, _ = classic_pomdp.ROBOTS[task["robot"]]
        return len(task["kept"]), joints, env.horizon or classic_pomdp.HORIZON
    info = task_info(env.id, horizon=env.horizon, **env.kwargs)
    if info.discrete:
        raise ValueError(
            f"env.id: expected a task with continuous actions, got {env.id}; choose "
            "for example task=hopper_v."
        )
    return info.observation_size, info.action_size, info.horizon


def synthetic_learner(config: Config) -> tuple[Learner, int]:
    """The learner of a training run, its buffer filled with random episodes.

    All episodes have full length and are truncated there. There are twice as many as a
    batch holds. The global random generator is seeded.

    Args:
        config: The configuration.

    Returns:
        The learner, and the length of the episodes.

    Raises:
        ValueError: As :func:`acting_policy`.

    >>> from resel_torchrl.config import compose
    >>> learner, horizon = synthetic_learner(compose(["task=pendulum_v"]))
    >>> learner.updates, horizon, len(learner.batches.replay_buffer)
    (0, 200, 1600)
    """
    config = resolve_algorithm(config, discrete=False)
    agent, (_, _, horizon) = _agent(config)
    buffer = make_buffer(config)
    fill_buffer(buffer, config)
    return make_learner(config, agent, buffer, horizon), horizon


def fill_buffer(buffer: ReplayBuffer, config: Config) -> None:
    """Writes random episodes of full length, twice as many as a batch holds.

    Args:
        buffer: Where to.
        config: The configuration.

    >>> from resel_torchrl.config import compose
    >>> config = compose(["task=pendulum_v"])
    >>> buffer = make_buffer(config)
    >>> fill_buffer(buffer, config)
    >>> len(buffer)
    1600
    """
    observation_size, action_size, horizon = task_sizes(config)
    rng = np.random.default_rng(config.seed)
    for _ in range(2 * -(-config.replay.batch_size // horizon)):
        buffer.extend(_episode(rng, horizon, observation_size, action_size))


def flat_episodes(
    count: int, length: int, observation_size: int, action_size: int
) -> TensorDict:
    """Flat `[count * length]` transitions of random numbers, for a replay buffer.

    Numbers other than 0: the system gives a tensor of zeros one shared page of memory.

    Args:
        count: Episodes.
        length: Transitions of each; the last one is truncated.
        observation_size: Entries of an observation.
        action_size: Entries of an action.

    >>> flat_episodes(2, 5, 3, 1)["next", "done"].sum()
    tensor(2)
    """
    observations = torch.rand(count, length + 1, observation_size)
    step = torch.arange(length).expand(count, length).reshape(-1, 1)
    done = step == length - 1
    return TensorDict(
        {
            "observation": observations[:, :-1].flatten(0, 1),
            "action": torch.rand(count * length, action_size),
            "is_init": step == 0,
            "next": {
                "observation": observations[:, 1:].flatten(0, 1),
                "reward": torch.rand(count * length, 1),
                "done": done,
                "terminated": torch.zeros_like(done),
                "truncated": done.clone(),
            },
        },
        [count * length],
    )


def acting_policy(config: Config) -> RecurrentPolicy:
    """The collecting policy of a training run, with its initial weights.

    Args:
        config: The configuration.

    Raises:
        ValueError: If the task has discrete actions or PyTorch sees no such device.

    >>> from resel_torchrl.config import compose
    >>> acting_policy(compose(["task=pendulum_v"]))(np.zeros(1, np.float32)).shape
    (1,)
    """
    agent, sizes = _agent(resolve_algorithm(config, discrete=False))
    return RecurrentPolicy(
        agent.actor_encoder, agent.actor, *sizes[:2], mode=config.train.acting
    )


def _agent(config: Config) -> tuple[Agent, tuple[int, int, int]]:
    check_device(config.device)
    sizes = task_sizes(config)
    torch.manual_seed(config.seed)
    return make_agent(*sizes[:2], **agent_options(config)), sizes


def _episode(
    rng: np.random.Generator, length: int, observation_size: int, action_size: int
) -> TensorDict:
    return flat_episode(
        rng.standard_normal((length + 1, observation_size), dtype=np.float32),
        rng.uniform(-1, 1, (length, action_size)).astype(np.float32),
        rng.standard_normal(length, dtype=np.float32),
        terminated=False,
        truncated=True,
    )
