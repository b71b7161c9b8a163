"""The evaluations of run directories, labelled for a legend."""

from __future__ import annotations

import contextlib
import csv
import functools
import glob
import math
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from importlib import resources
from pathlib import Path
from typing import Any, TypeVar

import yaml
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from resel_torchrl.config import choices
from resel_torchrl.errors import RunError
from resel_torchrl.training import RunDirectory
from resel_torchrl.training.logging import EVAL_COLUMNS

__all__ = [
    "Result",
    "find_runs",
    "read_numbers",
    "read_results",
    "read_rows",
    "read_runs",
    "split_paths",
    "write_results",
]

#: Settings that tell two runs of one curve apart, or do not change what is learnt.
UNLABELLED = ("seed", "steps", "run_dir", "resume", "device", "threads", "eval", "log")


def split_paths(paths: str | Path | Sequence[str | Path]) -> list[str]:
    """Paths and globs, from one or several, or a text with several.

    Args:
        paths: A path, several as a sequence, or as one text, `a,b` or `[a,b]`. A text
            that is a path itself is not taken apart.

    >>> split_paths("[runs/a, 'runs/b*']"), split_paths(Path("a,b"))
    (['runs/a', 'runs/b*'], ['a,b'])
    """
    if isinstance(paths, Path) or (isinstance(paths, str) and Path(paths).exists()):
        paths = [paths]
    elif isinstance(paths, str):
        text = paths.strip()
        if text.startswith("[") and text.endswith("]"):
            text = text[1:-1]
        paths = [part.strip().strip("'\"") for part in text.split(",") if part.strip()]
    return [str(path) for path in paths]


def find_runs(runs: str | Path | Sequence[str | Path]) -> list[Path]:
    """Run directories from a path, a glob, or several of these.

    Args:
        runs: A path; a glob such as `runs/pendulum_v/*`, of which the run directories
            are taken; several of these as a sequence or as one text, `a,b` or `[a,b]`.

    Returns:
        The directories, each once.

    Raises:
        RunError: If a path is no run directory or a glob matches none.

    >>> find_runs("no/such/*")
    Traceback (most recent call last):
    ...
    resel_torchrl.training.run_directory.RunError: expected run directories (each with \
a config.yaml) at no/such/*, got none; give the paths that the runs printed at their \
start.
    """
    found: dict[Path, None] = {}
    for name in split_paths(runs):
        if glob.has_magic(name) and not Path(name).exists():
            matches = map(RunDirectory, sorted(glob.glob(name, recursive=True)))
            paths = [run.path for run in matches if run.config.is_file()]
            if not paths:
                raise RunError(
                    "expected run directories (each with a config.yaml) at "
                    f"{name}, got none; give the paths that the runs printed at their "
                    "start."
                )
        else:
            paths = [RunDirectory.open(name).path]
        found.update(dict.fromkeys(paths))
    if not found:
        raise RunError("expected at least one run directory, got none.")
    return list(found)


def read_runs(run_dirs: Sequence[str | Path]) -> list[Result]:
    """The evaluations of runs, labelled by task and core.

    Where runs of one task and core were configured differently in more than their
    seed, the label of each also says in what:
    `gru, lr_context_encoder=0.001`. A task whose environment was changed is named with
    it: `ant_mdp on Ant-v4`.

    Args:
        run_dirs: Run directories, of finished or running runs.

    Returns:
        One entry per evaluation; `agent` is the label.

    Raises:
        RunError: If a directory is no run, has no evaluation or a damaged file, or if
            two runs are the same but for their directory.

    >>> read_runs(["no/such/run"])
    Traceback (most recent call last):
    ...
    resel_torchrl.training.run_directory.RunError: expected a run directory (one with \
a config.yaml), got no/such/run; give the path that the run printed at its start.
    """
    groups = defaultdict(list)
    for path in run_dirs:
        run = RunDirectory.open(path)
        settings = _settings(run)
        key = _task_name(settings), settings["agent.core"]
        groups[key].append((run, settings))
    results, curves = [], {}
    for (task, core), members in groups.items():
        names = _distinguishing([settings for _, settings in members])
        for run, settings in members:
            values = [f"{n.rpartition('.')[2]}={settings.get(n)}" for n in names]
            label = ", ".join([str(core), *values])
            rows = list(_evaluations(run, label, task))
            other = curves.setdefault((task, label, rows[0].seed), run.path)
            if other != run.path:
                raise RunError(
                    f"expected one run of {label} on {task} with seed {rows[0].seed}, "
                    f"got {other} and {run.path}, which are configured the same; leave "
                    "one out."
                )
            results += rows
    return results


