"""How far actions move after one gradient step, against rollout step."""

from __future__ import annotations

import copy
import csv
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import torch
from tensordict import NestedKey, TensorDict, TensorDictBase
from torch import Tensor, nn
from torchrl.modules import set_recurrent_mode

from resel_torchrl._random import untouched_generators
from resel_torchrl.analysis.figures import (
    curve_style,
    new_figure,
    output_path,
    save_figure,
)
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

__all__ = [
    "OutputVariation",
    "deterministic_actions",
    "output_variation",
    "plot_output_variation",
    "read_variations",
    "rollout_steps",
    "run_output_variation",
    "write_variations",
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
) -> list[OutputVariation]:
    """Measures the change of the actions after ONE policy gradient step.

    The measurement behind the paper's thesis (arXiv 2405.15384, its figure of action
    variations): for every pair of learning rates the same gradient of the same batch
    makes one step from the same parameters, and the deterministic actions before and
    after are compared on the same recorded inputs (teacher forcing, as in Proposition
    1: :func:`resel_torchrl.analysis.amplification_bound`). Steps are
    made on copies: `actor_encoder`, `actor`, the loss and their gradients stay as they
    are, bit for bit. With discrete actions the change is that of their probabilities.
    The forward passes of the comparison run in float64, so that a
    change far below float32's rounding of the actions is measured too.

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
        One entry per pair, in order.

    Raises:
        ValueError: If a learning rate is negative, the networks are not the loss's own
            or the state does not fit them.

    >>> from resel_torchrl.replay import pack_episodes
    >>> from resel_torchrl.collect import flat_episode
    >>> from resel_torchrl.modules import make_agent
    >>> from resel_torchrl.objectives import make_loss
    >>> import numpy as np
    >>> agent = make_agent(2, 1, core="gru", hidden_size=8, n_critics=2)
    >>> loss = make_loss(agent)
    >>> data = np.random.default_rng(0).normal(size=(2, 7, 2)).astype(np.float32)
    >>> flat = flat_episode(data[0], data[1, 1:, :1], data[1, 1:, 1], False, True)
    >>> batch = pack_episodes(flat, row_length=8)
    >>> nothing, step = output_variation(
    ...     loss, agent.actor_encoder, agent.actor, batch, [(0.0, 0.0), (1e-3, 1e-3)]
    ... )
    >>> nothing.variation.tolist()
    [0.0, 0.0, 0.0, 0.0, 0.0, 0.0]
    >>> bool((step.variation > 0).all())
    True
    """
    for pair in learning_rates:
        if len(pair) != 2 or not all(0 <= rate < math.inf for rate in pair):
            raise ValueError(
                "learning_rates: expected pairs (lr_context_encoder, lr_other) of "
                f"numbers of 0 or more, got {pair!r}."
            )
    rollouts = batch if rollouts is None else rollouts
    groups = _actor_groups(loss, actor_encoder, actor)
    parameters = [p for group in groups for p in group["params"]]
    gradients = torch.autograd.grad(
        loss.policy_loss(batch)["loss_actor"], parameters, allow_unused=True
    )
    moments = _moments(groups, optimizer_state)
    keys = loss.tensor_keys
    before = _float64_actions(actor_encoder, actor, rollouts, keys.valid)
    steps, transitions = rollout_steps(rollouts, keys.is_init, keys.valid)
    episodes = torch.bincount(steps[transitions])

    variations = []
    for lr_context_encoder, lr_other in learning_rates:
        rates = {"context_encoder_actor": lr_context_encoder, "actor": lr_other}
        stepped = copy.deepcopy(nn.ModuleList([actor_encoder, actor]))
        _step(stepped, (actor_encoder, actor), groups, rates, gradients, moments)
        change = (_float64_actions(*stepped, rollouts, keys.valid) - before).norm(
            dim=-1
        )
        total = torch.bincount(steps[transitions], change[transitions])
        variations.append(
            OutputVariation(lr_context_encoder, lr_other, total / episodes, episodes)
        )
    return variations


