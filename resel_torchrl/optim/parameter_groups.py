"""One learning rate for context encoders, others for everything else."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from numbers import Real
from typing import Any

from tensordict.nn import TensorDictParams
from torch import nn
from torchrl.objectives import LossModule

from resel_torchrl.modules.actor import Actor
from resel_torchrl.modules.context_encoder import ContextEncoder
from resel_torchrl.modules.ensemble_critic import DiscreteEnsembleCritic, EnsembleCritic

__all__ = ["parameter_groups"]

Claim = str | nn.Module | nn.Parameter
Uses = dict[int, tuple[nn.Parameter, list[str]]]  # id to parameter and its names

_ORDER = (
    "context_encoder_actor",
    "context_encoder_critic",
    "context_encoder",
    "actor",
    "critic",
    "alpha",
)
_ADAMW = {"betas": (0.9, 0.999), "eps": 1e-8, "weight_decay": 0.0}


def parameter_groups(
    module: nn.Module,
    *,
    lr_context_encoder: float,
    lr_actor: float | None = None,
    lr_critic: float | None = None,
    lr_alpha: float | None = None,
    actor: Claim | Iterable[Claim] = (),
    critic: Claim | Iterable[Claim] = (),
) -> list[dict[str, Any]]:
    """Split a module's trainable parameters into AdamW groups by learning rate.

    The trunk of every ``ContextEncoder`` learns with ``lr_context_encoder``, which
    should be one to two orders of magnitude below the others: a recurrent map
    amplifies a change of its parameters by up to ``1 / (1 - K)`` with ``K`` its
    contraction (arXiv 2405.15384, Proposition 1). Pre-encoders and heads learn with
    ``lr_actor`` or ``lr_critic``, a ``log_alpha`` with ``lr_alpha``.

    Each trainable parameter is in exactly one group. Its side is found thus:

    1. ``actor`` and ``critic`` name it: by module, parameter, or the beginning of
       the name it has in ``module.named_parameters()``;
    2. in a TorchRL loss, its network's name holds ``actor`` or ``policy``, or
       ``critic`` or ``value``;
    3. in any other module, it is in an actor or ensemble critic of this package;
       else, if only one of ``lr_actor`` and ``lr_critic`` is given, it is on that
       side.

    A parameter used on both sides is the critic's, unless named under ``actor``.

    Args:
        module: a loss (``RESeLLoss``, ``SACLoss``, ...), or any module that contains
            a ``ContextEncoder``.
        lr_context_encoder: learning rate of all encoders' trunks.
        lr_actor: learning rate of the rest of the actor.
        lr_critic: learning rate of the rest of the critic.
        lr_alpha: learning rate of the temperature; of no use to a loss that trains
            none.
        actor: what belongs to the actor.
        critic: what belongs to the critic.

    Returns:
        Groups for ``torch.optim.AdamW``, with ``"params"``, ``"lr"``, ``"name"``
        (``"context_encoder_actor"``, ``"context_encoder_critic"``, ``"actor"``,
        ``"critic"``, ``"alpha"``, as they apply; ``"context_encoder"`` if neither
        side claims it) and the paper's AdamW settings, among them no weight decay.

    Raises:
        ValueError: if a learning rate is not a number above 0, one that is needed is
            missing, a parameter belongs to no side or cannot be trained through
            ``module``, a claim matches nothing or both sides make it, or there is no
            ``ContextEncoder``; all such faults are listed at once.

    Example:
        >>> import torch
        >>> from resel_torchrl.modules import ContextEncoder, context_inputs
        >>> from resel_torchrl.optim import parameter_groups
        >>> encoder = ContextEncoder(context_inputs(3, 1), "gru")
        >>> agent = torch.nn.Sequential(encoder, torch.nn.Linear(128, 1))
        >>> groups = parameter_groups(agent, lr_context_encoder=1e-5, lr_actor=3e-4)
        >>> [(group["name"], group["lr"]) for group in groups]
        [('context_encoder_actor', 1e-05), ('actor', 0.0003)]
        >>> optimizer = torch.optim.AdamW(groups)
    """
    rates = {
        "context_encoder": lr_context_encoder,
        "actor": lr_actor,
        "critic": lr_critic,
        "alpha": lr_alpha,
    }
    layout, uses = _Layout.of(module), _trainable_parameters(module)
    faults = _rate_faults(rates)
    if not layout.trunks:
        faults.append(
            f"module: expected at least one ContextEncoder in {type(module).__name__}, "
            "got none, so lr_context_encoder would have no effect. Use a plain "
            "optimizer."
        )
    faults += _untrainable(module, uses)
    claims = _resolve_claims({"actor": actor, "critic": critic}, uses, faults)
    given = [side for side in ("actor", "critic") if rates[side] is not None]
    only_side = given[0] if len(given) == 1 else None

    members: dict[str, list[nn.Parameter]] = {name: [] for name in _ORDER}
    unknown: list[str] = []
    unrated: dict[str, list[str]] = {}
    for param, names in uses.values():
        side = claims.get(id(param)) or layout.side(names, only_side)
        if any(_inside(name, layout.trunks) for name in names):
            members[f"context_encoder_{side}" if side else "context_encoder"] += [param]
        elif side is None:
            unknown.append(names[0])
        else:
            members[side].append(param)
            if rates[side] is None:
                unrated.setdefault(side, []).append(names[0])
    faults += [
        f"lr_{side}: expected a learning rate for {len(names)} parameters, such as "
        f"{names[0]}, got None. Pass lr_{side}=..., or freeze them with "
        "requires_grad_(False)."
        for side, names in unrated.items()
    ]
    if unknown:
        faults.append(
            f"unknown parameters, of neither actor nor critic: {', '.join(unknown)}. "
            "Name them, or the module they are in, under actor=(...) or critic=(...)."
        )
    if faults:
        raise ValueError("\n".join(["parameter_groups:", *faults]))
    return [
        {
            "params": params,
            "lr": float(rates.get(name, lr_context_encoder)),
            "name": name,
            **_ADAMW,
        }
        for name, params in members.items()
        if params
    ]


@dataclass
class _Layout:
    """Where in a module, by parameter-name prefix, what kind of part is found."""

    trunks: list[str] = field(default_factory=list)
    losses: list[str] = field(default_factory=list)
    actor: list[str] = field(default_factory=list)
    critic: list[str] = field(default_factory=list)

    @classmethod
    def of(cls, module: nn.Module) -> _Layout:
        layout = cls()
        for path, part in _parts(module):
            if isinstance(part, ContextEncoder):
                layout.trunks.append(_join(path, "trunk"))
            elif isinstance(part, Actor):
                layout.actor.append(path)
            elif isinstance(part, EnsembleCritic | DiscreteEnsembleCritic):
                layout.critic.append(path)
            elif isinstance(part, LossModule):
                layout.losses.append(path)
        return layout

    def side(self, names: list[str], only_side: str | None) -> str | None:
        """Return the side of a parameter known under these names."""
        sides = {self._side_of_name(name, only_side) for name in names} - {None}
        if len(sides) == 2:
            return "critic"
        return sides.pop() if sides else None

    def _side_of_name(self, name: str, only_side: str | None) -> str | None:
        if name.rpartition(".")[2] == "log_alpha":
            return "alpha"
        for path in self.losses:
            if _inside(name, [path]):
                network = name.removeprefix(f"{path}." if path else "").split(".")[0]
                is_actor = "actor" in network or "policy" in network
                is_critic = "critic" in network or "value" in network
                if is_actor == is_critic:
                    return None
                return "actor" if is_actor else "critic"
        if _inside(name, self.actor):
            return "actor"
        if _inside(name, self.critic):
            return "critic"
        return only_side


def _parts(module: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    """Yield every submodule by the prefix that its parameters' names have.

    A loss keeps ``actor_network`` out of its children and holds its parameters as
    ``actor_network_params``, keyed by the paths they have in the network.
    """
    for path, part in module.named_modules(remove_duplicate=False):
        yield path, part
        if isinstance(part, LossModule):
            for name, params in part.named_children():
                network = part.__dict__.get(name.removesuffix("_params"))
                if isinstance(params, TensorDictParams) and network is not None:
                    for inner, inner_part in network.named_modules(
                        remove_duplicate=False
                    ):
                        yield _join(path, name, inner), inner_part


def _trainable_parameters(module: nn.Module) -> Uses:
    """Return each trainable parameter once, with all the names it has, by its id."""
    uses: Uses = {}
    # nn.Module's own method: that of LossModule cannot list a parameter twice.
    for name, param in nn.Module.named_parameters(module, remove_duplicate=False):
        if param.requires_grad:
            uses.setdefault(id(param), (param, []))[1].append(name)
    return uses


def _rate_faults(rates: dict[str, float | None]) -> list[str]:
    return [
        f"lr_{name}: expected a number above 0, got {rate!r}."
        for name, rate in rates.items()
        if (rate is not None or name == "context_encoder")
        and not (
            isinstance(rate, Real)
            and not isinstance(rate, bool)
            and math.isfinite(rate)
            and rate > 0
        )
    ]


def _untrainable(module: nn.Module, uses: Uses) -> list[str]:
    """Name tensors that a loss trains but does not list among its parameters.

    ``SACLoss(actor, [q_1, q_2])`` expands what q_1 and q_2 share; the expanded
    tensor takes part in the loss, but ``named_parameters`` leaves it out.
    """
    listed = {param.data_ptr() for param, _ in uses.values()}
    hidden = [
        _join(path, *([key] if isinstance(key, str) else key))
        for path, part in module.named_modules()
        if isinstance(part, TensorDictParams)
        for key, value in part.items(True, True)
        if value.requires_grad and value.data_ptr() not in listed
    ]
    if not hidden:
        return []
    return [
        "expected every trained tensor among module.named_parameters(), but these are "
        f"copies that the loss made of shared parameters: {', '.join(hidden)}. Pass "
        "the loss one network rather than a list of networks that share a part."
    ]


def _resolve_claims(
    claims: dict[str, Claim | Iterable[Claim]], uses: Uses, faults: list[str]
) -> dict[int, str]:
    """Map the id of each claimed parameter to the side that claims it."""
    sides: dict[int, str] = {}
    for side, claimed in claims.items():
        if isinstance(claimed, str | nn.Module | nn.Parameter):
            claimed = (claimed,)
        for claim in claimed:
            if isinstance(claim, str):
                found = [
                    key
                    for key, (_, names) in uses.items()
                    if any(_inside(name, [claim]) for name in names)
                ]
            else:
                own = claim.parameters() if isinstance(claim, nn.Module) else [claim]
                found = [id(param) for param in own if id(param) in uses]
            if not found:
                label = claim if isinstance(claim, str) else type(claim).__name__
                faults.append(
                    f"{side}: expected a part of the module with trainable parameters, "
                    f"got {label!r}. Names begin as in module.named_parameters()."
                )
            for key in found:
                if sides.setdefault(key, side) != side:
                    faults.append(
                        f"{uses[key][1][0]}: expected under actor or critic, got both."
                    )
    return sides


def _inside(name: str, paths: Iterable[str]) -> bool:
    """Whether a parameter's name is one of ``paths``, or lies under one."""
    return any(
        not path or name == path or name.startswith(f"{path}.") for path in paths
    )


def _join(*parts: str) -> str:
    return ".".join(part for part in parts if part)