def _task_name(settings: dict[str, Any]) -> str:
    task, env_id = str(settings["task"]), settings.get("env.id")
    return task if env_id in (None, _env_id(task)) else f"{task} on {env_id}"


@functools.cache
def _env_id(task: str) -> str | None:
    """The environment of a packaged task."""
    if task not in choices("task"):
        return None
    file = resources.files("resel_torchrl.config") / "task" / f"{task}.yaml"
    return OmegaConf.create(file.read_text()).env.id


def _settings(run: RunDirectory) -> dict[str, Any]:
    """The configuration, flat: `optim.lr_actor` to its value."""
    try:
        config = OmegaConf.to_container(OmegaConf.load(run.config))
        settings = dict(_leaves(config, ""))
        missing = [key for key in ("task", "agent.core") if key not in settings]
    except (yaml.YAMLError, OmegaConfBaseException, AttributeError) as error:
        raise RunError(
            f"{run.config}: expected the YAML of a run, got: {error}; put the run's "
            "own file back."
        ) from None
    if missing:
        raise RunError(
            f"{run.config}: expected the configuration of a run, got one without "
            f"{' and '.join(missing)}; put the run's own file back."
        )
    return settings


def _leaves(tree: dict[str, Any], prefix: str) -> Iterator[tuple[str, Any]]:
    for name, value in tree.items():
        if isinstance(value, dict):
            yield from _leaves(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value


def _distinguishing(settings: Sequence[dict[str, Any]]) -> list[str]:
    """The settings that are not the same in all."""
    names = dict.fromkeys(name for entry in settings for name in entry)
    return [
        name
        for name in names
        if name.split(".")[0] not in UNLABELLED
        and not name.startswith("env.facts.")  # what follows from the others
        and any(entry.get(name) != settings[0].get(name) for entry in settings)
    ]


def _evaluations(run: RunDirectory, label: str, task: str) -> Iterator[Result]:
    rows = []
    if run.eval.is_file():
        with open(run.eval, newline="") as stream:
            rows = list(csv.DictReader(stream))
    if not rows:
        raise RunError(
            f"expected evaluations in {run.eval}, got none: the run has not reached "
            "its first (eval.interval, 0 for never); wait, or leave it out."
        )
    for number, row in enumerate(rows, 2):
        try:
            step, seed, mean = int(row["step"]), int(row["seed"]), float(row["mean"])
        except (KeyError, TypeError, ValueError):
            raise RunError(
                f"{run.eval}, line {number}: expected numbers in the columns step, "
                f"seed and mean, got {row}; put the run's own file back."
            ) from None
        measures = read_numbers(row, EVAL_COLUMNS)
        yield Result(step, mean, seed, label, task, measures)


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


Row = TypeVar("Row")


def read_rows(
    path: str | Path,
    needed: Sequence[str],
    parse: Callable[[dict[str, str | None], str], Row],
    advice: str,
) -> list[Row]:
    r"""Reads every row of a CSV file with a header.

    Args:
        path: The file.
        needed: Columns that it must have.
        parse: From a row, text by column, and its place, to what is wanted of it.
        advice: What to do about a file that is missing or holds no row.

    Returns:
        What `parse` made of the rows, in order.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If a column is missing or there is no row, or from `parse`.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = Path(folder, "a.csv")
    ...     _ = path.write_text("seed,note\n3,fast\n")
    ...     read_rows(path, ["seed"], lambda row, place: int(row["seed"]), "write it")
    [3]
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(
            f"expected a CSV file with the columns {', '.join(needed)}, got {path}, "
            f"which is no file; {advice}."
        )
    with open(path, newline="") as stream:
        reader = csv.DictReader(stream)
        columns = reader.fieldnames or []
        missing = [name for name in needed if name not in columns]
        if missing:
            raise ValueError(
                f"{path}: expected the columns {', '.join(needed)}, got "
                f"{', '.join(columns) or 'an empty file'}; add {', '.join(missing)}."
            )
        rows = [parse(row, f"{path}, line {reader.line_num}") for row in reader]
    if not rows:
        raise ValueError(
            f"{path}: expected one row or more, got a header only; {advice}."
        )
    return rows


def read_numbers(
    row: dict[str, str | None], left_out: Sequence[str]
) -> dict[str, float]:
    """The finite numbers of a row, by column.

    Args:
        row: Text by column.
        left_out: Columns that are something else.

    >>> read_numbers({"step": "5", "success": "0.5", "note": "fast"}, ["step"])
    {'success': 0.5}
    """
    numbers = {}
    for name, text in row.items():
        with contextlib.suppress(TypeError, ValueError):
            if name not in left_out and math.isfinite(float(text)):
                numbers[name] = float(text)
    return numbers
