"""Evaluations and metrics of run directories as tables, labelled for a legend."""

from __future__ import annotations

import functools
import glob
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from resel_torchrl.analysis._extra import pandas as pd
from resel_torchrl.analysis.results import in_order, read_results
from resel_torchrl.config import choices, compose
from resel_torchrl.errors import RunError
from resel_torchrl.training import RunDirectory

if TYPE_CHECKING:
    from pandas import DataFrame

__all__ = [
    "find_files",
    "find_runs",
    "read_metrics",
    "read_runs",
]

Paths = str | Path | Sequence[str | Path]

#: Settings that tell two runs of one curve apart, or do not change what is learnt.
UNLABELLED = ("seed", "steps", "run_dir", "resume", "device", "threads", "eval", "log")


def read_runs(runs: Paths) -> DataFrame:
    """Read the evaluations of runs, finished or running.

    Runs of one task and core have the same `agent`. Where they were configured
    differently in more than their seed, it says in what:
    `gru, lr_context_encoder=0.001`. A task whose environment was changed is named with
    it: `ant_mdp on Ant-v4`.

    Args:
        runs: Run directories, as :func:`find_runs` takes them.

    Returns:
        One row per evaluation: run (its path), task, core, agent, seed, step, return
        (mean over the episodes), and what else the environment measures.

    Raises:
        RunError: If a directory is no run, has no evaluation or a damaged file, or if
            two runs are the same but for their directory.

    >>> read_runs("no/such/run")
    Traceback (most recent call last):
    ...
    resel_torchrl.errors.RunError: expected a run directory (one with \
a config.yaml), got no/such/run; give the path that the run printed at its start.
    """
    unused = ["standard_error", "episodes", "returns"]
    tables = []
    for labels in _labels(find_runs(runs)):
        path = RunDirectory(labels["run"]).eval
        table = _read(path, labels, "evaluations", "eval.interval", "mean")
        tables.append(table.drop(columns=unused, errors="ignore"))
    table = pd.concat(tables, ignore_index=True).rename(columns={"mean": "return"})
    each = table.drop_duplicates("run")
    same = each[each.duplicated(["task", "agent", "seed"], keep=False)]
    if len(same):
        first, second = same.to_dict("records")[:2]
        raise RunError(
            f"expected one run of {first['agent']} on {first['task']} with seed "
            f"{first['seed']}, got {first['run']} and {second['run']}, which are "
            "configured the same; leave one out."
        )
    return table


def read_metrics(runs: Paths) -> DataFrame:
    """Read the training metrics of runs, finished or running.

    Args:
        runs: Run directories, as :func:`find_runs` takes them.

    Returns:
        One row per row of `metrics.csv`: run, task, core, agent and seed as
        :func:`read_runs` has them, step, and the further columns that hold numbers.

    Raises:
        RunError: If a directory is no run, or its metrics are missing or damaged.

    >>> read_metrics("no/such/*")
    Traceback (most recent call last):
    ...
    resel_torchrl.errors.RunError: expected run directories (each with \
a config.yaml) at no/such/*, got none; give the paths that the runs printed at their \
start.
    """
    tables = []
    for labels in _labels(find_runs(runs)):
        path = RunDirectory(labels["run"]).metrics
        tables.append(_read(path, labels, "metrics", "log.interval"))
    return pd.concat(tables, ignore_index=True)


def find_runs(runs: Paths) -> list[Path]:
    """Find run directories.

    Args:
        runs: A path; a glob such as `runs/pendulum_v/*`, of which the run directories
            are taken; several of these as a sequence or as one text, `a,b` or `[a,b]`.

    Returns:
        The directories, each once.

    Raises:
        RunError: If a path is no run directory or a glob matches none.

    >>> find_runs("no/such/run")
    Traceback (most recent call last):
    ...
    resel_torchrl.errors.RunError: expected a run directory (one with \
a config.yaml), got no/such/run; give the path that the run printed at its start.
    """
    found: dict[Path, None] = {}
    for name, matches in find_files(runs):
        if matches is None:
            paths = [RunDirectory.open(name).path]
        else:
            paths = [path for path in matches if RunDirectory(path).config.is_file()]
        if not paths:
            raise RunError(
                f"expected run directories (each with a config.yaml) at {name}, got "
                "none; give the paths that the runs printed at their start."
            )
        found.update(dict.fromkeys(paths))
    if not found:
        raise RunError("expected at least one run directory, got none.")
    return list(found)


