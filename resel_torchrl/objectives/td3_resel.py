"""RESeL's loss in the form of TD3, for continuous actions."""

from __future__ import annotations

from dataclasses import dataclass

from tensordict import NestedKey, TensorDict, TensorDictBase
from tensordict.nn import TensorDictModuleBase
from torch import Tensor

from resel_torchrl.objectives import functional
from resel_torchrl.objectives.episode_loss import (
    NETWORKS,
    EpisodeLoss,
    act_deterministically,
)
from resel_torchrl.objectives.packed import check_action_is_continuous


class TD3RESeLLoss(EpisodeLoss):
    """RESeL's encoders and rates on TD3: a deterministic actor, no temperature.

    It is used as :class:`RESeLLoss`; the differences are those of TD3 (`arXiv
    1802.09477 <https://arxiv.org/abs/1802.09477>`_):

    * The bootstrap is ``min_{j in M} Q'_j(e', o', a')`` with ``a'`` from a *target*
      actor on a target encoder, noise of standard deviation ``target_noise`` clipped
      at ``target_noise_clip`` added to it, and the sum clipped to [-1, 1]. With two
      critics it is TD3's own minimum; with more, M of them are drawn per update.
    * The actor loss is ``-mean_j Q_j`` of the deterministic action.
    * All four networks have target parameters; ``SoftUpdate(loss, tau=0.005)`` moves
      them. There is no ``policy_context``: the target's policy is not the actor.

    Arguments and errors are those of :class:`RESeLLoss`, apart from:

    Args:
        actor_network: policy head, for instance
            :class:`~resel_torchrl.modules.DeterministicActor`. It is asked for its
            action without exploration.

    Keyword Args:
        target_noise: standard deviation of the target policy's noise.
        target_noise_clip: its largest magnitude.

    Raises:
        ValueError: negative noise.

    Examples:
        >>> from resel_torchrl.modules import make_agent
        >>> agent = make_agent(3, 2, algorithm="td3_resel", core="gru", hidden_size=16)
        >>> loss = TD3RESeLLoss(
        ...     agent.actor,
        ...     agent.critic,
        ...     actor_encoder=agent.actor_encoder,
        ...     critic_encoder=agent.critic_encoder,
        ... )
        >>> loss.out_keys
        ['loss_actor', 'loss_qvalue']
    """

    @dataclass
    class _AcceptedKeys(EpisodeLoss._AcceptedKeys):
        """The keys of a packed batch and of the critic."""

        state_action_value: NestedKey = "state_action_value"  # of all members

    default_keys = _AcceptedKeys

    def __init__(
        self,
        actor_network: TensorDictModuleBase,
        qvalue_network: TensorDictModuleBase,
        *,
        actor_encoder: TensorDictModuleBase,
        critic_encoder: TensorDictModuleBase,
        critic_subset_size: int = 2,
        target_bound: bool = True,
        target_noise: float = 0.04,
        target_noise_clip: float = 0.12,
        reduction: str = "mean",
    ) -> None:
        check_action_is_continuous(actor_network)
        if target_noise < 0 or target_noise_clip < 0:
            raise ValueError(
                "Expected target_noise and target_noise_clip of 0 or more, got "
                f"{target_noise} and {target_noise_clip}. Without noise write 0."
            )
        super().__init__()
        self._set_up(
            actor_network=actor_network,
            qvalue_network=qvalue_network,
            actor_encoder=actor_encoder,
            critic_encoder=critic_encoder,
            targets=NETWORKS,
            critic_subset_size=critic_subset_size,
            target_bound=target_bound,
            reduction=reduction,
        )
        self.out_keys = ["loss_actor", "loss_qvalue"]
        self.target_noise = target_noise
        self.target_noise_clip = target_noise_clip

    def bootstrap(
        self, rows: TensorDict, actor_context: Tensor, critic_context: Tensor
    ) -> Tensor:
        """``min_{j in M} Q'_j(a')``, ``a'`` of the target actor, with clipped noise."""
        action = self._act(rows, actor_context, self.target_actor_network_params)
        action = functional.smoothed_action(
            action, self.target_noise, self.target_noise_clip
        )
        target = self.target_qvalue_network_params
        values = self._values(rows, critic_context, action, params=target)
        return functional.subset_minimum(values, self._draw_subset(values))

    def policy_term(
        self, rows: TensorDict, actor_context: Tensor, critic_context: Tensor
    ) -> tuple[Tensor, None]:
        """``-mean_j Q_j(mu(o))``; no log-probability."""
        action = self._act(rows, actor_context)
        frozen = self.qvalue_network_params.detach()
        values = self._values(rows, critic_context, action, params=frozen)
        return functional.deterministic_actor_loss(values), None

    def _act(
        self, rows: TensorDict, context: Tensor, params: TensorDictBase | None = None
    ) -> Tensor:
        """The actor's action without exploration, ``[R, T, A]``."""
        inputs = self._head_inputs("actor_encoder", rows, context)
        key = self.tensor_keys.action
        return act_deterministically(self.actor_network, inputs, key, params)
