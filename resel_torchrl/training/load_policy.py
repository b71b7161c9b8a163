"""A trained policy from a run directory, ready to act."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from resel_torchrl.collect.acting import RecurrentPolicy
from resel_torchrl.errors import RunError
from resel_torchrl.modules.agent import make_agent
from resel_torchrl.training.checkpoint import CheckpointStore
from resel_torchrl.training.run_directory import RunDirectory

__all__ = [
    "load_policy",
]


def load_policy(
    run_dir: str | Path,
    *,
    checkpoint: int | None = None,
    deterministic: bool = True,
    mode: Literal["auto", "eager", "fused"] | None = None,
) -> RecurrentPolicy:
    """Load the policy of a run, without its environment, buffer and optimizer.

    The policy keeps its own hidden state. A Gymnasium loop::

        policy = load_policy("runs/pendulum_v/lstm-seed0")
        observation, reward, done = env.reset()[0], None, False
        policy.reset()
        while not done:
            observation, reward, terminated, truncated, _ = env.step(
                policy(observation, reward)
            )
            done = terminated or truncated

    Args:
        run_dir: Directory of the run, finished or not.
        checkpoint: Step of the checkpoint to load; None takes the newest whole one.
        deterministic: Whether the policy takes the mode in place of a sample.
        mode: How it acts, as in :class:`RecurrentPolicy`; None acts as the run did,
            where that can be.

    Returns:
        A policy: `policy.reset()`, `policy(observation, reward)`.

    Raises:
        RunError: If it is no run directory, has no such checkpoint, or the one asked
            for is damaged.

    >>> load_policy("no/such/run")
    Traceback (most recent call last):
    ...
    resel_torchrl.errors.RunError: expected a run directory (one with \
a config.yaml), got no/such/run; give the path that the run printed at its start.
    """
    run = RunDirectory.open(run_dir)
    store = CheckpointStore(run.checkpoints, None)
    step = store.newest() if checkpoint is None else checkpoint
    if step is None:
        raise RunError(
            f"expected a checkpoint in {run.checkpoints}, got none; the run has not "
            "saved one yet: stop it by Ctrl-C, which saves, or wait."
        )
    store.check(step)
    manifest = store.manifest(step)
    sizes = manifest["observation_size"], manifest["action_size"]
    agent = make_agent(*sizes, **manifest["agent"])
    stored = store.load(step, "learner")["modules"]
    for name, module in agent.modules().items():
        module.load_state_dict(stored[name])
    if mode is None:
        mode = "eager" if manifest["acting"] == "eager" else "auto"
    return RecurrentPolicy(
        agent.actor_encoder,
        agent.actor,
        *sizes,
        deterministic=deterministic,
        mode=mode,
    )
