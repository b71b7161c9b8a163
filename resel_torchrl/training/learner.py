"""Gradient updates: critic, target, and every few updates actor and temperature."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import torch
from tensordict import TensorDict
from torch import Tensor, nn
from torchrl.data import ReplayBuffer
from torchrl.objectives import SoftUpdate

from resel_torchrl.errors import NonFiniteLossError
from resel_torchrl.modules.agent import Agent
from resel_torchrl.objectives.make_loss import Loss
from resel_torchrl.optim import parameter_groups
from resel_torchrl.replay import padding_share
from resel_torchrl.training.cuda_graphs import (
    CompiledFunction,
    GraphedFunction,
    Recorder,
    in_bfloat16,
    moved,
)
from resel_torchrl.training.logging import (
    UpdateMetrics,
    contexts,
    gradient_norms,
)

__all__ = [
    "Learner",
    "check_gradients",
    "check_tensors",
    "check_terms",
]

REWARD = ("next", "reward")
# What each step moves.
_GROUPS = {
    "critic": ("critic", "context_encoder_critic"),
    "actor": ("actor", "context_encoder_actor", "alpha"),
}
Step = Callable[[TensorDict], TensorDict]


class Learner:
    """One call of :meth:`update` is one critic update of RESeL and what goes with it.

    The order is the paper's (arXiv 2405.15384, algorithm 1): critic step, Polyak step
    of the targets, and on updates 0, `policy_delay`, 2·`policy_delay`, ... one step of
    actor and, where there is one, temperature. The batch of the next update is drawn
    right after the current one is launched, on every device, so that a GPU computes
    meanwhile.

    Args:
        agent: The networks; they are the loss's own.
        loss: Loss on the networks.
        replay_buffer: Whole episodes.
        pack: From a flat sample to a packed batch `[R, L]`.
        batch_size: Transitions of a batch at least.
        lr_context_encoder: Learning rate of the context encoders.
        lr_actor: Learning rate of the rest of the actor.
        lr_critic: Learning rate of the rest of the critics.
        lr_alpha: Learning rate of the temperature, where the loss trains one.
        tau: Share of the critic that moves into its target per update.
        policy_delay: Critic updates per actor update.
        reward_scale: Factor of the rewards in the losses.
        reuse_policy_context: Where both terms are due, let the policy encode the batch
            once for them, at the cost of memory. TD3's target has a policy of its own,
            and nothing to reuse.
        autocast: Whether the losses' matrix products are made in bfloat16, by
            :class:`torch.autocast`. Recurrences, the last layers of the heads, losses
            and parameters stay in float32.
        compile: Whether the losses go through `torch.compile`, see
            :class:`CompiledFunction`.
        make_recorder: None launches one operation after the other. What makes a
            recorder, such as a :class:`CudaRecorder`, has the steps of an update taken
            down for each layout of a batch and then replayed, all but those that are
            measured for the log.

    Raises:
        ValueError: From a learning rate that is not above 0.

    >>> import functools
    >>> from torchrl.data import LazyTensorStorage, TensorDictReplayBuffer
    >>> from resel_torchrl.replay import EpisodeSampler, pack_episodes
    >>> from resel_torchrl.collect import flat_episode
    >>> from resel_torchrl.modules import make_agent
    >>> from resel_torchrl.objectives import make_loss
    >>> agent = make_agent(1, 1, core="gru", hidden_size=8, n_critics=2)
    >>> loss = make_loss(agent)
    >>> buffer = TensorDictReplayBuffer(
    ...     storage=LazyTensorStorage(100), sampler=EpisodeSampler(seed=0)
    ... )
    >>> values = torch.ones(6, 1).numpy()
    >>> episode = flat_episode(values, values[:5], values[:5, 0], False, True)
    >>> _ = buffer.extend(episode)
    >>> pack = functools.partial(pack_episodes, row_length=6)
    >>> rates = dict(lr_actor=1e-3, lr_critic=1e-3, lr_alpha=1e-3)
    >>> learner = Learner(
    ...     agent, loss, buffer, pack, batch_size=5, lr_context_encoder=1e-5, **rates
    ... )
    >>> learner.update()
    >>> learner.updates, learner.metrics()["loss_qvalue"] > 0
    (1, True)
    """

    def __init__(
        self,
        agent: Agent,
        loss: Loss,
        replay_buffer: ReplayBuffer,
        pack: Callable[[TensorDict], TensorDict],
        *,
        batch_size: int,
        lr_context_encoder: float,
        lr_actor: float,
        lr_critic: float,
        lr_alpha: float,
        tau: float = 0.005,
        policy_delay: int = 2,
        reward_scale: float = 1.0,
        reuse_policy_context: bool = True,
        autocast: bool = False,
        compile: bool = False,
        make_recorder: Callable[[], Recorder] | None = None,
    ) -> None:
        self.agent = agent
        self.loss = loss
        self.replay_buffer = replay_buffer
        self.pack = pack
        self.batch_size = batch_size
        self.policy_delay = policy_delay
        self.reward_scale = reward_scale
        self.updates = 0
        self.device = next(loss.parameters()).device
        terms = [loss.critic_loss, loss.policy_loss]
        if reuse_policy_context and hasattr(loss, "policy_context"):
            terms.append(loss.policy_context)
        if compile:
            terms = [CompiledFunction(term) for term in terms]
        if autocast:
            terms = [in_bfloat16(term, self.device.type) for term in terms]
        self._critic_terms, self._policy_terms, *rest = terms
        self._policy_context = rest[0] if rest else None
        self.groups = parameter_groups(
            loss,
            lr_context_encoder=lr_context_encoder,
            lr_actor=lr_actor,
            lr_critic=lr_critic,
            lr_alpha=lr_alpha,
        )
        self._rates = [group["lr"] for group in self.groups]
        # A group without a gradient is left alone, so one optimizer serves both steps.
        self.optimizer = torch.optim.AdamW(self.groups, fused=True)
        # A look at a value would wait for the GPU; there `metrics` looks.
        self._can_look = self.device.type == "cpu"
        self._steps: dict[str, Step] = {
            "critic": self._critic_step,
            "actor": self._policy_step,
            "both": self._both_steps,
        }
        self._make_recorder = make_recorder
        self._graphed: dict[str, GraphedFunction] = {}
        self._forget_recorded()
        self.target_update = SoftUpdate(loss, tau=tau)
        self._batch: TensorDict | None = None
        self._row = UpdateMetrics(["critic", "actor"])

    def update(self) -> None:
        """Makes one update.

        Raises:
            NonFiniteLossError: Naming the loss or the group of parameters whose
                gradient is NaN or infinite; the parameters are those before its step.
                On a GPU :meth:`check` and :meth:`metrics` raise it, after it.
        """
        batch = self._batch if self._batch is not None else self._draw()
        self._row.add({"padding_fraction": self._batch_padding})
        with_policy = self.updates % self.policy_delay == 0
        if with_policy and self._policy_context is not None:
            self._make("both", batch)
        else:
            self._make("critic", batch)
            if with_policy:
                self._make("actor", batch)
        self.updates += 1
        self._batch = self._draw()

    def scale_learning_rates(self, share: float) -> None:
        """Makes all learning rates `share` times those that were given.

        Raises:
            ValueError: Where updates are replayed: a recorded step keeps its rates.
        """
        if self._make_recorder is not None:
            raise ValueError(
                "expected updates that are made one by one, got a recorder, which "
                "takes the learning rates down with the step; leave make_recorder out."
            )
        for group, rate in zip(self.optimizer.param_groups, self._rates, strict=True):
            group["lr"] = rate * share

    def _draw(self) -> TensorDict:
        packed = self.pack(self.replay_buffer.sample(self.batch_size))
        if self.reward_scale != 1.0:
            packed.set(REWARD, packed.get(REWARD) * self.reward_scale)
        self._batch_padding = padding_share(packed)
        return _moved(packed, self.device) if self.device.type != "cpu" else packed

    def _make(self, role: str, batch: TensorDict) -> None:
        """A step of critic, actor or both: replayed, unless one is measured."""
        measured = ("critic", "actor") if role == "both" else (role,)
        due = any(self._row.due(part) for part in measured)
        graphed = None if due else self._graphed.get(role)
        self._row.add((graphed or self._steps[role])(batch))

    def _both_steps(self, batch: TensorDict) -> TensorDict:
        context = self._policy_context(batch)
        terms = self._critic_step(batch, context.detach())
        return terms.update(self._policy_step(batch, context))

    def _critic_step(self, batch: TensorDict, *policy_context: Tensor) -> TensorDict:
        terms = self._critic_terms(batch, *policy_context)
        if self._can_look:
            check_terms(terms, self.updates)
        terms["loss_qvalue"].backward()
        self._step(batch, "critic", self.agent.critic_encoder)
        self.target_update.step()
        return terms.detach()

    def _policy_step(self, batch: TensorDict, *policy_context: Tensor) -> TensorDict:
        terms = self._policy_terms(batch, *policy_context)
        if self._can_look:
            check_terms(terms, self.updates)
        losses = [term for name, term in terms.items() if name.startswith("loss_")]
        sum(losses).backward()
        self._step(batch, "actor", self.agent.actor_encoder)
        return terms.detach()

    def _forget_recorded(self) -> None:
        """Begins without graphs, and makes the optimizer fit for being recorded."""
        recorder = None if self._make_recorder is None else self._make_recorder()
        for group in self.optimizer.param_groups:
            group["capturable"] = recorder is not None and self.device.type == "cuda"
        self._graphed = {}
        if recorder is not None:
            self._graphed = {
                role: GraphedFunction(step, recorder)
                for role, step in self._steps.items()
            }

    def _step(self, batch: TensorDict, role: str, encoder: nn.Module) -> None:
        """The optimizer's step, measured once per row of the log."""
        for group in self.groups:
            if group["name"] not in _GROUPS[role]:
                # A compiled backward pass may give zeros where there is no gradient.
                for parameter in group["params"]:
                    parameter.grad = None
        if self._can_look:
            check_gradients(self.groups, self.updates)
        if self._row.due(role):
            self._measured_step(batch, role, encoder)
        else:
            self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)

    def _measured_step(self, batch: TensorDict, role: str, encoder: nn.Module) -> None:
        norms = gradient_norms(self.groups)
        before = contexts(batch, encoder)
        self.optimizer.step()
        shift = (contexts(batch, encoder) - before).norm(dim=-1)
        learned = batch.get("learning_mask", batch.get("valid")).squeeze(-1)
        change = torch.where(learned, shift, 0.0).sum() / learned.sum()
        self._row.measured(role, **norms, **{f"context_{role}_change": change})

    def check(self) -> None:
        """Looks at the losses since the last row of the log, and at all that is kept.

        What is kept: parameters, targets, bounds of the bootstrap, moments of the
        optimizer. On a GPU this waits for the updates under way.

        Raises:
            NonFiniteLossError: Naming a loss or value that is NaN or infinite.
        """
        check_terms(self._row.sums, self.updates)
        check_tensors(dict(self._kept()), self.updates)

    def _kept(self) -> Iterator[tuple[str, Tensor]]:
        """Name and value of each floating-point tensor that updates change."""
        low, high = self.loss.bootstrap_low, self.loss.bootstrap_high
        # Before the first update they are an empty interval.
        unset = bool((low == math.inf) & (high == -math.inf))
        for name, value in self.loss.state_dict().items():
            if value.is_floating_point() and not (
                unset and name.startswith("bootstrap_")
            ):
                yield name, value.detach()
        for group in self.groups:
            for number, parameter in enumerate(group["params"]):
                for name, value in self.optimizer.state.get(parameter, {}).items():
                    if name.startswith("exp_avg"):
                        yield f"{name} of {group['name']}, tensor {number}", value

    def metrics(self) -> dict[str, float]:
        """Means over the updates since the last call, and the one measured update.

        Raises:
            NonFiniteLossError: As :meth:`check`.
        """
        values = self._row.values()
        self.check()
        self._row.begin_row()
        return values

    def state_dict(self) -> dict[str, Any]:
        """Loss with targets and bounds, optimizer, next batch and open means."""
        batch = None
        if self._batch is not None:
            batch = {
                "entries": dict(_moved(self._batch, "cpu").flatten_keys(".").items()),
                "shape": list(self._batch.batch_size),
                "padding": self._batch_padding,
            }
        return {
            "updates": self.updates,
            "loss": dict(self.loss.state_dict()),
            "optimizer": self.optimizer.state_dict(),
            "batch": batch,
            **self._row.state_dict(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Takes everything back from :meth:`state_dict`."""
        self.updates = state["updates"]
        self.loss.load_state_dict(state["loss"])
        self.optimizer.load_state_dict(state["optimizer"])
        self._forget_recorded()  # the moments are other tensors now
        self._batch = None
        if state["batch"] is not None:
            batch = TensorDict(state["batch"]["entries"], state["batch"]["shape"])
            self._batch = _moved(batch.unflatten_keys("."), self.device)
            self._batch_padding = state["batch"]["padding"]
        self._row.load_state_dict(state, self.device)


def _moved(batch: TensorDict, device: torch.device | str) -> TensorDict:
    """A packed batch on a device; an entry in the storage of one column keeps that."""

    def move(value: Tensor) -> Tensor:
        if value.stride(1):
            return moved(value, device)
        return moved(value[:, :1], device).expand_as(value)

    return batch.apply(move, device=device)


def check_terms(terms: Mapping[str, Tensor], update: int) -> None:
    """Raises a :class:`NonFiniteLossError` that names a loss which is not finite.

    Args:
        terms: Scalars by name; those whose names begin with `loss_` are losses.
        update: Number of the update, for the message.

    >>> check_terms({"loss_qvalue": torch.tensor(1.0), "entropy": torch.tensor(0.5)}, 7)
    """
    for name, value in terms.items():
        if name.startswith("loss_") and not math.isfinite(value.detach()):
            raise _complaint(name, float(value.detach()), update)


def check_gradients(groups: Iterable[Mapping[str, Any]], update: int) -> None:
    """Raises a :class:`NonFiniteLossError` that names a group of parameters.

    Args:
        groups: Groups of an optimizer, with a name and parameters each.
        update: Number of the update, for the message.

    >>> parameter = torch.zeros(2, requires_grad=True)
    >>> parameter.sum().backward()
    >>> check_gradients([{"name": "actor", "params": [parameter]}], 7)
    """
    gradients: dict[str, Sequence[Tensor]] = {
        group["name"]: [p.grad for p in group["params"] if p.grad is not None]
        for group in groups
    }
    everything = [gradient for group in gradients.values() for gradient in group]
    if math.isfinite(torch.nn.utils.get_total_norm(everything)):
        return
    for name, group in gradients.items():
        # The norm of finite numbers may overflow: that alone is no fault.
        for gradient in group:
            if not gradient.isfinite().all():
                value = float(gradient[~gradient.isfinite()][0])
                raise _complaint(f"gradient of {name}", value, update)


def check_tensors(tensors: Mapping[str, Tensor], update: int) -> None:
    """Raises a :class:`NonFiniteLossError` that names a tensor with such a value.

    Args:
        tensors: Floating-point tensors by name, looked at in one go.
        update: Number of the update, for the message.

    >>> check_tensors({"weight": torch.ones(3)}, 7)
    """
    sound = torch.stack([value.isfinite().all().cpu() for value in tensors.values()])
    for (name, value), is_sound in zip(tensors.items(), sound.tolist(), strict=True):
        if not is_sound:
            raise _complaint(name, float(value[~value.isfinite()][0]), update)


def _complaint(name: str, value: float, update: int) -> NonFiniteLossError:
    return NonFiniteLossError(
        f"expected a finite {name}, got {value} at update {update}"
    )
