"""What a run tells: rows of CSV files, TorchRL's loggers, a progress line."""

from __future__ import annotations

import csv
import math
import os
import sys
from collections.abc import Iterable, Mapping, MutableMapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from torchrl import torchrl_logger
from torchrl.record.loggers import get_logger
from tqdm import tqdm

from resel_torchrl.collect.episode import EpisodeResult
from resel_torchrl.collect.evaluate import Evaluation
from resel_torchrl.errors import RunError
from resel_torchrl.training.hooks import Hook
from resel_torchrl.training.run_directory import RunDirectory

if TYPE_CHECKING:
    from resel_torchrl.training.trainer import Trainer

__all__ = [
    "EVAL_COLUMNS",
    "METRIC_COLUMNS",
    "CsvLog",
    "LoggerHook",
    "Progress",
    "Records",
    "open_loggers",
]

#: Columns of metrics.csv. Empty where nothing was measured since the row before.
METRIC_COLUMNS = (
    "step",
    "seed",
    "episodes",
    "updates",
    "return",
    "length",
    "loss_qvalue",
    "loss_actor",
    "loss_alpha",
    "alpha",
    "entropy",
    "target_value",
    "td_error",
    "clamped_fraction",
    "padding_fraction",
    "context_actor_norm",
    "context_critic_norm",
    "context_actor_change",
    "context_critic_change",
    "grad_norm_context_encoder_actor",
    "grad_norm_context_encoder_critic",
    "grad_norm_actor",
    "grad_norm_critic",
    "grad_norm_alpha",
    "weight_age",
    "env_steps_per_second",
    "updates_per_second",
    "seconds",
)

#: The columns that depend on the clock: all others repeat themselves bit for bit.
TIME_COLUMNS = ("env_steps_per_second", "updates_per_second", "seconds")

#: Columns of eval.csv; `returns` holds each return, separated by spaces.
EVAL_COLUMNS = ("step", "seed", "mean", "standard_error", "episodes", "returns")


class CsvLog:
    """A CSV file that is appended to row by row and can be cut back.

    Args:
        path: The file.
        columns: Its header.
        position: Bytes to keep of a file that is there: what :meth:`position` said when
            the checkpoint was written. None starts a new file.

    Raises:
        RunError: If the file is shorter than `position`, or has another header.
    """

    def __init__(
        self, path: str | Path, columns: Sequence[str], *, position: int | None = None
    ) -> None:
        path = Path(path)
        if position is None:
            self._stream = open(path, "w", newline="")  # noqa: SIM115
        else:
            size = path.stat().st_size if path.exists() else 0
            if size < position:
                raise RunError(
                    f"expected at least {position} bytes in {path}, got {size}: rows "
                    "that the checkpoint counts on are gone; put the file back."
                )
            self._stream = open(path, "r+", newline="")  # noqa: SIM115
            header = self._stream.readline().strip().split(",")
            if other := set(header) ^ set(columns):
                self._stream.close()
                raise RunError(
                    f"expected the columns of {path} to be those that the run began "
                    f"with, got a difference in {', '.join(sorted(other))}; give a "
                    "resumed run the hooks that it had, or start a new run."
                )
            columns = header
            self._stream.truncate(position)
            self._stream.seek(position)
        self._writer = csv.DictWriter(self._stream, columns, lineterminator="\n")
        if position is None:
            self._writer.writeheader()
            self._stream.flush()

    def write(self, row: Mapping[str, Any]) -> None:
        """Append a row; a column that it lacks stays empty."""
        self._writer.writerow(row)
        self._stream.flush()

    def position(self) -> int:
        """Return the number of bytes on the disk so far."""
        self._stream.flush()
        os.fsync(self._stream.fileno())
        return self._stream.tell()

    def close(self) -> None:
        """Close the file."""
        self._stream.close()


