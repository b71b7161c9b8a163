"""The training loop: collect, update, log, evaluate, save, in this order."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NoReturn

import numpy as np
from torchrl import torchrl_logger

from resel_torchrl._random import generator_states, restore_generators
from resel_torchrl.collect import (
    EpisodeCollector,
    EpisodeResult,
    Evaluation,
    PolicyCopy,
    ProcessCollector,
    SharedWeights,
)
from resel_torchrl.errors import NonFiniteLossError, RunError
from resel_torchrl.training.checkpoint import (
    CheckpointStore,
    buffer_state,
    load_buffer_state,
    write_checkpoint,
)
from resel_torchrl.training.hooks import LearningRateDecay, UpdateSchedule
from resel_torchrl.training.learner import Learner
from resel_torchrl.training.logging import Progress, Records, stop_on_signal
from resel_torchrl.training.run_directory import RunDirectory

__all__ = [
    "Training",
]


class Training:
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
        decay: How the learning rates fall; None keeps them.
        log_interval: Environment steps per row of metrics.csv.
        eval_interval: Environment steps between evaluations; 0 for none.
        checkpoint_interval: Environment steps between checkpoints.
        policy_copy: The acting copy, where acting is not done on the learner's device
            (:class:`~resel_torchrl.collect.PolicyCopy`) or not in its process
            (:class:`~resel_torchrl.collect.SharedWeights`).
        measures: Names of what the environment measures an episode by beside the
            return: further columns of metrics.csv and eval.csv.
        description: What a checkpoint's manifest says of the agent.
        loggers: TorchRL loggers beside the CSV files.
        console: Whether to show a progress line.

    Raises:
        ValueError: If the environments cannot make exactly so many steps together.

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
        decay: LearningRateDecay | None = None,
        log_interval: int = 1000,
        eval_interval: int = 1000,
        checkpoint_interval: int = 50_000,
        policy_copy: PolicyCopy | SharedWeights | None = None,
        measures: Sequence[str] = (),
        description: Mapping[str, Any] | None = None,
        loggers: Sequence[Any] = (),
        console: bool = True,
    ) -> None:
        if steps % collector.num_envs:
            raise ValueError(
                f"expected steps that {collector.num_envs} environments can make "
                f"together, a multiple of {collector.num_envs}, got {steps}."
            )
        self.run_directory = run
        self.checkpoints = checkpoints
        self.collector = collector
        self.learner = learner
        self.evaluation = evaluation
        self.steps = steps
        self.schedule = UpdateSchedule(updates_per_step)
        self.decay = decay
        self.log_interval = log_interval
        self.eval_interval = eval_interval
        self.checkpoint_interval = checkpoint_interval
        self.policy_copy = policy_copy
        self.measures = tuple(measures)
        self.description = dict(description or {})
        self.console = console
        self._learning = False
        run.lock()
        try:
            progress = self._resume()
            self.records = Records(
                run,
                seed=seed,
                measures=self.measures,
                training_measures=collector.curriculum_measures,
                loggers=loggers,
                state=progress,
            )
        except BaseException:
            collector.close()
            run.unlock()
            raise
        self._saved_at = self.collector.steps if progress else -1

    def run(self) -> None:
        """Runs to the last step, or until Ctrl-C or SIGTERM.

        Raises:
            KeyboardInterrupt: After a signal, once the run is saved and the way to go
                on is printed.
            RunError: If the environment fails, or a loss, gradient or parameter is not
                finite. What there is of the run is saved before, and the message says
                where.
        """
        collector = self.collector
        self.records.begin_row(collector.steps, self.learner.updates)
        progress = Progress(
            self.steps,
            done=collector.steps,
            eval_interval=self.eval_interval if self.evaluation else 0,
            shown=self.console,
        )
        try:
            with stop_on_signal() as stop, progress:
                while collector.steps < self.steps and stop.signal is None:
                    self._step(progress)
            self._save()
        finally:
            self._close()
        if collector.steps < self.steps:
            torchrl_logger.info(
                f"Stopped by {stop.signal} at step {collector.steps} and saved. Go on "
                f"with: resume={self.run_directory.path}"
            )
            raise KeyboardInterrupt

    def _step(self, progress: Progress) -> None:
        began = time.perf_counter()
        before = self.collector.steps
        ended = self._collect()
        self.records.episodes(ended)
        for result in ended:
            progress.episode(result.episode_return)
        step = self.collector.steps
        updates = self._update(step - before)
        seconds = time.perf_counter() - began
        progress.step(step - before, updates, seconds)
        self.records.spend(seconds)

        def due(interval: int) -> bool:
            return before // interval < step // interval

        if due(self.log_interval):
            self._log()
        if self.evaluation and self.eval_interval and due(self.eval_interval):
            began = time.perf_counter()
            self._evaluate()
            progress.evaluation(time.perf_counter() - began)
        if due(self.checkpoint_interval):
            self._save()

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

    def _update(self, steps: int) -> int:
        if not self._learning:
            # From the next step on, there is an episode to learn from.
            ready = len(self.learner.replay_buffer) > 0
            self._learning = ready and not self.collector.in_random_phase
            return 0
        due = self.schedule.due(steps)
        if self.decay is not None:
            share = self.decay.share(self.collector.steps)
            self.learner.scale_learning_rates(share)
        try:
            for _ in range(due):
                self.learner.update()
                if self.policy_copy is not None:
                    self.policy_copy.updated()
        except NonFiniteLossError as error:
            self._learner_failed(error)
        return due

    def _log(self) -> None:
        try:
            values = self.learner.metrics()
        except NonFiniteLossError as error:
            self._learner_failed(error)
        self.records.write_metrics(
            self.collector.steps,
            self.learner.updates,
            values
            | {
                "episodes": self.collector.episodes,
                "weight_age": 0 if self.policy_copy is None else self.policy_copy.age,
            },
        )

    def _evaluate(self) -> None:
        step = self.collector.steps
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
        self.records.write_evaluation(step, result)

    def _parts(self) -> dict[str, Any]:
        return {
            "learner": {
                "learner": self.learner.state_dict(),
                "modules": {
                    name: dict(module.state_dict())
                    for name, module in self.learner.agent.modules().items()
                },
            },
            "progress": {
                "collector": self.collector.state_dict(),
                "policy_copy": (
                    None if self.policy_copy is None else self.policy_copy.state_dict()
                ),
                "learning": self._learning,
                "schedule": self.schedule.steps,
                **self.records.state_dict(),
                "generators": generator_states(),
            },
            "replay": buffer_state(self.learner.replay_buffer),
        }

    def _save(self) -> None:
        step = self.collector.steps
        if step == self._saved_at:
            return
        self._check_learner()
        self.checkpoints.save(step, self._parts(), **self.description)
        self._saved_at = step

    def _check_learner(self) -> None:
        try:
            self.learner.check()  # on a GPU no update has looked
        except NonFiniteLossError as error:
            self._learner_failed(error)

    def _resume(self) -> dict[str, Any] | None:
        """Loads the newest checkpoint, if any; returns its progress."""
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
            self.learner.replay_buffer, self.checkpoints.load(step, "replay")
        )
        progress = self.checkpoints.load(step, "progress")
        self.collector.load_state_dict(progress["collector"])
        if self.policy_copy is not None:
            self.policy_copy.load_state_dict(progress["policy_copy"])
        self._learning = progress["learning"]
        self.schedule.steps = progress["schedule"]
        restore_generators(progress["generators"])
        return progress

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
        self.records.close()
        self.collector.close()
        self.run_directory.unlock()


def _sentence(error: Exception) -> str:
    """What an error says, ended by a full stop."""
    text = str(error).strip() or type(error).__name__
    return text if text.endswith((".", "!", "?")) else f"{text}."
