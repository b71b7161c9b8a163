"""The command `train`."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence

import hydra
from hydra._internal.utils import get_args_parser
from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import DictConfig

from resel_torchrl.config.compose import (
    check_overrides,
    from_hydra,
    hydra_arguments,
)
from resel_torchrl.config.launch import make_training, open_run
from resel_torchrl.config.schema import Config
from resel_torchrl.errors import ConfigError, RunError
from resel_torchrl.training import keep_freed_memory

__all__ = [
    "train_command",
    "with_default_task",
]

Job = Callable[[Config, Sequence[str]], None]


def train_job(config: Config, overrides: Sequence[str]) -> None:
    """Trains one run, new or resumed.

    Args:
        config: Its configuration.
        overrides: The command line, for what a resumed run may change.
    """
    run, config = open_run(config, overrides)
    make_training(config, run).run()


def train_command(arguments: Sequence[str], job: Job = train_job) -> int:
    """`train task=NAME [NAME=VALUE ...]`, with Hydra's own options such as --multirun.

    Mistakes are looked for first, all of them, before Hydra stops at the first; with a
    configuration of your own (--config-dir, --config-name) Hydra looks alone.

    Args:
        arguments: What stands after the command.
        job: What is done with each configuration and its command line.

    Returns:
        Exit status: 0 done, 1 the run had to stop, 2 a mistake in the arguments, 130
        stopped by a signal and saved; of a sweep, whose other runs still go on, the
        highest.

    >>> import tempfile
    >>> tiny = ["task=pendulum_v", "core=gru", "agent.hidden_size=8", "log.interval=20"]
    >>> short = ["steps=20", "eval.interval=0", "log.console=false"]
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     train_command([*tiny, *short, f"run_dir={folder}/run"])
    0
    """
    options = get_args_parser().parse_intermixed_args(list(arguments))
    multirun = options.multirun or any(
        text.startswith("hydra.mode=") for text in options.overrides
    )
    if not (options.config_dir or options.config_name or options.config_path):
        try:
            check_overrides(options.overrides, multirun=multirun)
        except ConfigError as error:
            print(error, file=sys.stderr)  # noqa: T201
            return 2

    failures = []

    @hydra.main(
        version_base="1.3",
        config_path="pkg://resel_torchrl.config",
        config_name="train",
    )
    def run_job(cfg: DictConfig) -> None:
        context = HydraConfig.get()
        keep_freed_memory()  # results do not change, and each update is faster
        try:
            job(from_hydra(cfg), context.overrides.task)
        except (ConfigError, RunError) as error:
            print(error, file=sys.stderr)  # noqa: T201
            status = 2 if isinstance(error, ConfigError) else 1
            if context.mode != RunMode.MULTIRUN:
                raise SystemExit(status) from None
            # The other jobs of the sweep still run.
            if not context.launcher._target_.endswith(".BasicLauncher"):
                raise  # maybe in another process, which only this tells of it
            failures.append(status)
        except KeyboardInterrupt:
            raise SystemExit(130) from None

    before, sys.argv = sys.argv, [sys.argv[0], *hydra_arguments(arguments)]
    try:
        run_job()
    except SystemExit as stop:
        return stop.code if isinstance(stop.code, int) else 1
    finally:
        sys.argv = before
    return max(failures, default=0)


def with_default_task(arguments: Sequence[str], task: str) -> list[str]:
    """The arguments of `train`, with a task if they name neither task nor run.

    A recipe of one family so trains a task of its own where no other is asked for.

    Args:
        arguments: What was typed.
        task: The task to train then.

    >>> with_default_task(["--multirun", "seed=0,1"], "walker_v")
    ['--multirun', 'task=walker_v', 'seed=0,1']
    >>> with_default_task(["task=hopper_v"], "walker_v")
    ['task=hopper_v']
    """
    arguments = list(arguments)
    if not any(text.startswith(("task=", "resume=")) for text in arguments):
        # Hydra wants all of `NAME=VALUE` in one place, so not before its options.
        values = ("=" in text and not text.startswith("-") for text in arguments)
        place = next((i for i, value in enumerate(values) if value), len(arguments))
        arguments.insert(place, f"task={task}")
    return arguments