class Records:
    """The rows of metrics.csv and eval.csv.

    Args:
        run: Where the files are.
        seed: Seed of the run, written into each row.
        measures: Names of what the environment measures an episode by beside the
            return: further columns of both files.
        columns: Further columns of metrics.csv alone.
        state: What :meth:`state_dict` gave, of a run that goes on; None begins new
            files.

    Attributes:
        seconds: Time that collecting and updating took.

    Raises:
        RunError: If rows that the state counts on are gone, or columns are others.
        ValueError: If there are two columns of one name.
    """

    def __init__(
        self,
        run: RunDirectory,
        *,
        seed: int,
        measures: Sequence[str] = (),
        columns: Sequence[str] = (),
        state: Mapping[str, Any] | None = None,
    ) -> None:
        self.seed = seed
        state = state or {"finished": (), "seconds": 0.0, "positions": {}}
        self.seconds = state["seconds"]
        self._finished = [EpisodeResult(*entry) for entry in state["finished"]]
        self.begin_row(0, 0)
        self.columns = (*METRIC_COLUMNS, *measures, *columns)
        twice = {name for name in self.columns if self.columns.count(name) > 1}
        if twice:
            raise ValueError(
                f"expected columns of different names, got {', '.join(twice)} twice; "
                "rename what the hook or the environment adds."
            )
        place = state["positions"]
        self._metrics = CsvLog(run.metrics, self.columns, position=place.get("metrics"))
        self._evals = CsvLog(
            run.eval, [*EVAL_COLUMNS, *measures], position=place.get("eval")
        )

    def add_episode(self, result: EpisodeResult) -> None:
        """Count an episode of training in, for the next row."""
        self._finished.append(result)

    def begin_row(self, step: int, updates: int) -> None:
        """From here on, the next row of metrics.csv counts steps, updates and time."""
        self._row_began = step, updates, self.seconds

    def finish_row(self, step: int, updates: int) -> dict[str, Any]:
        """Return episodes and rates since the last row, and begin the next one."""
        began_step, began_updates, began_seconds = self._row_began
        seconds = max(self.seconds - began_seconds, 1e-9)
        row = {
            "step": step,
            "seed": self.seed,
            "updates": updates,
            "env_steps_per_second": (step - began_step) / seconds,
            "updates_per_second": (updates - began_updates) / seconds,
            "seconds": self.seconds,
        }
        if self._finished:

            def mean(values: Iterable[float]) -> float:
                return float(np.mean(list(values)))

            row["return"] = mean(r.episode_return for r in self._finished)
            row["length"] = mean(r.length for r in self._finished)
            for name in self._finished[0].measures:
                row[name] = mean(r.measures[name] for r in self._finished)
        self._finished.clear()
        self.begin_row(step, updates)
        return row

    def write_metrics(self, row: Mapping[str, Any]) -> None:
        """Write a row of metrics.csv.

        Raises:
            ValueError: If it has a column that the file lacks.
        """
        if unknown := row.keys() - set(self.columns):
            raise ValueError(
                f"expected columns that metrics.csv has, got {', '.join(unknown)}; a "
                "hook names those that it adds in its attribute `columns`."
            )
        self._metrics.write(row)

    def write_evaluation(self, step: int, result: Evaluation) -> None:
        """Write a row of eval.csv."""
        returns = " ".join(map(repr, result.returns))
        row = {"step": step, "seed": self.seed, **_summary(result), "returns": returns}
        self._evals.write(row)

    def state_dict(self) -> dict[str, Any]:
        """Return the episodes since the last row, the time, and the files' lengths."""
        return {
            "finished": [
                (r.episode_return, r.length, r.measures) for r in self._finished
            ],
            "seconds": self.seconds,
            "positions": {
                "metrics": self._metrics.position(),
                "eval": self._evals.position(),
            },
        }

    def close(self) -> None:
        """Close the files."""
        self._metrics.close()
        self._evals.close()


def _summary(result: Evaluation) -> dict[str, float]:
    return {
        "mean": result.mean,
        "standard_error": result.standard_error,
        "episodes": len(result.returns),
        **result.mean_measures,
    }


def open_loggers(names: Sequence[str], folder: Path, *, project: str) -> list[Any]:
    """Open TorchRL's loggers of the given names: `tensorboard`, `wandb`.

    Args:
        names: Which.
        folder: The run directory; its name is the experiment's.
        project: Project of W&B.

    Raises:
        RunError: If a logger's package is not installed.

    >>> open_loggers([], Path("runs/trial"), project="resel_torchrl")
    []
    """
    loggers = []
    for name in names:
        options = {}
        if name == "wandb":
            # One id per directory: a resumed run goes on in the same W&B run.
            run_id = "-".join(folder.resolve().parts[-3:])
            options = {
                "wandb_kwargs": {"project": project, "id": run_id, "resume": "allow"}
            }
        try:
            loggers.append(get_logger(name, str(folder), name, **options))
        except ImportError as error:
            raise RunError(
                f"log.loggers: {name} is not installed ({error}); install it by "
                f"pip install {name}, or leave it out."
            ) from None
    return loggers


