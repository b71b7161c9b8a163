"""Figures: learning curves, returns against a hidden factor, output variation.

Every function here raises a ModuleNotFoundError that names the extra `plot` if pandas
or matplotlib is not installed.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from resel_torchrl.analysis import _extra
from resel_torchrl.analysis._extra import pandas as pd
from resel_torchrl.analysis.aggregate import aggregate
from resel_torchrl.analysis.results import (
    EPISODE,
    IDENTIFIERS,
    check_numbers,
    read_evaluations,
    read_results,
    write_results,
)
from resel_torchrl.analysis.runs import find_files, read_runs

if TYPE_CHECKING:
    from pandas import DataFrame

__all__ = [
    "plot_by_factor",
    "plot_curves",
    "plot_output_variation",
    "plot_runs",
]

#: Okabe and Ito's palette, told apart by colour-blind readers.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
DASHES = ("-", "--", ":", "-.")
MARKERS = "os^Dv<>"
FORMATS = (".png", ".pdf", ".svg")
#: Values of the factor, one next to the other, that a point of the line is a mean of.
WINDOW = 5
#: Factors that are multiples of the robot's own value, by the start of their names.
MULTIPLIERS = ("gravity", "mass_", "damping_")


def plot_runs(
    runs: str | Path | Sequence[str | Path],
    output: str | Path = "returns.png",
    measure: str | None = None,
) -> Path:
    r"""Draw the evaluation returns of runs; one panel a task, one colour an agent.

    Runs of the same task and core make one curve: the interquartile mean over seeds,
    its 95 % bootstrap interval (:func:`~resel_torchrl.analysis.aggregate`) as a band,
    and each seed as a faint line. Runs that differ in another setting make curves of
    their own, named by it (:func:`~resel_torchrl.analysis.read_runs`). The data are
    written beside the figure, with the ending .csv, as :func:`plot_curves` reads them.

    Args:
        runs: What :func:`resel_torchrl.analysis.find_runs` takes: a path, a glob, or
            several.
        output: Path of the figure: PNG, PDF or SVG.
        measure: What is drawn in place of the return: a measure of the task, such as
            `success`. The data hold both.

    Returns:
        The path of the figure.

    Raises:
        RunError: If a directory is no run or has no evaluation; nothing is written.
        ValueError: If `output` has another ending, or a run has no such measure.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     for seed, value in enumerate((-900.0, -700.0)):
    ...         run = Path(folder, f"gru-seed{seed}")
    ...         run.mkdir()
    ...         config = f"{{task: a, agent: {{core: gru}}, seed: {seed}}}"
    ...         _ = (run / "config.yaml").write_text(config)
    ...         rows = f"step,seed,mean\n1000,{seed},{value}\n"
    ...         _ = (run / "eval.csv").write_text(rows)
    ...     path = plot_runs(f"{folder}/*", f"{folder}/returns.png")
    ...     path.name, path.with_suffix(".csv").read_text().split()[1]
    ('returns.png', 'a,gru,0,1000,-900.0')
    """
    path = _figure_path(output)
    results = read_runs(runs)
    _draw_curves(results, path, measure)
    write_results(path.with_suffix(".csv"), results)
    return path


def plot_curves(
    files: str | Path | Sequence[str | Path],
    output: str | Path = "returns.png",
    measure: str | None = None,
) -> Path:
    """Draw CSV files of results, such as docs/results/<family>/<task>.csv.

    One panel per task, one colour per agent, as :func:`plot_runs`.

    Args:
        files: One file or several, each as
            :func:`~resel_torchrl.analysis.read_results` reads it.
        output: Path of the figure: PNG, PDF or SVG.
        measure: As for :func:`plot_runs`.

    Returns:
        The path of the figure.

    Raises:
        FileNotFoundError: If a file is not there.
        ValueError: If a file is not of that form, or an agent has two values at the
            same step with the same seed, or a file lacks the measure; nothing is
            written.

    >>> import tempfile
    >>> from pandas import DataFrame
    >>> rows = {"agent": "gru", "seed": 0, "step": [10, 20], "return": [-2.0, -1.0]}
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     write_results(f"{folder}/pendulum_v.csv", DataFrame(rows))
    ...     plot_curves(f"{folder}/pendulum_v.csv", f"{folder}/a.png").name
    'a.png'
    """
    path = _figure_path(output)
    files = [files] if isinstance(files, str | Path) else files
    results = [read_results(file) for file in files]
    if not results:
        raise ValueError("expected results to draw, got none; give a file or run.")
    _draw_curves(pd.concat(results, ignore_index=True), path, measure)
    return path


def plot_by_factor(
    files: str | Path | Sequence[str | Path],
    factor: str = "gravity",
    output: str | Path = "returns_by_factor.png",
) -> Path:
    r"""Draw returns against a factor of the tasks, such as gravity.

    Each episode is a point; each agent, and each seed of it that the file names, has a
    colour, a marker and a line: the mean return at each value of the factor, averaged
    over five neighbouring values (fewer at the ends, as many on either side). The axis
    of a multiplier (gravity, mass, damping) is logarithmic. The data are written beside
    the figure, with the ending .csv, in a form that this function reads again.

    Args:
        files: CSV files as :func:`~resel_torchrl.analysis.read_evaluations` reads them:
            a path, a glob, or several of these as a sequence or as one text, `a,b`.
            Files of the same name are told apart by their folders.
        factor: The column with the factor's value.
        output: Path of the figure: PNG, PDF or SVG.

    Returns:
        The path of the figure.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If a file is not of that form or has no such factor, or two are of
            the same agent, or the data would overwrite a file that is read; nothing
            is written.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     rows = "episode,return,length,gravity\n0,512.5,1000,1.2\n1,9.5,80,0.4\n"
    ...     _ = Path(folder, "gru.csv").write_text(rows)
    ...     path = plot_by_factor(f"{folder}/*", output=f"{folder}/gravity.png")
    ...     path.name, path.with_suffix(".csv").read_text().split()[1]
    ('gravity.png', 'gru,1,9.5,80,0.4')
    """
    path = _figure_path(output)
    data = path.with_suffix(".csv")
    paths = _find_csvs(files)
    if data.resolve() in [file.resolve() for file in paths]:
        raise ValueError(
            f"expected an output whose data do not overwrite what is read, got {path}, "
            f"whose data are {data}; give the figure another name."
        )
    curves = _episodes_by_label(paths, factor)
    figure, (ax,) = _new_figure(1, height=3.2 + 0.2 * len(curves))
    for number, (label, episodes) in enumerate(curves.items()):
        style = _curve_style(number)
        marker, colour = MARKERS[number % len(MARKERS)], style["color"]
        x, y = episodes[factor], episodes["return"]
        ax.plot(x, y, marker, color=colour, markersize=4, alpha=0.6)
        means = episodes.groupby(factor)["return"].mean()
        means = means.index, _smooth(means.to_list())
        count = f"{len(y)} episode{'s' if len(y) > 1 else ''}"
        ax.plot(*means, label=f"{label} ({count})", linewidth=1.6, **style)
    ax.set_xlabel(factor)
    if factor.startswith(MULTIPLIERS):
        ticker = _extra.ticker
        ax.set_xscale("log")
        ax.xaxis.set_major_locator(ticker.LogLocator(subs=(1, 2, 3, 5)))
        ax.xaxis.set_minor_locator(ticker.NullLocator())
        ax.xaxis.set_major_formatter(ticker.StrMethodFormatter("{x:g}"))
        ax.set_xlabel(f"{factor} (multiple of the robot's own)")
    ax.set_ylabel("evaluation return\n(sum of rewards per episode)")
    _legend_below(ax)
    _save_figure(figure, path)
    kept = [*IDENTIFIERS, *EPISODE, factor]
    tables = [table.filter(kept) for table in curves.values()]
    write_results(data, *tables)
    return path


def plot_output_variation(
    variations: DataFrame,
    output: str | Path = "output_variation.png",
    *,
    first_steps: int = 50,
) -> Path:
    """Draw the change of actions after one gradient step against the rollout step.

    Two panels on logarithmic axes, as in arXiv 2405.15384: the first steps and the
    whole episode; one curve per pair of learning rates. The data are written beside
    the figure, with the ending .csv. A change of exactly zero has no place on a
    logarithmic axis; the legend says so.

    Args:
        variations: From :func:`~resel_torchrl.analysis.output_variation`.
        output: Path of the figure: PNG, PDF or SVG.
        first_steps: Rollout steps in the first panel.

    Returns:
        The path of the figure.

    Raises:
        ValueError: If there is nothing to draw or `output` has another ending.

    >>> import tempfile
    >>> from pandas import DataFrame
    >>> steps = {"rollout_step": [0, 1], "variation": [0.1, 0.2], "episodes": 4}
    >>> rates = {"lr_context_encoder": 1e-5, "lr_other": 3e-4}
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     plot_output_variation(DataFrame(rates | steps), f"{folder}/a.png").name
    'a.png'
    """
    path = _figure_path(output)
    if not len(variations):
        raise ValueError(
            "variations: expected one or more, got none; name learning rates."
        )
    figure, axes = _new_figure(2)
    longest = int(variations["rollout_step"].max()) + 1
    pairs = variations.groupby(["lr_context_encoder", "lr_other"], sort=False)
    for ax, steps in zip(axes, (min(first_steps, longest), longest), strict=True):
        for number, ((encoder, other), rows) in enumerate(pairs):
            rows = rows[rows["rollout_step"] < steps]
            label = f"{encoder:g}, {other:g}"
            if not rows["variation"].any():
                label += " (no change)"
            style = _curve_style(number)
            ax.plot(rows["rollout_step"], rows["variation"], label=label, **style)
        ax.set_yscale("log", nonpositive="mask")
        ax.set_title(f"first {steps} steps" if ax is axes[0] else "whole episode")
        ax.set_xlabel("rollout step (environment steps)")
    axes[0].set_ylabel(
        "change of the action, $\\|a'_t - a_t\\|_2$\n(actions in [−1, 1])"
    )
    figure.legend(
        *axes[0].get_legend_handles_labels(),
        loc="outside right center",
        title="lr_context_encoder, lr_other",
        frameon=False,
        fontsize="small",
        title_fontsize="small",
    )
    _save_figure(figure, path)
    write_results(path.with_suffix(".csv"), variations)
    return path


def _draw_curves(results: DataFrame, path: Path, measure: str | None) -> None:
    value = measure or "return"
    _check_measure(results, value)
    means = aggregate(results, ["task", "agent"], value).groupby(["task", "agent"])
    tasks = sorted(results["task"].unique())
    agents = sorted(results["agent"].unique())
    # Legends stand below the panels, where they cover no curve, and need room there.
    lines = results.groupby("task")["agent"].nunique().max()
    figure, axes = _new_figure(len(tasks), height=3.0 + 0.2 * lines)
    for ax, task in zip(axes, tasks, strict=True):
        of_task = results[results["task"] == task]
        for number, agent in enumerate(agents):
            runs = of_task[of_task["agent"] == agent]
            if len(runs):
                mean = means.get_group((task, agent))
                _draw_agent(ax, agent, runs, value, mean, _curve_style(number))
        ax.set_title(task)
        ax.set_xlabel("environment steps")
        ax.xaxis.set_major_locator(_extra.ticker.MaxNLocator(5, steps=[1, 2, 5, 10]))
        ax.xaxis.set_major_formatter(_thousands)
        _legend_below(ax)
    for ax in axes[:: min(len(axes), 4)]:
        ax.set_ylabel(
            f"evaluation: {measure}\n(mean over episodes)"
            if measure
            else "evaluation return\n(sum of rewards per episode)"
        )
    _save_figure(figure, path)


def _check_measure(results: DataFrame, value: str) -> None:
    lacking = results[results[value].isna()] if value in results else results
    if len(lacking):
        row = lacking.iloc[0].dropna()
        known = row.drop(["run", "core", *IDENTIFIERS, "return"], errors="ignore").index
        raise ValueError(
            f"expected a measure that {row['task']} has beside the return "
            f"({', '.join(known) or 'nothing else'}), got {value!r}; choose one of "
            "these, or leave it out for the return."
        )


def _draw_agent(
    ax: Any, agent: str, runs: DataFrame, value: str, mean: DataFrame, style: dict
) -> None:
    seeds = runs["seed"].nunique()
    count = f"{seeds} seed"
    if seeds > 1:
        for _, run in runs.sort_values("step").groupby("seed"):
            ax.plot(run["step"], run[value], linewidth=0.7, alpha=0.3, **style)
        band = {"color": style["color"], "alpha": 0.2, "linewidth": 0}
        ax.fill_between(mean["step"], mean["low"], mean["high"], **band)
        count += "s, IQM, 95 % interval"
    marker = "o" if len(mean) == 1 else None
    style = style | {"label": f"{agent} ({count})", "linewidth": 1.6, "marker": marker}
    ax.plot(mean["step"], mean["iqm"], **style)


def _thousands(value: float, _: int) -> str:
    """500, 20k or 1.5M."""
    for size, unit in ((1e6, "M"), (1e3, "k")):
        if abs(value) >= size:
            return f"{value / size:g}{unit}"
    return f"{value:g}"


def _find_csvs(files: str | Path | Sequence[str | Path]) -> list[Path]:
    found: dict[Path, None] = {}
    for name, matches in find_files(files):
        if matches == []:
            raise FileNotFoundError(f"expected files at {name}, got none.")
        found.update(dict.fromkeys([Path(name)] if matches is None else matches))
    if not found:
        raise ValueError("expected one file of evaluations or more, got none.")
    return list(found)


def _episodes_by_label(paths: list[Path], factor: str) -> dict[str, DataFrame]:
    """The episodes of each agent (and seed, if there is one), by ascending factor."""
    stems = [path.stem for path in paths]
    curves: dict[str, DataFrame] = {}
    for path in paths:
        table = read_evaluations(path)
        if factor not in table:
            others = table.columns.difference([*IDENTIFIERS, *EPISODE], sort=False)
            raise ValueError(
                f"{path}: expected a column {factor}, got "
                f"{', '.join(others) or 'no factor'} beside {', '.join(EPISODE)}; "
                "choose one of these as factor."
            )
        check_numbers(path, table, [factor])
        if stems.count(path.stem) > 1:
            table = table.replace({"agent": {path.stem: str(path.with_suffix(""))}})
        for names, episodes in table.groupby(
            ["agent", *(["seed"] if "seed" in table else [])], sort=False
        ):
            label = ", seed ".join(map(str, names))
            if label in curves:
                raise ValueError(
                    f"expected one file of the label {label}, got a second, {path}; "
                    "name the files apart, or leave one out."
                )
            curves[label] = episodes.sort_values(factor, kind="stable")
    return curves


def _smooth(values: list[float]) -> list[float]:
    """Means of neighbours, as many on either side: else the ends would lean inwards."""
    smooth = []
    for i in range(len(values)):
        reach = min(WINDOW // 2, i, len(values) - 1 - i)
        around = values[i - reach : i + reach + 1]
        smooth.append(sum(around) / len(around))
    return smooth


def _figure_path(output: str | Path) -> Path:
    """The path of a figure, checked before any work is done for it."""
    path = Path(output)
    if path.suffix not in FORMATS:
        raise ValueError(
            f"output: expected a path ending in {', '.join(FORMATS)}, got {path}; "
            f"write for example {path.stem}.png."
        )
    return path


def _curve_style(number: int) -> dict[str, Any]:
    """Colour and dashes of the curve of a number; 28 different ones."""
    rounds, place = divmod(number, len(COLOURS))
    return {"color": COLOURS[place], "linestyle": DASHES[rounds % len(DASHES)]}


def _new_figure(panels: int, *, height: float = 3.0) -> tuple[Any, list[Any]]:
    """Equal panels, at most four side by side, `height` inches each; and their axes."""
    columns = min(panels, 4)
    rows = -(-panels // columns)
    width = 5.0 if columns == 1 else 4.0 * columns
    # A Figure of its own picks its backend by the file's ending (Agg for PNG).
    figure = _extra.figure.Figure((width, height * rows), layout="constrained")
    axes = [figure.add_subplot(rows, columns, place + 1) for place in range(panels)]
    for ax in axes:
        ax.grid(alpha=0.3, linewidth=0.6)
        ax.spines[["top", "right"]].set_visible(False)
    return figure, axes


def _legend_below(ax: Any) -> None:
    place = {"loc": "upper center", "bbox_to_anchor": (0.5, -0.2)}
    ax.legend(**place, frameon=False, fontsize="small")


def _save_figure(figure: Any, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=150)
