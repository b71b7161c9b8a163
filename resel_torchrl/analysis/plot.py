"""Learning curves of runs and of published results, drawn by the same function."""

from __future__ import annotations

import dataclasses
import math
import statistics
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from resel_torchrl.analysis.figure import (
    curve_style,
    new_figure,
    output_path,
    save_figure,
)
from resel_torchrl.analysis.results import Result, read_results, write_results
from resel_torchrl.analysis.runs import find_runs, read_runs

__all__ = ["MeanPoint", "mean_curve", "plot_curves", "plot_runs"]


class MeanPoint(NamedTuple):
    """Mean return over seeds at one step, and its standard error (NaN for one seed).

    Attributes:
        step: Environment steps trained.
        mean: Mean return over seeds.
        standard_error: Its standard error over seeds.

    >>> MeanPoint(step=1000, mean=-310.0, standard_error=12.5).mean
    -310.0
    """

    step: int
    mean: float
    standard_error: float


def mean_curve(seeds: Sequence[Sequence[Result]]) -> list[MeanPoint]:
    """Mean and standard error over seeds, at the steps that every seed has.

    Where one seed has run further than another, the mean ends with the shorter: a mean
    over those that are left would jump.

    Args:
        seeds: The results of each seed.

    Returns:
        One point per common step, ascending.

    >>> first = [Result(100, 1.0, 0, "gru", "a"), Result(200, 2.0, 0, "gru", "a")]
    >>> mean_curve([first, [Result(100, 3.0, 1, "gru", "a")]])
    [MeanPoint(step=100, mean=2.0, standard_error=1.0)]
    """
    returns = [{r.step: r.episode_return for r in rows} for rows in seeds]
    common = set.intersection(*map(set, returns)) if returns else set()
    points = []
    for step in sorted(common):
        values = [by_step[step] for by_step in returns]
        error = math.nan
        if len(values) > 1:
            error = statistics.stdev(values) / math.sqrt(len(values))
        points.append(MeanPoint(step, statistics.fmean(values), error))
    return points


def plot_runs(
    run_dirs: str | Path | Sequence[str | Path],
    output: str | Path = "returns.png",
    measure: str | None = None,
) -> Path:
    r"""Draws the evaluation returns of runs; one panel a task, one colour an agent.

    Runs of the same task and core make one curve: its mean over seeds, its standard
    error over seeds as a band, and each seed as a faint line. Runs that differ in
    another setting make curves of their own, named by it (:func:`read_runs`). The data
    are written beside the figure, with the ending .csv, in the form that
    :func:`plot_curves` reads.

    Args:
        run_dirs: What :func:`resel_torchrl.analysis.find_runs` takes: a path, a glob,
            or several.
        output: Path of the figure: PNG, PDF or SVG.
        measure: What is drawn in place of the return: a measure of the task, such as
            `success`. The data hold both.

    Returns:
        The path of the figure.

    Raises:
        RunError: If a directory is no run or has no evaluation; nothing is written.
        ValueError: If `output` has another ending, or a run has no such measure.
        ModuleNotFoundError: If matplotlib is not installed.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     for seed, value in enumerate((-900.0, -700.0)):
    ...         run = Path(folder, f"gru-seed{seed}")
    ...         run.mkdir()
    ...         _ = (run / "config.yaml").write_text("{task: a, agent: {core: gru}}")
    ...         rows = f"step,seed,mean\n1000,{seed},{value}\n"
    ...         _ = (run / "eval.csv").write_text(rows)
    ...     path = plot_runs(f"{folder}/*", f"{folder}/returns.png")
    ...     path.name, path.with_suffix(".csv").read_text().split()[1]
    ('returns.png', '1000,-900.0,0,gru,a')
    """
    path = output_path(output)
    results = read_runs(find_runs(run_dirs))
    _draw(results, path, measure)
    write_results(path.with_suffix(".csv"), results)
    return path


