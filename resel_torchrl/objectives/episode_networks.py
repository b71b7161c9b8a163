"""The networks of a loss on whole episodes."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from tensordict import NestedKey, TensorDict, TensorDictBase
from tensordict.nn import TensorDictModuleBase
from torch import Tensor
from torchrl.objectives import LossModule

from resel_torchrl.objectives import functional
from resel_torchrl.objectives.checks import check_modules_are_separate, context_key
from resel_torchrl.objectives.networks import encode, observed_keys, state_keys
from resel_torchrl.objectives.side_streams import SideStreams

#: An encoder pass that has begun: gives the contexts of the transitions and successors.
Pass = Callable[[], tuple[Tensor, Tensor]]


class EpisodeNetworks:
    """The encoders and heads of a loss, and the contexts through which they meet.

    A plain holder: the loss registers the same modules with
    ``convert_to_functional``.

    Args:
        actor_encoder: encoder of the actor.
        critic_encoder: encoder of the critic.
        actor_network: policy head.
        qvalue_network: ensemble head.

    Raises:
        ValueError: a head does not read its encoder's context, or actor and critic
            share a parameter.

    Examples:
        >>> from resel_torchrl.modules import (
        ...     ContextEncoder, EnsembleCritic, TanhNormalActor
        ... )
        >>> def encoder(key):
        ...     return ContextEncoder(
        ...         {"observation": 3}, "gru", context_size=5, out_key=key
        ...     )
        >>> networks = EpisodeNetworks(
        ...     encoder("context_actor"), encoder("context_critic"),
        ...     TanhNormalActor(3, 2, 5), EnsembleCritic(3, 2, 5),
        ... )
        >>> networks.context_keys["critic_encoder"]
        'context_critic'
    """

    def __init__(
        self,
        actor_encoder: TensorDictModuleBase,
        critic_encoder: TensorDictModuleBase,
        actor_network: TensorDictModuleBase,
        qvalue_network: TensorDictModuleBase,
    ) -> None:
        self.context_keys = {
            "actor_encoder": context_key(actor_encoder, actor_network, "actor"),
            "critic_encoder": context_key(critic_encoder, qvalue_network, "critic"),
        }
        check_modules_are_separate(
            {"actor_network": actor_network, "actor_encoder": actor_encoder},
            {"qvalue_network": qvalue_network, "critic_encoder": critic_encoder},
        )
        self.state_keys = state_keys(actor_encoder)
        self.side_streams: SideStreams | None = None
        self.modules = {
            "actor_encoder": actor_encoder,
            "critic_encoder": critic_encoder,
            "actor_network": actor_network,
            "qvalue_network": qvalue_network,
        }

    def register(self, loss: LossModule, targets: Iterable[str]) -> None:
        """Have ``loss`` list the networks' parameters.

        Args:
            loss: declares the networks' names.
            targets: names of the networks that get target parameters.
        """
        for name in ("actor_network", "qvalue_network", *self.context_keys):
            loss.convert_to_functional(
                self.modules[name], name, create_target_params=name in targets
            )

    def rebind(self, loss: LossModule) -> None:
        """Have the modules run on the parameters that ``loss`` lists.

        A copy or an unpickled loss needs it.
        """
        for name, module in self.modules.items():
            params = getattr(loss, f"{name}_params")
            params.to_module(module, preserve_module_state=False)

    def in_keys(self, keys: Any) -> tuple[list[NestedKey], list[NestedKey]]:
        """What the networks read at every row, and what a loss reads in all.

        Args:
            keys: the loss's ``tensor_keys``.
        """
        rows = observed_keys(
            self.modules.values(),
            written=[keys.action, keys.is_init, *self.context_keys.values()],
        )
        transitions = [keys.action, ("next", keys.reward), ("next", keys.terminated)]
        return rows, [*rows, *transitions, keys.is_init, keys.valid]

    def params_names(self, loss: LossModule) -> list[str]:
        """Names of all parameters of the networks in ``loss``, targets included."""
        names = [f"{name}_params" for name in self.modules]
        targets = [f"target_{name}" for name in names]
        return [*names, *(name for name in targets if name in loss._modules)]

    def context(
        self, name: str, rows: TensorDictBase, params: TensorDictBase | None = None
    ) -> Tensor:
        """Contexts of all rows ``[R, L, C]``: one encoder pass.

        A memory among the rows is the one of the acting policy, so the actor's encoder
        starts from it; the critic's did not act, and starts from zero.
        """
        if name == "critic_encoder":
            rows = rows.exclude(*self.state_keys)
        return encode(self.modules[name], rows, self.context_keys[name], params)

    def contexts(
        self,
        name: str,
        rows: TensorDictBase,
        params: TensorDictBase | None = None,
        known: Tensor | None = None,
    ) -> tuple[Tensor, Tensor]:
        """Contexts of the transitions and of their successors.

        From one encoder pass, unless those of all rows are ``known``: then they must be
        what :meth:`context` made of these rows, with its gradient where one is wanted.
        """
        if known is None:
            return functional.unroll(lambda r: self.context(name, r, params), rows)
        if known.shape[:-1] != rows.shape:
            raise ValueError(
                f"Expected a policy_context [R, L, C] with [R, L] = {list(rows.shape)},"
                f" got {list(known.shape)}. Pass what loss.policy_context made of this "
                "batch."
            )
        trained = any(p.requires_grad for p in self.modules[name].parameters())
        if torch.is_grad_enabled() and trained and not known.requires_grad:
            raise ValueError(
                "Expected a policy_context with gradient, which the policy's encoder "
                "learns from, got one without. Pass what loss.policy_context returned, "
                "not detached."
            )
        return functional.unroll(lambda _: known, rows)

    def start(
        self,
        name: str,
        rows: TensorDictBase,
        params: TensorDictBase | None = None,
        known: Tensor | None = None,
    ) -> Pass:
        """Begins a pass without gradient; what it returns gives :meth:`contexts`.

        On side streams it runs beside what is launched next; without them it is made
        right away, while no other has left anything to be kept.
        """

        @torch.no_grad()
        def contexts() -> tuple[Tensor, Tensor]:
            return self.contexts(name, rows, params, known)

        if self.side_streams is None or known is not None:
            made = contexts()
            return lambda: made
        return self.side_streams.start(contexts)

    def actor_inputs(self, rows: TensorDict, context: Tensor) -> TensorDict:
        """The rows with the actor's context among them."""
        return rows.copy().set(self.context_keys["actor_encoder"], context)

    def critic_inputs(self, rows: TensorDict, context: Tensor) -> TensorDict:
        """The rows with the critic's context among them."""
        return rows.copy().set(self.context_keys["critic_encoder"], context)
