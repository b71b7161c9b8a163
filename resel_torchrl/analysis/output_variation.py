"""How far actions move after one gradient step, against rollout step."""

from __future__ import annotations

import copy
import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from tensordict import NestedKey, TensorDict, TensorDictBase
from torch import Tensor, nn
from torchrl.modules import set_recurrent_mode

from resel_torchrl.analysis.variations import OutputVariation
from resel_torchrl.modules import CategoricalActor, ContextEncoder
from resel_torchrl.objectives.checks import action_key
from resel_torchrl.objectives.functional import fill_outside, observed_rows
from resel_torchrl.objectives.networks import (
    act_deterministically,
    action_distribution,
    observed_keys,
)
from resel_torchrl.optim import parameter_groups
from resel_torchrl.training.agent import Actor, Loss

__all__ = ["deterministic_actions", "output_variation", "rollout_steps"]


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
    >>> from resel_torchrl.training import flat_episode, make_agent, make_loss
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
