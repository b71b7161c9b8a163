"""How far actions move after one gradient step, against rollout step."""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import gymnasium
import numpy as np
import torch
from tensordict import NestedKey, TensorDict, TensorDictBase
from torch import Tensor, nn
from torchrl.modules import set_recurrent_mode

from resel_torchrl._random import untouched_generators
from resel_torchrl.analysis._extra import pandas as pd
from resel_torchrl.collect import RecurrentPolicy, episode_seed, flat_episode
from resel_torchrl.config import load_config
from resel_torchrl.config.build import loss_of
from resel_torchrl.envs import make_gym
from resel_torchrl.errors import RunError
from resel_torchrl.modules import CategoricalActor, ContextEncoder, make_agent
from resel_torchrl.modules.agent import Actor
from resel_torchrl.objectives.episode_loss import (
    act_deterministically,
    action_distribution,
    observed_keys,
)
from resel_torchrl.objectives.functional import fill_outside, observed_rows
from resel_torchrl.objectives.make_loss import Loss
from resel_torchrl.objectives.packed import action_key
from resel_torchrl.optim import parameter_groups
from resel_torchrl.replay import pack_episodes
from resel_torchrl.training import CheckpointStore, RunDirectory

if TYPE_CHECKING:
    from pandas import DataFrame

__all__ = [
    "deterministic_actions",
    "output_variation",
    "run_output_variation",
]


def output_variation(
    loss: Loss,
    actor_encoder: ContextEncoder,
    actor: Actor,
    batch: TensorDictBase,
    learning_rates: Sequence[tuple[float, float]],
    *,
    rollouts: TensorDictBase | None = None,
    optimizer_state: Mapping[str, Any] | None = None,
) -> DataFrame:
    """Measure the change of the actions after ONE policy gradient step.

    The measurement behind the paper's thesis (arXiv 2405.15384, its figure of action
    variations): for every pair of learning rates the same gradient of the same batch
    makes one step from the same parameters, and the deterministic actions before and
    after are compared on the same recorded inputs (teacher forcing, as in Proposition
    1: :func:`resel_torchrl.analysis.amplification_bound`). Steps are made on copies:
    `actor_encoder`, `actor`, the loss and their gradients stay as they are, bit for
    bit. With discrete actions the change is that of their probabilities. The forward
    passes of the comparison run in float64, so that a change far below float32's
    rounding of the actions is measured too.

    The step is AdamW's without weight decay, as in training. With `optimizer_state`,
    the state of a run's optimizer, it is the step that the run itself would make next:
    the stored moments, one gradient older. Without, the optimizer is fresh: its first
    step moves every parameter by its learning rate, up or down, however small the
    gradient is.

    Args:
        loss: Loss on `actor_encoder` and `actor`; only its actor term is used.
        actor_encoder: Encoder of the actor.
        actor: Head of the actor.
        batch: Packed batch `[R, L]` that the gradient is taken on. The loss draws
            actions from PyTorch's global generator.
        learning_rates: Pairs (lr_context_encoder, lr_other), each 0 or more.
        rollouts: Packed batch `[R', L']` that the actions are compared on; None takes
            `batch`.
        optimizer_state: `state_dict()` of an optimizer on
            `parameter_groups(loss, ...)`, with their names.

    Returns:
        One row per pair and rollout step, pairs in order: lr_context_encoder, lr_other,
        rollout_step, variation (the Euclidean norm of the change of the action, which
        lies in [−1, 1], mean over episodes) and episodes (that reached the step).

    Raises:
        ValueError: If a learning rate is negative, the networks are not the loss's own
            or the state does not fit them.
        ModuleNotFoundError: If pandas is not installed.

    >>> from resel_torchrl.objectives import make_loss
    >>> agent = make_agent(2, 1, core="gru", hidden_size=8, n_critics=2)
    >>> loss = make_loss(agent)
    >>> data = np.random.default_rng(0).normal(size=(2, 7, 2)).astype(np.float32)
    >>> flat = flat_episode(data[0], data[1, 1:, :1], data[1, 1:, 1], False, True)
    >>> batch = pack_episodes(flat, row_length=8)
    >>> pairs = [(0.0, 0.0), (1e-3, 1e-3)]
    >>> changes = output_variation(
    ...     loss, agent.actor_encoder, agent.actor, batch, pairs
    ... )
    >>> [(rows.variation > 0).tolist() for _, rows in changes.groupby("lr_other")]
    [[False, False, False, False, False, False], [True, True, True, True, True, True]]
    """
    for pair in learning_rates:
        if len(pair) != 2 or not all(0 <= rate < math.inf for rate in pair):
            raise ValueError(
                "learning_rates: expected pairs (lr_context_encoder, lr_other) of "
                f"numbers of 0 or more, got {pair!r}."
            )
    rollouts = batch if rollouts is None else rollouts
    networks = nn.ModuleList([actor_encoder, actor])
    groups = _actor_groups(loss, networks)
    moments = _moments(groups, optimizer_state)
    gradients = torch.autograd.grad(
        loss.policy_loss(batch)["loss_actor"], _parameters(groups), allow_unused=True
    )
    keys = loss.tensor_keys
    before = _float64_actions(networks, rollouts, keys.valid)
    steps, transitions = _rollout_steps(rollouts, keys.is_init, keys.valid)
    steps = steps[transitions]
    episodes = torch.bincount(steps)

    tables = []
    for lr_context_encoder, lr_other in learning_rates:
        # One copy of both, so that the copied loss is on the copied networks.
        stepped, own_loss = copy.deepcopy(nn.ModuleList([networks, loss]))
        own_groups = _actor_groups(own_loss, stepped)
        own_groups[0]["lr"], own_groups[1]["lr"] = lr_context_encoder, lr_other
        optimizer = torch.optim.AdamW(own_groups)
        of_parameters = zip(_parameters(own_groups), gradients, moments, strict=True)
        for parameter, gradient, moment in of_parameters:
            parameter.grad = gradient
            if moment:
                optimizer.state[parameter] = {k: x.clone() for k, x in moment.items()}
        optimizer.step()
        after = _float64_actions(stepped, rollouts, keys.valid)
        total = torch.bincount(steps, (after - before).norm(dim=-1)[transitions])
        columns = {
            "lr_context_encoder": lr_context_encoder,
            "lr_other": lr_other,
            "rollout_step": range(len(episodes)),
            "variation": (total / episodes).tolist(),
            "episodes": episodes.tolist(),
        }
        tables.append(pd.DataFrame(columns))
    return pd.concat(tables, ignore_index=True)


