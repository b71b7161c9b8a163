"""Command line: `python -m resel_torchrl train|evaluate|plot`."""

from resel_torchrl.cli.commands import main
from resel_torchrl.cli.train import train_command, with_default_task

__all__ = ["main", "train_command", "with_default_task"]