def find_files(paths: Paths) -> Iterator[tuple[str, list[Path] | None]]:
    """Split `a,b` or `[a,b]` into paths and globs; yield each with a glob's matches.

    A text that is a path itself is not taken apart, nor read as a glob.
    """
    if isinstance(paths, Path) or (isinstance(paths, str) and Path(paths).exists()):
        paths = [paths]
    elif isinstance(paths, str):
        words = paths.strip().removeprefix("[").removesuffix("]").split(",")
        paths = [word.strip().strip("'\"") for word in words if word.strip()]
    for name in map(str, paths):
        is_glob = glob.has_magic(name) and not Path(name).exists()
        matches = sorted(map(Path, glob.glob(name, recursive=True)))
        yield name, matches if is_glob else None


def _labels(paths: list[Path]) -> list[dict[str, Any]]:
    """Run, task, core, agent and seed of each run, told apart by their settings."""
    settings = pd.DataFrame([_settings(path) for path in paths], dtype=object)
    settings = settings.map(str)  # None and lists compare, too
    labels = settings[["task", "agent.core", "seed"]].assign(run=list(map(str, paths)))
    labels = labels.rename(columns={"agent.core": "core"})
    compared = [
        name
        for name in settings
        if name.partition(".")[0] not in UNLABELLED
        and not name.startswith("env.facts.")  # what follows from the others
    ]
    labels["agent"] = labels["core"]
    for _, group in settings[compared].groupby(["task", "agent.core"]):
        for name in group.columns[group.nunique() > 1]:
            values = f", {name.rpartition('.')[2]}=" + group[name]
            labels.loc[group.index, "agent"] += values
    return labels[["run", "task", "core", "agent"]].to_dict("records")


def _read(
    path: Path, labels: dict[str, Any], what: str, interval: str, *needed: str
) -> DataFrame:
    """A CSV file of a run, which may not have a row yet, behind the run's labels."""
    if not path.is_file() or len(path.read_text().splitlines()) < 2:
        raise RunError(
            f"expected {what} in {path}, got none: the run has not reached its first "
            f"({interval}, 0 for never); wait, or leave it out."
        )
    try:
        table = read_results(path, ("step", "seed", *needed), {})
    except ValueError as error:
        raise RunError(str(error)) from None
    return in_order(table.assign(**labels), "run", "task", "core", "agent")


def _settings(path: Path) -> dict[str, Any]:
    """The configuration of a run, flat: `optim.lr_actor` to its value."""
    file = RunDirectory.open(path).config
    try:
        config = OmegaConf.to_container(OmegaConf.load(file))
        settings = dict(_leaves(config, ""))
        missing = [k for k in ("task", "agent.core", "seed") if k not in settings]
    except (yaml.YAMLError, OmegaConfBaseException, AttributeError) as error:
        raise RunError(
            f"{file}: expected the YAML of a run, got: {error}; put the run's own file "
            "back."
        ) from None
    if missing:
        raise RunError(
            f"{file}: expected the configuration of a run, got one without "
            f"{' and '.join(missing)}; put the run's own file back."
        )
    task, env_id = str(settings["task"]), settings.get("env.id")
    if env_id not in (None, _env_id(task)):
        settings["task"] = f"{task} on {env_id}"
    return settings


@functools.cache
def _env_id(task: str) -> str | None:
    """The environment of a packaged task."""
    return compose([f"task={task}"]).env.id if task in choices("task") else None


def _leaves(tree: dict[str, Any], prefix: str) -> Iterator[tuple[str, Any]]:
    for name, value in tree.items():
        if isinstance(value, dict):
            yield from _leaves(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value