@torch.no_grad()
def deterministic_actions(
    actor_encoder: ContextEncoder,
    actor: Actor,
    batch: TensorDictBase,
    valid_key: NestedKey = "valid",
) -> Tensor:
    """Compute the mode of the policy at every step of a packed batch.

    With a `CategoricalActor` it is the probabilities of the actions: the mode itself
    does not move with a small step, and then jumps.

    Args:
        actor_encoder: Encoder of the actor.
        actor: Head of the actor.
        batch: Packed batch `[R, L]`; padding is not seen, whatever it holds.
        valid_key: Its flags of transitions, bool `[R, L, 1]`.

    Returns:
        Actions `[R, L, action_size]`; those outside episodes mean nothing.

    >>> from resel_torchrl.modules import TanhNormalActor
    >>> encoder = ContextEncoder({"observation": 2}, "gru", context_size=4)
    >>> rows = TensorDict(
    ...     observation=torch.zeros(1, 3, 2),
    ...     is_init=torch.tensor([[[True], [False], [False]]]),
    ...     valid=torch.tensor([[[True], [True], [False]]]),
    ...     batch_size=[1, 3],
    ... )
    >>> deterministic_actions(encoder, TanhNormalActor(2, 1, 4), rows).shape
    torch.Size([1, 3, 1])
    """
    dtype = next(actor.parameters()).dtype
    start = actor_encoder.is_init_key
    keys = observed_keys([actor_encoder, actor], [start, actor_encoder.out_key])
    observed = observed_rows(batch.get(valid_key))
    entries = {key: fill_outside(batch.get(key), observed) for key in keys}
    rows = TensorDict(
        {k: x.to(dtype) if x.is_floating_point() else x for k, x in entries.items()},
        batch_size=batch.batch_size,
    )
    rows.set(start, fill_outside(batch.get(start), observed, True))
    with set_recurrent_mode(True):
        actor_encoder(rows)
    if isinstance(actor, CategoricalActor):
        return action_distribution(actor, rows)[0]
    return act_deterministically(actor, rows, action_key(actor))