@torch.no_grad()
def deterministic_actions(
    actor_encoder: ContextEncoder,
    actor: Actor,
    batch: TensorDictBase,
    valid_key: NestedKey = "valid",
) -> Tensor:
    """The actions of the policy's mode at every row of a packed batch.

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


def rollout_steps(
    batch: TensorDictBase,
    is_init_key: NestedKey = "is_init",
    valid_key: NestedKey = "valid",
) -> tuple[Tensor, Tensor]:
    """The rollout step of every row of a packed batch, and which are transitions.

    Args:
        batch: Packed batch `[R, L]`.
        is_init_key: Its start flags, bool `[R, L, 1]`.
        valid_key: Its flags of transitions, bool `[R, L, 1]`.

    Returns:
        Steps since the episode's start, int `[R, L]`, and bool `[R, L]`.

    >>> flags = {"is_init": [1, 0, 0, 1, 0, 1], "valid": [1, 1, 0, 1, 0, 0]}
    >>> rows = {k: torch.tensor(v).bool().reshape(1, 6, 1) for k, v in flags.items()}
    >>> steps, transitions = rollout_steps(TensorDict(rows, [1, 6]))
    >>> steps.tolist(), steps[transitions].tolist()
    ([[0, 1, 2, 0, 1, 0]], [0, 1, 0])
    """
    is_init, valid = (batch.get(key).squeeze(-1) for key in (is_init_key, valid_key))
    column = torch.arange(is_init.shape[1], device=is_init.device).expand_as(is_init)
    start = torch.where(is_init, column, 0).cummax(1).values
    return column - start, valid


def _actor_groups(
    loss: Loss, actor_encoder: nn.Module, actor: nn.Module
) -> list[dict[str, Any]]:
    """The two groups of the actor as training makes them; their rates are of no use."""
    names = ("lr_context_encoder", "lr_actor", "lr_critic", "lr_alpha")
    groups = parameter_groups(loss, **dict.fromkeys(names, 1.0))
    groups = [g for g in groups if g["name"] in ("context_encoder_actor", "actor")]
    found = {id(p) for group in groups for p in group["params"]}
    modules = nn.ModuleList([actor_encoder, actor])
    foreign = [
        name
        for name, p in modules.named_parameters()
        if p.requires_grad and id(p) not in found
    ]
    if foreign or len(found) != sum(p.requires_grad for p in modules.parameters()):
        raise ValueError(
            "actor_encoder, actor: expected the networks that the loss was built on, "
            f"got others ({', '.join(foreign) or 'it trains more parameters'}); pass "
            "the same objects to both."
        )
    return groups


def _moments(
    groups: Sequence[Mapping[str, Any]], state: Mapping[str, Any] | None
) -> dict[int, dict[str, Tensor]]:
    """The stored AdamW state of each parameter, by its id; empty for a fresh start."""
    if state is None:
        return {}
    stored = {group.get("name"): group["params"] for group in state["param_groups"]}
    moments = {}
    for group in groups:
        places = stored.get(group["name"], [])
        if len(places) != len(group["params"]):
            raise ValueError(
                f"optimizer_state: expected {len(group['params'])} parameters in the "
                f"group {group['name']!r}, got {len(places)}; pass the state of an "
                "optimizer on parameter_groups(loss, ...) of this very loss."
            )
        for p, place in zip(group["params"], places, strict=True):
            if place in state["state"]:
                moments[id(p)] = state["state"][place]
    return moments


def _step(
    stepped: nn.ModuleList,
    originals: Sequence[nn.Module],
    groups: Sequence[Mapping[str, Any]],
    rates: Mapping[str, float],
    gradients: Sequence[Tensor | None],
    moments: Mapping[int, Mapping[str, Tensor]],
) -> None:
    """One AdamW step on copies of the actor's modules."""
    pairs = zip(_parameters(originals), stepped.parameters(), strict=True)
    copies = {id(original): duplicate for original, duplicate in pairs}
    optimizer = torch.optim.AdamW(
        {
            **group,
            "lr": rates[group["name"]],
            "params": [copies[id(p)] for p in group["params"]],
        }
        for group in groups
    )
    originals_in_order = [p for group in groups for p in group["params"]]
    for p, gradient in zip(originals_in_order, gradients, strict=True):
        copies[id(p)].grad = gradient
        if id(p) in moments:
            state = {name: value.clone() for name, value in moments[id(p)].items()}
            optimizer.state[copies[id(p)]] = state
    optimizer.step()


def _parameters(modules: Sequence[nn.Module]) -> Iterator[nn.Parameter]:
    return nn.ModuleList(modules).parameters()


def _float64_actions(
    actor_encoder: nn.Module,
    actor: nn.Module,
    batch: TensorDictBase,
    valid_key: NestedKey,
) -> Tensor:
    double = copy.deepcopy(nn.ModuleList([actor_encoder, actor])).double()
    return deterministic_actions(*double, batch, valid_key)


COLUMNS = ("lr_context_encoder", "lr_other", "step", "variation", "episodes")


@dataclass(frozen=True, eq=False)
class OutputVariation:
    """The change of the actions after one step with one pair of learning rates.

    Attributes:
        lr_context_encoder: Learning rate of the actor encoder's trunk.
        lr_other: Learning rate of the rest of the actor.
        variation: `[T]`, at each rollout step the Euclidean norm of the change of the
            deterministic action, mean over episodes. Actions lie in [−1, 1].
        episodes: int `[T]`, the episodes that reached the step.

    >>> change, episodes = torch.tensor([0.1, 0.2]), torch.tensor([2, 1])
    >>> OutputVariation(1e-5, 3e-4, change, episodes).variation.argmax().item()
    1
    """

    lr_context_encoder: float
    lr_other: float
    variation: Tensor
    episodes: Tensor


