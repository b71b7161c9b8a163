"""Returns of evaluation episodes against a hidden factor of their tasks."""

from __future__ import annotations

import csv
import glob
import math
import statistics
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from resel_torchrl.analysis.csv_rows import read_rows
from resel_torchrl.analysis.figure import (
    curve_style,
    new_figure,
    output_path,
    save_figure,
)
from resel_torchrl.analysis.runs import split_paths

__all__ = ["EvaluatedEpisode", "plot_by_factor", "read_evaluations"]

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
