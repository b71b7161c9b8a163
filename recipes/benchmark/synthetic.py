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
from resel_torchrl.envs import classic_pomdp, find_spec, task_info
from resel_torchrl.modules import Agent, make_agent
from resel_torchrl.training import Learner


def task_sizes(config: Config) -> tuple[int, int, int]:
    """Sizes of observation and action, and the horizon; PyBullet is not needed.

    Raises:
        ValueError: If the task has discrete actions: random episodes have none.
    """
    env = config.env
    if "BLT-" in env.id:
        spec = find_spec(env.id)
        _, joints, _ = classic_pomdp.BULLET_ROBOTS[spec.kwargs["robot"]]
        return len(spec.kwargs["kept"]), joints, env.horizon or spec.max_episode_steps
    info = task_info(env.id, horizon=env.horizon, **env.kwargs)
    if info.discrete:
        raise ValueError(
            f"env.id: expected a task with continuous actions, got {env.id}; choose "
            "for example task=hopper_v."
        )
    return info.observation_size, info.action_size, info.horizon


def synthetic_learner(config: Config) -> tuple[Learner, int]:
    """The learner of a training run, its buffer filled with random episodes; horizon.

    All episodes have full length and are truncated there. The global random generator
    is seeded.
    """
    config = resolve_algorithm(config, discrete=False)
    agent, (_, _, horizon) = _agent(config)
    buffer = make_buffer(config)
    fill_buffer(buffer, config)
    return make_learner(config, agent, buffer, horizon), horizon


def fill_buffer(buffer: ReplayBuffer, config: Config) -> None:
    """Write random episodes of full length, twice as many as a batch holds."""
    observation_size, action_size, horizon = task_sizes(config)
    rng = np.random.default_rng(config.seed)
    for _ in range(2 * -(-config.replay.batch_size // horizon)):
        episode = flat_episode(
            rng.standard_normal((horizon + 1, observation_size), dtype=np.float32),
            rng.uniform(-1, 1, (horizon, action_size)).astype(np.float32),
            rng.standard_normal(horizon, dtype=np.float32),
            terminated=False,
            truncated=True,
        )
        buffer.extend(episode)


def flat_episodes(
    count: int, length: int, observation_size: int, action_size: int
) -> TensorDict:
    """Flat `[count * length]` transitions of random numbers, for a replay buffer.

    Numbers other than 0: the system gives a tensor of zeros one shared page of memory.
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
    """The collecting policy of a training run, with its initial weights."""
    agent, sizes = _agent(resolve_algorithm(config, discrete=False))
    return RecurrentPolicy(
        agent.actor_encoder, agent.actor, *sizes[:2], mode=config.train.acting
    )


def _agent(config: Config) -> tuple[Agent, tuple[int, int, int]]:
    check_device(config.device)
    sizes = task_sizes(config)
    torch.manual_seed(config.seed)
    return make_agent(*sizes[:2], **agent_options(config)), sizes
