"""Sphinx extension: pictures of the learning curves in docs/results.

Before a page is read, each docs/results/<family>/<task>.csv with the columns of
learning curves is drawn as docs/generated/<family>/<task>.png by
`resel_torchrl.analysis.plot_curves`, if that is missing or older than the file or than
what draws it. So is each <task>_by_<factor>.csv with the columns of evaluated episodes,
by `plot_by_factor`. Files with other columns are left alone. A picture whose file is
gone is removed, so that a page that still shows it has a warning.
"""

import csv
import inspect
from pathlib import Path

from resel_torchrl.analysis import (
    aggregate,
    figures,
    plot_by_factor,
    plot_curves,
    results,
)

MODULES = (aggregate, figures, results)
DRAWN_BY = [Path(inspect.getfile(module)) for module in MODULES]


def columns(path: Path) -> set[str]:
    """The header of a CSV file."""
    with open(path, newline="") as stream:
        return set(next(csv.reader(stream), []))


def is_learning_curve(path: Path) -> bool:
    """Whether a CSV file has the columns that every learning curve has."""
    return {"step", "return", "seed"} <= columns(path)


def factor_of(path: Path) -> str | None:
    """The factor against which a file of evaluated episodes is drawn, if it is one."""
    _, by, factor = path.stem.rpartition("_by_")
    wanted = {"episode", "return", "length", factor}
    return factor if by and wanted <= columns(path) else None


def draw_curves(docs: Path) -> list[Path]:
    """Brings docs/generated up to date with docs/results; returns what was drawn."""
    pictures = {}
    for path in sorted((docs / "results").rglob("*.csv")):
        if is_learning_curve(path) or factor_of(path):
            name = path.relative_to(docs / "results").with_suffix(".png")
            pictures[docs / "generated" / name] = path
    for old in set((docs / "generated").rglob("*.png")) - set(pictures):
        old.unlink()
    drawn = []
    for picture, path in pictures.items():
        newest = max(file.stat().st_mtime_ns for file in (path, *DRAWN_BY))
        if not picture.exists() or picture.stat().st_mtime_ns < newest:
            if factor := factor_of(path):
                drawn.append(plot_by_factor(path, factor, picture))
                continue
            # Where the field reports success, that is drawn and not the return.
            measure = "success" if "success" in columns(path) else None
            drawn.append(plot_curves(path, picture, measure))
    return drawn


def setup(app):
    """Draw before any page is read."""
    app.connect("builder-inited", lambda app: draw_curves(Path(app.srcdir)))
    return {"parallel_read_safe": True, "parallel_write_safe": True}
