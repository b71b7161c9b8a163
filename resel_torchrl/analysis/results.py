"""Learning curves as rows of a CSV file: what docs/results holds and plots draw."""

from __future__ import annotations

import csv
import math
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

from resel_torchrl.analysis.csv_rows import read_numbers, read_rows

__all__ = ["Result", "read_results", "write_results"]

COLUMNS = ("step", "return", "seed", "agent", "task")
NEEDED = ("step", "return", "seed")


@dataclass(frozen=True)
class Result:
    """One evaluation of one training run.

    Attributes:
        step: Environment steps trained.
        episode_return: Mean undiscounted return of the evaluation's episodes.
        seed: Seed of the training run.
        agent: What was trained: its core, or any label of a legend.
        task: Name of the task.
        measures: What else was measured, by name, such as the rate of success.

    >>> result = Result(1000, -310.5, seed=0, agent="gru", task="pendulum_v")
    >>> result.episode_return
    -310.5
    """

    step: int
    episode_return: float
    seed: int
    agent: str
    task: str
    measures: dict[str, float] = field(default_factory=dict, repr=False)


def read_results(path: str | Path) -> list[Result]:
    r"""Reads a CSV file with the columns step, return and seed.

    A column `agent` (or `core`) and a column `task` are taken if they are there; else
    the agent is "RESeL" and the task is the file's name without its ending, as in
    docs/results/<family>/<task>.csv. Other columns are measures, where they hold
    numbers.

    Args:
        path: The file.

    Returns:
        Its rows, in order.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If a column or value is missing or no number, or there is no row.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = Path(folder, "pendulum_v.csv")
    ...     _ = path.write_text("step,return,seed\n1000,-900.5,0\n")
    ...     read_results(path)
    [Result(step=1000, episode_return=-900.5, seed=0, agent='RESeL', task='pendulum_v')]
    """
    path = Path(path)
    return read_rows(
        path,
        NEEDED,
        lambda row, place: _result(row, place, path.stem),
        advice="check the path, or write results into it first",
    )


def write_results(path: str | Path, results: Iterable[Result]) -> None:
    """Writes what :func:`read_results` reads; numbers survive bit for bit.

    Args:
        path: The file; its folder is made, an older file replaced.
        results: The rows.

    >>> import tempfile
    >>> rows = [Result(1000, -0.1, 3, "gru", "pendulum_v")]
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     write_results(f"{folder}/new/a.csv", rows)
    ...     read_results(f"{folder}/new/a.csv") == rows
    True
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    results = list(results)
    names = list(dict.fromkeys(name for r in results for name in r.measures))
    with open(path, "w", newline="") as stream:
        writer = csv.writer(stream, lineterminator="\n")
        writer.writerow((*COLUMNS, *names))
        for r in results:
            values = [r.episode_return, *(r.measures.get(name) for name in names)]
            value, *others = ["" if v is None else repr(float(v)) for v in values]
            writer.writerow((r.step, value, r.seed, r.agent, r.task, *others))


def _result(row: dict[str, str | None], place: str, task: str) -> Result:
    try:
        # Steps may have been written by a table program as 1000.0 or 1e3.
        step, value = float(row["step"] or ""), float(row["return"] or "")
        seed = int(row["seed"] or "")
        if not step.is_integer() or not math.isfinite(value):
            raise ValueError
    except ValueError:
        got = ", ".join(f"{name}={row[name]!r}" for name in NEEDED)
        raise ValueError(
            f"{place}: expected a whole step and seed and a finite return, got {got}; "
            "correct or remove the row."
        ) from None
    return Result(
        step=int(step),
        episode_return=value,
        seed=seed,
        agent=row.get("agent") or row.get("core") or "RESeL",
        task=row.get("task") or task,
        measures=read_numbers(row, [*COLUMNS, "core"]),
    )
