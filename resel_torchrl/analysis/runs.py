"""The evaluations of run directories, labelled for a legend."""

from __future__ import annotations

import csv
import functools
import glob
from collections import defaultdict
from collections.abc import Iterator, Sequence
from importlib import resources
from pathlib import Path
from typing import Any

import yaml
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from resel_torchrl.analysis.csv_rows import read_numbers
from resel_torchrl.analysis.results import Result
from resel_torchrl.config import choices
from resel_torchrl.training import RunDirectory, RunError
from resel_torchrl.training.log import EVAL_COLUMNS

__all__ = ["find_runs", "read_runs", "split_paths"]

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
