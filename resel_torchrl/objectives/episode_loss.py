"""What the losses share: all but their bootstrap and their policy term."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from typing import Any, TypeVar

import torch
from tensordict import (
    NestedKey,
    TensorDict,
    TensorDictBase,
    TensorDictParams,
    unravel_key,
)
from tensordict.nn import (
    ProbabilisticTensorDictSequential,
    TensorDictModuleBase,
    dispatch,
)
from torch import Tensor, nn
from torch.nn.functional import pad
from torchrl.envs.utils import ExplorationType, set_exploration_type
from torchrl.modules import set_recurrent_mode
from torchrl.objectives import LossModule, ValueEstimators
from torchrl.objectives.utils import default_value_kwargs
from torchrl.objectives.value import TD0Estimator

from resel_torchrl.objectives import functional
from resel_torchrl.objectives.packed import (
    PackedBatch,
    action_key,
    present_keys,
    read_packed,
)

NETWORKS = ("actor_network", "qvalue_network", "actor_encoder", "critic_encoder")

#: Where ``pack_episodes`` writes which transitions of a segment are learned from.
LEARNING_MASK = "learning_mask"

#: An encoder pass that has begun: gives its contexts ``[R, L, C]``.
Pass = Callable[[], Tensor]


class EpisodeLoss(LossModule):
    """Actor-critic loss on packed batches of whole episodes, but for two methods.

    A loss adds a constructor that ends in ``_set_up``, :meth:`bootstrap` and
    :meth:`policy_term`. All else is here: it reads the batch, runs the encoders, clamps
    the bootstrap, reduces the terms over the transitions and adds what a log wants to
    know. Heads and encoders meet through keys: a head has the context that its encoder
    writes among its ``in_keys``. The networks never see padding, whatever it holds.

    Encoder passes: the critic term makes three over the rows (the policy's and the
    target critic's without gradient, the critic's with), the policy term two (the
    actor's with gradient, the critic's without); where an update has both, one pass of
    the actor's encoder can serve both, unless the target has a policy of its own.

    Clamp range: with ``target_bound=True`` the bootstrap, before discount and reward,
    is clamped to ``[bootstrap_low, bootstrap_high]``. In the first batch these are its
    own smallest and largest bootstrap, so nothing is clamped. After each target, with
    ``b`` the smallest target of the transitions, ``low <- min(low, b)`` and then
    ``low <- decay low + (1 - decay) b``; ``high`` alike with the largest. Both are
    buffers and part of the ``state_dict``. The range comes from the paper's released
    code, which counts padding as a target of zero; here padding has no part in it.

    Masks: besides ``valid``, those that :attr:`loss_mask_key` names leave transitions
    out of the terms, not out of the encoders. Its default, ``"auto"``, finds those of
    TorchRL and the ``"learning_mask"`` of segments with burn-in.

    Attributes:
        row_keys: entries that the networks read at every observation.
        critic_subset_size: M, target critics in the minimum, drawn once per update.
        target_bound: whether the bootstrap is clamped.
        clamp_decay: of the clamp range, per critic term; 1 keeps the widest.
        reduction: ``"mean"``, ``"sum"`` or ``"none"``.

    Examples:
        >>> from resel_torchrl.modules import make_agent
        >>> from resel_torchrl.objectives import make_loss
        >>> loss = make_loss(make_agent(3, 2, core="gru", hidden_size=16))
        >>> isinstance(loss, EpisodeLoss), loss.row_keys
        (True, ['observation', 'prev_observation', 'prev_action'])
    """

    @dataclass
    class _AcceptedKeys:
        """The entries of a packed batch."""

        action: NestedKey = "action"
        reward: NestedKey = "reward"  # under "next", as the two below
        done: NestedKey = "done"  # end of an episode; not read
        terminated: NestedKey = "terminated"
        is_init: NestedKey = "is_init"  # start of an episode
        valid: NestedKey = "valid"  # true at steps with a transition

    default_keys = _AcceptedKeys
    default_value_estimator = ValueEstimators.TD0
    SUPPORTED_VALUE_ESTIMATORS = (ValueEstimators.TD0,)
    clamp_decay = 0.999
    _side_streams: SideStreams | None = None

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

    def _set_up(
        self,
        *,
        targets: Iterable[str],
        critic_subset_size: int,
        target_bound: bool,
        reduction: str,
        **networks: TensorDictModuleBase,
    ) -> None:
        """Finish construction: register networks, those in ``targets`` with targets."""
        for name, module in networks.items():
            create_target = name in targets
            self.convert_to_functional(module, name, create_target_params=create_target)
        if reduction not in ("mean", "sum", "none"):
            raise ValueError(
                f"Expected reduction 'mean', 'sum' or 'none', got {reduction!r}."
            )
        n_critics = getattr(self.qvalue_network, "n_critics", math.inf)
        if not 1 <= critic_subset_size <= n_critics:
            raise ValueError(
                "Expected critic_subset_size between 1 and the number of critics, "
                f"{n_critics}, got {critic_subset_size}. Pass another "
                "critic_subset_size, or build the critic with more members: "
                "EnsembleCritic(..., n_critics=...)."
            )
        self._context_keys = {
            "actor_encoder": _context_key(self.actor_encoder, self.actor_network),
            "critic_encoder": _context_key(self.critic_encoder, self.qvalue_network),
        }
        self._check_no_shared_parameter()
        self._state_keys = state_keys(self.actor_encoder)
        self.reduction = reduction
        self.critic_subset_size = critic_subset_size
        self.target_bound = target_bound
        unset = torch.tensor(math.inf, device=next(self.parameters()).device)
        self.register_buffer("bootstrap_low", unset)
        self.register_buffer("bootstrap_high", -unset)
        self.set_keys(action=action_key(self.actor_network))
        self.make_value_estimator()

    def __setstate__(self, state: dict) -> None:
        super().__setstate__(state)
        # The modules of a copy run on the parameters that the copy lists.
        for name in NETWORKS:
            params = getattr(self, f"{name}_params")
            params.to_module(getattr(self, name), preserve_module_state=False)

    def bootstrap(
        self, rows: TensorDict, actor_context: Tensor, critic_context: Tensor
    ) -> Tensor:
        """Value of the next observation, before it is clamped; without gradient.

        Args:
            rows: TensorDict ``[R, T]`` of what is observed next.
            actor_context: of the target's policy, ``[R, T, C]``.
            critic_context: of the target critics, ``[R, T, C]``.

        Returns:
            ``[R, T]``.
        """
        raise NotImplementedError

    def policy_term(
        self, rows: TensorDict, actor_context: Tensor, critic_context: Tensor
    ) -> tuple[Tensor, Tensor | None]:
        """Actor loss of each transition; its gradient must not reach the critics.

        Args:
            rows: TensorDict ``[R, T]`` of what is observed.
            actor_context: ``[R, T, C]``, with gradient.
            critic_context: ``[R, T, C]``, without.

        Returns:
            Loss ``[R, T]``, and the policy's log-probability ``[R, T]``, which the
            temperature learns from; None for a loss without temperature.
        """
        raise NotImplementedError

    def taken_values(self, rows: TensorDict, context: Tensor, action: Tensor) -> Tensor:
        """Values ``[R, T, n_critics]`` of the actions taken."""
        return self._values(rows, context, action)

    def critic_loss(
        self, tensordict: TensorDictBase, policy_context: Tensor | None = None
    ) -> TensorDict:
        """The critic's term alone: three encoder passes, one step of the clamp range.

        Args:
            tensordict: packed batch ``[R, L]``; it is not changed.
            policy_context: what :meth:`policy_context` made of the batch; None makes
                it here.

        Returns:
            ``loss_qvalue`` and, without gradient, the scalars ``target_value`` (mean
            target), ``td_error`` (mean absolute error over transitions and critics),
            ``clamped_fraction`` (share of transitions whose bootstrap was clamped) and
            ``context_critic_norm`` (mean Euclidean norm of the context).

        Raises:
            ValueError: a flat batch, or an entry of the wrong shape or dtype.
            KeyError: an entry is missing.
        """
        batch = self.read(tensordict)
        # One pass gives e_t and e_{t+1}: [:, :-1] and [:, 1:] of its contexts.
        policy, target_critic = self._start_target(batch.rows, policy_context)
        context = self.encode("critic_encoder", batch.rows)[:, :-1]
        target, clamped = self._target(batch, policy()[:, 1:], target_critic()[:, 1:])
        values = self.taken_values(batch.rows[:, :-1], context, batch.action)
        term = functional.critic_loss(values, target)
        with torch.no_grad():
            diagnostics = {
                "target_value": target,
                "td_error": (values - target.unsqueeze(-1)).abs().mean(-1),
                "clamped_fraction": clamped.to(target.dtype),
                "context_critic_norm": context.norm(dim=-1),
            }
            means = {
                name: functional.masked_mean(x, batch.mask)
                for name, x in diagnostics.items()
            }
        return TensorDict({"loss_qvalue": self._reduce(term, batch.mask), **means})

    def policy_loss(
        self, tensordict: TensorDictBase, policy_context: Tensor | None = None
    ) -> TensorDict:
        """The policy's terms alone: two encoder passes.

        Args:
            tensordict: packed batch ``[R, L]``; it is not changed.
            policy_context: what :meth:`policy_context` made of the batch; None makes
                it here.

        Returns:
            ``loss_actor`` and, without gradient, the scalar ``context_actor_norm``.
            With a temperature also ``loss_alpha`` (without gradient if it is fixed) and
            the scalars ``alpha`` (the temperature used) and ``entropy`` (nats, mean
            over transitions).
        """
        batch = self.read(tensordict)
        critic = self._start(lambda: self.encode("critic_encoder", batch.rows))
        context = self._encode_policy(batch.rows, policy_context)[:, :-1]
        term, log_prob = self.policy_term(batch.rows[:, :-1], context, critic()[:, :-1])
        terms = {"loss_actor": self._reduce(term, batch.mask)}
        if log_prob is not None:
            terms |= self._temperature_terms(log_prob.detach(), batch.mask)
        norm = context.detach().norm(dim=-1)
        terms["context_actor_norm"] = functional.masked_mean(norm, batch.mask)
        return TensorDict(terms)

    @dispatch
    def forward(self, tensordict: TensorDictBase) -> TensorDict:
        """All terms on the same parameters: first the critic's, then the policy's.

        Args:
            tensordict: packed batch ``[R, L]``; it is not changed.

        Returns:
            The losses and, with a temperature, ``alpha`` and ``entropy``.
        """
        shared = hasattr(self, "policy_context")
        context = self.policy_context(tensordict) if shared else None
        terms = self.critic_loss(tensordict, context)
        terms.update(self.policy_loss(tensordict, context))
        params = [name for name in self._modules if name.endswith("_params")]
        self._clear_weakrefs(tensordict, terms, *params)
        return terms.select(*self.out_keys)

    def _policy_context(self, tensordict: TensorDictBase) -> Tensor:
        """Encode the batch for the policy, once for both terms of one update.

        The policy has the same parameters in both, if no step of its own lies between
        them. It spares a pass and takes GPU memory: the activations are kept until the
        policy term's backward pass.

        Args:
            tensordict: packed batch ``[R, L]``; it is not changed.

        Returns:
            Contexts ``[R, L, C]``, with gradient.
        """
        return self.encode("actor_encoder", self.read(tensordict).rows)

    def _start_target(
        self, rows: TensorDictBase, policy_context: Tensor | None = None
    ) -> tuple[Pass, Pass]:
        """Begin the target's two passes: of the policy and of the critics."""
        policy = self._target_params("actor_encoder")
        critic = self._target_params("critic_encoder")
        return (
            self._start(
                lambda: self._encode_policy(rows, policy_context, policy),
                beside=policy_context is None,
            ),
            self._start(lambda: self.encode("critic_encoder", rows, critic)),
        )

    @torch.no_grad()
    def _target(
        self, batch: PackedBatch, actor_context: Tensor, critic_context: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Target ``[R, T]``, and bool ``[R, T]``, where its bootstrap was clamped."""
        bootstrap = self.bootstrap(batch.rows[:, 1:], actor_context, critic_context)
        clamped = bootstrap
        if self.target_bound:
            low, high = functional.initial_clamp_range(
                bootstrap, self.bootstrap_low, self.bootstrap_high, batch.mask
            )
            clamped = bootstrap.clamp(low, high)
        target = functional.td_target(
            batch.reward, batch.terminated, clamped, self.value_estimator.gamma
        )
        if self.target_bound:
            low, high = functional.update_clamp_range(
                target, low, high, batch.mask, self.clamp_decay
            )
            # In place, for CUDA graphs.
            self.bootstrap_low.copy_(low)
            self.bootstrap_high.copy_(high)
        target = clone_if_compiling(torch.where(batch.mask, target, 0.0))
        return target, clamped != bootstrap

    def _draw_subset(self, values: Tensor) -> Tensor:
        """The critics in the minimum, out of values ``[R, T, *, n_critics]``."""
        return functional.draw_subset(
            values.shape[-1], self.critic_subset_size, values.device
        )

    @property
    def _alpha(self) -> Tensor:
        """Temperature without gradient; brings ``log_alpha`` to its range in place."""
        if self.min_log_alpha is not None or self.max_log_alpha is not None:
            self.log_alpha.data.clamp_(self.min_log_alpha, self.max_log_alpha)
        return clone_if_compiling(self.log_alpha.detach().exp())

    def _temperature_terms(self, log_prob: Tensor, mask: Tensor) -> dict[str, Tensor]:
        term = functional.alpha_loss(self.log_alpha, log_prob, self.target_entropy)
        return {
            "loss_alpha": self._reduce(term, mask),
            "alpha": self._alpha,
            "entropy": -functional.masked_mean(log_prob, mask),
        }

    def _reduce(self, x: Tensor, mask: Tensor) -> Tensor:
        """A term ``[R, T]`` to a scalar, or ``[R, L]``, zero where no transition is."""
        if self.reduction == "mean":
            return functional.masked_mean(x, mask)
        x = torch.where(mask, x, 0.0)
        return x.sum() if self.reduction == "sum" else pad(x, (0, 1))

    def encode(
        self, name: str, rows: TensorDictBase, params: TensorDictBase | None = None
    ) -> Tensor:
        """Contexts of all steps: one pass of an encoder.

        A hidden state among the rows is the acting policy's: the actor's encoder starts
        from it; the critic's did not act, and starts from zero.

        Args:
            name: ``"actor_encoder"`` or ``"critic_encoder"``.
            rows: TensorDict ``[R, L]`` from :meth:`read`; it is not changed.
            params: parameters to run it with, its own by default.

        Returns:
            ``[R, L, C]``.
        """
        encoder = getattr(self, name)
        if name == "critic_encoder":
            rows = rows.exclude(*self._state_keys)
        inputs = rows.select(*encoder.in_keys, strict=False)
        with set_recurrent_mode(True), _using(params, encoder):
            return encoder(inputs).get(self._context_keys[name])

    def _encode_policy(
        self,
        rows: TensorDictBase,
        known: Tensor | None,
        params: TensorDictBase | None = None,
    ) -> Tensor:
        """Contexts of the policy ``[R, L, C]``, unless they are ``known`` and fit."""
        if known is None:
            return self.encode("actor_encoder", rows, params)
        if params is not None:
            raise ValueError(
                f"Expected no policy_context: the target of {type(self).__name__} has "
                "a policy of its own. Leave it out."
            )
        if known.shape[:-1] != rows.shape:
            raise ValueError(
                f"Expected a policy_context [R, L, C] with [R, L] = {list(rows.shape)},"
                f" got {list(known.shape)}. Pass what loss.policy_context made of this "
                "batch."
            )
        trained = any(p.requires_grad for p in self.actor_encoder.parameters())
        if torch.is_grad_enabled() and trained and not known.requires_grad:
            raise ValueError(
                "Expected a policy_context with gradient, which the policy's encoder "
                "learns from, got one without. Pass what loss.policy_context returned, "
                "not detached."
            )
        return known

    def _start(self, encode: Callable[[], Tensor], *, beside: bool = True) -> Pass:
        """Begin a pass without gradient, on a side stream if there are any.

        Without them it is made right away, while no other has left activations.
        """

        @torch.no_grad()
        def without_gradient() -> Tensor:
            return encode()

        if self._side_streams is None or not beside:
            context = without_gradient()
            return lambda: context
        return self._side_streams.start(without_gradient)

    def _target_params(self, name: str) -> TensorDictBase | None:
        """Target parameters of a network; None, its own, where it has none."""
        name = f"target_{name}_params"
        return getattr(self, name) if name in self._modules else None

    def _head_inputs(self, name: str, rows: TensorDict, context: Tensor) -> TensorDict:
        """A copy of the rows with the context of an encoder among them."""
        return rows.copy().set(self._context_keys[name], context)

    def _values(
        self,
        rows: TensorDict,
        context: Tensor,
        action: Tensor | None = None,
        *,
        n_actions: int | None = None,
        params: TensorDictBase | None = None,
    ) -> Tensor:
        """Values ``[R, T, n_critics]`` of ``action``; or of all ``n_actions``.

        Then they are ``[R, T, n_actions, n_critics]``.
        """
        inputs = self._head_inputs("critic_encoder", rows, context)
        if n_actions is None:
            inputs.set(self.tensor_keys.action, action)
            key, expected = self.tensor_keys.state_action_value, ["n_critics"]
        else:
            key, expected = self.tensor_keys.action_value, [n_actions, "n_critics"]
        with _using(params, self.qvalue_network):
            values = self.qvalue_network(inputs).get(key)
        if values.shape[:-1] != (*rows.batch_size, *expected[:-1]):
            kind = "EnsembleCritic" if n_actions is None else "DiscreteEnsembleCritic"
            raise ValueError(
                f"Expected {key!r} of shape {[*rows.batch_size, *expected]}, got "
                f"{list(values.shape)}. Use resel_torchrl.modules.{kind}, or write "
                "the values of all critics along one last dimension."
            )
        return values

    @property
    def parallel_passes(self) -> bool:
        """Whether passes without gradient run on CUDA streams beside the others.

        False at first. The encoders of a term do not depend on each other, and alone
        none of them fills a large GPU. What they compute stays the same; the streams
        take GPU memory. It holds for the device that the loss is on when it is set.

        Raises:
            ValueError: when set for a loss on another device than a GPU.
        """
        return self._side_streams is not None

    @parallel_passes.setter
    def parallel_passes(self, wanted: bool) -> None:
        device = next(self.parameters()).device
        if wanted and device.type != "cuda":
            raise ValueError(
                f"parallel_passes: expected a loss on a CUDA device, got {device}. "
                "Move the networks there, or leave it False."
            )
        self._side_streams = SideStreams(device) if wanted else None

    def _check_no_shared_parameter(self) -> None:
        owner = {
            parameter: f"{side}.{name}"
            for side in ("actor_network", "actor_encoder")
            for name, parameter in getattr(self, side).named_parameters()
        }
        for side in ("qvalue_network", "critic_encoder"):
            for name, parameter in getattr(self, side).named_parameters():
                if parameter in owner:
                    raise ValueError(
                        "Expected actor and critic to have parameters of their own, "
                        f"got {side}.{name}, which is also {owner[parameter]}. Build a "
                        "second module (copy.deepcopy copies one with its weights)."
                    )

    def _set_in_keys(self) -> None:
        if not hasattr(self, "_context_keys"):
            return  # called by the constructor of SACLoss
        keys = self.tensor_keys
        self.row_keys = observed_keys(
            [getattr(self, name) for name in NETWORKS],
            written=[keys.action, keys.is_init, *self._context_keys.values()],
        )
        transitions = [keys.action, ("next", keys.reward), ("next", keys.terminated)]
        self.in_keys = [*self.row_keys, *transitions, keys.is_init, keys.valid]

    def read(self, tensordict: TensorDictBase) -> PackedBatch:
        """Read a packed batch under the keys of the loss, ``loss_mask_key`` included.

        Args:
            tensordict: packed batch ``[R, L]``; it is not changed.

        Raises:
            ValueError: a flat batch, or an entry of the wrong shape or dtype.
            KeyError: an entry is missing.
        """
        keys = self.tensor_keys
        batch = read_packed(
            tensordict,
            self.row_keys,
            self._state_keys,
            action=keys.action,
            reward=keys.reward,
            terminated=keys.terminated,
            is_init=keys.is_init,
            valid=keys.valid,
        )
        mask_keys = self._loss_mask_keys()
        if self.loss_mask_key == "auto":
            mask_keys = (*mask_keys, LEARNING_MASK)
        for key in mask_keys:
            mask = tensordict.get(key, None)
            if mask is not None:
                wanted = self._expand_loss_mask(mask[:, :-1], batch.mask)
                batch = replace(batch, mask=batch.mask & wanted)
            elif self.loss_mask_key != "auto":
                raise KeyError(
                    f"Expected the mask {key!r} that loss_mask_key names, got only "
                    f"{present_keys(tensordict)}. Write it into the packed batch, or "
                    "set loss_mask_key back to 'auto'."
                )
        return batch

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
        unknown = sorted(set(hyperparams) - {"gamma", "device"})
        if value_type not in (None, ValueEstimators.TD0) or unknown:
            raise NotImplementedError(
                "Expected make_value_estimator(gamma=...): RESeL's target is the "
                f"one-step target (ValueEstimators.TD0), got {value_type} with "
                f"{unknown or 'no other options'}. Override the method that computes "
                "the target in a subclass for another one."
            )
        defaults = {
            **default_value_kwargs(ValueEstimators.TD0),
            "device": self._default_device,
        }
        self._value_estimator = TD0Estimator(
            **{**defaults, **hyperparams}, value_network=None
        )
        self._forward_value_estimator_keys()


Result = TypeVar("Result")


class SideStreams:
    """CUDA streams that take turns in running work beside the current stream.

    What is started sees all that the current stream was given before, and is finished
    for what the current stream is given after its result was asked for. All starts must
    come from one stream, or from streams that have waited for each other, and each
    result must have been asked for before its stream is used again, as a loss does
    within one term: then no GPU memory is given away while a stream still works on it.

    Args:
        device: the GPU.
        count: most that run at the same time.
    """

    def __init__(self, device: torch.device, count: int = 2) -> None:
        self.device, self.count = device, count
        self._streams: list[torch.cuda.Stream] = []
        self._started = 0

    def __getstate__(self) -> dict[str, Any]:
        # A copy, or another process, has streams of its own.
        return self.__dict__ | {"_streams": [], "_started": 0}

    def start(self, function: Callable[[], Result]) -> Callable[[], Result]:
        """Launch work on the device, without gradient.

        Returns:
            What has the current stream wait for that work and gives its result.
        """
        if not self._streams:
            self._streams = [torch.cuda.Stream(self.device) for _ in range(self.count)]
        stream = self._streams[self._started % self.count]
        self._started += 1
        stream.wait_stream(torch.cuda.current_stream(self.device))
        with torch.cuda.stream(stream):
            result = function()

        def finished() -> Result:
            torch.cuda.current_stream(self.device).wait_stream(stream)
            return result

        return finished


def clone_if_compiling(x: Tensor) -> Tensor:
    """Clone a tensor whose source changes in place, where it is compiled.

    A compiled backward pass recomputes some of its inputs instead of keeping them,
    which fails once their source has changed. Outputs of a custom operator are kept.
    """
    return _clone(x) if torch.compiler.is_compiling() else x


@torch.library.custom_op("resel_torchrl::clone", mutates_args=())
def _clone(x: Tensor) -> Tensor:
    return x.clone()


@_clone.register_fake
def _(x: Tensor) -> Tensor:
    return torch.empty_like(x)


def _using(params: TensorDictBase | None, module: nn.Module) -> AbstractContextManager:
    """Context in which ``module`` runs with ``params``; with its own if ``None``.

    Exchanging parameters takes longer than a small network, so it is done for target
    and frozen parameters only. Without ``preserve_module_state=False``, tensordict
    would write new Parameters that require gradients back into ``params``.
    """
    if params is None:
        return nullcontext()
    return params.to_module(module, preserve_module_state=False)


def _context_key(
    encoder: TensorDictModuleBase, head: TensorDictModuleBase
) -> NestedKey:
    """The one entry that ``encoder`` writes and ``head`` reads, or a ValueError."""
    shared = [key for key in encoder.out_keys if key in head.in_keys]
    if len(shared) != 1:
        raise ValueError(
            f"Expected {type(head).__name__} to read the one context of its encoder, "
            f"got in_keys {list(head.in_keys)} of the head and out_keys "
            f"{list(encoder.out_keys)} of the encoder. Give both the same key: "
            "ContextEncoder(..., out_key=...) and the head's context_key."
        )
    return shared[0]


def observed_keys(
    modules: Iterable[TensorDictModuleBase], written: Iterable[NestedKey]
) -> list[NestedKey]:
    """The entries that ``modules`` read from a batch at every observation.

    Args:
        modules: encoders and heads.
        written: keys that come from elsewhere: the contexts, the action, the flags.

    Returns:
        Keys in the order met, without ``written`` and without hidden states, which
        are read once a row.
    """
    found = dict.fromkeys(
        key
        for module in modules
        for key in module.in_keys
        if key not in state_keys(module)
    )
    written = set(written)
    return [key for key in found if key not in written]


def state_keys(module: TensorDictModuleBase) -> list[NestedKey]:
    """The hidden states of a module: what it reads and hands to the next step."""
    following = set(module.out_keys)
    return [key for key in module.in_keys if unravel_key(("next", key)) in following]


def action_distribution(
    actor: ProbabilisticTensorDictSequential, inputs: TensorDictBase
) -> tuple[Tensor, Tensor]:
    """Probability and log-probability of every discrete action, both ``[R, T, A]``.

    Args:
        actor: policy head with a one-hot categorical distribution.
        inputs: TensorDict ``[R, T]`` with the context in it.
    """
    distribution = actor.get_dist(inputs)
    return distribution.probs, distribution.logits


def act_deterministically(
    actor: TensorDictModuleBase,
    inputs: TensorDictBase,
    key: NestedKey,
    params: TensorDictBase | None = None,
) -> Tensor:
    """Actions ``[R, T, A]`` without exploration, with gradient.

    Args:
        actor: policy head.
        inputs: TensorDict ``[R, T]`` with the context in it; it is not changed.
        key: entry that the actor writes the action to.
        params: parameters to run it with, its own by default.
    """
    mode = set_exploration_type(ExplorationType.DETERMINISTIC)
    with mode, _using(params, actor):
        return actor(inputs.copy()).get(key)
