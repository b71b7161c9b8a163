"""Figures without global state: no pyplot, no rcParams, no display."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path
from typing import Any

__all__ = ["COLOURS", "curve_style", "new_figure", "output_path", "save_figure"]

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