def run_output_variation(
    run_dir: str | Path,
    learning_rates: Sequence[tuple[float, float]] | None = None,
    *,
    episodes: int = 20,
    checkpoint: int | None = None,
) -> DataFrame:
    """Measure how far the actions of a trained run move after one gradient step.

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
        The rows of :func:`output_variation`, with the run's task, agent (its core) and
        seed.

    Raises:
        RunError: If it is no run directory, there is no such checkpoint or it is
            damaged, or the run had made no update yet.
        ConfigError: If its configuration holds a mistake.
        ValueError: If a learning rate is negative or there is no episode to run.
        ModuleNotFoundError: If pandas is not installed.

    >>> run_output_variation("no/such/run")
    Traceback (most recent call last):
    ...
    resel_torchrl.errors.RunError: expected a run directory (one with \
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
        variations = output_variation(
            loss,
            agent.actor_encoder,
            agent.actor,
            batch.unflatten_keys("."),
            learning_rates,
            rollouts=pack_episodes(torch.cat(rollouts), max(map(len, rollouts)) + 1),
            optimizer_state=learner["optimizer"],
        )
    return variations.assign(
        task=config.task, agent=config.agent.core, seed=config.seed
    )


def _rollout_steps(
    batch: TensorDictBase, is_init_key: NestedKey, valid_key: NestedKey
) -> tuple[Tensor, Tensor]:
    """Steps since the episode's start, int `[R, L]`; which are transitions, bool."""
    is_init, valid = (batch.get(key).squeeze(-1) for key in (is_init_key, valid_key))
    column = torch.arange(is_init.shape[1], device=is_init.device).expand_as(is_init)
    return column - torch.where(is_init, column, 0).cummax(1).values, valid


def _actor_groups(loss: Loss, networks: nn.Module) -> list[dict[str, Any]]:
    """Parameters of the actor's encoder and of the rest, as training groups them."""
    rates = ("lr_context_encoder", "lr_actor", "lr_critic", "lr_alpha")
    every = parameter_groups(loss, **dict.fromkeys(rates, 1.0))
    of_name = {group["name"]: group for group in every}
    groups = [of_name["context_encoder_actor"], of_name["actor"]]
    found = set(map(id, _parameters(groups)))
    trained = {k: id(p) for k, p in networks.named_parameters() if p.requires_grad}
    if found != set(trained.values()):
        foreign = ", ".join(name for name, p in trained.items() if p not in found)
        raise ValueError(
            "actor_encoder, actor: expected the networks that the loss was built on, "
            f"got others ({foreign or 'it trains more parameters'}); pass the same "
            "objects to both."
        )
    return groups


def _parameters(groups: Sequence[Mapping[str, Any]]) -> list[nn.Parameter]:
    return [parameter for group in groups for parameter in group["params"]]


def _moments(
    groups: Sequence[Mapping[str, Any]], state: Mapping[str, Any] | None
) -> list[dict[str, Tensor]]:
    """The stored AdamW state of each parameter; empty for a fresh start."""
    if state is None:
        return [{} for _ in _parameters(groups)]
    stored = {group.get("name"): group["params"] for group in state["param_groups"]}
    for group in groups:
        places = stored.setdefault(group["name"], [])
        if len(places) != len(group["params"]):
            raise ValueError(
                f"optimizer_state: expected {len(group['params'])} parameters in the "
                f"group {group['name']!r}, got {len(places)}; pass the state of an "
                "optimizer on parameter_groups(loss, ...) of this very loss."
            )
    places = [place for group in groups for place in stored[group["name"]]]
    return [state["state"].get(place, {}) for place in places]


def _float64_actions(
    networks: nn.Module, batch: TensorDictBase, valid_key: NestedKey
) -> Tensor:
    return deterministic_actions(*copy.deepcopy(networks).double(), batch, valid_key)


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
