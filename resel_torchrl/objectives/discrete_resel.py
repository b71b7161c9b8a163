"""RESeL's loss for discrete actions."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from tensordict import NestedKey, TensorDict, TensorDictBase, TensorDictParams
from tensordict.nn import (
    ProbabilisticTensorDictSequential,
    TensorDictModuleBase,
    dispatch,
)
from torch import Tensor, nn
from torchrl.objectives import LossModule, ValueEstimators

from resel_torchrl.objectives import functional
from resel_torchrl.objectives.episode_loss import (
    EpisodeNetworks,
    ParallelPasses,
    Pass,
    action_distribution,
    bounded_target,
    critic_term,
    evaluate,
    one_step_estimator,
    read_batch,
    reduce_term,
    register_target_bound,
    temperature,
)
from resel_torchrl.objectives.packed import (
    PackedBatch,
    check_action_is_one_hot,
    check_actor,
    check_reduction,
    check_subset_size,
    check_temperature,
)


class DiscreteRESeLLoss(ParallelPasses, LossModule):
    """RESeL on discrete actions: expectations over the actions replace samples.

    Interface, packed batches, encoder passes, masks and target bound are those of
    :class:`RESeLLoss`, see there; the differences are (`arXiv 2405.15384
    <https://arxiv.org/abs/2405.15384>`_, appendix, and its released code):

    * The critic has one output per action and no action input. The bootstrap is
      ``sum_a pi(a) (min_{j in M} Q'_j(a) - alpha log pi(a))``, the minimum taken for
      each action on its own.
    * The actor loss is ``sum_a pi(a) (alpha log pi(a) - mean_j Q_j(a))``, exact, with
      no sample drawn (SAC for discrete actions, `arXiv 1910.07207
      <https://arxiv.org/abs/1910.07207>`_).
    * The temperature is fixed at 0.2 by default; it is not a parameter then. With
      ``fixed_alpha=False`` it is tuned towards ``target_entropy``.
    * The bounds of the bootstrap keep the extremes ever met, they do not decay.

    Actions are one-hot, and enter the encoders so.

    Args:
        actor_network: policy head with a one-hot categorical distribution, for
            instance :class:`~resel_torchrl.modules.CategoricalActor`. One of its
            ``in_keys`` is the context that ``actor_encoder`` writes.
        qvalue_network: critic head that writes the values of all actions and members
            in one entry ``[*B, A, n_critics]``, for instance
            :class:`~resel_torchrl.modules.DiscreteEnsembleCritic`. One of its
            ``in_keys`` is the context that ``critic_encoder`` writes.

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
        target_entropy: entropy to hold, in nats, where the temperature is tuned;
            ``"auto"`` is 0.98 of that of uniform actions.
        reduction: ``"mean"`` or ``"sum"`` over the transitions, or ``"none"``: losses
            ``[R, L]``, zero where no transition is.

    Raises:
        ValueError: actions that are not one-hot, a head that does not read its
            encoder's context, a parameter shared by the actor's and the critic's
            side, a subset larger than the ensemble, or ``target_entropy="auto"`` with
            an actor that has no spec.
        TypeError: an actor that is no ``ProbabilisticTensorDictSequential``.

    Examples:
        >>> from resel_torchrl.modules import (
        ...     CategoricalActor, ContextEncoder, DiscreteEnsembleCritic, context_inputs
        ... )
        >>> def encoder(key):
        ...     inputs = context_inputs(3, 2)
        ...     return ContextEncoder(inputs, "gru", context_size=5, out_key=key)
        >>> loss = DiscreteRESeLLoss(
        ...     CategoricalActor(3, 2, 5),
        ...     DiscreteEnsembleCritic(3, 2, 5),
        ...     actor_encoder=encoder("context_actor"),
        ...     critic_encoder=encoder("context_critic"),
        ... )
        >>> loss.make_value_estimator(gamma=0.95)
        >>> valid = torch.tensor([True, True, False]).reshape(1, 3, 1)  # one episode
        >>> batch = TensorDict(
        ...     {
        ...         "observation": torch.randn(1, 3, 3),
        ...         "prev_observation": torch.randn(1, 3, 3),
        ...         "prev_action": torch.zeros(1, 3, 2),
        ...         "action": torch.tensor([[[1.0, 0.0], [0.0, 1.0], [0.0, 0.0]]]),
        ...         ("next", "reward"): torch.ones(1, 3, 1),
        ...         ("next", "terminated"): torch.zeros(1, 3, 1, dtype=torch.bool),
        ...         "is_init": torch.tensor([True, False, False]).reshape(1, 3, 1),
        ...         "valid": valid,
        ...     },
        ...     [1, 3],
        ... )
        >>> terms = loss(batch)
        >>> sorted(terms.keys())
        ['alpha', 'entropy', 'loss_actor', 'loss_alpha', 'loss_qvalue']
        >>> terms["alpha"]
        tensor(0.2000)
    """

    @dataclass
    class _AcceptedKeys:
        """The entries that the loss reads, and the critic writes.

        Attributes:
            action: one-hot action. Defaults to ``"action"``.
            action_value: values of all actions. Defaults to ``"action_value"``.
            reward: reward, under ``"next"``. Defaults to ``"reward"``.
            done: end of an episode, under ``"next"``; not read. Defaults to ``"done"``.
            terminated: terminal state, under ``"next"``. Defaults to ``"terminated"``.
            is_init: start flag of an episode. Defaults to ``"is_init"``.
            valid: flag of the rows that hold a transition. Defaults to ``"valid"``.
        """

        action: NestedKey = "action"
        action_value: NestedKey = "action_value"
        reward: NestedKey = "reward"
        done: NestedKey = "done"
        terminated: NestedKey = "terminated"
        is_init: NestedKey = "is_init"
        valid: NestedKey = "valid"

    default_keys = _AcceptedKeys
    tensor_keys: _AcceptedKeys
    default_value_estimator = ValueEstimators.TD0

    actor_network: TensorDictModuleBase
    actor_network_params: TensorDictParams
    target_actor_network_params: TensorDictParams
    qvalue_network: TensorDictModuleBase
    qvalue_network_params: TensorDictParams
    target_qvalue_network_params: TensorDictParams
    actor_encoder: TensorDictModuleBase
    actor_encoder_params: TensorDictParams
    target_actor_encoder_params: TensorDictParams
    critic_encoder: TensorDictModuleBase
    critic_encoder_params: TensorDictParams
    target_critic_encoder_params: TensorDictParams

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
        check_action_is_one_hot(actor_network)
        check_reduction(reduction)
        check_temperature(alpha_init, min_alpha, max_alpha)
        check_subset_size(qvalue_network, critic_subset_size)
        super().__init__()
        self._networks = EpisodeNetworks(
            actor_encoder, critic_encoder, actor_network, qvalue_network
        )
        self._networks.register(self, targets=("qvalue_network", "critic_encoder"))
        self.reduction = reduction
        self.critic_subset_size = critic_subset_size
        self.target_bound = target_bound
        self.fixed_alpha = fixed_alpha
        self.log_alpha_range = tuple(
            None if bound is None else math.log(bound)
            for bound in (min_alpha, max_alpha)
        )
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
        register_target_bound(self)
        self.set_keys(action=actor_network.dist_sample_keys[0])
        self.make_value_estimator()
        self.out_keys = ["loss_actor", "loss_qvalue", "loss_alpha", "alpha", "entropy"]

    def __setstate__(self, state: dict) -> None:
        super().__setstate__(state)
        self._networks.rebind(self)

    def _set_in_keys(self) -> None:
        self._row_keys, self.in_keys = self._networks.in_keys(self.tensor_keys)

    def make_value_estimator(
        self, value_type: ValueEstimators | None = None, **hyperparams
    ) -> None:
        """Set the discount: ``loss.make_value_estimator(gamma=0.99)``.

        Args:
            value_type: ``ValueEstimators.TD0``, the only one: the target is one-step.
            **hyperparams: ``gamma``, 0.99 by default.

        Raises:
            NotImplementedError: another estimator or hyper-parameter, which the target
                of RESeL has no place for.
        """
        self._value_estimator = one_step_estimator(self, value_type, hyperparams)

    @property
    def _alpha(self) -> Tensor:
        return temperature(self.log_alpha, *self.log_alpha_range)

    def _read(self, tensordict: TensorDictBase) -> PackedBatch:
        return read_batch(self, tensordict, self._row_keys)

    def _act(self, rows: TensorDict, context: Tensor) -> tuple[Tensor, Tensor]:
        inputs = self._networks.actor_inputs(rows, context)
        return action_distribution(self.actor_network, inputs)

    def _values(
        self,
        rows: TensorDict,
        context: Tensor,
        actions: int,
        params: TensorDictBase | None = None,
    ) -> Tensor:
        inputs = self._networks.critic_inputs(rows, context)
        key = self.tensor_keys.action_value
        return evaluate(self.qvalue_network, inputs, key, params, actions=actions)

    @torch.no_grad()
    def _compute_target(
        self, batch: PackedBatch, policy: Pass, target_critic: Pass
    ) -> tuple[Tensor, Tensor]:
        """Target ``[R, T]`` and, bool ``[R, T]``, where its bootstrap was clamped."""
        (_, actor_context), (_, critic_context) = policy(), target_critic()
        rows = batch.rows[:, 1:]
        probs, log_probs = self._act(rows, actor_context)
        values = self._values(
            rows, critic_context, probs.shape[-1], self.target_qvalue_network_params
        )
        subset = functional.draw_subset(
            values.shape[-1], self.critic_subset_size, values.device
        )
        each = functional.soft_value(values, subset, log_probs, self._alpha)
        bootstrap = functional.expectation(each, probs)
        return bounded_target(self, bootstrap, batch, decay=1.0)

    def policy_context(self, tensordict: TensorDictBase) -> Tensor:
        """See :meth:`RESeLLoss.policy_context`."""
        return self._networks.context("actor_encoder", self._read(tensordict).rows)

    def critic_loss(
        self, tensordict: TensorDictBase, policy_context: Tensor | None = None
    ) -> TensorDict:
        """The critic's term alone: three encoder passes, one step of the target bound.

        Args:
            tensordict: packed batch ``[R, L]``; it is not changed.
            policy_context: what :meth:`policy_context` made of the batch; None makes
                it here.

        Returns:
            ``loss_qvalue`` and, without gradient, the scalars ``target_value``,
            ``td_error``, ``clamped_fraction`` and ``context_critic_norm``, see
            :meth:`RESeLLoss.qvalue_v2_loss`.

        Raises:
            ValueError: a flat batch, or an entry of the wrong shape or dtype.
            KeyError: an entry is missing.
        """
        batch = self._read(tensordict)
        passes = self._start_target(batch, policy_context)
        context, _ = self._networks.contexts("critic_encoder", batch.rows)
        target, clamped = self._compute_target(batch, *passes)
        each = self._values(batch.rows[:, :-1], context, batch.action.shape[-1])
        values = functional.value_of_action(each, batch.action)
        loss, diagnostics = critic_term(
            self, values, context, target, clamped, batch.mask
        )
        return TensorDict({"loss_qvalue": loss, **diagnostics})

    def policy_loss(
        self, tensordict: TensorDictBase, policy_context: Tensor | None = None
    ) -> TensorDict:
        """The actor's and the temperature's terms alone: two encoder passes.

        Args:
            tensordict: packed batch ``[R, L]``; it is not changed.
            policy_context: what :meth:`policy_context` made of the batch; None makes
                it here.

        Returns:
            ``loss_actor``, ``loss_alpha`` (without gradient where the temperature is
            fixed) and, without gradient, the scalars ``alpha`` (the temperature used),
            ``entropy`` (nats, mean over transitions) and ``context_actor_norm``.

        Raises:
            ValueError: a flat batch, or an entry of the wrong shape or dtype.
            KeyError: an entry is missing.
        """
        batch = self._read(tensordict)
        rows, mask, alpha = batch.rows[:, :-1], batch.mask, self._alpha
        critic = self._networks.start("critic_encoder", batch.rows)
        actor_context, _ = self._networks.contexts(
            "actor_encoder", batch.rows, known=policy_context
        )
        probs, log_probs = self._act(rows, actor_context)
        critic_context, _ = critic()
        with torch.no_grad():
            values = self._values(rows, critic_context, probs.shape[-1])
        each = functional.actor_loss(log_probs, values, alpha)
        actor_term = functional.expectation(each, probs)
        log_prob = functional.expectation(log_probs, probs).detach()
        alpha_term = functional.alpha_loss(
            self.log_alpha, log_prob, self.target_entropy
        )
        norm = actor_context.detach().norm(dim=-1)
        return TensorDict(
            {
                "loss_actor": reduce_term(self, actor_term, mask),
                "loss_alpha": reduce_term(self, alpha_term, mask),
                "alpha": alpha,
                "entropy": -functional.masked_mean(log_prob, mask),
                "context_actor_norm": functional.masked_mean(norm, mask),
            }
        )

    @dispatch
    def forward(self, tensordict: TensorDictBase) -> TensorDict:
        """All terms on the same parameters: first the critic's, then the policy's.

        Args:
            tensordict: packed batch ``[R, L]``; it is not changed.

        Returns:
            ``loss_actor``, ``loss_qvalue``, ``loss_alpha``, ``alpha`` and ``entropy``.

        Raises:
            ValueError: a flat batch, or an entry of the wrong shape or dtype.
            KeyError: an entry is missing.
        """
        context = self.policy_context(tensordict)
        terms = self.critic_loss(tensordict, context)
        terms.update(self.policy_loss(tensordict, context))
        self._clear_weakrefs(tensordict, terms, *self._networks.params_names(self))
        return terms.select(*self.out_keys)


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
