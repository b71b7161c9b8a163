"""RESeL's loss for continuous actions."""

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
from torch import Tensor
from torchrl.data import TensorSpec
from torchrl.objectives import SACLoss, ValueEstimators

from resel_torchrl.objectives import functional
from resel_torchrl.objectives.episode_loss import (
    EpisodeNetworks,
    ParallelPasses,
    Pass,
    act,
    bounded_target,
    critic_term,
    evaluate,
    read_batch,
    reduce_term,
    register_target_bound,
    temperature,
)
from resel_torchrl.objectives.packed import (
    PackedBatch,
    check_action_is_continuous,
    check_actor,
    check_one_step,
    check_reduction,
    check_subset_size,
    check_temperature,
)


class RESeLLoss(ParallelPasses, SACLoss):
    """Soft actor-critic on whole episodes; actor and critic each own an encoder.

    It takes packed batches only (see :func:`resel_torchrl.replay.pack_episodes`) and
    evaluates, in the order of the paper (`arXiv 2405.15384
    <https://arxiv.org/abs/2405.15384>`_), the functions of
    :mod:`resel_torchrl.objectives.functional`. The critic term makes three passes over
    the sequences (actor encoder and target critic encoder without gradient, critic
    encoder with), the policy term two (actor encoder with gradient, critic encoder
    without); where an update has both, one pass of the actor encoder can serve both.
    The networks never see padding, whatever it holds.

    One update, as the recipes do it::

        context = loss.policy_context(batch)  # only where the policy has its turn
        loss.critic_loss(batch, context)["loss_qvalue"].backward()  # step the critic
        target_updater.step()  # SoftUpdate(loss, tau=0.005)
        policy = loss.policy_loss(batch, context)  # every second update
        (policy["loss_actor"] + policy["loss_alpha"]).backward()

    ``loss(batch)`` evaluates all terms on the same parameters. Every call that contains
    the critic term draws one subset of critics and moves the target bound.

    Target bound: with ``target_bound=True`` the bootstrap ``min_{j in M} Q'_j - alpha
    log pi``, before discount and reward, is clamped to ``[bootstrap_low,
    bootstrap_high]``. In the first batch these are the smallest and largest bootstrap
    of its own transitions, so nothing is clamped there; later they are what the batches
    before left behind. After each target, with ``b`` the smallest target of the
    transitions, ``low <- min(low, b)`` and then ``low <- 0.999 low + 0.001 b``;
    ``high`` alike with the largest. Both are buffers and part of the ``state_dict``.
    The bound comes from the paper's released code, which counts padding as a target of
    zero; here padding has no part in it.

    The temperature is that of :class:`~torchrl.objectives.SACLoss`: one scalar for both
    policy terms, its value before its own step, ``log_alpha`` clamped in place.

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

    Besides ``valid``, masks that :attr:`loss_mask_key` names are honoured; they leave
    transitions out of the losses, not out of the encoders. Its default, ``"auto"``,
    finds those of TorchRL and the ``"learning_mask"`` of segments with burn-in. The
    discount is set as in TorchRL, ``loss.make_value_estimator(gamma=0.99)``.

    Raises:
        ValueError: discrete actions, a head that does not read its encoder's context,
            a parameter shared by the actor's and the critic's side, or a subset larger
            than the ensemble.
        TypeError: an actor that is no ``ProbabilisticTensorDictSequential``.

    Examples:
        >>> from resel_torchrl.modules import (
        ...     ContextEncoder, EnsembleCritic, TanhNormalActor, context_inputs
        ... )
        >>> def encoder(key):
        ...     inputs = context_inputs(3, 2)
        ...     return ContextEncoder(inputs, "gru", context_size=5, out_key=key)
        >>> loss = RESeLLoss(
        ...     TanhNormalActor(3, 2, 5),
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
        ['alpha', 'entropy', 'loss_actor', 'loss_alpha', 'loss_qvalue']
        >>> loss.critic_loss(batch)["clamped_fraction"].shape
        torch.Size([])
    """

    @dataclass
    class _AcceptedKeys(SACLoss._AcceptedKeys):
        """The keys of :class:`~torchrl.objectives.SACLoss` and those of a packed batch.

        Attributes:
            is_init: start flag of an episode. Defaults to ``"is_init"``.
            valid: flag of the rows that hold a transition. Defaults to ``"valid"``.
        """

        is_init: NestedKey = "is_init"
        valid: NestedKey = "valid"

    default_keys = _AcceptedKeys
    tensor_keys: _AcceptedKeys
    SUPPORTED_VALUE_ESTIMATORS = (ValueEstimators.TD0,)

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
        check_reduction(reduction)
        check_temperature(alpha_init, min_alpha, max_alpha)
        check_subset_size(qvalue_network, critic_subset_size)
        self._networks = EpisodeNetworks(
            actor_encoder, critic_encoder, actor_network, qvalue_network
        )
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
        self.reduction = reduction
        self.critic_subset_size = critic_subset_size
        self.target_bound = target_bound
        self.convert_to_functional(actor_encoder, "actor_encoder")
        self.convert_to_functional(
            critic_encoder, "critic_encoder", create_target_params=True
        )
        register_target_bound(self)
        # Nothing is left to be built by the first call.
        self.make_value_estimator()
        _ = self.target_entropy
        self._set_in_keys()

    def __setstate__(self, state: dict) -> None:
        super().__setstate__(state)
        self._networks.rebind(self)

    def _make_vmap(self) -> None:
        """Do nothing: the critic evaluates its members as one batched module."""

    def _set_in_keys(self) -> None:
        if "critic_encoder" not in self.__dict__:
            return  # called by the parent's constructor
        self._row_keys, self._in_keys = self._networks.in_keys(self.tensor_keys)

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
        check_one_step(value_type, hyperparams)
        hyperparams.setdefault("device", self._default_device)
        super().make_value_estimator(ValueEstimators.TD0, **hyperparams)

    @property
    def _alpha(self) -> Tensor:
        return temperature(self.log_alpha, self.min_log_alpha, self.max_log_alpha)

    def _read(self, tensordict: TensorDictBase) -> PackedBatch:
        return read_batch(self, tensordict, self._row_keys)

    def _act(self, rows: TensorDict, context: Tensor) -> tuple[Tensor, Tensor]:
        return act(self.actor_network, self._networks.actor_inputs(rows, context))

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

    @torch.no_grad()
    def _compute_target_v2(
        self, batch: PackedBatch, policy: Pass, target_critic: Pass
    ) -> tuple[Tensor, Tensor]:
        """Target ``[R, T]`` and, bool ``[R, T]``, where its bootstrap was clamped."""
        (_, actor_context), (_, critic_context) = policy(), target_critic()
        rows = batch.rows[:, 1:]
        action, log_prob = self._act(rows, actor_context)
        values = self._values(
            rows, critic_context, action, self.target_qvalue_network_params
        )
        subset = functional.draw_subset(
            values.shape[-1], self.critic_subset_size, values.device
        )
        bootstrap = functional.soft_value(values, subset, log_prob, self._alpha)
        return bounded_target(self, bootstrap, batch, decay=0.999)

    def qvalue_v2_loss(
        self, tensordict: TensorDictBase, policy_context: Tensor | None = None
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Critic loss and, without gradient, what it was made of.

        Args:
            tensordict: packed batch ``[R, L]``.
            policy_context: see :meth:`policy_context`.

        Returns:
            The loss, and scalars ``target_value`` (mean target), ``td_error`` (mean
            absolute error over transitions and critics), ``clamped_fraction`` (share
            of transitions whose bootstrap met the bound) and ``context_critic_norm``
            (mean Euclidean norm of the context).
        """
        batch = self._read(tensordict)
        passes = self._start_target(batch, policy_context)
        context, _ = self._networks.contexts("critic_encoder", batch.rows)
        target, clamped = self._compute_target_v2(batch, *passes)
        values = self._values(batch.rows[:, :-1], context, batch.action)
        return critic_term(self, values, context, target, clamped, batch.mask)

    def actor_loss(
        self, tensordict: TensorDictBase, policy_context: Tensor | None = None
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Actor loss; its gradient reaches the actor and its encoder only.

        Args:
            tensordict: packed batch ``[R, L]``.
            policy_context: see :meth:`policy_context`.

        Returns:
            The loss, and without gradient ``log_prob`` and ``mask``, ``[R, L - 1]``
            both, and the scalar ``context_actor_norm``.
        """
        batch = self._read(tensordict)
        rows = batch.rows[:, :-1]
        critic = self._networks.start("critic_encoder", batch.rows)
        actor_context, _ = self._networks.contexts(
            "actor_encoder", batch.rows, known=policy_context
        )
        critic_context, _ = critic()
        action, log_prob = self._act(rows, actor_context)
        frozen = self.qvalue_network_params.detach()
        values = self._values(rows, critic_context, action, frozen)
        term = functional.actor_loss(log_prob, values, self._alpha)
        loss = reduce_term(self, term, batch.mask)
        norm = actor_context.detach().norm(dim=-1)
        return loss, {
            "log_prob": log_prob.detach(),
            "mask": batch.mask,
            "context_actor_norm": functional.masked_mean(norm, batch.mask),
        }

    def _alpha_loss(self, log_prob: Tensor) -> Tensor:
        return functional.alpha_loss(self.log_alpha, log_prob, self.target_entropy)

    def policy_context(self, tensordict: TensorDictBase) -> Tensor:
        """The policy's contexts, for both terms of one update: one encoder pass.

        The policy has the same parameters in both, if no step of its own lies between
        them. It spares a pass and takes memory: what the context was made of is kept
        until the policy term's backward pass.

        Args:
            tensordict: packed batch ``[R, L]``; it is not changed.

        Returns:
            ``[R, L, C]``, with gradient.

        Raises:
            ValueError: a flat batch, or an entry of the wrong shape or dtype.
            KeyError: an entry is missing.
        """
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
            ``loss_qvalue`` and, without gradient, the scalars of
            :meth:`qvalue_v2_loss`.

        Raises:
            ValueError: a flat batch, or an entry of the wrong shape or dtype.
            KeyError: an entry is missing.
        """
        loss, diagnostics = self.qvalue_v2_loss(tensordict, policy_context)
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
            ``loss_actor``, ``loss_alpha`` and, without gradient, the scalars ``alpha``
            (the temperature used), ``entropy`` (nats, mean over transitions) and
            ``context_actor_norm``.

        Raises:
            ValueError: a flat batch, or an entry of the wrong shape or dtype.
            KeyError: an entry is missing.
        """
        loss_actor, terms = self.actor_loss(tensordict, policy_context)
        log_prob, mask = terms["log_prob"], terms["mask"]
        return TensorDict(
            {
                "loss_actor": loss_actor,
                "loss_alpha": reduce_term(self, self._alpha_loss(log_prob), mask),
                "alpha": self._alpha,
                "entropy": -functional.masked_mean(log_prob, mask),
                "context_actor_norm": terms["context_actor_norm"],
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
