"""Where in a module each trainable parameter lies, and which side that is."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

from tensordict.nn import TensorDictParams
from torch import nn
from torchrl.objectives import LossModule

from resel_torchrl.modules.actor import TanhNormalActor
from resel_torchrl.modules.categorical_actor import CategoricalActor
from resel_torchrl.modules.context_encoder import ContextEncoder
from resel_torchrl.modules.deterministic_actor import DeterministicActor
from resel_torchrl.modules.discrete_ensemble_critic import DiscreteEnsembleCritic
from resel_torchrl.modules.ensemble_critic import EnsembleCritic

ACTORS = (TanhNormalActor, CategoricalActor, DeterministicActor)
CRITICS = (EnsembleCritic, DiscreteEnsembleCritic)


@dataclass
class Layout:
    """Where in a module, by parameter-name prefix, what kind of part is found."""

    trunks: list[str] = field(default_factory=list)
    losses: list[str] = field(default_factory=list)
    actor: list[str] = field(default_factory=list)
    critic: list[str] = field(default_factory=list)

    @classmethod
    def of(cls, module: nn.Module) -> Layout:
        """Find the parts of a module."""
        layout = cls()
        for path, part in _parts(module):
            if isinstance(part, ContextEncoder):
                layout.trunks.append(_join(path, "trunk"))
            elif isinstance(part, ACTORS):
                layout.actor.append(path)
            elif isinstance(part, CRITICS):
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
            if inside(name, [path]):
                network = name.removeprefix(f"{path}." if path else "").split(".")[0]
                is_actor = "actor" in network or "policy" in network
                is_critic = "critic" in network or "value" in network
                if is_actor == is_critic:
                    return None
                return "actor" if is_actor else "critic"
        if inside(name, self.actor):
            return "actor"
        if inside(name, self.critic):
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


def trainable_parameters(
    module: nn.Module,
) -> dict[int, tuple[nn.Parameter, list[str]]]:
    """Return each trainable parameter once, with all the names it has, by its id."""
    uses: dict[int, tuple[nn.Parameter, list[str]]] = {}
    # nn.Module's own method: that of LossModule cannot list a parameter twice.
    for name, param in nn.Module.named_parameters(module, remove_duplicate=False):
        if param.requires_grad:
            uses.setdefault(id(param), (param, []))[1].append(name)
    return uses


def untrainable(
    module: nn.Module, uses: dict[int, tuple[nn.Parameter, list[str]]]
) -> list[str]:
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


def inside(name: str, paths: Iterable[str]) -> bool:
    """Return whether a parameter's name is one of ``paths``, or lies under one.

    Examples:
        >>> inside("actor.layer.weight", ["actor"]), inside("actors.weight", ["actor"])
        (True, False)
    """
    return any(
        not path or name == path or name.startswith(f"{path}.") for path in paths
    )


def _join(*parts: str) -> str:
    return ".".join(part for part in parts if part)
