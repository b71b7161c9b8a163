"""What the terms of all losses have in common, as functions of a loss."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import replace

import torch
from tensordict import NestedKey, TensorDictBase
from torch import Tensor
from torch.nn.functional import pad
from torchrl.objectives import LossModule, ValueEstimators
from torchrl.objectives.utils import default_value_kwargs
from torchrl.objectives.value import TD0Estimator

from resel_torchrl.objectives import functional
from resel_torchrl.objectives.checks import check_one_step
from resel_torchrl.objectives.packed import PackedBatch, read_packed

#: Where ``pack_episodes`` writes which transitions of a segment are learned from.
LEARNING_MASK = "learning_mask"


def read_batch(
    loss: LossModule, tensordict: TensorDictBase, row_keys: Iterable[NestedKey]
) -> PackedBatch:
    """Read a packed batch under the keys of a loss, its ``loss_mask_key`` included.

    ``"auto"`` finds the mask of :class:`~resel_torchrl.replay.SegmentSampler` beside
    those that TorchRL writes.

    Args:
        loss: has the keys of a packed batch among its ``tensor_keys``.
        tensordict: packed batch ``[R, L]``; it is not changed.
        row_keys: entries that networks read at every observation.

    Returns:
        The batch without its padding.

    Raises:
        ValueError: a flat batch, or an entry of the wrong shape or dtype.
        KeyError: an entry is missing.
    """
    keys = loss.tensor_keys
    batch = read_packed(
        tensordict,
        row_keys,
        loss._networks.state_keys,
        action=keys.action,
        reward=keys.reward,
        terminated=keys.terminated,
        is_init=keys.is_init,
        valid=keys.valid,
    )
    mask_keys = loss._loss_mask_keys()
    if loss.loss_mask_key == "auto":
        mask_keys = (*mask_keys, LEARNING_MASK)
    for key in mask_keys:
        mask = tensordict.get(key, None)
        if mask is not None:
            wanted = loss._expand_loss_mask(mask[:, :-1], batch.mask)
            batch = replace(batch, mask=batch.mask & wanted)
        elif loss.loss_mask_key != "auto":
            raise KeyError(
                f"Expected the mask {key!r} that loss_mask_key names, got only "
                f"{sorted(map(str, tensordict.keys(True, True)))}. Write it into "
                "the packed batch, or set loss_mask_key back to 'auto'."
            )
    return batch


def reduce_term(loss: LossModule, x: Tensor, mask: Tensor) -> Tensor:
    """Reduce a term of each transition as the loss says.

    Args:
        loss: its ``reduction`` is ``"mean"``, ``"sum"`` or ``"none"``.
        x: ``[R, T]``.
        mask: bool ``[R, T]``, the transitions.

    Returns:
        A scalar, or ``[R, T + 1]``, zero where no transition is.
    """
    if loss.reduction == "mean":
        return functional.masked_mean(x, mask)
    x = torch.where(mask, x, 0.0)
    return x.sum() if loss.reduction == "sum" else pad(x, (0, 1))


def one_step_estimator(
    loss: LossModule, value_type: ValueEstimators | None, hyperparams: dict
) -> TD0Estimator:
    """The estimator that holds the discount of a loss.

    Args:
        loss: its device and keys are used.
        value_type: as given to ``make_value_estimator``.
        hyperparams: likewise.

    Raises:
        NotImplementedError: another estimator or hyper-parameter.
    """
    check_one_step(value_type, hyperparams)
    defaults = {
        **default_value_kwargs(ValueEstimators.TD0),
        "device": loss._default_device,
    }
    estimator = TD0Estimator(**{**defaults, **hyperparams}, value_network=None)
    keys = loss.tensor_keys
    estimator.set_keys(reward=keys.reward, done=keys.done, terminated=keys.terminated)
    return estimator


def register_target_bound(loss: LossModule) -> None:
    """Give a loss the buffers ``bootstrap_low`` and ``bootstrap_high``, still unset.

    Args:
        loss: what gets them; its networks are registered already.
    """
    nothing = torch.tensor(math.inf, device=next(loss.parameters()).device)
    loss.register_buffer("bootstrap_low", nothing)
    loss.register_buffer("bootstrap_high", -nothing)


@torch.no_grad()
def bounded_target(
    loss: LossModule, bootstrap: Tensor, batch: PackedBatch, *, decay: float
) -> tuple[Tensor, Tensor]:
    """The one-step target; with ``loss.target_bound`` the bound is used and moved.

    Args:
        loss: has ``target_bound``, its buffers and ``value_estimator``.
        bootstrap: ``[R, T]``.
        batch: the transitions.
        decay: of the bounds, see :func:`functional.moved_bounds`.

    Returns:
        Target ``[R, T]``, zero where no transition is, and, bool ``[R, T]``, where its
        bootstrap was clamped.
    """
    bounded = bootstrap
    if loss.target_bound:
        low, high = functional.starting_bounds(
            bootstrap, loss.bootstrap_low, loss.bootstrap_high, batch.mask
        )
        bounded = bootstrap.clamp(low, high)
    target = functional.td_target(
        batch.reward, batch.terminated, bounded, loss.value_estimator.gamma
    )
    if loss.target_bound:
        low, high = functional.moved_bounds(target, low, high, batch.mask, decay)
        # In place, for CUDA graphs.
        loss.bootstrap_low.copy_(low)
        loss.bootstrap_high.copy_(high)
    return settled(torch.where(batch.mask, target, 0.0)), bounded != bootstrap


def temperature(log_alpha: Tensor, low: float | None, high: float | None) -> Tensor:
    """Temperature without gradient; ``log_alpha`` is brought to its range in place."""
    if low is not None or high is not None:
        log_alpha.data.clamp_(low, high)
    return settled(log_alpha.detach().exp())


def settled(x: Tensor) -> Tensor:
    """What was made from a tensor that then changes in place, kept as it is.

    A compiled backward pass works some of its inputs out again instead of keeping them,
    which fails once their source has changed. What a custom operator returns it keeps.

    Args:
        x: any tensor without gradient.

    Returns:
        ``x``; a copy where it is compiled.

    Examples:
        >>> settled(torch.ones(2))
        tensor([1., 1.])
    """
    return _copied(x) if torch.compiler.is_compiling() else x


@torch.library.custom_op("resel_torchrl::settled", mutates_args=())
def _copied(x: Tensor) -> Tensor:
    return x.clone()


@_copied.register_fake
def _like(x: Tensor) -> Tensor:
    return torch.empty_like(x)


def critic_term(
    loss: LossModule,
    values: Tensor,
    context: Tensor,
    target: Tensor,
    clamped: Tensor,
    mask: Tensor,
) -> tuple[Tensor, dict[str, Tensor]]:
    """The reduced critic loss and, without gradient, what it was made of.

    Args:
        loss: its reduction is used.
        values: of the actions taken, ``[R, T, n]``.
        context: of the critic, ``[R, T, C]``.
        target: ``[R, T]``.
        clamped: bool ``[R, T]``.
        mask: bool ``[R, T]``, the transitions.

    Returns:
        The loss, and scalars ``target_value`` (mean target), ``td_error`` (mean
        absolute error over transitions and critics), ``clamped_fraction`` (share of
        transitions whose bootstrap met the bound) and ``context_critic_norm`` (mean
        Euclidean norm of the context).
    """
    term = reduce_term(loss, functional.critic_loss(values, target), mask)
    with torch.no_grad():
        diagnostics = {
            "target_value": target,
            "td_error": (values - target.unsqueeze(-1)).abs().mean(-1),
            "clamped_fraction": clamped.to(target.dtype),
            "context_critic_norm": context.norm(dim=-1),
        }
        return term, {
            key: functional.masked_mean(x, mask) for key, x in diagnostics.items()
        }
