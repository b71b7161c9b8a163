"""What can be added to a run without touching its loop: hooks."""

from __future__ import annotations

from collections.abc import Callable, Mapping, MutableMapping, Sequence
from typing import TYPE_CHECKING, Any

from tensordict import TensorDict
from torch import Tensor
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

if TYPE_CHECKING:
    from resel_torchrl.collect import Evaluation, PolicyCopy, SharedWeights
    from resel_torchrl.collect.episode import EpisodeResult
    from resel_torchrl.training.learner import Role
    from resel_torchrl.training.trainer import Trainer

__all__ = [
    "Hook",
    "LearningRateDecay",
    "PolicySync",
    "SchedulerHook",
    "set_learning_rate",
]


class Hook:
    """Base class of hooks: override the moments that matter, leave out the others.

    A run calls its hooks in the order in which they were given to
    :class:`~resel_torchrl.training.Trainer`; a moment that none overrides costs
    nothing. `trainer` gives access to everything: `trainer.learner` (loss, optimizer,
    batches), `trainer.collector`, `trainer.run_directory`, and `trainer.stop(reason)`,
    which ends the run after the step under way, saved.

    Attributes:
        columns: Names that :meth:`on_log` adds to metrics.csv.

    >>> class StopWhenSolved(Hook):
    ...     def __init__(self, wanted):
    ...         self.wanted = wanted
    ...
    ...     def on_evaluation(self, trainer, result):
    ...         if result.mean >= self.wanted:
    ...             trainer.stop(f"mean return {result.mean:.0f}")
    >>> StopWhenSolved(-200).name
    'StopWhenSolved'
    """

    columns: Sequence[str] = ()

    @property
    def name(self) -> str:
        """Name of the saved state, unique in a run: the class's, if not overridden."""
        return type(self).__name__

    def setup(self, trainer: Trainer) -> None:
        """Once the run's parts are there, before a checkpoint is loaded into them."""

    def on_start(self, trainer: Trainer) -> None:
        """Before the first step of :meth:`Trainer.run`, of a resumed run too."""

    def on_episode(self, trainer: Trainer, result: EpisodeResult) -> None:
        """After a training episode; it is in the replay buffer."""

    def on_step(self, trainer: Trainer) -> None:
        """After each step of the environments, before the updates due after it."""

    def wants_step(self, trainer: Trainer, role: Role) -> bool:
        """Whether to call :meth:`before_step` and :meth:`after_step` at this step.

        Asked before each update, about each step of the optimizer that it makes, where
        the class overrides one of the two. An update with a wanted step is made
        operation by operation where others are replayed as CUDA graphs, so a hook that
        measures seldom should say so: `trainer.learner.updates % 1000 == 0`. The answer
        must not change until the update is made.
        """
        return True

    def before_step(self, trainer: Trainer, role: Role, batch: TensorDict) -> None:
        """Before a step of the optimizer; the gradients are there.

        Args:
            trainer: The run.
            role: `critic`, or `actor` for the step of actor and temperature.
            batch: Packed batch ``[R, L]`` of the gradients; not to be changed.
        """

    def after_step(self, trainer: Trainer, role: Role, batch: TensorDict) -> None:
        """After a step of the optimizer, on the same batch; the gradients still are."""

    def on_update(self, trainer: Trainer) -> None:
        """After each update: the critic's step, the targets', the actor's if due."""

    def on_log(self, trainer: Trainer, values: MutableMapping[str, Any]) -> None:
        """Before a row is written to metrics.csv.

        Args:
            trainer: The run.
            values: The row by column. Those in :attr:`columns` may be added, numbers
                all; a column that is left out stays empty.
        """

    def on_evaluation(self, trainer: Trainer, result: Evaluation) -> None:
        """After an evaluation; its row of eval.csv is written."""

    def on_checkpoint(self, trainer: Trainer) -> None:
        """After a checkpoint was written, :meth:`state_dict` included."""

    def on_end(self, trainer: Trainer) -> None:
        """When :meth:`Trainer.run` ends, however it does."""

    def state_dict(self) -> dict[str, Any]:
        """What a resumed run needs: tensors, numbers, text, containers; {} for none."""
        return {}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take back what :meth:`state_dict` gave, before :meth:`on_start`."""


def overrides(hook: Hook, method: str) -> bool:
    """Return whether a hook does something at a moment."""
    return getattr(type(hook), method) is not getattr(Hook, method)


def set_learning_rate(group: MutableMapping[str, Any], rate: float | Tensor) -> None:
    """Set the learning rate of an optimizer's group.

    Where updates are replayed as CUDA graphs the rate is a tensor, which the graphs
    read: its value is replaced, without a wait for the GPU.

    Args:
        group: Of `trainer.learner.groups`, by name.
        rate: The rate, a number or a tensor of one.

    >>> import torch
    >>> group = {"lr": torch.tensor(1e-3)}
    >>> set_learning_rate(group, 0.5)
    >>> group
    {'lr': tensor(0.5000)}
    """
    if isinstance(group["lr"], Tensor):
        group["lr"].fill_(rate)
    else:
        group["lr"] = float(rate)


class LearningRateDecay(Hook):
    """Lets all learning rates fall linearly between two environment steps.

    It has no state: the rates follow from the step and from those that the optimizer
    was made with.

    Args:
        start: Step up to which the rates are the ones that were given.
        end: Step from which on they are `to` times that.
        to: Share that is left at the end, from 0 to 1.

    Raises:
        ValueError: If `start` is negative or not before `end`, or `to` not in [0, 1].

    >>> decay = LearningRateDecay(100, 200, to=0.1)
    >>> [round(decay.share(step), 2) for step in (0, 100, 150, 200, 300)]
    [1.0, 1.0, 0.55, 0.1, 0.1]
    """

    def __init__(self, start: int, end: int, *, to: float = 0.0) -> None:
        if not 0 <= start < end:
            raise ValueError(
                "expected a first step of 0 or more and a later last one, got "
                f"[{start}, {end}]"
            )
        if not 0 <= to <= 1:
            raise ValueError(f"expected to leave a share from 0 to 1, got {to}")
        self.start, self.end, self.to = start, end, to

    def share(self, step: int) -> float:
        """What is left of the rates at an environment step, 1 for all of them."""
        done = (step - self.start) / (self.end - self.start)
        return 1.0 - min(max(done, 0.0), 1.0) * (1.0 - self.to)

    def setup(self, trainer: Trainer) -> None:
        """Remember the rates."""
        groups = trainer.learner.groups
        self._rates = {name: float(group["lr"]) for name, group in groups.items()}

    def on_step(self, trainer: Trainer) -> None:
        """Set the rates of the updates due now."""
        share = self.share(trainer.collector.steps)
        for name, group in trainer.learner.groups.items():
            set_learning_rate(group, self._rates[name] * share)


class SchedulerHook(Hook):
    """Steps a learning-rate scheduler of `torch.optim.lr_scheduler` at every update.

    Args:
        make_scheduler: From the optimizer to a scheduler whose `step` takes no
            argument.

    Raises:
        ValueError: In a run whose rates fall already (:class:`LearningRateDecay`).

    >>> import functools
    >>> from torch.optim.lr_scheduler import ExponentialLR
    >>> SchedulerHook(functools.partial(ExponentialLR, gamma=0.9999)).name
    'SchedulerHook'
    """

    def __init__(self, make_scheduler: Callable[[Optimizer], LRScheduler]) -> None:
        self.make_scheduler = make_scheduler

    def setup(self, trainer: Trainer) -> None:
        """Make the scheduler."""
        if any(isinstance(hook, LearningRateDecay) for hook in trainer.hooks):
            raise ValueError(
                "expected a SchedulerHook alone, got a run whose rates fall already; "
                "write optim.decay_steps=null."
            )
        self.scheduler = self.make_scheduler(trainer.learner.optimizer)

    def on_update(self, trainer: Trainer) -> None:
        """Step the scheduler."""
        self.scheduler.step()

    def state_dict(self) -> dict[str, Any]:
        """Return the scheduler's state."""
        return self.scheduler.state_dict()

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take the scheduler's state back."""
        self.scheduler.load_state_dict(dict(state))


class PolicySync(Hook):
    """Refreshes the acting copy of the policy, and logs its age as `weight_age`.

    Args:
        copy: The copy, where acting is not done on the learner's device
            (:class:`~resel_torchrl.collect.PolicyCopy`) or not in its process
            (:class:`~resel_torchrl.collect.SharedWeights`).

    >>> from torch import nn
    >>> from resel_torchrl.collect import PolicyCopy
    >>> source, copy = nn.Linear(1, 1), nn.Linear(1, 1)
    >>> hook = PolicySync(PolicyCopy([source], [copy], every=2))
    >>> hook.on_update(trainer=None)
    >>> hook.copy.age
    1
    """

    def __init__(self, copy: PolicyCopy | SharedWeights) -> None:
        self.copy = copy

    def on_update(self, trainer: Trainer) -> None:
        """Count the update; the copy is refreshed if it is time."""
        self.copy.updated()

    def on_log(self, trainer: Trainer, values: MutableMapping[str, Any]) -> None:
        """Add the age of the acting weights."""
        values["weight_age"] = self.copy.age

    def state_dict(self) -> dict[str, Any]:
        """Return the copy's state."""
        return self.copy.state_dict()

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take the copy's state back."""
        self.copy.load_state_dict(state)
