"""The output variation of a trained run, from its directory."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import torch
from tensordict import TensorDict

from resel_torchrl.analysis.output_variation import output_variation
from resel_torchrl.analysis.variations import OutputVariation
from resel_torchrl.config import load_config
from resel_torchrl.config.algorithms import loss_of
from resel_torchrl.envs import make_gym
from resel_torchrl.replay import pack_episodes
from resel_torchrl.training import (
    CheckpointStore,
    RecurrentPolicy,
    RunDirectory,
    RunError,
    episode_seed,
    flat_episode,
    make_agent,
    untouched_generators,
)

__all__ = ["run_output_variation"]


def run_output_variation(
    run_dir: str | Path,
    learning_rates: Sequence[tuple[float, float]] | None = None,
    *,
    episodes: int = 20,
    checkpoint: int | None = None,
) -> list[OutputVariation]:
    """Measures how far the actions of a trained run move after one gradient step.

    The gradient is that of the run's next batch, the step starts from its Adam moments
    (the step that training itself would have made next, but for the learning rates),
    and actions are compared along new episodes of the deterministic policy, on the
    episodes that evaluation uses. See :func:`output_variation`. The run directory is
    only read, so the run may be going on.

    Args:
        run_dir: Directory of a run that has begun to learn.
        learning_rates: Pairs (lr_context_encoder, lr_other). None takes the run's own
            pair, the encoder two orders of magnitude below the rest, and each of the
            run's two rates as a common one.
        episodes: Episodes that the actions are compared along.
        checkpoint: Step of the checkpoint; None takes the newest whole one.

    Returns:
        One entry per pair, in order.

    Raises:
        RunError: If it is no run directory, there is no such checkpoint or it is
            damaged, or the run had made no update yet.
        ConfigError: If its configuration holds a mistake.
        ValueError: If a learning rate is negative or there is no episode to run.

    >>> run_output_variation("no/such/run")
    Traceback (most recent call last):
    ...
    resel_torchrl.training.run_directory.RunError: expected a run directory (one with \
a config.yaml), got no/such/run; give the path that the run printed at its start.
    """
    if episodes < 1:
        raise ValueError(f"episodes: expected 1 or more, got {episodes}.")
    run = RunDirectory.open(run_dir)
    config = load_config(run.config)
    if learning_rates is None:
        own, other = config.optim.lr_context_encoder, config.optim.lr_actor
        pairs = [(own, other), (other / 100, other), (other, other), (own, own)]
        learning_rates = list(dict.fromkeys(pairs))
    with untouched_generators():
        torch.manual_seed(config.seed)
        manifest, learner = _checkpoint(run, checkpoint)
        sizes = manifest["observation_size"], manifest["action_size"]
        agent = make_agent(*sizes, **manifest["agent"])
        loss = loss_of(config, agent)
        loss.load_state_dict(learner["loss"])
        batch = TensorDict(learner["batch"]["entries"], learner["batch"]["shape"])
        policy = RecurrentPolicy(
            agent.actor_encoder, agent.actor, *sizes, deterministic=True
        )
        env = make_gym(config.env.id, horizon=config.env.horizon, **config.env.kwargs)
        seeds = [episode_seed(config.eval.seed, 0, i) for i in range(episodes)]
        rollouts = [_rollout(env, policy, seed) for seed in seeds]
        env.close()
        return output_variation(
            loss,
            agent.actor_encoder,
            agent.actor,
            batch.unflatten_keys("."),
            learning_rates,
            rollouts=pack_episodes(torch.cat(rollouts), max(map(len, rollouts)) + 1),
            optimizer_state=learner["optimizer"],
        )


def _checkpoint(
    run: RunDirectory, step: int | None
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Manifest and learner's state of a checkpoint that holds a next batch."""
    store = CheckpointStore(run.checkpoints, None)
    step = store.newest() if step is None else step
    if step is None:
        raise RunError(
            f"expected a checkpoint in {run.checkpoints}, got none; the run has not "
            "saved one yet: stop it by Ctrl-C, which saves, or wait."
        )
    store.check(step)
    learner = store.load(step, "learner")["learner"]
    if learner["batch"] is None:
        raise RunError(
            f"expected a run that has made updates, got {store.path(step)}, which is "
            "of its random phase; train further (resume=RUN_DIR), or take a later "
            "checkpoint."
        )
    return store.manifest(step), learner


def _rollout(env: gymnasium.Env, policy: RecurrentPolicy, seed: int) -> TensorDict:
    """One episode as a flat TensorDict `[T]`."""
    policy.reset()
    observation, _ = env.reset(seed=seed)
    observations, actions, rewards = [observation], [], []
    terminated = truncated = False
    while not (terminated or truncated):
        actions.append(policy.act(observation, rewards[-1] if rewards else None))
        observation, reward, terminated, truncated, _ = env.step(
            policy.to_env(actions[-1])
        )
        observations.append(observation)
        rewards.append(float(reward))
    arrays = (np.array(x, np.float32) for x in (observations, actions, rewards))
    return flat_episode(*arrays, terminated, truncated)
