"""Running the loss's networks on a batch under a given set of parameters."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING, Any, TypeVar

import torch
from tensordict import NestedKey, TensorDict, TensorDictBase, unravel_key
from tensordict.nn import ProbabilisticTensorDictSequential, TensorDictModuleBase
from torch import Tensor, nn
from torchrl.envs.utils import ExplorationType, set_exploration_type
from torchrl.modules import set_recurrent_mode
from torchrl.objectives import LossModule
from torchrl.objectives.sac import compute_rsample_log_prob

from resel_torchrl.objectives import functional
from resel_torchrl.objectives.packed import check_modules_are_separate, context_key

if TYPE_CHECKING:
    from resel_torchrl.objectives.episode_loss import Pass
    from resel_torchrl.objectives.packed import PackedBatch
import math
from dataclasses import replace

from torch.nn.functional import pad
from torchrl.objectives import ValueEstimators
from torchrl.objectives.utils import default_value_kwargs
from torchrl.objectives.value import TD0Estimator

from resel_torchrl.objectives.packed import PackedBatch, check_one_step, read_packed

__all__ = [
    "ParallelPasses",
    "SideStreams",
]


def _using(params: TensorDictBase | None, module: nn.Module) -> AbstractContextManager:
    """Context in which ``module`` runs with ``params``; with its own if ``None``.

    Exchanging parameters takes longer than a small network, so it is done for target
    and frozen parameters only. Without ``preserve_module_state=False``, tensordict
    would write new Parameters that require gradients back into ``params``.
    """
    if params is None:
        return nullcontext()
    return params.to_module(module, preserve_module_state=False)


def observed_keys(
    modules: Iterable[TensorDictModuleBase], written: Iterable[NestedKey]
) -> list[NestedKey]:
    """The entries that ``modules`` read from a batch at every observation.

    Args:
        modules: encoders and heads.
        written: keys that come from elsewhere: the contexts, the action, the flags.

    Returns:
        Keys in the order met, without ``written`` and without recurrent states, which
        are not read at every observation.

    Examples:
        >>> from resel_torchrl.modules import ContextEncoder, EnsembleCritic
        >>> encoder = ContextEncoder({"observation": 3, "prev_action": 2}, "gru")
        >>> observed_keys([encoder, EnsembleCritic(3, 2)], ["action", "is_init",
        ...     "context_critic"])
        ['observation', 'prev_action']
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
    """The recurrent states of a module: what it reads and hands to the next step.

    Args:
        module: an encoder or a head.

    Examples:
        >>> from resel_torchrl.modules import ContextEncoder
        >>> state_keys(ContextEncoder({"observation": 3}, "gru"))
        ['context_actor_state']
    """
    following = set(module.out_keys)
    return [key for key in module.in_keys if unravel_key(("next", key)) in following]


def encode(
    encoder: TensorDictModuleBase,
    rows: TensorDictBase,
    key: NestedKey,
    params: TensorDictBase | None = None,
) -> Tensor:
    """Contexts of all rows: one pass of ``encoder`` in recurrent mode.

    Args:
        encoder: context encoder.
        rows: TensorDict ``[R, L]``; it is not changed.
        key: entry that the encoder writes the context to.
        params: parameters to run it with, its own by default.

    Returns:
        ``[R, L, C]``.

    Examples:
        >>> import torch
        >>> from tensordict import TensorDict
        >>> from resel_torchrl.modules import ContextEncoder
        >>> encoder = ContextEncoder({"observation": 3}, "gru", context_size=5)
        >>> rows = TensorDict(
        ...     observation=torch.randn(2, 4, 3),
        ...     is_init=torch.zeros(2, 4, 1, dtype=torch.bool),
        ...     batch_size=[2, 4],
        ... )
        >>> encode(encoder, rows, "context_actor").shape
        torch.Size([2, 4, 5])
    """
    inputs = rows.select(*encoder.in_keys, strict=False)
    with set_recurrent_mode(True), _using(params, encoder):
        return encoder(inputs).get(key)


def act(
    actor: ProbabilisticTensorDictSequential, inputs: TensorDictBase
) -> tuple[Tensor, Tensor]:
    """Draw a reparameterised action at every row, with its log-probability.

    Args:
        actor: policy head.
        inputs: TensorDict ``[R, T]`` with the context in it.

    Returns:
        Actions ``[R, T, A]`` and log-probabilities ``[R, T]``.

    Examples:
        >>> import torch
        >>> from tensordict import TensorDict
        >>> from resel_torchrl.modules import TanhNormalActor
        >>> actor = TanhNormalActor(3, 2, 5)
        >>> inputs = TensorDict(
        ...     observation=torch.ones(1, 4, 3),
        ...     context_actor=torch.ones(1, 4, 5),
        ...     batch_size=[1, 4],
        ... )
        >>> action, log_prob = act(actor, inputs)
        >>> action.shape, log_prob.shape
        (torch.Size([1, 4, 2]), torch.Size([1, 4]))
    """
    with set_exploration_type(ExplorationType.RANDOM):
        return compute_rsample_log_prob(actor.get_dist(inputs))


