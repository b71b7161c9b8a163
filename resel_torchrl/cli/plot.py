"""The command `plot`."""

from __future__ import annotations

from collections.abc import Sequence

from resel_torchrl.cli.arguments import read_arguments
from resel_torchrl.errors import ConfigError, RunError

__all__ = ["plot_command"]


def plot_command(arguments: Sequence[str]) -> int:
    """`plot runs=DIR,DIR [measure=NAME] [output=FILE]`: learning curves.

    A directory may be a glob; a measure, such as `success`, is drawn in place of the
    return.

    Or `plot evaluations=FILE,FILE factor=NAME [output=FILE]`: the returns in files that
    `evaluate` wrote, against a factor of the tasks.

    Args:
        arguments: What stands after the command.

    Returns:
        Exit status: 0, or 2 after a mistake in the arguments.
    """
    names = ("runs", "measure", "evaluations", "factor", "output")
    values = read_arguments(arguments, dict.fromkeys(names, str))
    given = values.keys() - {"output"}
    if given not in ({"runs"}, {"runs", "measure"}, {"evaluations", "factor"}):
        wanted = (
            "write runs=RUN_DIR,RUN_DIR [measure=NAME], or "
            "evaluations=FILE,FILE factor=NAME."
        )
        if values.keys() <= {"output"}:
            raise ConfigError([f"runs: missing; {wanted}"])
        got = " ".join(f"{name}=" for name in values if name != "output")
        raise ConfigError([f"{got}: expected other names together; {wanted}"])
    # Matplotlib is an extra: only this command imports it.
    from resel_torchrl.analysis import plot_by_factor, plot_runs

    draw, files = plot_runs, "runs"
    if "evaluations" in values:
        draw, files = plot_by_factor, "evaluations"
    try:
        path = draw(values.pop(files), **values)
    except (FileNotFoundError, ValueError, ModuleNotFoundError) as error:
        raise RunError(str(error)) from None
    print(f"wrote {path}")  # noqa: T201
    return 0
