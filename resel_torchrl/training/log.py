"""The records of a run: CSV files always, other loggers by choice."""

from __future__ import annotations

import csv
import logging
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from torchrl._utils import logger as torchrl_logger
from torchrl.record.loggers import get_logger

from resel_torchrl.training.run_directory import RunError

__all__ = [
    "EVAL_COLUMNS",
    "METRIC_COLUMNS",
    "CsvLog",
    "open_loggers",
    "quiet_storages",
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
