"""How fast whole training runs are, collecting in turn with the updates and beside."""

from __future__ import annotations

import csv
import functools
import tempfile
from pathlib import Path

from torch.utils.benchmark import set_torch_threads

from recipes.benchmark.acting import collecting_seconds
from recipes.benchmark.measurement import Measurement, at_least_one, seconds_of
from recipes.benchmark.synthetic import fill_buffer
from resel_torchrl._random import untouched_generators
from resel_torchrl.config import Config, make_training, to_yaml
from resel_torchrl.training import RunDirectory, keep_freed_memory


def time_end_to_end(
    config: Config, *, repetitions: int = 4, steps: int = 50
) -> list[Measurement]:
    """Time whole training runs, by their own logs.

    A run starts with a replay buffer of random episodes of full length, twice as many
    as a batch holds, and no random phase, so that it updates from its first step on.
    The first row of its log, in which processes start, is left out. Right after it the
    updates alone are timed, of the same learner on the buffer that it was left with.
    The learner computes on `config.threads` threads, a collecting process on one more.

    Args:
        config: As `compose` returns it.
        repetitions: Rows of the log of each run.
        steps: Environment steps per row.

    Returns:
        A row of collecting alone, in environment steps per second; then for each way
        of collecting the run's environment steps per second, the updates per second of
        its updates alone, and the share of what these allow that the run reached, in
        percent.

    Raises:
        ValueError: If a number is below 1, the task has discrete actions, or the device
            is another than the CPU.
        ModuleNotFoundError: If the simulator is not installed.
    """
    at_least_one(repetitions=repetitions, steps=steps)
    row = functools.partial(
        Measurement.of,
        benchmark="end_to_end",
        case=f"{config.task}, {config.agent.core}, updates on {config.threads} and "
        "collecting on 1 thread",
        threads=config.threads,
    )
    _, seconds = collecting_seconds(config, repetitions)
    rows = [row([1 / s for s in seconds], quantity="collecting alone", unit="steps/s")]
    for collection in ("sync", "process"):
        with untouched_generators(), set_torch_threads(config.threads):
            rates, seconds = _run(config, collection, repetitions, steps)
        speeds = [1 / s for s in seconds]
        label = f"collection={collection}"
        alone = row(speeds, quantity=f"updates alone, {label}", unit="updates/s")
        allowed = alone.median / config.train.updates_per_step
        shares = [100 * rate / allowed for rate in rates]
        rows += [
            row(rates, quantity=f"whole loop, {label}", unit="steps/s"),
            alone,
            row(shares, quantity=f"share of the updates' speed, {label}", unit="%"),
        ]
    return rows


def _run(
    config: Config, collection: str, repetitions: int, steps: int
) -> tuple[list[float], list[float]]:
    """Steps per second of each row of a run's log, and seconds per update after it."""
    total = steps * (repetitions + 1)
    log = {"interval": steps, "checkpoint_interval": total}
    log |= {"console": False, "loggers": []}
    train = {"collection": collection, "random_steps": 0}
    with tempfile.TemporaryDirectory() as folder:
        config = config.model_copy(
            update={
                "steps": total,
                "run_dir": str(Path(folder, "run")),
                "train": config.train.model_copy(update=train),
                "eval": config.eval.model_copy(update={"interval": 0}),
                "log": config.log.model_copy(update=log),
            }
        )
        run = RunDirectory.create(config.run_dir, to_yaml(config))
        keep_freed_memory()  # as the command `train` does
        training = make_training(config, run)
        learner = training.learner
        fill_buffer(learner.batches.replay_buffer, config)
        training.run()
        with open(run.metrics, newline="") as stream:
            rows = list(csv.DictReader(stream))
    delay = config.train.policy_delay

    def some_updates() -> None:
        for _ in range(delay):
            learner.update()

    rates = [float(row["env_steps_per_second"]) for row in rows[1:]]
    return rates, [seconds / delay for seconds in seconds_of(some_updates, repetitions)]
