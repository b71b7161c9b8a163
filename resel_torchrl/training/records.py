"""What a run writes down: rows of training, rows of evaluation, on all its loggers."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from resel_torchrl.training.episode import EpisodeResult
from resel_torchrl.training.evaluate import Evaluation
from resel_torchrl.training.log import EVAL_COLUMNS, METRIC_COLUMNS, CsvLog
from resel_torchrl.training.run_directory import RunDirectory

__all__ = ["Records"]


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