def write_variations(path: str | Path, variations: Sequence[OutputVariation]) -> None:
    """Writes one row per pair of learning rates and rollout step.

    Args:
        path: The CSV file; its folder is made, an older file replaced.
        variations: From :func:`output_variation`.

    >>> import tempfile
    >>> change, episodes = torch.tensor([0.5, 0.25]), torch.tensor([2, 1])
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = Path(folder, "new", "variation.csv")
    ...     write_variations(path, [OutputVariation(1e-5, 3e-4, change, episodes)])
    ...     print(path.read_text(), end="")
    lr_context_encoder,lr_other,step,variation,episodes
    1e-05,0.0003,0,0.5,2
    1e-05,0.0003,1,0.25,1
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "w", newline="") as stream:
        writer = csv.writer(stream, lineterminator="\n")
        writer.writerow(COLUMNS)
        for v in variations:
            rows = zip(v.variation.tolist(), v.episodes.tolist(), strict=True)
            for step, (value, episodes) in enumerate(rows):
                pair = v.lr_context_encoder, v.lr_other
                writer.writerow([*pair, step, repr(value), episodes])


def read_variations(path: str | Path) -> list[OutputVariation]:
    """Reads what :func:`write_variations` wrote.

    Args:
        path: The CSV file.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If it has other columns or holds something else than numbers.

    >>> import tempfile
    >>> change, episodes = torch.tensor([0.1, 0.2]), torch.tensor([2, 1])
    >>> value = OutputVariation(1e-5, 3e-4, change, episodes)
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     write_variations(f"{folder}/a.csv", [value])
    ...     again = read_variations(f"{folder}/a.csv")[0]
    >>> again.lr_other, again.episodes.tolist()
    (0.0003, [2, 1])
    """
    with open(path, newline="") as stream:
        header, *rows = list(csv.reader(stream)) or [[]]
    if tuple(header) != COLUMNS or not rows:
        raise ValueError(
            f"{path}: expected the columns {', '.join(COLUMNS)} and at least one row, "
            f"got {', '.join(header) or 'an empty file'}; "
            "recipes/output_variation.py writes such a file."
        )
    curves: dict[tuple[float, float], list[tuple[float, int]]] = {}
    for number, row in enumerate(rows, 2):
        try:
            lr_context_encoder, lr_other, _, variation, episodes = map(float, row)
        except ValueError:
            raise ValueError(
                f"{path}, line {number}: expected {len(COLUMNS)} numbers, got {row}; "
                "correct or remove the line."
            ) from None
        curve = curves.setdefault((lr_context_encoder, lr_other), [])
        curve.append((variation, int(episodes)))
    return [
        OutputVariation(
            *pair,
            torch.tensor([variation for variation, _ in curve], dtype=torch.float64),
            torch.tensor([episodes for _, episodes in curve]),
        )
        for pair, curve in curves.items()
    ]


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


def plot_output_variation(
    variations: Sequence[OutputVariation],
    output: str | Path = "output_variation.png",
    *,
    first_steps: int = 50,
) -> Path:
    """Draws the change of actions after one gradient step against the rollout step.

    Two panels on logarithmic axes, as in arXiv 2405.15384: the first steps and the
    whole episode; one curve per pair of learning rates. The data are written beside
    the figure, with the ending .csv (:func:`write_variations`). A change of exactly
    zero has no place on a logarithmic axis; the legend says so.

    Args:
        variations: From :func:`output_variation`.
        output: Path of the figure: PNG, PDF or SVG.
        first_steps: Rollout steps in the first panel.

    Returns:
        The path of the figure.

    Raises:
        ValueError: If there is nothing to draw or `output` has another ending.
        ModuleNotFoundError: If matplotlib is not installed.

    >>> import tempfile, torch
    >>> curve = torch.linspace(0.01, 0.1, 60)
    >>> variation = OutputVariation(1e-5, 3e-4, curve, torch.full((60,), 4))
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     plot_output_variation([variation], f"{folder}/a.png").name
    'a.png'
    """
    path = output_path(output)
    if not variations:
        raise ValueError(
            "variations: expected one or more, got none; name learning rates."
        )
    figure, axes = new_figure(2)
    longest = max(len(v.variation) for v in variations)
    spans = min(first_steps, longest), longest
    for ax, steps in zip(axes, spans, strict=True):
        for number, v in enumerate(variations):
            values = v.variation[:steps].tolist()
            label = f"{v.lr_context_encoder:g}, {v.lr_other:g}"
            if not any(values):
                label += " (no change)"
            ax.plot(range(len(values)), values, label=label, **curve_style(number))
        ax.set_yscale("log", nonpositive="mask")
        ax.set_title(f"first {steps} steps" if ax is axes[0] else "whole episode")
        ax.set_xlabel("rollout step (environment steps)")
    axes[0].set_ylabel(
        "change of the action, $\\|a'_t - a_t\\|_2$\n(actions in [−1, 1])"
    )
    figure.legend(
        *axes[0].get_legend_handles_labels(),
        loc="outside right center",
        title="lr_context_encoder, lr_other",
        frameon=False,
        fontsize="small",
        title_fontsize="small",
    )
    save_figure(figure, path)
    write_variations(path.with_suffix(".csv"), variations)
    return path
