"""The command line: `evaluate`, `plot`, and the choice of a command."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from resel_torchrl._nearest import suggestion
from resel_torchrl.analysis import plot_by_factor, plot_runs
from resel_torchrl.cli.train import train_command
from resel_torchrl.collect import write_evaluation
from resel_torchrl.config.launch import evaluate_run
from resel_torchrl.errors import ConfigError, RunError

__all__ = [
    "at_least",
    "evaluate_command",
    "main",
    "plot_command",
    "read_arguments",
]


def evaluate_command(arguments: Sequence[str]) -> int:
    """`evaluate run=DIR [episodes=20] [seed=12345] [checkpoint=STEP] [output=FILE]`.

    `output` is a CSV file, of which :func:`~resel_torchrl.training.write_evaluation`
    tells the columns.

    Args:
        arguments: What stands after the command.

    Returns:
        Exit status: 0, or 2 after a mistake in the arguments.
    """
    known = {"run": str, "episodes": at_least(1), "seed": at_least(0)}
    known |= {"checkpoint": at_least(0), "output": str}
    values = read_arguments(arguments, known)
    if "run" not in values:
        raise ConfigError(["run: missing; write run=RUN_DIR."])
    output = values.pop("output", None)
    if output is not None:
        _check_writable(output)
    result = evaluate_run(values.pop("run"), **values)
    for episode, (total, length) in enumerate(
        zip(result.returns, result.lengths, strict=True)
    ):
        further = {name: of[episode] for name, of in result.measures.items()}
        further |= result.tasks[episode] if result.tasks else {}
        words = [f"return {total:.2f}", f"{length} steps"]
        words += [f"{name} {value:.4g}" for name, value in further.items()]
        print(f"episode {episode}: {', '.join(words)}")  # noqa: T201
    print(  # noqa: T201
        f"mean {result.mean:.2f} ± {result.standard_error:.2f} (s.e.) over "
        f"{len(result.returns)} episodes"
    )
    for name, value in result.mean_measures.items():
        print(f"mean {name} {value:.4g}")  # noqa: T201
    if output is not None:
        write_evaluation(output, result)
        print(f"wrote {output}")  # noqa: T201
    return 0


def _check_writable(path: str) -> None:
    """Before an evaluation is made whose file could not be written."""
    try:
        Path(path).parent.mkdir(parents=True, exist_ok=True)
        with open(path, "a"):
            pass
    except OSError as error:
        raise RunError(
            f"output: expected a file that can be written, got {path}: "
            f"{error.strerror}; write output=FILE.csv."
        ) from None


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
    draw, files = plot_runs, "runs"
    if "evaluations" in values:
        draw, files = plot_by_factor, "evaluations"
    try:
        path = draw(values.pop(files), **values)
    except (FileNotFoundError, ValueError, ModuleNotFoundError) as error:
        raise RunError(str(error)) from None
    print(f"wrote {path}")  # noqa: T201
    return 0


COMMANDS = {
    "train": train_command,
    "evaluate": evaluate_command,
    "plot": plot_command,
}

USAGE = """python -m resel_torchrl COMMAND

  train task=pendulum_v [NAME=VALUE ...]   train an agent; --help lists every value
  train resume=RUN_DIR [steps=NUMBER]      go on with a stopped run
  evaluate run=RUN_DIR [output=FILE.csv]   returns of its deterministic policy
  plot runs=RUN_DIR,RUN_DIR [measure=NAME] learning curves
  plot evaluations=FILE,FILE factor=NAME   returns against a factor of the tasks
"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs one command.

    Args:
        arguments: The command and what stands after it; None takes the process's own.

    Returns:
        Exit status.

    >>> main(["--help"])
    python -m resel_torchrl COMMAND
    <BLANKLINE>
      train task=pendulum_v [NAME=VALUE ...]   train an agent; --help lists every value
      train resume=RUN_DIR [steps=NUMBER]      go on with a stopped run
      evaluate run=RUN_DIR [output=FILE.csv]   returns of its deterministic policy
      plot runs=RUN_DIR,RUN_DIR [measure=NAME] learning curves
      plot evaluations=FILE,FILE factor=NAME   returns against a factor of the tasks
    <BLANKLINE>
    0
    """
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    if not arguments or arguments[0] in ("-h", "--help"):
        print(USAGE)  # noqa: T201
        return 0
    name, *rest = arguments
    if name not in COMMANDS:
        hint = suggestion(name, COMMANDS)
        print(f"no command of the name {name!r}. {hint}", file=sys.stderr)  # noqa: T201
        return 2
    try:
        return COMMANDS[name](rest)
    except (ConfigError, RunError) as error:
        print(error, file=sys.stderr)  # noqa: T201
        return 2


def read_arguments(
    arguments: Sequence[str], known: dict[str, Callable[[str], object]]
) -> dict[str, object]:
    """Reads `NAME=VALUE` arguments.

    Args:
        arguments: What was typed.
        known: Name to what turns its text into a value, or raises a ValueError.

    Raises:
        ConfigError: Listing every argument that is unknown or of the wrong form.

    >>> known = {"run": str, "episodes": at_least(1)}
    >>> read_arguments(["run=runs/a", "episodes=3"], known)
    {'run': 'runs/a', 'episodes': 3}
    """
    values, problems = {}, []
    for text in arguments:
        name, _, value = text.partition("=")
        if name not in known or not value:
            problems.append(f"{text}: expected NAME=VALUE. {suggestion(name, known)}")
            continue
        try:
            values[name] = known[name](value)
        except ValueError as error:
            problems.append(f"{name}: {error}; write {name}=VALUE.")
    if problems:
        raise ConfigError(problems)
    return values


def at_least(minimum: int) -> Callable[[str], int]:
    """A reader of whole numbers for :func:`read_arguments`.

    >>> at_least(1)("20")
    20
    >>> at_least(1)("0")
    Traceback (most recent call last):
    ...
    ValueError: expected a whole number of 1 or more, got '0'
    """

    def read(text: str) -> int:
        try:
            value = int(text)
        except ValueError:
            value = None
        if value is None or value < minimum:
            raise ValueError(
                f"expected a whole number of {minimum} or more, got {text!r}"
            )
        return value

    return read