def action_distribution(
    actor: ProbabilisticTensorDictSequential, inputs: TensorDictBase
) -> tuple[Tensor, Tensor]:
    """Probability and log-probability of every discrete action at every row.

    Args:
        actor: policy head with a one-hot categorical distribution.
        inputs: TensorDict ``[R, T]`` with the context in it.

    Returns:
        Two tensors ``[R, T, A]``.

    Examples:
        >>> import torch
        >>> from tensordict import TensorDict
        >>> from resel_torchrl.modules import CategoricalActor
        >>> inputs = TensorDict(
        ...     observation=torch.ones(1, 4, 3),
        ...     context_actor=torch.ones(1, 4, 5),
        ...     batch_size=[1, 4],
        ... )
        >>> probs, log_probs = action_distribution(CategoricalActor(3, 2, 5), inputs)
        >>> probs.shape, bool(torch.allclose(probs.log(), log_probs))
        (torch.Size([1, 4, 2]), True)
    """
    distribution = actor.get_dist(inputs)
    return distribution.probs, distribution.logits


def act_deterministically(
    actor: TensorDictModuleBase,
    inputs: TensorDictBase,
    key: NestedKey,
    params: TensorDictBase | None = None,
) -> Tensor:
    """The action at every row without exploration, with gradient.

    Args:
        actor: policy head.
        inputs: TensorDict ``[R, T]`` with the context in it; it is not changed.
        key: entry that the actor writes the action to.
        params: parameters to run it with, its own by default.

    Returns:
        Actions ``[R, T, A]``.

    Examples:
        >>> import torch
        >>> from tensordict import TensorDict
        >>> from resel_torchrl.modules import DeterministicActor
        >>> inputs = TensorDict(
        ...     observation=torch.ones(1, 4, 3),
        ...     context_actor=torch.ones(1, 4, 5),
        ...     batch_size=[1, 4],
        ... )
        >>> act_deterministically(DeterministicActor(3, 2, 5), inputs, "action").shape
        torch.Size([1, 4, 2])
    """
    mode = set_exploration_type(ExplorationType.DETERMINISTIC)
    with mode, _using(params, actor):
        return actor(inputs.copy()).get(key)


def evaluate(
    critic: TensorDictModuleBase,
    inputs: TensorDictBase,
    key: NestedKey,
    params: TensorDictBase | None = None,
    *,
    actions: int | None = None,
) -> Tensor:
    """Values of every critic at every row.

    Args:
        critic: ensemble head.
        inputs: TensorDict ``[R, T]`` with the context and, where the critic reads it,
            the action.
        key: entry that the critic writes.
        params: parameters to run it with, its own by default.
        actions: number of discrete actions, if the critic has an output for each.

    Returns:
        ``[R, T, n_critics]``; ``[R, T, actions, n_critics]`` with ``actions``.

    Raises:
        ValueError: the critic writes another shape.

    Examples:
        >>> import torch
        >>> from tensordict import TensorDict
        >>> from resel_torchrl.modules import EnsembleCritic
        >>> critic = EnsembleCritic(3, 2, 5, n_critics=8)
        >>> inputs = TensorDict(
        ...     observation=torch.ones(1, 4, 3),
        ...     action=torch.ones(1, 4, 2),
        ...     context_critic=torch.ones(1, 4, 5),
        ...     batch_size=[1, 4],
        ... )
        >>> evaluate(critic, inputs, "state_action_value").shape
        torch.Size([1, 4, 8])
    """
    with _using(params, critic):
        values = critic(inputs).get(key)
    expected = ["n_critics"] if actions is None else [actions, "n_critics"]
    if values.shape[:-1] != (*inputs.batch_size, *expected[:-1]):
        kind = "EnsembleCritic" if actions is None else "DiscreteEnsembleCritic"
        raise ValueError(
            f"Expected {key!r} of shape {[*inputs.batch_size, *expected]}, got "
            f"{list(values.shape)}. Use resel_torchrl.modules.{kind}, or write "
            "the values of all critics along one last dimension."
        )
    return values


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


Result = TypeVar("Result")


