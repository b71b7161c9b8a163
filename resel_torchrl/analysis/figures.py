"""Learning curves of runs and of published results, drawn by the same function."""

from __future__ import annotations

import csv
import dataclasses
import glob
import math
import statistics
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple

from resel_torchrl.analysis.runs import (
    Result,
    find_runs,
    read_results,
    read_rows,
    read_runs,
    split_paths,
    write_results,
)

__all__ = [
    "COLOURS",
    "EvaluatedEpisode",
    "MeanPoint",
    "curve_style",
    "mean_curve",
    "new_figure",
    "output_path",
    "plot_by_factor",
    "plot_curves",
    "plot_runs",
    "read_evaluations",
    "save_figure",
]


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


#: Okabe and Ito's palette, told apart by colour-blind readers.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
DASHES = ("-", "--", ":", "-.")
FORMATS = (".png", ".pdf", ".svg")


def output_path(output: str | Path) -> Path:
    """The path of a figure, checked before any work is done for it.

    Raises:
        ValueError: If its ending is not one of a figure.

    >>> output_path("plots/returns.png").name
    'returns.png'
    """
    path = Path(output)
    if path.suffix not in FORMATS:
        raise ValueError(
            f"output: expected a path ending in {', '.join(FORMATS)}, got {path}; "
            f"write for example {path.stem}.png."
        )
    return path


def curve_style(number: int) -> dict[str, str]:
    """Colour and dashes of the curve of a number; 28 different ones.

    >>> curve_style(0)
    {'color': '#0072B2', 'linestyle': '-'}
    """
    rounds, place = divmod(number, len(COLOURS))
    return {"color": COLOURS[place], "linestyle": DASHES[rounds % len(DASHES)]}


