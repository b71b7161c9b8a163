"""The training loop: collect, update, log, evaluate, save, in this order."""

from __future__ import annotations

import contextlib
import signal
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from types import FrameType
from typing import Any, NoReturn

import numpy as np
from torchrl import torchrl_logger

from resel_torchrl._random import generator_states, restore_generators
from resel_torchrl.collect import (
    EpisodeCollector,
    EpisodeResult,
    Evaluation,
    ProcessCollector,
)
from resel_torchrl.errors import NonFiniteLossError, RunError
from resel_torchrl.training.checkpoint import (
    CheckpointStore,
    buffer_state,
    check_storable,
    load_buffer_state,
    write_checkpoint,
)
from resel_torchrl.training.hooks import Hook, overrides
from resel_torchrl.training.learner import Learner
from resel_torchrl.training.logging import Records
from resel_torchrl.training.run_directory import RunDirectory

__all__ = ["Trainer", "UpdateSchedule", "stop_on_signal"]


class Trainer:
    """One run, from its first step or from a checkpoint to its last step.

    Args:
        run: Where everything is kept.
        checkpoints: The run's checkpoints.
        collector: Steps one environment, or several together, here or in a process of
            its own (:class:`~resel_torchrl.collect.ProcessCollector`). With several,
            the updates due, rows, evaluations and checkpoints follow the step of all
            of them that reached or passed their number.
        learner: Makes the updates.
        evaluation: Called for each evaluation; None for none.
        seed: Seed of the run, written into each row.
        steps: Environment steps of the whole run; a multiple of the collector's
            `num_envs`.
        updates_per_step: Critic updates per environment step after the random phase.
        log_interval: Environment steps per row of metrics.csv.
        eval_interval: Environment steps between evaluations; 0 for none.
        checkpoint_interval: Environment steps between checkpoints.
        measures: Names of what the environment measures an episode by beside the
            return: further columns of metrics.csv and eval.csv.
        description: What a checkpoint's manifest says of the agent.
        hooks: Called in this order, see :class:`~resel_torchrl.training.Hook`.

    Attributes:
        learning: Whether updates are made: the random phase is over.
        records: The CSV files, and the time spent.
        evaluation_seconds: What the last evaluation took.

    Raises:
        ValueError: If the environments cannot make exactly so many steps together, or
            two hooks have one name.
        RunError: If the newest checkpoint does not go with the run.

    >>> import tempfile
    >>> from resel_torchrl.config import compose, make_training, open_run
    >>> folder = tempfile.TemporaryDirectory()
    >>> options = ["task=pendulum_v", "steps=1", "eval.interval=0", "log.console=false"]
    >>> config = compose([*options, f"run_dir={folder.name}/run"])
    >>> run, config = open_run(config)
    >>> make_training(config, run).run()
    >>> [path.name for path in run.checkpoints.iterdir()]
    ['step_0000000001']
    >>> folder.cleanup()
    """

    def __init__(
        self,
        run: RunDirectory,
        checkpoints: CheckpointStore,
        collector: EpisodeCollector | ProcessCollector,
        learner: Learner,
        evaluation: Callable[[], Evaluation] | None,
        *,
        seed: int,
        steps: int,
        updates_per_step: float = 1.0,
        log_interval: int = 1000,
        eval_interval: int = 1000,
        checkpoint_interval: int = 50_000,
        measures: Sequence[str] = (),
        description: Mapping[str, Any] | None = None,
        hooks: Sequence[Hook] = (),
    ) -> None:
        if steps % collector.num_envs:
            raise ValueError(
                f"expected steps that {collector.num_envs} environments can make "
                f"together, a multiple of {collector.num_envs}, got {steps}."
            )
        names = [hook.name for hook in hooks]
        if len(set(names)) < len(names):
            raise ValueError(
                f"expected hooks of different names, got {', '.join(names)}; override "
                "the property `name` of one."
            )
        self.run_directory = run
        self.checkpoints = checkpoints
        self.collector = collector
        self.learner = learner
        self.evaluation = evaluation
        self.steps = steps
        self.schedule = UpdateSchedule(updates_per_step)
        self.log_interval = log_interval
        self.eval_interval = eval_interval if evaluation else 0
        self.checkpoint_interval = checkpoint_interval
        self.measures = tuple(measures)
        self.description = dict(description or {})
        self.hooks = tuple(hooks)
        self.learning = False
        self.evaluation_seconds = 0.0
        self._stop_reason: str | None = None
        self._telling = {
            event: [hook for hook in self.hooks if overrides(hook, event)]
            for event in vars(Hook)
            if event.startswith("on_")
        }
        for hook in self.hooks:
            if overrides(hook, "before_step") or overrides(hook, "after_step"):
                learner.observers.append((hook, self))
        run.lock()
        try:
            for hook in self.hooks:
                hook.setup(self)
            progress = self._resume()
            self.records = Records(
                run,
                seed=seed,
                measures=self.measures,
                columns=[
                    *collector.curriculum_measures,
                    *(name for hook in self.hooks for name in hook.columns),
                ],
                state=progress,
            )
        except BaseException:
            collector.close()
            run.unlock()
            raise
        self._saved_at = self.collector.steps if progress else -1

    def run(self) -> None:
        """Run to the last step, or until a hook stops it, or until Ctrl-C or SIGTERM.

        Raises:
            KeyboardInterrupt: After a signal, once the run is saved and the way to go
                on is printed.
            RunError: If the environment fails, or a loss, gradient or parameter is not
                finite. What there is of the run is saved before, and the message says
                where.
        """
        self._stop_reason = None
        try:
            with stop_on_signal() as request:
                self.records.begin_row(self.collector.steps, self.learner.updates)
                self._tell("on_start")
                while self.collector.steps < self.steps:
                    if request.signal or self._stop_reason:
                        break
                    self._step()
            self._save()
        finally:
            self._close()
        if self.collector.steps < self.steps:
            torchrl_logger.info(
                f"Stopped by {request.signal or self._stop_reason} at step "
                f"{self.collector.steps} and saved. Go on with: "
                f"resume={self.run_directory.path}"
            )
            if request.signal:
                raise KeyboardInterrupt

    def stop(self, reason: str) -> None:
        """End :meth:`run` after the step under way; the run is saved and can go on.

        Args:
            reason: Why, for the log.
        """
        self._stop_reason = reason

    def _step(self) -> None:
        began = time.perf_counter()
        before = self.collector.steps
        for result in self._collect():
            self.records.add_episode(result)
            self._tell("on_episode", result)
        self._tell("on_step")
        step = self.collector.steps
        self._update(step - before)
        self.records.seconds += time.perf_counter() - began

        def due(interval: int) -> bool:
            return before // interval < step // interval

        if due(self.log_interval):
            self._log()
        if self.eval_interval and due(self.eval_interval):
            self._evaluate()
        if due(self.checkpoint_interval):
            self._save()

    def _tell(self, event: str, *arguments: Any) -> None:
        for hook in self._telling[event]:
            getattr(hook, event)(self, *arguments)

    def _collect(self) -> list[EpisodeResult]:
        try:
            ended = self.collector.step()
            for episode in ended:
                self._check_measures(
                    episode.measures, self.collector.curriculum_measures
                )
        except Exception as error:
            self._environment_failed(error)
        return ended

    def _check_measures(self, found: Iterable[str], others: Sequence[str] = ()) -> None:
        if set(found) != {*self.measures, *others}:
            got = [name for name in found if name not in others]
            raise ValueError(
                "expected an environment whose last step measures what its attribute "
                f"`measures` names ({', '.join(self.measures) or 'nothing'}), got "
                f"{', '.join(got) or 'nothing'}"
            )

    def _update(self, steps: int) -> None:
        """Make the updates that are due after some environment steps."""
        if not self.learning:
            # From the next step on, there is an episode to learn from.
            ready = len(self.learner.batches.replay_buffer) > 0
            self.learning = ready and not self.collector.in_random_phase
            return
        try:
            for _ in range(self.schedule.due(steps)):
                self.learner.update()
                self._tell("on_update")
        except NonFiniteLossError as error:
            self._learner_failed(error)

    def _log(self) -> None:
        try:
            values = self.learner.metrics()
        except NonFiniteLossError as error:
            self._learner_failed(error)
        values |= {"episodes": self.collector.episodes, "weight_age": 0}
        values |= self.records.finish_row(self.collector.steps, self.learner.updates)
        self._tell("on_log", values)
        self.records.write_metrics(values)

    def _evaluate(self) -> None:
        step, began = self.collector.steps, time.perf_counter()
        try:
            result = self.evaluation()
            self._check_measures(result.measures)
        except Exception as error:
            self._save()
            raise RunError(
                f"the evaluation at step {step} failed: {_sentence(error)} The run is "
                "saved; mend the environment, then "
                f"resume={self.run_directory.path}."
            ) from error
        self.evaluation_seconds = time.perf_counter() - began
        self.records.write_evaluation(step, result)
        self._tell("on_evaluation", result)

    def _parts(self) -> dict[str, Any]:
        """Everything that a checkpoint holds, by file."""
        loss = self.learner.loss
        networks = {
            "actor_encoder": loss.actor_encoder,
            "actor": loss.actor_network,
            "critic_encoder": loss.critic_encoder,
            "critic": loss.qvalue_network,
        }
        hooks = {hook.name: hook.state_dict() for hook in self.hooks}
        for name, state in hooks.items():
            check_storable(state, f"the state of the hook {name}")
        return {
            "learner": {
                "learner": self.learner.state_dict(),
                "modules": {
                    name: dict(module.state_dict()) for name, module in networks.items()
                },
            },
            "progress": {
                "collector": self.collector.state_dict(),
                "hooks": {name: state for name, state in hooks.items() if state},
                "learning": self.learning,
                "schedule": self.schedule.steps,
                **self.records.state_dict(),
                "generators": generator_states(),
            },
            "replay": buffer_state(self.learner.batches.replay_buffer),
        }

    def _save(self) -> None:
        step = self.collector.steps
        if step == self._saved_at:
            return
        self._check_learner()
        self.checkpoints.save(step, self._parts(), **self.description)
        self._saved_at = step
        self._tell("on_checkpoint")

    def _check_learner(self) -> None:
        try:
            self.learner.check()  # on a GPU no update has looked
        except NonFiniteLossError as error:
            self._learner_failed(error)

    def _resume(self) -> dict[str, Any] | None:
        """Load the newest checkpoint, if any; return its progress."""
        step = self.checkpoints.newest()
        if step is None:
            return None
        if step > self.steps:
            raise RunError(
                f"expected steps of at least {step}, where the run "
                f"{self.run_directory.path} has arrived, got {self.steps}; give "
                "steps=NUMBER to go on further."
            )
        self.learner.load_state_dict(self.checkpoints.load(step, "learner")["learner"])
        load_buffer_state(
            self.learner.batches.replay_buffer, self.checkpoints.load(step, "replay")
        )
        progress = self.checkpoints.load(step, "progress")
        self.collector.load_state_dict(progress["collector"])
        self._load_hooks(progress, self.checkpoints.path(step))
        self.learning = progress["learning"]
        self.schedule.steps = progress["schedule"]
        restore_generators(progress["generators"])
        return progress

    def _load_hooks(self, progress: Mapping[str, Any], path: Path) -> None:
        if "hooks" not in progress:  # written before there were hooks
            copied = progress["policy_copy"]
            states = {} if copied is None else {"PolicySync": copied}
        else:
            states = progress["hooks"]
        hooks = {hook.name: hook for hook in self.hooks}
        wanted = {name for name, hook in hooks.items() if hook.state_dict()}
        if not wanted <= states.keys() <= hooks.keys():
            raise RunError(
                f"expected the hooks whose state {path} holds "
                f"({', '.join(states) or 'none'}), got "
                f"{', '.join(wanted) or 'none'}; give the resumed run the hooks that "
                "it began with, or start a new run with another run_dir."
            )
        for name, state in states.items():
            hooks[name].load_state_dict(state)

    def _environment_failed(self, error: Exception) -> NoReturn:
        self._check_learner()  # its actions would be NaN: no fault of the environment
        folder = self.run_directory.path / "failures"
        folder.mkdir(exist_ok=True)
        file = folder / f"episode_{self.collector.episodes:06d}.npz"
        np.savez(file, **self.collector.abandon_episode())
        self._saved_at = -1  # a checkpoint of this step would hold the episode still
        self._save()
        raise RunError(
            f"the environment failed at step {self.collector.steps}: "
            f"{_sentence(error)} The episode is kept in {file} (seed, observations, "
            f"actions, rewards), the run is saved. "
            f"resume={self.run_directory.path} goes on with the next episode; if it "
            "fails again, mend the environment."
        ) from error

    def _learner_failed(self, error: NonFiniteLossError) -> NoReturn:
        step = self.collector.steps
        path = self.run_directory.path / "failures" / f"step_{step:010d}"
        write_checkpoint(path, self._parts(), {"step": step, **self.description})
        good = self.checkpoints.steps()
        kept = self.checkpoints.path(good[0]) if good else "none"
        raise RunError(
            f"{error}, step {step}. The state with all data is in {path}; last good "
            f"checkpoint: {kept}. Resuming would repeat this: start a new run with a "
            "lower optim.lr_context_encoder, lr_critic or lr_actor, or a smaller "
            "train.reward_scale."
        ) from error

    def _close(self) -> None:
        try:
            self._tell("on_end")
        finally:
            self.records.close()
            self.collector.close()
            self.run_directory.unlock()