class LoggerHook(Hook):
    """Gives each row to a logger of TorchRL too; hooks before it may add to the row.

    Args:
        logger: With `log_scalar`.

    >>> class Logger:
    ...     def log_scalar(self, name, value, step):
    ...         print(step, name, value)
    >>> LoggerHook(Logger()).on_log(None, {"step": 20, "seed": 0, "alpha": 1})
    20 train/alpha 1.0
    """

    def __init__(self, logger: Any) -> None:
        self.logger = logger

    @property
    def name(self) -> str:
        """The class of the logger."""
        return type(self.logger).__name__

    def on_log(self, trainer: Trainer, values: MutableMapping[str, Any]) -> None:
        """Log the row under `train/`."""
        for name, value in values.items():
            if name not in ("step", "seed"):
                self._log(f"train/{name}", value, values["step"])

    def on_evaluation(self, trainer: Trainer, result: Evaluation) -> None:
        """Log what eval.csv has under `eval/`, as far as it is finite."""
        for name, value in _summary(result).items():
            if math.isfinite(value):
                self._log(f"eval/{name}", value, trainer.collector.steps)

    def _log(self, name: str, value: float, step: int) -> None:
        self.logger.log_scalar(name, float(value), step=step)


# Updates after which the rest of a run is estimated.
_TIMED_UPDATES = 100


class Progress(Hook):
    """A line with return, environment steps and updates per second, and time left.

    After its first hundred updates a run also says how long this machine will need.

    >>> Progress().name
    'Progress'
    """

    def on_start(self, trainer: Trainer) -> None:
        """Show the line."""
        live = sys.stderr.isatty()
        self._bar = tqdm(
            total=trainer.steps,
            initial=trainer.collector.steps,
            unit=" steps",
            dynamic_ncols=True,
            mininterval=0.5 if live else 60.0,
            bar_format=(
                "{percentage:3.0f}% {n_fmt}/{total_fmt} [{elapsed}, {remaining} left] "
                "{rate_fmt}{postfix}"
            ),
        )
        self._steps = trainer.collector.steps
        self._updates_before = trainer.learner.updates
        self._return: float | None = None
        self._estimated = False

    def on_episode(self, trainer: Trainer, result: EpisodeResult) -> None:
        """Show the return from the next step on."""
        self._return = result.episode_return

    def on_step(self, trainer: Trainer) -> None:
        """Count the steps."""
        updates = trainer.learner.updates - self._updates_before
        if not self._estimated:
            self._estimate(trainer, updates)
        before, self._steps = self._steps, trainer.collector.steps
        if not self._bar.update(self._steps - before):
            return
        seconds = self._bar.format_dict["elapsed"]
        shown = f"{updates / max(seconds, 1e-9):.1f} updates/s"
        if self._return is not None:
            shown += f", return {self._return:.1f}"
        self._bar.set_postfix_str(shown, refresh=False)

    def on_end(self, trainer: Trainer) -> None:
        """Leave the line as it is."""
        self._bar.close()

    def _estimate(self, trainer: Trainer, updates: int) -> None:
        """Log the time left, once enough updates were made up to the step before."""
        if not updates:  # steps without updates do not count
            self._timed_from = self._steps, trainer.records.seconds
        if updates < _TIMED_UPDATES:
            return
        self._estimated = True
        first_step, first_second = self._timed_from
        seconds = trainer.records.seconds - first_second
        steps_left = trainer.steps - self._steps
        left = steps_left * seconds / (self._steps - first_step)
        if trainer.eval_interval:
            evaluations = steps_left // trainer.eval_interval
            left += evaluations * trainer.evaluation_seconds
        torchrl_logger.info(
            f"This machine makes {updates / seconds:.0f} updates per second and needs "
            f"about {_duration(left)} more."
        )


def _duration(seconds: float) -> str:
    if seconds < 90:
        return f"{max(round(seconds, -1), 10):.0f} seconds"
    if seconds < 90 * 60:
        return f"{seconds / 60:.0f} minutes"
    return f"{seconds / 3600:.1f} hours"
