"""The records of a run: CSV files always, other loggers by choice."""

from __future__ import annotations

import contextlib
import csv
import logging
import math
import os
import signal
import sys
import threading
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any

import numpy as np
import torch
from tensordict import TensorDict
from tensordict.nn import TensorDictModuleBase
from torch import Tensor
from torchrl import torchrl_logger
from torchrl.modules import set_recurrent_mode
from torchrl.record.loggers import get_logger
from tqdm import tqdm

from resel_torchrl.collect.episode import EpisodeResult
from resel_torchrl.collect.evaluate import Evaluation
from resel_torchrl.errors import RunError
from resel_torchrl.training.run_directory import RunDirectory

__all__ = [
    "EVAL_COLUMNS",
    "METRIC_COLUMNS",
    "CsvLog",
    "Progress",
    "Records",
    "StopRequest",
    "UpdateMetrics",
    "contexts",
    "gradient_norms",
    "open_loggers",
    "quiet_storages",
    "stop_on_signal",
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
        RunError: If the file is shorter than `position`.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     log = CsvLog(f"{folder}/a.csv", ["step", "return"])
    ...     log.write({"step": 1})
    ...     place = log.position()
    ...     log.write({"step": 2, "return": -0.5})
    ...     log.close()
    ...     log = CsvLog(f"{folder}/a.csv", ["step", "return"], position=place)
    ...     log.write({"step": 2, "return": -7.0})
    ...     log.close()
    ...     print(open(f"{folder}/a.csv").read().split())
    ['step,return', '1,', '2,-7.0']
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
            self._stream.truncate(position)
            self._stream.seek(position)
        self._writer = csv.DictWriter(self._stream, columns, lineterminator="\n")
        if position is None:
            self._writer.writeheader()
            self._stream.flush()

    def write(self, row: Mapping[str, Any]) -> None:
        """Appends a row; a column that it lacks stays empty."""
        self._writer.writerow(row)
        self._stream.flush()

    def position(self) -> int:
        """Bytes on the disk so far."""
        self._stream.flush()
        os.fsync(self._stream.fileno())
        return self._stream.tell()

    def close(self) -> None:
        """Closes the file."""
        self._stream.close()


def open_loggers(names: Sequence[str], folder: Path, *, project: str) -> list[Any]:
    """TorchRL's loggers of the given names: `tensorboard`, `wandb`.

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


def quiet_storages() -> None:
    """Keeps TorchRL from telling the shape of each new storage of a buffer.

    Its other messages stay.

    >>> import torch
    >>> from torchrl.data import LazyTensorStorage
    >>> quiet_storages()
    >>> LazyTensorStorage(3).set(0, torch.zeros(1))
    """
    torchrl_logger.addFilter(_is_no_storage_shape)


def _is_no_storage_shape(record: logging.LogRecord) -> bool:
    return not record.getMessage().startswith("Initialized Lazy")


class Records:
    """The rows of metrics.csv and eval.csv, and the same for TorchRL's loggers.

    Args:
        run: Where the files are.
        seed: Seed of the run, written into each row.
        measures: Names of what the environment measures an episode by beside the
            return: further columns of both files.
        training_measures: Further columns of metrics.csv alone.
        loggers: TorchRL loggers beside the CSV files.
        state: What :meth:`state_dict` gave, of a run that goes on; None begins new
            files.

    Raises:
        RunError: If rows that the state counts on are gone.

    >>> import tempfile
    >>> folder = tempfile.TemporaryDirectory()
    >>> records = Records(RunDirectory.create(f"{folder.name}/run", ""), seed=0)
    >>> records.begin_row(step=0, updates=0)
    >>> records.episodes([EpisodeResult(-1.0, 200), EpisodeResult(-3.0, 100)])
    >>> records.spend(2.0)
    >>> records.write_metrics(300, 100, {"loss_actor": 0.5})
    >>> records.close()
    >>> lines = records.run.metrics.read_text().splitlines()
    >>> row = dict(zip(*(line.split(",") for line in lines)))
    >>> [row[name] for name in ("return", "length", "updates_per_second")]
    ['-2.0', '150.0', '50.0']
    >>> folder.cleanup()
    """

    def __init__(
        self,
        run: RunDirectory,
        *,
        seed: int,
        measures: Sequence[str] = (),
        training_measures: Sequence[str] = (),
        loggers: Sequence[Any] = (),
        state: Mapping[str, Any] | None = None,
    ) -> None:
        self.run = run
        self.seed = seed
        self.loggers = list(loggers)
        state = state or {"finished": (), "seconds": 0.0, "positions": {}}
        self._finished = [EpisodeResult(*entry) for entry in state["finished"]]
        self._seconds = state["seconds"]
        self.begin_row(0, 0)
        positions = state["positions"]
        self._metrics = CsvLog(
            run.metrics,
            [*METRIC_COLUMNS, *measures, *training_measures],
            position=positions.get("metrics"),
        )
        self._evals = CsvLog(
            run.eval, [*EVAL_COLUMNS, *measures], position=positions.get("eval")
        )

    def begin_row(self, step: int, updates: int) -> None:
        """From here on, the next row of metrics.csv counts steps, updates and time."""
        self._row_steps, self._row_updates, self._row_seconds = step, updates, 0.0

    def episodes(self, ended: Sequence[EpisodeResult]) -> None:
        """Takes down episodes of training, for the next row."""
        self._finished += ended

    def spend(self, seconds: float) -> None:
        """Adds time that collecting and updating took."""
        self._seconds += seconds
        self._row_seconds += seconds

    def write_metrics(self, step: int, updates: int, values: Mapping[str, Any]) -> None:
        """Writes a row of metrics.csv, with the episodes and rates since the last one.

        Args:
            step: Environment steps so far.
            updates: Updates so far.
            values: What else there is to tell.
        """
        seconds = max(self._row_seconds, 1e-9)
        row = dict(values) | {
            "updates": updates,
            "env_steps_per_second": (step - self._row_steps) / seconds,
            "updates_per_second": (updates - self._row_updates) / seconds,
            "seconds": self._seconds,
        }
        if self._finished:
            row["return"] = np.mean([r.episode_return for r in self._finished])
            row["length"] = np.mean([r.length for r in self._finished])
            for name in self._finished[0].measures:
                row[name] = np.mean([r.measures[name] for r in self._finished])
        self._finished.clear()
        self.begin_row(step, updates)
        self._metrics.write({"step": step, "seed": self.seed, **row})
        self._tell("train", step, row)

    def write_evaluation(self, step: int, result: Evaluation) -> None:
        """Writes a row of eval.csv.

        Args:
            step: Environment steps so far.
            result: The evaluation.
        """
        row = {
            "mean": result.mean,
            "standard_error": result.standard_error,
            "episodes": len(result.returns),
            **result.mean_measures,
        }
        returns = " ".join(map(repr, result.returns))
        self._evals.write({"step": step, "seed": self.seed, **row, "returns": returns})
        finite = {name: value for name, value in row.items() if math.isfinite(value)}
        self._tell("eval", step, finite)

    def state_dict(self) -> dict[str, Any]:
        """The episodes since the last row, the time, and how long the files are."""
        return {
            "finished": [
                (r.episode_return, r.length, r.measures) for r in self._finished
            ],
            "seconds": self._seconds,
            "positions": {
                "metrics": self._metrics.position(),
                "eval": self._evals.position(),
            },
        }

    def close(self) -> None:
        """Closes the files."""
        self._metrics.close()
        self._evals.close()

    def _tell(self, kind: str, step: int, row: Mapping[str, Any]) -> None:
        for logger in self.loggers:
            for name, value in row.items():
                logger.log_scalar(f"{kind}/{name}", float(value), step=step)


# Updates after which the rest of a run is estimated.
_TIMED_UPDATES = 100


class Progress:
    """A line with return, environment steps and updates per second, and time left.

    After its first hundred updates a run also says how long this machine will need.

    Args:
        total: Environment steps of the run.
        done: Environment steps made before.
        eval_interval: Environment steps between evaluations; 0 for none.
        shown: Whether there is a line at all.

    >>> with Progress(10, shown=False) as progress:
    ...     progress.step(3, 0, 0.1)
    """

    def __init__(
        self, total: int, *, done: int = 0, eval_interval: int = 0, shown: bool = True
    ) -> None:
        live = sys.stderr.isatty()
        self._bar = tqdm(
            total=total,
            initial=done,
            disable=not shown,
            unit=" steps",
            dynamic_ncols=True,
            mininterval=0.5 if live else 60.0,
            bar_format=(
                "{percentage:3.0f}% {n_fmt}/{total_fmt} [{elapsed}, {remaining} left] "
                "{rate_fmt}{postfix}"
            ),
        )
        self._return: float | None = None
        self._updates = 0
        self._left = total - done
        self._eval_interval = eval_interval
        self._eval_seconds = 0.0
        # Steps and seconds since the first update, until the estimate is given.
        self._timed: list[float] | None = [0, 0.0]

    def step(self, steps: int, updates: int, seconds: float) -> None:
        """Counts environment steps, updates, and the time both took."""
        self._updates += updates
        self._left -= steps
        if self._timed is not None and self._updates:
            self._timed[0] += steps
            self._timed[1] += seconds
            if self._updates >= _TIMED_UPDATES:
                self._estimate(*self._timed)
                self._timed = None
        if self._bar.disable or not self._bar.update(steps):
            return
        seconds = self._bar.format_dict["elapsed"]
        shown = f"{self._updates / max(seconds, 1e-9):.1f} updates/s"
        if self._return is not None:
            shown += f", return {self._return:.1f}"
        self._bar.set_postfix_str(shown, refresh=False)

    def evaluation(self, seconds: float) -> None:
        """Takes the time of an evaluation."""
        self._eval_seconds = seconds

    def _estimate(self, steps: float, seconds: float) -> None:
        if self._bar.disable:
            return
        left = self._left * seconds / steps
        if self._eval_interval:
            left += self._left // self._eval_interval * self._eval_seconds
        torchrl_logger.info(
            f"This machine makes {self._updates / seconds:.0f} updates per second "
            f"and needs about {_duration(left)} more."
        )

    def episode(self, episode_return: float) -> None:
        """Takes the return of the last finished episode."""
        self._return = episode_return

    def __enter__(self) -> Progress:
        return self

    def __exit__(self, *error: object) -> None:
        self._bar.close()


def _duration(seconds: float) -> str:
    if seconds < 90:
        return f"{max(round(seconds, -1), 10):.0f} seconds"
    if seconds < 90 * 60:
        return f"{seconds / 60:.0f} minutes"
    return f"{seconds / 3600:.1f} hours"


@dataclass
class StopRequest:
    """Whether somebody has asked the run to stop."""

    signal: str | None = None


@contextlib.contextmanager
def stop_on_signal() -> Iterator[StopRequest]:
    """Turns the first Ctrl-C or SIGTERM into a request; a second one interrupts.

    Outside of the main thread, where signals cannot be caught, nothing is changed.

    >>> import os, signal
    >>> with stop_on_signal() as request:
    ...     os.kill(os.getpid(), signal.SIGINT)
    >>> request.signal
    'SIGINT'
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


class UpdateMetrics:
    """Sums on the learner's device; only :meth:`values` waits for them.

    Args:
        roles: Steps of an update of which the first one in a row is measured.

    >>> metrics = UpdateMetrics(["critic"])
    >>> metrics.add({"loss_qvalue": torch.tensor(1.0)})
    >>> metrics.add({"loss_qvalue": torch.tensor(3.0)})
    >>> if metrics.due("critic"):
    ...     metrics.measured("critic", grad_norm_critic=torch.tensor(0.5))
    >>> metrics.due("critic"), metrics.values()
    (False, {'loss_qvalue': 2.0, 'grad_norm_critic': 0.5})
    >>> metrics.begin_row()
    >>> metrics.due("critic"), metrics.values()
    (True, {})
    """

    def __init__(self, roles: Iterable[str]) -> None:
        self._due = dict.fromkeys(roles, True)
        self._measured: dict[str, Tensor] = {}
        self._counts: dict[str, int] = {}
        #: Sum of each term over the updates of the row.
        self.sums: dict[str, Tensor] = {}

    @torch.no_grad()
    def add(self, terms: Mapping[str, Tensor]) -> None:
        """Counts the scalars of one update in; they are copied."""
        for name, value in terms.items():
            value = value.detach()
            self._counts[name] = self._counts.get(name, 0) + 1
            if name in self.sums:
                self.sums[name] += value
            else:
                self.sums[name] = value.clone()

    def due(self, role: str) -> bool:
        """Whether the next step of `role` is the one to be measured."""
        return self._due[role]

    def measured(self, role: str, **values: Tensor) -> None:
        """Takes what was measured at the step of `role`, which is no longer due."""
        self._due[role] = False
        self._measured.update(values)

    def values(self) -> dict[str, float]:
        """Means of the row so far, and what was measured."""
        means = {
            name: float(total) / self._counts[name] for name, total in self.sums.items()
        }
        return means | {name: float(value) for name, value in self._measured.items()}

    def begin_row(self) -> None:
        """Forgets the row."""
        self.sums.clear()
        self._counts.clear()
        self._measured.clear()
        self._due = dict.fromkeys(self._due, True)

    def state_dict(self) -> dict[str, Any]:
        """The row so far."""
        return {
            "sums": dict(self.sums),
            "counts": dict(self._counts),
            "measure": dict(self._due),
            "measured": dict(self._measured),
        }

    def load_state_dict(self, state: Mapping[str, Any], device: torch.device) -> None:
        """Goes on with the row of :meth:`state_dict`, on the learner's device."""
        self._counts, self._due = dict(state["counts"]), dict(state["measure"])
        self.sums = {name: x.to(device) for name, x in state["sums"].items()}
        self._measured = {name: x.to(device) for name, x in state["measured"].items()}


def gradient_norms(groups: Iterable[Mapping[str, Any]]) -> dict[str, Tensor]:
    """Euclidean norm of the gradient of each group that has one.

    Args:
        groups: With `params` and `name`, as of
            :func:`~resel_torchrl.optim.parameter_groups`.

    >>> weight = torch.zeros(2, requires_grad=True)
    >>> (3 * weight[0] + 4 * weight[1]).backward()
    >>> gradient_norms([{"params": [weight], "name": "actor"}])
    {'grad_norm_actor': tensor(5.)}
    """
    norms = {}
    for group in groups:
        gradients = [p.grad for p in group["params"] if p.grad is not None]
        if gradients:
            norm = torch.nn.utils.get_total_norm(gradients)
            norms[f"grad_norm_{group['name']}"] = norm
    return norms


@torch.no_grad()
def contexts(batch: TensorDict, encoder: TensorDictModuleBase) -> Tensor:
    """What an encoder makes of a packed batch now: ``[R, L, C]``, a copy.

    Args:
        batch: ``[R, L]``.
        encoder: With an `out_key`.
    """
    inputs = batch.select(*encoder.in_keys, strict=False)
    with set_recurrent_mode(True):
        return encoder(inputs).get(encoder.out_key).clone()
