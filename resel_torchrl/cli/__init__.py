"""Command line: `python -m resel_torchrl train|evaluate|plot`."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from resel_torchrl._nearest import suggestion
from resel_torchrl.cli.evaluate import evaluate_command
from resel_torchrl.cli.plot import plot_command
from resel_torchrl.cli.train import train_command, with_default_task
from resel_torchrl.errors import ConfigError, RunError

__all__ = ["main", "train_command", "with_default_task"]

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