class SideStreams:
    """Streams that take turns in running what is started beside the current one.

    What is started sees all that the current stream was given before, and is finished
    for what the current stream is given after its result was asked for. All starts must
    come from one stream, or from streams that have waited for each other, and each
    result must have been asked for before its stream is used again, as a loss does
    within one term: then no memory is given away while a stream still works on it.
    Each has memory and workspaces of its own.

    Args:
        device: the GPU.
        count: most that run at the same time.

    Examples:
        >>> if torch.cuda.is_available():
        ...     x = torch.ones(3, device="cuda")
        ...     double = SideStreams(x.device).start(lambda: 2 * x)
        ...     assert (x + 1).sum() == double().sum()
    """

    def __init__(self, device: torch.device, count: int = 2) -> None:
        self.device, self.count = device, count
        self._streams: list[torch.cuda.Stream] = []
        self._started = 0

    def __getstate__(self) -> dict[str, Any]:
        # A copy, or another process, has streams of its own.
        return self.__dict__ | {"_streams": [], "_started": 0}

    def start(self, function: Callable[[], Result]) -> Callable[[], Result]:
        """Launches a function's work.

        Args:
            function: makes tensors on the device, without gradient.

        Returns:
            What has the current stream wait for that work and gives the result.
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


class ParallelPasses:
    """For a loss with ``_networks``: passes begun together, on streams if wanted."""

    def _start_target(
        self, batch: PackedBatch, policy_context: Tensor | None = None
    ) -> tuple[Pass, Pass]:
        """Begins the target's passes: the policy's and the target critic's."""
        target = self.target_critic_encoder_params
        return (
            self._networks.start("actor_encoder", batch.rows, known=policy_context),
            self._networks.start("critic_encoder", batch.rows, target),
        )

    @property
    def parallel_passes(self) -> bool:
        """Whether passes without gradient run on CUDA streams beside the others.

        False at first. The encoders of a term do not depend on each other, and alone
        none of them fills a large GPU. What they compute stays the same; the streams
        take memory. It holds for the device that the loss is on when it is set.

        Raises:
            ValueError: when set for a loss on another device than a GPU.
        """
        return self._networks.side_streams is not None

    @parallel_passes.setter
    def parallel_passes(self, wanted: bool) -> None:
        device = next(self.parameters()).device
        if wanted and device.type != "cuda":
            raise ValueError(
                f"parallel_passes: expected a loss on a CUDA device, got {device}. "
                "Move the networks there, or leave it False."
            )
        self._networks.side_streams = SideStreams(device) if wanted else None


#: Where ``pack_episodes`` writes which transitions of a segment are learned from.
LEARNING_MASK = "learning_mask"


def read_batch(
    loss: LossModule, tensordict: TensorDictBase, row_keys: Iterable[NestedKey]
) -> PackedBatch:
    """Read a packed batch under the keys of a loss, its ``loss_mask_key`` included.

    ``"auto"`` finds the mask of :class:`~resel_torchrl.replay.SegmentSampler` beside
    those that TorchRL writes.

    Args:
        loss: has the keys of a packed batch among its ``tensor_keys``.
        tensordict: packed batch ``[R, L]``; it is not changed.
        row_keys: entries that networks read at every observation.

    Returns:
        The batch without its padding.

    Raises:
        ValueError: a flat batch, or an entry of the wrong shape or dtype.
        KeyError: an entry is missing.
    """
    keys = loss.tensor_keys
    batch = read_packed(
        tensordict,
        row_keys,
        loss._networks.state_keys,
        action=keys.action,
        reward=keys.reward,
        terminated=keys.terminated,
        is_init=keys.is_init,
        valid=keys.valid,
    )
    mask_keys = loss._loss_mask_keys()
    if loss.loss_mask_key == "auto":
        mask_keys = (*mask_keys, LEARNING_MASK)
    for key in mask_keys:
        mask = tensordict.get(key, None)
        if mask is not None:
            wanted = loss._expand_loss_mask(mask[:, :-1], batch.mask)
            batch = replace(batch, mask=batch.mask & wanted)
        elif loss.loss_mask_key != "auto":
            raise KeyError(
                f"Expected the mask {key!r} that loss_mask_key names, got only "
                f"{sorted(map(str, tensordict.keys(True, True)))}. Write it into "
                "the packed batch, or set loss_mask_key back to 'auto'."
            )
    return batch


def reduce_term(loss: LossModule, x: Tensor, mask: Tensor) -> Tensor:
    """Reduce a term of each transition as the loss says.

    Args:
        loss: its ``reduction`` is ``"mean"``, ``"sum"`` or ``"none"``.
        x: ``[R, T]``.
        mask: bool ``[R, T]``, the transitions.

    Returns:
        A scalar, or ``[R, T + 1]``, zero where no transition is.
    """
    if loss.reduction == "mean":
        return functional.masked_mean(x, mask)
    x = torch.where(mask, x, 0.0)
    return x.sum() if loss.reduction == "sum" else pad(x, (0, 1))