def plot_curves(
    csvs: str | Path | Sequence[str | Path],
    output: str | Path = "returns.png",
    measure: str | None = None,
) -> Path:
    """Draws CSV files of results, such as docs/results/<family>/<task>.csv.

    One panel per task, one colour per agent, as :func:`plot_runs`.

    Args:
        csvs: One file or several, each as :func:`read_results` reads it.
        output: Path of the figure: PNG, PDF or SVG.
        measure: As for :func:`plot_runs`.

    Returns:
        The path of the figure.

    Raises:
        FileNotFoundError: If a file is not there.
        ValueError: If a file is not of that form, or an agent has two values at the
            same step with the same seed, or a file lacks the measure; nothing is
            written.
        ModuleNotFoundError: If matplotlib is not installed.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     rows = [Result(step, -1.0, 0, "gru", "pendulum_v") for step in (10, 20)]
    ...     write_results(f"{folder}/pendulum_v.csv", rows)
    ...     plot_curves(f"{folder}/pendulum_v.csv", f"{folder}/a.png").name
    'a.png'
    """
    path = output_path(output)
    if isinstance(csvs, str | Path):
        csvs = [csvs]
    results = [result for csv in csvs for result in read_results(csv)]
    seen = set()
    for r in results:
        place = (r.task, r.agent, r.seed, r.step)
        if place in seen:
            raise ValueError(
                f"expected one return of {r.agent} on {r.task} with seed {r.seed} at "
                f"step {r.step}, got two; name the agents apart in the column agent."
            )
        seen.add(place)
    _draw(results, path, measure)
    return path


def _draw(results: Sequence[Result], path: Path, measure: str | None) -> None:
    if not results:
        raise ValueError("expected results to draw, got none; give a file or run.")
    if measure is not None:
        results = [_of_measure(r, measure) for r in results]
    tasks: dict[str, dict[str, dict[int, list[Result]]]] = {}
    for r in sorted(results, key=lambda r: (r.task, r.agent, r.seed, r.step)):
        agents = tasks.setdefault(r.task, {})
        agents.setdefault(r.agent, defaultdict(list))[r.seed].append(r)
    labels = sorted({r.agent for r in results})
    styles = {label: curve_style(number) for number, label in enumerate(labels)}
    # Legends stand below the panels, where they cover no curve, and need room there.
    lines = max(len(agents) for agents in tasks.values())
    figure, axes = new_figure(len(tasks), height=3.0 + 0.2 * lines)
    for ax, (task, agents) in zip(axes, tasks.items(), strict=True):
        for label, seeds in agents.items():
            _draw_agent(ax, label, list(seeds.values()), styles[label])
        ax.set_title(task)
        ax.set_xlabel("environment steps")
        ax.xaxis.set_major_locator(_locator())
        ax.xaxis.set_major_formatter(_thousands)
        ax.legend(
            loc="upper center",
            bbox_to_anchor=(0.5, -0.2),
            frameon=False,
            fontsize="small",
        )
    for ax in axes[:: min(len(axes), 4)]:
        ax.set_ylabel(
            f"evaluation: {measure}\n(mean over episodes)"
            if measure
            else "evaluation return\n(sum of rewards per episode)"
        )
    save_figure(figure, path)


def _of_measure(result: Result, measure: str) -> Result:
    """The result with the measure where the return was."""
    if measure not in result.measures:
        known = ", ".join(result.measures) or "nothing else"
        raise ValueError(
            f"expected a measure that {result.task} has beside the return ({known}), "
            f"got {measure!r}; choose one of these, or leave it out for the return."
        )
    value = result.measures[measure]
    return dataclasses.replace(result, episode_return=value)


def _draw_agent(
    ax: Any, label: str, seeds: Sequence[Sequence[Result]], style: dict[str, str]
) -> None:
    points = mean_curve(seeds)
    count = f"{len(seeds)} seed{'s' if len(seeds) > 1 else ''}"
    if len(seeds) > 1:
        for rows in seeds:
            values = [r.episode_return for r in rows]
            ax.plot([r.step for r in rows], values, linewidth=0.7, alpha=0.3, **style)
        low = [p.mean - p.standard_error for p in points]
        high = [p.mean + p.standard_error for p in points]
        steps = [p.step for p in points]
        ax.fill_between(steps, low, high, color=style["color"], alpha=0.2, linewidth=0)
        count += ", mean ± s.e."
    marker = "o" if len(points) == 1 else None
    ax.plot(
        [p.step for p in points],
        [p.mean for p in points],
        label=f"{label} ({count})",
        linewidth=1.6,
        marker=marker,
        **style,
    )


def _locator() -> Any:
    from matplotlib.ticker import MaxNLocator

    return MaxNLocator(5, steps=[1, 2, 5, 10])


def _thousands(value: float, _: int) -> str:
    """500, 20k or 1.5M."""
    for size, unit in ((1e6, "M"), (1e3, "k")):
        if abs(value) >= size:
            return f"{value / size:g}{unit}"
    return f"{value:g}"
