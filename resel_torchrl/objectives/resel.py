"""RESeL's loss for continuous actions."""

from __future__ import annotations

import math
from dataclasses import dataclass

from tensordict import TensorDict, TensorDictBase
from tensordict.nn import ProbabilisticTensorDictSequential, TensorDictModuleBase
from torch import Tensor
from torchrl.data import TensorSpec
from torchrl.envs.utils import ExplorationType, set_exploration_type
from torchrl.objectives import SACLoss
from torchrl.objectives.sac import compute_rsample_log_prob

from resel_torchrl.objectives import functional
from resel_torchrl.objectives.episode_loss import EpisodeLoss
from resel_torchrl.objectives.packed import (
    check_action_is_continuous,
    check_actor,
    check_temperature,
)


class RESeLLoss(EpisodeLoss, SACLoss):
    """Soft actor-critic on whole episodes; actor and critic each own an encoder.

    It takes packed batches only (see :func:`resel_torchrl.replay.pack_episodes`) and
    evaluates, in the order of the paper (`arXiv 2405.15384
    <https://arxiv.org/abs/2405.15384>`_), the functions of
    :mod:`resel_torchrl.objectives.functional`. Encoder passes, clamp range and masks:
    :class:`EpisodeLoss`. One update, as the recipes do it::

        context = loss.policy_context(batch)  # only where the policy has its turn
        loss.critic_loss(batch, context)["loss_qvalue"].backward()  # step the critic
        target_updater.step()  # SoftUpdate(loss, tau=0.005)
        policy = loss.policy_loss(batch, context)  # every second update
        (policy["loss_actor"] + policy["loss_alpha"]).backward()

    ``loss(batch)`` evaluates all terms on the same parameters. The discount is set as
    in TorchRL, ``loss.make_value_estimator(gamma=0.99)``. The temperature is that of
    :class:`~torchrl.objectives.SACLoss`: one scalar for both policy terms, its value
    before its own step, ``log_alpha`` clamped in place.

    Args:
        actor_network: policy head, for instance
            :class:`~resel_torchrl.modules.TanhNormalActor`. One of its ``in_keys`` is
            the context that ``actor_encoder`` writes.
        qvalue_network: critic head that writes the values of all members in one entry
            ``[*B, n_critics]``, for instance
            :class:`~resel_torchrl.modules.EnsembleCritic`. One of its ``in_keys`` is
            the context that ``critic_encoder`` writes.

    Keyword Args:
        actor_encoder: maps observations ``[R, L]`` to contexts in recurrent mode, for
            instance :class:`~resel_torchrl.modules.ContextEncoder`.
        critic_encoder: the critic's own encoder; it gets target parameters.
        critic_subset_size: M, target critics in the minimum, drawn once per update.
        target_bound: clamp the bootstrap.
        alpha_init: temperature at the start.
        min_alpha: smallest temperature.
        max_alpha: largest temperature (default e: ``log_alpha`` at most 1).
        fixed_alpha: keep the temperature at ``alpha_init``.
        target_entropy: entropy to hold, in nats; ``"auto"`` is minus the action's size.
        action_spec: spec of the action, if the actor has none.
        reduction: ``"mean"`` or ``"sum"`` over the transitions, or ``"none"``: losses
            ``[R, L]``, zero where no transition is.

    Raises:
        ValueError: discrete actions, a head that does not read its encoder's context,
            a parameter shared by the actor's and the critic's side, or a subset larger
            than the ensemble.
        TypeError: an actor that is no ``ProbabilisticTensorDictSequential``.

    Examples:
        >>> import torch
        >>> from resel_torchrl.modules import make_agent
        >>> agent = make_agent(3, 2, core="gru", hidden_size=16, n_critics=2)
        >>> loss = RESeLLoss(
        ...     agent.actor,
        ...     agent.critic,
        ...     actor_encoder=agent.actor_encoder,
        ...     critic_encoder=agent.critic_encoder,
        ... )
        >>> loss.make_value_estimator(gamma=0.95)
        >>> batch = TensorDict(  # one episode of two transitions
        ...     {
        ...         "observation": torch.randn(1, 3, 3),
        ...         "prev_observation": torch.randn(1, 3, 3),
        ...         "prev_action": torch.randn(1, 3, 2),
        ...         "action": torch.zeros(1, 3, 2),
        ...         ("next", "reward"): torch.ones(1, 3, 1),
        ...         ("next", "terminated"): torch.zeros(1, 3, 1, dtype=torch.bool),
        ...         "is_init": torch.tensor([True, False, False]).reshape(1, 3, 1),
        ...         "valid": torch.tensor([True, True, False]).reshape(1, 3, 1),
        ...     },
        ...     [1, 3],
        ... )
        >>> sorted(loss(batch).keys())
        ['alpha', 'entropy', 'loss_actor', 'loss_alpha', 'loss_qvalue']
        >>> loss.critic_loss(batch)["clamped_fraction"].shape
        torch.Size([])
    """

    @dataclass
    class _AcceptedKeys(EpisodeLoss._AcceptedKeys, SACLoss._AcceptedKeys):
        """The keys of a packed batch and of :class:`~torchrl.objectives.SACLoss`."""

    default_keys = _AcceptedKeys

    def __init__(
        self,
        actor_network: ProbabilisticTensorDictSequential,
        qvalue_network: TensorDictModuleBase,
        *,
        actor_encoder: TensorDictModuleBase,
        critic_encoder: TensorDictModuleBase,
        critic_subset_size: int = 2,
        target_bound: bool = True,
        alpha_init: float = 1.0,
        min_alpha: float | None = None,
        max_alpha: float | None = math.e,
        fixed_alpha: bool = False,
        target_entropy: float | str = "auto",
        action_spec: TensorSpec | None = None,
        reduction: str = "mean",
    ) -> None:
        check_actor(actor_network)
        check_action_is_continuous(actor_network, action_spec)
        check_temperature(alpha_init, min_alpha, max_alpha)
        super().__init__(
            actor_network,
            qvalue_network,
            num_qvalue_nets=None,
            loss_function="l2",
            alpha_init=alpha_init,
            min_alpha=min_alpha,
            max_alpha=max_alpha,
            action_spec=action_spec,
            fixed_alpha=fixed_alpha,
            target_entropy=target_entropy,
        )
        self._set_up(
            actor_encoder=actor_encoder,
            critic_encoder=critic_encoder,
            targets=["critic_encoder"],
            critic_subset_size=critic_subset_size,
            target_bound=target_bound,
            reduction=reduction,
        )
        _ = self.target_entropy  # makes it a buffer

    def _make_vmap(self) -> None:
        """Do nothing: the critic evaluates its members as one batched module."""

    def bootstrap(
        self, rows: TensorDict, actor_context: Tensor, critic_context: Tensor
    ) -> Tensor:
        """``min_{j in M} Q'_j(a') - alpha log pi(a')``, ``a'`` of the policy."""
        action, log_prob = self._draw_action(rows, actor_context)
        target = self.target_qvalue_network_params
        values = self._values(rows, critic_context, action, params=target)
        subset = self._draw_subset(values)
        return functional.soft_value(values, subset, log_prob, self._alpha)

    def policy_term(
        self, rows: TensorDict, actor_context: Tensor, critic_context: Tensor
    ) -> tuple[Tensor, Tensor]:
        """``alpha log pi(a) - mean_j Q_j(a)``, ``a`` of the policy."""
        action, log_prob = self._draw_action(rows, actor_context)
        frozen = self.qvalue_network_params.detach()
        values = self._values(rows, critic_context, action, params=frozen)
        return functional.actor_loss(log_prob, values, self._alpha), log_prob

    policy_context = EpisodeLoss._policy_context

    def qvalue_v2_loss(
        self, tensordict: TensorDictBase
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """:meth:`critic_loss` in SACLoss's form: the loss, and all else."""
        terms = dict(self.critic_loss(tensordict).items())
        return terms.pop("loss_qvalue"), terms

    def actor_loss(
        self, tensordict: TensorDictBase
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """:meth:`policy_loss` in SACLoss's form: the actor's loss, and all else."""
        terms = dict(self.policy_loss(tensordict).items())
        return terms.pop("loss_actor"), terms

    def _draw_action(self, rows: TensorDict, context: Tensor) -> tuple[Tensor, Tensor]:
        """Reparameterised action ``[R, T, A]`` and its log-probability ``[R, T]``."""
        inputs = self._head_inputs("actor_encoder", rows, context)
        with set_exploration_type(ExplorationType.RANDOM):
            return compute_rsample_log_prob(self.actor_network.get_dist(inputs))
