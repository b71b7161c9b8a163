"""RESeL's loss for discrete actions."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from tensordict import NestedKey, TensorDict
from tensordict.nn import ProbabilisticTensorDictSequential, TensorDictModuleBase
from torch import Tensor, distributions, nn
from torchrl import modules as torchrl_modules

from resel_torchrl.objectives import functional
from resel_torchrl.objectives.episode_loss import EpisodeLoss, action_distribution
from resel_torchrl.objectives.packed import check_actor, check_temperature


class DiscreteRESeLLoss(EpisodeLoss):
    """RESeL on discrete actions: expectations over the actions replace samples.

    It is used as :class:`RESeLLoss`; the differences are (`arXiv 2405.15384
    <https://arxiv.org/abs/2405.15384>`_, appendix, and its released code):

    * The critic has one output per action and no action input. The bootstrap is
      ``sum_a pi(a) (min_{j in M} Q'_j(a) - alpha log pi(a))``, the minimum taken for
      each action on its own.
    * The actor loss is ``sum_a pi(a) (alpha log pi(a) - mean_j Q_j(a))``, exact, with
      no sample drawn (SAC for discrete actions, `arXiv 1910.07207
      <https://arxiv.org/abs/1910.07207>`_).
    * The temperature is fixed at 0.2 by default; it is not a parameter then. With
      ``fixed_alpha=False`` it is tuned towards ``target_entropy``.
    * The clamp range keeps the extremes ever met, it does not shrink.

    Actions are one-hot, and enter the encoders so.

    Arguments and errors are those of :class:`RESeLLoss`, apart from:

    Args:
        actor_network: policy head with a one-hot categorical distribution, for
            instance :class:`~resel_torchrl.modules.CategoricalActor`.
        qvalue_network: critic head that writes the values of all actions and members
            in one entry ``[*B, A, n_critics]``, for instance
            :class:`~resel_torchrl.modules.DiscreteEnsembleCritic`.

    Keyword Args:
        target_entropy: entropy to hold, in nats, where the temperature is tuned;
            ``"auto"`` is 0.98 of that of uniform actions.

    Raises:
        ValueError: actions that are not one-hot, or ``target_entropy="auto"`` with an
            actor that has no spec.

    Examples:
        >>> from resel_torchrl.modules import make_agent
        >>> agent = make_agent(
        ...     3, 2, algorithm="discrete_resel", core="gru", hidden_size=16
        ... )
        >>> loss = DiscreteRESeLLoss(
        ...     agent.actor,
        ...     agent.critic,
        ...     actor_encoder=agent.actor_encoder,
        ...     critic_encoder=agent.critic_encoder,
        ... )
        >>> loss.log_alpha.exp(), "log_alpha" in dict(loss.named_parameters())
        (tensor(0.2000), False)
    """

    @dataclass
    class _AcceptedKeys(EpisodeLoss._AcceptedKeys):
        """The keys of a packed batch and of the critic."""

        action_value: NestedKey = "action_value"  # of all actions and members

    default_keys = _AcceptedKeys
    clamp_decay = 1.0

    def __init__(
        self,
        actor_network: ProbabilisticTensorDictSequential,
        qvalue_network: TensorDictModuleBase,
        *,
        actor_encoder: TensorDictModuleBase,
        critic_encoder: TensorDictModuleBase,
        critic_subset_size: int = 2,
        target_bound: bool = True,
        alpha_init: float = 0.2,
        min_alpha: float | None = None,
        max_alpha: float | None = math.e,
        fixed_alpha: bool = True,
        target_entropy: float | str = "auto",
        reduction: str = "mean",
    ) -> None:
        check_actor(actor_network)
        _check_action_is_one_hot(actor_network)
        check_temperature(alpha_init, min_alpha, max_alpha)
        super().__init__()
        self._set_up(
            actor_network=actor_network,
            qvalue_network=qvalue_network,
            actor_encoder=actor_encoder,
            critic_encoder=critic_encoder,
            targets=["qvalue_network", "critic_encoder"],
            critic_subset_size=critic_subset_size,
            target_bound=target_bound,
            reduction=reduction,
        )
        self.out_keys = ["loss_actor", "loss_qvalue", "loss_alpha", "alpha", "entropy"]
        self.fixed_alpha = fixed_alpha
        self.min_log_alpha = None if min_alpha is None else math.log(min_alpha)
        self.max_log_alpha = None if max_alpha is None else math.log(max_alpha)
        device = next(self.parameters()).device
        log_alpha = torch.tensor(math.log(alpha_init), device=device)
        if fixed_alpha:
            self.register_buffer("log_alpha", log_alpha)
        else:
            self.log_alpha = nn.Parameter(log_alpha)
        if target_entropy == "auto":
            target_entropy = 0.98 * math.log(_number_of_actions(actor_network))
        entropy = torch.tensor(float(target_entropy), device=device)
        self.register_buffer("target_entropy", entropy)

    def bootstrap(
        self, rows: TensorDict, actor_context: Tensor, critic_context: Tensor
    ) -> Tensor:
        """``sum_a pi(a) (min_{j in M} Q'_j(a) - alpha log pi(a))``."""
        probs, log_probs = self._action_distribution(rows, actor_context)
        values = self._values(
            rows,
            critic_context,
            n_actions=probs.shape[-1],
            params=self.target_qvalue_network_params,
        )
        subset = self._draw_subset(values)
        each = functional.soft_value(values, subset, log_probs, self._alpha)
        return functional.expectation(each, probs)

    def policy_term(
        self, rows: TensorDict, actor_context: Tensor, critic_context: Tensor
    ) -> tuple[Tensor, Tensor]:
        """``sum_a pi(a) (alpha log pi(a) - mean_j Q_j(a))``."""
        probs, log_probs = self._action_distribution(rows, actor_context)
        with torch.no_grad():
            values = self._values(rows, critic_context, n_actions=probs.shape[-1])
        each = functional.actor_loss(log_probs, values, self._alpha)
        log_prob = functional.expectation(log_probs, probs)
        return functional.expectation(each, probs), log_prob

    def taken_values(self, rows: TensorDict, context: Tensor, action: Tensor) -> Tensor:
        """Values ``[R, T, n_critics]`` of the actions taken, ``[R, T, A]``."""
        values = self._values(rows, context, n_actions=action.shape[-1])
        return functional.value_of_action(values, action)

    policy_context = EpisodeLoss._policy_context

    def _action_distribution(
        self, rows: TensorDict, context: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Probability and log-probability of every action, both ``[R, T, A]``."""
        inputs = self._head_inputs("actor_encoder", rows, context)
        return action_distribution(self.actor_network, inputs)


def _check_action_is_one_hot(actor: ProbabilisticTensorDictSequential) -> None:
    one_hot = (torchrl_modules.OneHotCategorical, distributions.OneHotCategorical)
    kind = getattr(actor[-1], "distribution_class", None)
    if not (isinstance(kind, type) and issubclass(kind, one_hot)):
        raise ValueError(
            "Expected a one-hot categorical distribution of actions, got "
            f"{getattr(kind, '__name__', kind)}. Use "
            "resel_torchrl.modules.CategoricalActor, or a ProbabilisticActor with "
            "distribution_class=torchrl.modules.OneHotCategorical; for continuous "
            "actions take RESeLLoss."
        )


def _number_of_actions(actor: ProbabilisticTensorDictSequential) -> int:
    spec = getattr(actor, "spec", None)
    key = actor.dist_sample_keys[0]
    if spec is None or spec.get(key, None) is None:
        raise ValueError(
            "Expected the actor to tell the number of actions (spec=...), which "
            "target_entropy='auto' is made from, got an actor without a spec. Give "
            "target_entropy as a number of nats, or use CategoricalActor."
        )
    return spec[key].shape[-1]
