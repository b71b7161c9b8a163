"""A recipe of a task family, run as a script."""

import runpy
import sys
from pathlib import Path

from tests.training.runs import TINY

RECIPES = Path(__file__).parents[2] / "recipes"
#: Of the tiny runs: what fits their own task only.
LEFT_OUT = ("task=", "env.id=", "steps=", "replay.", "train.", "eval.", "log.interval=")
#: Rows of the robots' batches are as long as their horizon: few updates.
RUN = [
    "steps=500",
    "replay.batch_size=100",
    "train.random_steps=150",
    "train.updates_per_step=0.05",
    "eval.interval=250",
    "eval.episodes=1",
    "log.interval=250",
]


def recipe(name: str, *arguments: str) -> int:
    """Runs a recipe in this process; returns its exit status."""
    before, sys.argv = sys.argv, [name, *arguments]
    try:
        runpy.run_path(str(RECIPES / f"{name}.py"), run_name="__main__")
    except SystemExit as stop:
        return stop.code
    finally:
        sys.argv = before
    raise AssertionError("a recipe ends by sys.exit")


def short_run(folder: Path, *overrides: str) -> list[str]:
    """Overrides of a run of 500 steps with small networks that is kept in `folder`."""
    small = [text for text in TINY if not text.startswith(LEFT_OUT)]
    return [*small, *RUN, f"run_dir={folder}", *overrides]
