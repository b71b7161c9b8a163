"""RESeL's loss in the form of TD3, for continuous actions."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from tensordict import NestedKey, TensorDict, TensorDictBase, TensorDictParams
from tensordict.nn import TensorDictModuleBase, dispatch
from torch import Tensor
from torchrl.objectives import LossModule, ValueEstimators

from resel_torchrl.objectives import functional
from resel_torchrl.objectives.episode_loss import (
    EpisodeNetworks,
    ParallelPasses,
    Pass,
    act_deterministically,
    bounded_target,
    critic_term,
    evaluate,
    one_step_estimator,
    read_batch,
    reduce_term,
    register_target_bound,
)
from resel_torchrl.objectives.packed import (
    PackedBatch,
    action_key,
    check_action_is_continuous,
    check_reduction,
    check_subset_size,
)


class TD3RESeLLoss(ParallelPasses, LossModule):
    """RESeL's encoders and rates on TD3: a deterministic actor, no temperature.

    Interface, packed batches, masks and target bound are those of :class:`RESeLLoss`,
    see there; the differences are those of TD3 (`arXiv 1802.09477
    <https://arxiv.org/abs/1802.09477>`_):

    * The bootstrap is ``min_{j in M} Q'_j(e', o', a')`` with ``a'`` from a *target*
      actor on a target encoder, noise of standard deviation ``target_noise`` clipped
      at ``target_noise_clip`` added to it, and the sum clipped to [-1, 1]. With two
      critics it is TD3's own minimum; with more, M of them are drawn per update.
    * The actor loss is ``-mean_j Q_j`` of the deterministic action.

    The critic term makes three passes over the sequences (target actor encoder and
    target critic encoder without gradient, critic encoder with), the policy term two.
    Actor and actor encoder have target parameters too; ``SoftUpdate(loss, tau=0.005)``
    moves all of them.

    Args:
        actor_network: policy head, for instance
            :class:`~resel_torchrl.modules.DeterministicActor`. It is asked for its
            action without exploration. One of its ``in_keys`` is the context that
            ``actor_encoder`` writes.
        qvalue_network: critic head that writes the values of all members in one entry
            ``[*B, n_critics]``, for instance
            :class:`~resel_torchrl.modules.EnsembleCritic`. One of its ``in_keys`` is
            the context that ``critic_encoder`` writes.

    Keyword Args:
        actor_encoder: maps observations ``[R, L]`` to contexts in recurrent mode, for
            instance :class:`~resel_torchrl.modules.ContextEncoder`.
        critic_encoder: the critic's own encoder.
        critic_subset_size: M, target critics in the minimum, drawn once per update.
        target_bound: clamp the bootstrap.
        target_noise: standard deviation of the target policy's noise.
        target_noise_clip: its largest magnitude.
        reduction: ``"mean"`` or ``"sum"`` over the transitions, or ``"none"``: losses
            ``[R, L]``, zero where no transition is.

    Raises:
        ValueError: discrete actions, a head that does not read its encoder's context,
            a parameter shared by the actor's and the critic's side, a subset larger
            than the ensemble, or negative noise.

    Examples:
        >>> from resel_torchrl.modules import (
        ...     ContextEncoder, DeterministicActor, EnsembleCritic, context_inputs
        ... )
        >>> def encoder(key):
        ...     inputs = context_inputs(3, 2)
        ...     return ContextEncoder(inputs, "gru", context_size=5, out_key=key)
        >>> loss = TD3RESeLLoss(
        ...     DeterministicActor(3, 2, 5),
        ...     EnsembleCritic(3, 2, 5),
        ...     actor_encoder=encoder("context_actor"),
        ...     critic_encoder=encoder("context_critic"),
        ... )
        >>> loss.make_value_estimator(gamma=0.95)
        >>> valid = torch.tensor([True, True, False]).reshape(1, 3, 1)  # one episode
        >>> batch = TensorDict(
        ...     {
        ...         "observation": torch.randn(1, 3, 3),
        ...         "prev_observation": torch.randn(1, 3, 3),
        ...         "prev_action": torch.randn(1, 3, 2),
        ...         "action": torch.zeros(1, 3, 2),
        ...         ("next", "reward"): torch.ones(1, 3, 1),
        ...         ("next", "terminated"): torch.zeros(1, 3, 1, dtype=torch.bool),
        ...         "is_init": torch.tensor([True, False, False]).reshape(1, 3, 1),
        ...         "valid": valid,
        ...     },
        ...     [1, 3],
        ... )
        >>> sorted(loss(batch).keys())
        ['loss_actor', 'loss_qvalue']
    """

    @dataclass
    class _AcceptedKeys:
        """The entries that the loss reads, and the critic writes.

        Attributes:
            action: action. Defaults to ``"action"``.
            state_action_value: values of all members. Defaults to
                ``"state_action_value"``.
            reward: reward, under ``"next"``. Defaults to ``"reward"``.
            done: end of an episode, under ``"next"``; not read. Defaults to ``"done"``.
            terminated: terminal state, under ``"next"``. Defaults to ``"terminated"``.
            is_init: start flag of an episode. Defaults to ``"is_init"``.
            valid: flag of the rows that hold a transition. Defaults to ``"valid"``.
        """

        action: NestedKey = "action"
        state_action_value: NestedKey = "state_action_value"
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
        check_action_is_continuous(actor_network, None)
        check_reduction(reduction)
        check_subset_size(qvalue_network, critic_subset_size)
        if target_noise < 0 or target_noise_clip < 0:
            raise ValueError(
                "Expected target_noise and target_noise_clip of 0 or more, got "
                f"{target_noise} and {target_noise_clip}. Without noise write 0."
            )
        super().__init__()
        self._networks = EpisodeNetworks(
            actor_encoder, critic_encoder, actor_network, qvalue_network
        )
        self._networks.register(self, targets=self._networks.modules)
        self.reduction = reduction
        self.critic_subset_size = critic_subset_size
        self.target_bound = target_bound
        self.target_noise = target_noise
        self.target_noise_clip = target_noise_clip
        register_target_bound(self)
        self.set_keys(action=action_key(actor_network))
        self.make_value_estimator()
        self.out_keys = ["loss_actor", "loss_qvalue"]

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

    def _read(self, tensordict: TensorDictBase) -> PackedBatch:
        return read_batch(self, tensordict, self._row_keys)

    def _act(
        self, rows: TensorDict, context: Tensor, params: TensorDictBase | None = None
    ) -> Tensor:
        inputs = self._networks.actor_inputs(rows, context)
        key = self.tensor_keys.action
        return act_deterministically(self.actor_network, inputs, key, params)

    def _values(
        self,
        rows: TensorDict,
        context: Tensor,
        action: Tensor,
        params: TensorDictBase | None = None,
    ) -> Tensor:
        inputs = self._networks.critic_inputs(rows, context)
        inputs.set(self.tensor_keys.action, action)
        key = self.tensor_keys.state_action_value
        return evaluate(self.qvalue_network, inputs, key, params)

    def _start_target(self, batch: PackedBatch) -> tuple[Pass, Pass]:
        """Begins the target's passes: the target actor's and the target critic's."""
        actor, critic = (
            self.target_actor_encoder_params,
            self.target_critic_encoder_params,
        )
        return (
            self._networks.start("actor_encoder", batch.rows, actor),
            self._networks.start("critic_encoder", batch.rows, critic),
        )

    @torch.no_grad()
    def _compute_target(
        self, batch: PackedBatch, target_actor: Pass, target_critic: Pass
    ) -> tuple[Tensor, Tensor]:
        """Target ``[R, T]`` and, bool ``[R, T]``, where its bootstrap was clamped."""
        (_, actor_context), (_, critic_context) = target_actor(), target_critic()
        rows = batch.rows[:, 1:]
        action = functional.smoothed_action(
            self._act(rows, actor_context, self.target_actor_network_params),
            self.target_noise,
            self.target_noise_clip,
        )
        values = self._values(
            rows, critic_context, action, self.target_qvalue_network_params
        )
        subset = functional.draw_subset(
            values.shape[-1], self.critic_subset_size, values.device
        )
        bootstrap = functional.subset_minimum(values, subset)
        return bounded_target(self, bootstrap, batch, decay=0.999)

    def critic_loss(self, tensordict: TensorDictBase) -> TensorDict:
        """The critic's term alone: three encoder passes, one step of the target bound.

        Args:
            tensordict: packed batch ``[R, L]``; it is not changed.

        Returns:
            ``loss_qvalue`` and, without gradient, the scalars ``target_value``,
            ``td_error``, ``clamped_fraction`` and ``context_critic_norm``, see
            :meth:`RESeLLoss.qvalue_v2_loss`.

        Raises:
            ValueError: a flat batch, or an entry of the wrong shape or dtype.
            KeyError: an entry is missing.
        """
        batch = self._read(tensordict)
        passes = self._start_target(batch)
        context, _ = self._networks.contexts("critic_encoder", batch.rows)
        target, clamped = self._compute_target(batch, *passes)
        values = self._values(batch.rows[:, :-1], context, batch.action)
        loss, diagnostics = critic_term(
            self, values, context, target, clamped, batch.mask
        )
        return TensorDict({"loss_qvalue": loss, **diagnostics})

    def policy_loss(self, tensordict: TensorDictBase) -> TensorDict:
        """The actor's term alone: two encoder passes.

        Args:
            tensordict: packed batch ``[R, L]``; it is not changed.

        Returns:
            ``loss_actor`` and, without gradient, the scalar ``context_actor_norm``.

        Raises:
            ValueError: a flat batch, or an entry of the wrong shape or dtype.
            KeyError: an entry is missing.
        """
        batch = self._read(tensordict)
        rows, mask = batch.rows[:, :-1], batch.mask
        critic = self._networks.start("critic_encoder", batch.rows)
        actor_context, _ = self._networks.contexts("actor_encoder", batch.rows)
        critic_context, _ = critic()
        frozen = self.qvalue_network_params.detach()
        action = self._act(rows, actor_context)
        values = self._values(rows, critic_context, action, frozen)
        term = functional.deterministic_actor_loss(values)
        norm = actor_context.detach().norm(dim=-1)
        return TensorDict(
            {
                "loss_actor": reduce_term(self, term, mask),
                "context_actor_norm": functional.masked_mean(norm, mask),
            }
        )

    @dispatch
    def forward(self, tensordict: TensorDictBase) -> TensorDict:
        """All terms on the same parameters: first the critic's, then the policy's.

        Args:
            tensordict: packed batch ``[R, L]``; it is not changed.

        Returns:
            ``loss_actor`` and ``loss_qvalue``.

        Raises:
            ValueError: a flat batch, or an entry of the wrong shape or dtype.
            KeyError: an entry is missing.
        """
        terms = self.critic_loss(tensordict).update(self.policy_loss(tensordict))
        self._clear_weakrefs(tensordict, terms, *self._networks.params_names(self))
        return terms.select(*self.out_keys)
