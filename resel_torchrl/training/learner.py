"""Gradient updates: critic, targets, and every few updates actor and temperature."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Iterator
from typing import Any, Literal

import torch
from tensordict import TensorDict
from torch import Tensor, nn
from torch.optim import Optimizer
from torchrl.objectives import HardUpdate, SoftUpdate
from torchrl.objectives.utils import TargetNetUpdater

from resel_torchrl.objectives.make_loss import Loss
from resel_torchrl.training.batches import PackedBatches
from resel_torchrl.training.cuda_graphs import (
    CompiledFunction,
    GraphedFunction,
    Recorder,
    in_bfloat16,
)
from resel_torchrl.training.update_metrics import (
    UpdateMetrics,
    check_gradients,
    check_tensors,
    check_terms,
)

__all__ = ["Learner", "Role"]

#: The two steps of the optimizer that an update may make.
Role = Literal["critic", "actor"]
# Which groups of parameters a step moves.
_GROUPS: dict[Role, tuple[str, ...]] = {
    "critic": ("critic", "context_encoder_critic"),
    "actor": ("actor", "context_encoder_actor", "alpha"),
}


class Learner:
    """One call of :meth:`update` is one critic update of RESeL and what goes with it.

    Args:
        loss: Such as :class:`~resel_torchrl.objectives.RESeLLoss`.
        optimizer: Any optimizer whose parameter groups are those that
            :func:`~resel_torchrl.optim.parameter_groups` makes of the loss. It must
            leave parameters without a gradient alone, as PyTorch's do: one optimizer
            serves both steps of an update.
        batches: Where the batches come from.
        policy_delay: Critic updates per actor update.
        target_update: Share of the critic that moves into its target per update (the
            paper's tau), or TorchRL's updater of the loss's targets.
        reuse_policy_context: Where both terms are due, let the policy encode the batch
            once for them, at the cost of memory. TD3's target has a policy of its own,
            and nothing to reuse.
        autocast: Whether the losses' matrix products are made in bfloat16, by
            :class:`torch.autocast`. Recurrences, the last layers of the heads, losses
            and parameters stay in float32.
        compile: Whether the losses go through `torch.compile`, see
            :class:`CompiledFunction`.
        make_recorder: See :meth:`record_with`.

    Attributes:
        updates: Updates made.
        observers: What looks at steps of the optimizer: pairs of an object with the
            methods `wants_step`, `before_step` and `after_step` of a
            :class:`~resel_torchrl.training.Hook`, and their first argument.
        encoders: The loss's context encoders by role, `critic` and `actor`.

    Raises:
        ValueError: If a parameter group has no role in the update, a parameter of the
            loss is in none, or the target updater counts calls.

    >>> import functools
    >>> from torchrl.data import LazyTensorStorage, TensorDictReplayBuffer
    >>> from resel_torchrl.collect import flat_episode
    >>> from resel_torchrl.modules import make_agent
    >>> from resel_torchrl.objectives import make_loss
    >>> from resel_torchrl.optim import parameter_groups
    >>> from resel_torchrl.replay import EpisodeSampler, pack_episodes
    >>> loss = make_loss(make_agent(1, 1, core="gru", hidden_size=8, n_critics=2))
    >>> rates = dict(lr_actor=1e-3, lr_critic=1e-3, lr_alpha=1e-3)
    >>> groups = parameter_groups(loss, lr_context_encoder=1e-5, **rates)
    >>> buffer = TensorDictReplayBuffer(
    ...     storage=LazyTensorStorage(100), sampler=EpisodeSampler(seed=0)
    ... )
    >>> values = torch.ones(6, 1).numpy()
    >>> _ = buffer.extend(flat_episode(values, values[:5], values[:5, 0], False, True))
    >>> pack = functools.partial(pack_episodes, row_length=6)
    >>> batches = PackedBatches(buffer, pack, batch_size=5)
    >>> learner = Learner(loss, torch.optim.Adam(groups), batches)
    >>> learner.update()
    >>> learner.updates, learner.metrics()["loss_qvalue"] > 0
    (1, True)
    """

    def __init__(
        self,
        loss: Loss,
        optimizer: Optimizer,
        batches: PackedBatches,
        *,
        policy_delay: int = 2,
        target_update: float | TargetNetUpdater = 0.005,
        reuse_policy_context: bool = True,
        autocast: bool = False,
        compile: bool = False,
        make_recorder: Callable[[], Recorder] | None = None,
    ) -> None:
        _check_groups(loss, optimizer)
        if isinstance(target_update, HardUpdate):
            raise ValueError(
                "target_update: expected an updater that does the same at each call, "
                "got HardUpdate, whose count no checkpoint keeps; pass a number tau."
            )
        self.loss = loss
        self.optimizer = optimizer
        self.batches = batches
        self.policy_delay = policy_delay
        if not isinstance(target_update, TargetNetUpdater):
            target_update = SoftUpdate(loss, tau=target_update)
        self.target_update = target_update
        self.updates = 0
        self.device = next(loss.parameters()).device
        self.encoders: dict[Role, nn.Module] = {
            "critic": loss.critic_encoder,
            "actor": loss.actor_encoder,
        }

        def prepared(term: Callable) -> Callable:
            term = CompiledFunction(term) if compile else term
            return in_bfloat16(term, self.device.type) if autocast else term

        self.critic_loss = prepared(loss.critic_loss)
        self.policy_loss = prepared(loss.policy_loss)
        self.policy_context: Callable | None = None
        if reuse_policy_context and hasattr(loss, "policy_context"):
            self.policy_context = prepared(loss.policy_context)
        self._metrics = UpdateMetrics(_GROUPS)
        self.observers: list[tuple[Any, Any]] = [(self._metrics, self)]
        self._sync_is_free = self.device.type == "cpu"
        self.record_with(make_recorder)

    def update(self) -> None:
        """Make one update, on the batch that was drawn after the one before.

        Raises:
            NonFiniteLossError: Naming the loss or the group of parameters whose
                gradient is NaN or infinite; the parameters are those before its step.
                On a GPU :meth:`check` and :meth:`metrics` raise it, after it.
        """
        batch = self.batches.upcoming
        if batch is None:
            batch = self.batches.draw()
        self._metrics.add({"padding_fraction": self.batches.padding_fraction})
        with_policy = self.updates % self.policy_delay == 0
        update = functools.partial(self._update, with_policy=with_policy)
        if self._recorded and not self._is_observed(with_policy):
            update = self._recorded[with_policy]
        self._metrics.add(update(batch))
        self.updates += 1
        self.batches.draw()  # a GPU computes meanwhile

    def _update(self, batch: TensorDict, with_policy: bool) -> TensorDict:
        """Algorithm 1 of the paper (arXiv 2405.15384) on a batch ``[R, L]``."""
        context: tuple[Tensor, ...] = ()
        if with_policy and self.policy_context is not None:
            context = (self.policy_context(batch),)  # one encoder pass for both terms

        terms = self.critic_loss(batch, *(c.detach() for c in context))
        self._descend("critic", terms, batch)
        self.target_update.step()

        if with_policy:
            policy_terms = self.policy_loss(batch, *context)
            self._descend("actor", policy_terms, batch)
            terms = terms.update(policy_terms)
        return terms.detach()

    def _descend(self, role: Role, terms: TensorDict, batch: TensorDict) -> None:
        """Make the optimizer's step on the losses of one role, observed if wanted."""
        if self._sync_is_free:
            check_terms(terms, self.updates)
        sum(x for name, x in terms.items() if name.startswith("loss_")).backward()
        for group in self.optimizer.param_groups:
            if group["name"] not in _GROUPS[role]:
                # A compiled backward pass may give zeros where there is no gradient.
                for parameter in group["params"]:
                    parameter.grad = None
        watching = [(o, of) for o, of in self.observers if o.wants_step(of, role)]
        for observer, owner in watching:
            observer.before_step(owner, role, batch)
        if self._sync_is_free:
            check_gradients(self.optimizer.param_groups, self.updates)
        self.optimizer.step()
        for observer, owner in watching:
            observer.after_step(owner, role, batch)
        self.optimizer.zero_grad(set_to_none=True)

    def _is_observed(self, with_policy: bool) -> bool:
        """Whether any step of the coming update is."""
        roles = _GROUPS if with_policy else ("critic",)
        return any(o.wants_step(of, role) for role in roles for o, of in self.observers)

    @property
    def groups(self) -> dict[str, dict[str, Any]]:
        """The optimizer's parameter groups by name.

        :func:`~resel_torchrl.training.set_learning_rate` changes the rate of one.
        """
        return {group["name"]: group for group in self.optimizer.param_groups}

    def record_with(self, make_recorder: Callable[[], Recorder] | None) -> None:
        """Record updates once for each layout of a batch, and replay them from then on.

        The optimizer's learning rates become tensors, which the recordings read. An
        update of which a step is observed is made operation by operation.

        Args:
            make_recorder: Makes a recorder, such as a :class:`CudaRecorder`; None makes
                every update operation by operation.
        """
        self._make_recorder = make_recorder
        self._recorded: dict[bool, GraphedFunction] = {}
        on_gpu = self.device.type == "cuda"
        for group in self.optimizer.param_groups:
            rate = float(group["lr"])
            if make_recorder is not None:
                # The kernels of AdamW read float32 on a GPU; on a CPU no digit is lost.
                dtype = torch.float32 if on_gpu else torch.float64
                rate = torch.tensor(rate, dtype=dtype, device=self.device)
            group["lr"] = rate
            if "capturable" in group:
                group["capturable"] = make_recorder is not None and on_gpu
        if make_recorder is not None:
            recorder = make_recorder()
            for with_policy in (False, True):
                update = functools.partial(self._update, with_policy=with_policy)
                self._recorded[with_policy] = GraphedFunction(update, recorder)

    def check(self) -> None:
        """Check the losses since the last row of the log, and all that is kept.

        What is kept: parameters, targets, bounds of the bootstrap, moments of the
        optimizer. On a GPU this waits for the updates under way.

        Raises:
            NonFiniteLossError: Naming a loss or value that is NaN or infinite.
        """
        check_terms(self._metrics.sums, self.updates)
        check_tensors(dict(self._kept()), self.updates)

    def _kept(self) -> Iterator[tuple[str, Tensor]]:
        """Name and value of each floating-point tensor that updates change."""
        state = self.loss.state_dict()
        low, high = state.get("bootstrap_low"), state.get("bootstrap_high")
        if low is not None and bool((low == math.inf) & (high == -math.inf)):
            # An empty interval, before the first update.
            del state["bootstrap_low"], state["bootstrap_high"]
        for name, value in state.items():
            if value.is_floating_point():
                yield name, value.detach()
        for group in self.optimizer.param_groups:
            for number, parameter in enumerate(group["params"]):
                for name, value in self.optimizer.state.get(parameter, {}).items():
                    if torch.is_tensor(value) and value.is_floating_point():
                        yield f"{name} of {group['name']}, tensor {number}", value

    def metrics(self) -> dict[str, float]:
        """Return means over the updates since the last call, and the measured update.

        Raises:
            NonFiniteLossError: As :meth:`check`.
        """
        values = self._metrics.values()
        self.check()
        self._metrics.begin_row()
        return values

    def state_dict(self) -> dict[str, Any]:
        """Loss with targets and bounds, optimizer, upcoming batch and open means."""
        optimizer = self.optimizer.state_dict()
        for group in optimizer["param_groups"]:
            group["lr"] = float(group["lr"])
        return {
            "updates": self.updates,
            "loss": dict(self.loss.state_dict()),
            "optimizer": optimizer,
            "batch": self.batches.state_dict(),
            **self._metrics.state_dict(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take everything back from :meth:`state_dict`."""
        self.updates = state["updates"]
        self.loss.load_state_dict(state["loss"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.record_with(self._make_recorder)  # the moments are other tensors now
        self.batches.load_state_dict(state["batch"])
        self._metrics.load_state_dict(state, self.device)


def _check_groups(loss: Loss, optimizer: Optimizer) -> None:
    """Every group has a role, and every trained parameter of the loss a group."""
    known = [name for names in _GROUPS.values() for name in names]
    names = [group.get("name") for group in optimizer.param_groups]
    held = {id(p) for group in optimizer.param_groups for p in group["params"]}
    lost = [
        name
        for name, parameter in loss.named_parameters()
        if parameter.requires_grad and id(parameter) not in held
    ]
    if len(set(names)) < len(names) or not set(names) <= set(known) or lost:
        found = ", ".join(map(str, names))
        without = f", and none for {lost[0]}" if lost else ""
        raise ValueError(
            "optimizer: expected the parameter groups that resel_torchrl.optim."
            f"parameter_groups makes of the loss, each once, of {', '.join(known)}; "
            f"got groups named {found}{without}. Pass for example "
            "torch.optim.AdamW(parameter_groups(loss, lr_context_encoder=1e-5, ...))."
        )