def _sentence(error: Exception) -> str:
    """What an error says, ended by a full stop."""
    text = str(error).strip() or type(error).__name__
    return text if text.endswith((".", "!", "?")) else f"{text}."


class UpdateSchedule:
    """Counts the updates that are due, exactly.

    Args:
        updates_per_step: Updates per environment step, below or above 1.

    >>> schedule = UpdateSchedule(0.3)
    >>> [schedule.due() for _ in range(10)]
    [0, 0, 0, 1, 0, 0, 1, 0, 0, 1]
    """

    def __init__(self, updates_per_step: float) -> None:
        ratio = Fraction(str(updates_per_step)).limit_denominator(1_000_000)
        if ratio <= 0:
            raise ValueError(
                f"expected updates_per_step above 0, got {updates_per_step}; "
                "give the number of updates per environment step, for example 1."
            )
        self.ratio = ratio
        self.steps = 0

    def due(self, steps: int = 1) -> int:
        """Count environment steps and return the updates due after them."""
        before = self.steps * self.ratio.numerator // self.ratio.denominator
        self.steps += steps
        after = self.steps * self.ratio.numerator // self.ratio.denominator
        return after - before


@dataclass
class StopRequest:
    """Whether somebody has asked the run to stop."""

    signal: str | None = None


@contextlib.contextmanager
def stop_on_signal() -> Iterator[StopRequest]:
    """Turn the first Ctrl-C or SIGTERM into a request; a second one interrupts.

    Outside of the main thread, where signals cannot be caught, nothing is changed.
    """
    request = StopRequest()
    if threading.current_thread() is not threading.main_thread():
        yield request
        return
    watched = (signal.SIGINT, signal.SIGTERM)
    before = {number: signal.getsignal(number) for number in watched}

    def restore() -> None:
        for number, handler in before.items():
            signal.signal(number, handler)

    def ask(number: int, frame: FrameType | None) -> None:
        request.signal = signal.Signals(number).name
        restore()

    for number in watched:
        signal.signal(number, ask)
    try:
        yield request
    finally:
        restore()