def new_figure(
    panels: int, columns: int = 4, *, height: float = 3.0
) -> tuple[Any, list[Any]]:
    """A figure of equal panels, filled row by row, and its axes.

    Args:
        panels: How many.
        columns: How many stand side by side at most.
        height: Inches of one row of panels.

    Raises:
        ModuleNotFoundError: If matplotlib, the extra `plot`, is not installed.

    >>> figure, axes = new_figure(2)
    >>> figure.get_size_inches().tolist(), len(axes)
    ([8.0, 3.0], 2)
    """
    if find_spec("matplotlib") is None:
        raise ModuleNotFoundError(
            "figures need the package 'matplotlib', which is not installed: "
            'pip install "resel_torchrl[plot]"',
            name="matplotlib",
        )
    # A Figure of its own picks its backend by the file's ending (Agg for PNG).
    from matplotlib.figure import Figure

    columns = min(panels, columns)
    rows = -(-panels // columns)
    width = 5.0 if columns == 1 else 4.0 * columns
    figure = Figure(figsize=(width, height * rows), layout="constrained")
    axes = [figure.add_subplot(rows, columns, place + 1) for place in range(panels)]
    for ax in axes:
        ax.grid(alpha=0.3, linewidth=0.6)
        ax.spines[["top", "right"]].set_visible(False)
    return figure, axes


def save_figure(figure: Any, path: Path) -> None:
    """Writes a figure; its folder is made, an older file replaced.

    Args:
        figure: From :func:`new_figure`.
        path: From :func:`output_path`.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=150)


NEEDED = ("episode", "return", "length")
MARKERS = "os^Dv<>"
#: Values of the factor, one next to the other, that a point of the line is a mean of.
WINDOW = 5
#: Factors that are multiples of the robot's own value, by the start of their names.
MULTIPLIERS = ("gravity", "mass_", "damping_")


@dataclass(frozen=True)
class EvaluatedEpisode:
    """One episode of an evaluation.

    Attributes:
        episode: Its number.
        episode_return: Its undiscounted return.
        length: Its steps.
        values: By name what else was measured of it, and the factors of its task.
        label: What was evaluated: the name of a legend.

    >>> episode = EvaluatedEpisode(0, 512.5, 1000, {"gravity": 1.2}, "gru")
    >>> episode.values["gravity"]
    1.2
    """

    episode: int
    episode_return: float
    length: int
    values: Mapping[str, float]
    label: str


def read_evaluations(path: str | Path) -> list[EvaluatedEpisode]:
    r"""Reads what `python -m resel_torchrl evaluate run=DIR output=FILE` wrote.

    That is a CSV file with the columns episode, return and length, and one for each
    measure and factor. A column `label` is taken if it is there; else the label is the
    file's name without its ending.

    Args:
        path: The file.

    Returns:
        Its rows, in order.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If a column is missing, a value is no finite number, or there is no
            row.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = Path(folder, "gru.csv")
    ...     _ = path.write_text("episode,return,length,gravity\n0,512.5,1000,1.2\n")
    ...     (episode,) = read_evaluations(path)
    >>> episode.label, episode.episode_return, episode.values
    ('gru', 512.5, {'gravity': 1.2})
    """
    path = Path(path)
    return read_rows(
        path,
        NEEDED,
        lambda row, place: _episode(row, place, path.stem),
        advice="write one by `evaluate run=RUN_DIR output=FILE.csv`",
    )


def _episode(row: dict[str, str], place: str, stem: str) -> EvaluatedEpisode:
    label = row.pop("label", None) or stem
    try:
        values = {name: float(value) for name, value in row.items()}
        if not all(map(math.isfinite, values.values())):
            raise ValueError
    except (TypeError, ValueError):
        got = ", ".join(f"{name}={value!r}" for name, value in row.items())
        raise ValueError(
            f"{place}: expected a finite number in each column, got {got}; correct or "
            "remove the row."
        ) from None
    episode, total, length = (values.pop(name) for name in NEEDED)
    return EvaluatedEpisode(int(episode), total, int(length), values, label)


def plot_by_factor(
    files: str | Path | Sequence[str | Path],
    factor: str = "gravity",
    output: str | Path = "returns_by_factor.png",
) -> Path:
    r"""Draws returns against a factor of the tasks, such as gravity.

    Each episode is a point; each file has a colour, a marker and a line: the mean
    return at each value of the factor, averaged over five neighbouring values (fewer at
    the ends, as many on either side). The axis of a multiplier (gravity, mass, damping)
    is logarithmic. The data are written beside the figure, with the ending .csv, in a
    form that this function reads again.

    Args:
        files: CSV files as :func:`read_evaluations` reads them: a path, a glob, or
            several of these as a sequence or as one text, `a,b`. Files of the same name
            are told apart by their folders.
        factor: The column with the factor's value.
        output: Path of the figure: PNG, PDF or SVG.

    Returns:
        The path of the figure.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If a file is not of that form or has no such factor, or two are of
            the same label, or the data would overwrite a file that is read; nothing
            is written.
        ModuleNotFoundError: If matplotlib is not installed.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     rows = "episode,return,length,gravity\n0,512.5,1000,1.2\n1,9.5,80,0.4\n"
    ...     _ = Path(folder, "gru.csv").write_text(rows)
    ...     path = plot_by_factor(f"{folder}/*", output=f"{folder}/gravity.png")
    ...     path.name, path.with_suffix(".csv").read_text().split()[1]
    ('gravity.png', 'gru,1,9.5,80,0.4')
    """
    path = output_path(output)
    data = path.with_suffix(".csv")
    if data.resolve() in [file.resolve() for file in _find(files)]:
        raise ValueError(
            f"expected an output whose data do not overwrite what is read, got {path}, "
            f"whose data are {data}; give the figure another name."
        )
    curves = _read(files, factor)
    figure, (ax,) = new_figure(1, height=3.2 + 0.2 * len(curves))
    for number, (label, episodes) in enumerate(curves.items()):
        style = curve_style(number)
        x = [episode.values[factor] for episode in episodes]
        y = [episode.episode_return for episode in episodes]
        marker = MARKERS[number % len(MARKERS)]
        ax.plot(x, y, marker, color=style["color"], markersize=4, alpha=0.6)
        line = _running_mean(x, y)
        count = f"{len(y)} episode{'s' if len(y) > 1 else ''}"
        ax.plot(*line, label=f"{label} ({count})", linewidth=1.6, **style)
    ax.set_xlabel(factor)
    if factor.startswith(MULTIPLIERS):
        _multiples(ax)
        ax.set_xlabel(f"{factor} (multiple of the robot's own)")
    ax.set_ylabel("evaluation return\n(sum of rewards per episode)")
    ax.legend(
        loc="upper center", bbox_to_anchor=(0.5, -0.2), frameon=False, fontsize="small"
    )
    save_figure(figure, path)
    _write(data, curves, factor)
    return path


def _read(
    files: str | Path | Sequence[str | Path], factor: str
) -> dict[str, list[EvaluatedEpisode]]:
    """The episodes of each label, by ascending factor."""
    paths = _find(files)
    stems = [path.stem for path in paths]
    curves: dict[str, list[EvaluatedEpisode]] = {}
    for path in paths:
        by_label = defaultdict(list)
        for episode in read_evaluations(path):
            if factor not in episode.values:
                raise ValueError(
                    f"{path}: expected a column {factor}, got "
                    f"{', '.join(episode.values) or 'no factor'} beside "
                    f"{', '.join(NEEDED)}; choose one of these as factor."
                )
            label = episode.label
            if label == path.stem and stems.count(label) > 1:
                label = str(path.with_suffix(""))
            by_label[label].append(episode)
        for label, episodes in by_label.items():
            if label in curves:
                raise ValueError(
                    f"expected one file of the label {label}, got a second, {path}; "
                    "name the files apart, or leave one out."
                )
            curves[label] = sorted(episodes, key=lambda e: e.values[factor])
    return curves


def _find(files: str | Path | Sequence[str | Path]) -> list[Path]:
    found: dict[Path, None] = {}
    for name in split_paths(files):
        is_glob = glob.has_magic(name) and not Path(name).exists()
        matches = sorted(glob.glob(name, recursive=True)) if is_glob else [name]
        if not matches:
            raise FileNotFoundError(f"expected files at {name}, got none.")
        found.update(dict.fromkeys(map(Path, matches)))
    if not found:
        raise ValueError("expected one file of evaluations or more, got none.")
    return list(found)


def _running_mean(
    x: Sequence[float], y: Sequence[float]
) -> tuple[list[float], list[float]]:
    """Values of a factor, and the mean return at and around each."""
    returns = defaultdict(list)
    for value, total in zip(x, y, strict=True):
        returns[value].append(total)
    means = [statistics.fmean(totals) for totals in returns.values()]
    smooth = []
    for i in range(len(means)):
        # As many on either side: else the ends would lean to the middle.
        reach = min(WINDOW // 2, i, len(means) - 1 - i)
        smooth.append(statistics.fmean(means[i - reach : i + reach + 1]))
    return list(returns), smooth


def _multiples(ax: Any) -> None:
    """Makes the horizontal axis logarithmic, with plain numbers at it."""
    from matplotlib.ticker import LogLocator, NullLocator, StrMethodFormatter

    ax.set_xscale("log")
    ax.xaxis.set_major_locator(LogLocator(subs=(1, 2, 3, 5)))
    ax.xaxis.set_minor_locator(NullLocator())
    ax.xaxis.set_major_formatter(StrMethodFormatter("{x:g}"))


def _write(
    path: Path, curves: Mapping[str, Sequence[EvaluatedEpisode]], factor: str
) -> None:
    with open(path, "w", newline="") as stream:
        writer = csv.writer(stream, lineterminator="\n")
        writer.writerow(["label", *NEEDED, factor])
        for label, episodes in curves.items():
            for e in episodes:
                numbers = e.episode, e.episode_return, e.length, e.values[factor]
                writer.writerow([label, *map(repr, numbers)])