def one_step_estimator(
    loss: LossModule, value_type: ValueEstimators | None, hyperparams: dict
) -> TD0Estimator:
    """The estimator that holds the discount of a loss.

    Args:
        loss: its device and keys are used.
        value_type: as given to ``make_value_estimator``.
        hyperparams: likewise.

    Raises:
        NotImplementedError: another estimator or hyper-parameter.
    """
    check_one_step(value_type, hyperparams)
    defaults = {
        **default_value_kwargs(ValueEstimators.TD0),
        "device": loss._default_device,
    }
    estimator = TD0Estimator(**{**defaults, **hyperparams}, value_network=None)
    keys = loss.tensor_keys
    estimator.set_keys(reward=keys.reward, done=keys.done, terminated=keys.terminated)
    return estimator


def register_target_bound(loss: LossModule) -> None:
    """Give a loss the buffers ``bootstrap_low`` and ``bootstrap_high``, still unset.

    Args:
        loss: what gets them; its networks are registered already.
    """
    nothing = torch.tensor(math.inf, device=next(loss.parameters()).device)
    loss.register_buffer("bootstrap_low", nothing)
    loss.register_buffer("bootstrap_high", -nothing)


@torch.no_grad()
def bounded_target(
    loss: LossModule, bootstrap: Tensor, batch: PackedBatch, *, decay: float
) -> tuple[Tensor, Tensor]:
    """The one-step target; with ``loss.target_bound`` the bound is used and moved.

    Args:
        loss: has ``target_bound``, its buffers and ``value_estimator``.
        bootstrap: ``[R, T]``.
        batch: the transitions.
        decay: of the bounds, see :func:`functional.moved_bounds`.

    Returns:
        Target ``[R, T]``, zero where no transition is, and, bool ``[R, T]``, where its
        bootstrap was clamped.
    """
    bounded = bootstrap
    if loss.target_bound:
        low, high = functional.starting_bounds(
            bootstrap, loss.bootstrap_low, loss.bootstrap_high, batch.mask
        )
        bounded = bootstrap.clamp(low, high)
    target = functional.td_target(
        batch.reward, batch.terminated, bounded, loss.value_estimator.gamma
    )
    if loss.target_bound:
        low, high = functional.moved_bounds(target, low, high, batch.mask, decay)
        # In place, for CUDA graphs.
        loss.bootstrap_low.copy_(low)
        loss.bootstrap_high.copy_(high)
    return settled(torch.where(batch.mask, target, 0.0)), bounded != bootstrap


def temperature(log_alpha: Tensor, low: float | None, high: float | None) -> Tensor:
    """Temperature without gradient; ``log_alpha`` is brought to its range in place."""
    if low is not None or high is not None:
        log_alpha.data.clamp_(low, high)
    return settled(log_alpha.detach().exp())


def settled(x: Tensor) -> Tensor:
    """What was made from a tensor that then changes in place, kept as it is.

    A compiled backward pass works some of its inputs out again instead of keeping them,
    which fails once their source has changed. What a custom operator returns it keeps.

    Args:
        x: any tensor without gradient.

    Returns:
        ``x``; a copy where it is compiled.

    Examples:
        >>> settled(torch.ones(2))
        tensor([1., 1.])
    """
    return _copied(x) if torch.compiler.is_compiling() else x


@torch.library.custom_op("resel_torchrl::settled", mutates_args=())
def _copied(x: Tensor) -> Tensor:
    return x.clone()


@_copied.register_fake
def _like(x: Tensor) -> Tensor:
    return torch.empty_like(x)


def critic_term(
    loss: LossModule,
    values: Tensor,
    context: Tensor,
    target: Tensor,
    clamped: Tensor,
    mask: Tensor,
) -> tuple[Tensor, dict[str, Tensor]]:
    """The reduced critic loss and, without gradient, what it was made of.

    Args:
        loss: its reduction is used.
        values: of the actions taken, ``[R, T, n]``.
        context: of the critic, ``[R, T, C]``.
        target: ``[R, T]``.
        clamped: bool ``[R, T]``.
        mask: bool ``[R, T]``, the transitions.

    Returns:
        The loss, and scalars ``target_value`` (mean target), ``td_error`` (mean
        absolute error over transitions and critics), ``clamped_fraction`` (share of
        transitions whose bootstrap met the bound) and ``context_critic_norm`` (mean
        Euclidean norm of the context).
    """
    term = reduce_term(loss, functional.critic_loss(values, target), mask)
    with torch.no_grad():
        diagnostics = {
            "target_value": target,
            "td_error": (values - target.unsqueeze(-1)).abs().mean(-1),
            "clamped_fraction": clamped.to(target.dtype),
            "context_critic_norm": context.norm(dim=-1),
        }
        return term, {
            key: functional.masked_mean(x, mask) for key, x in diagnostics.items()
        }
