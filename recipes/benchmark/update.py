"""How long updates take, alone and beside those of another configuration."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable

import torch
from torch.utils.benchmark import set_torch_threads

from recipes.benchmark.measurement import (
    WARM_UP,
    Measurement,
    at_least_one,
    seconds_in_turns,
    seconds_of,
)
from recipes.benchmark.memory import update_memory
from recipes.benchmark.products import record_products
from recipes.benchmark.synthetic import synthetic_learner
from resel_torchrl._random import untouched_generators
from resel_torchrl.config import Config, to_dict
from resel_torchrl.training import (
    Learner,
    compiler_problem,
    keep_freed_memory,
    matmul_precision,
)

#: A turn of a comparison lasts about as long, so that starting it costs nothing.
TURN_SECONDS = 0.5


def time_update(
    config: Config, *, repetitions: int = 20, memory_runs: int = 3
) -> list[Measurement]:
    """Time the updates of a training run on random episodes of full length.

    Networks, optimizer, buffer, batch, packing and threads are those of the
    configuration. An update is one call of `Learner.update`: sampling, packing, critic
    step, target step, and at every `train.policy_delay`-th one a step of actor and
    temperature. A repetition is `train.policy_delay` updates.

    Args:
        config: As `compose` returns it.
        repetitions: Timed repetitions.
        memory_runs: Fresh processes in which :func:`update_memory` is measured; 0
            leaves memory out.

    Returns:
        A row of updates per second, one of what its matrix products alone would allow,
        and one of peak memory in MiB. Of compiled updates on a CPU there is none: the
        compiler's own memory would be in it.

    Raises:
        ValueError: If a number is too small, the task has discrete actions, or
            `train.compile` lacks its compiler.
    """
    at_least_one(repetitions=repetitions)
    if memory_runs < 0:
        raise ValueError(f"memory_runs: expected 0 or more, got {memory_runs}.")
    settings, device = config.train, torch.device(config.device)
    if settings.compile:
        lacking = compiler_problem(device)
        if lacking is not None:
            raise ValueError(
                "train.compile: expected what torch.compile needs, got an installation "
                f"without {lacking}, or write train.compile=false."
            )
    delay = settings.policy_delay
    precision = matmul_precision(settings.matmul_precision)
    keep_freed_memory()  # as a training run does
    with untouched_generators(), set_torch_threads(config.threads), precision:
        learner, horizon = synthetic_learner(config)
        packed = learner.batches.sample()
        episodes = int(packed["next", "done"].sum())
        counted = learner
        if settings.cudagraph or settings.compile:
            # Graphs come after a few calls, more than the warm-up below has.
            _updates(learner, WARM_UP * delay)()
            # Of a graph, compiled or replayed, no product can be seen.
            plain = {"cudagraph": False, "compile": False}
            train = settings.model_copy(update=plain)
            counted, _ = synthetic_learner(config.model_copy(update={"train": train}))
        seconds = seconds_of(_updates(learner, delay), repetitions, config.device)
        _updates(counted, delay)()  # the first ones are measured for the log too
        products = record_products(_updates(counted, delay))
        floor = seconds_of(products, repetitions, config.device)
    flags = {
        "compiled": settings.compile,
        "parallel passes": settings.parallel_passes,
        "CUDA graphs": settings.cudagraph,
        "bfloat16": settings.autocast,
        f"matmul_precision={settings.matmul_precision}": settings.matmul_precision
        != "highest",
    }
    batch = f"batch of {episodes} full episodes of {horizon} packed {[*packed.shape]}"
    chosen = [flag for flag, given in flags.items() if given]
    row = functools.partial(
        Measurement.of,
        benchmark="update",
        case=", ".join([config.task, config.agent.core, batch, *chosen]),
        threads=config.threads,
    )
    per_second = functools.partial(row, unit="updates/s")
    rows = [
        per_second([delay / s for s in seconds], quantity="updates"),
        per_second(
            [delay / s for s in floor], quantity="updates' matrix products alone"
        ),
    ]
    if memory_runs and not (settings.compile and device.type == "cpu"):
        peaks = [update_memory(config) for _ in range(memory_runs)]
        rows.append(row(peaks, quantity="peak memory over idle", unit="MiB"))
    return rows


def compare_updates(
    config: Config, other: Config, *, repetitions: int = 10
) -> list[Measurement]:
    """Time the updates of two configurations in turns, in one process.

    In a repetition each of the two makes as many updates as the first makes in about
    half a second; the ratio is taken of neighbours in time.

    Args:
        config: What the other is compared with; it gives threads and device.
        other: The same but for some values.
        repetitions: Turns of each, after a warm-up in which graphs are made.

    Returns:
        Rows of the updates per second of both, and of their ratio: above 1 where
        `other` is faster.
    """
    at_least_one(repetitions=repetitions)
    delay = math.lcm(config.train.policy_delay, other.train.policy_delay)
    keep_freed_memory()  # as a training run does
    with untouched_generators(), set_torch_threads(config.threads):
        learners = [(each, synthetic_learner(each)[0]) for each in (config, other)]

        def updates(count: int) -> list[Callable[[], None]]:
            return [_updates(learner, count, each) for each, learner in learners]

        for warm_up in updates(4 * delay):  # what is built or recorded once
            warm_up()
        [seconds] = seconds_of(updates(delay)[0], 1, config.device, warm_up=0)
        count = delay * math.ceil(TURN_SECONDS / seconds)
        times = seconds_in_turns(updates(count), repetitions, config.device)
    speeds = [[count / s for s in seconds] for seconds in times]
    ratios = [second / first for first, second in zip(*speeds, strict=True)]
    first = f"{config.task}, {config.agent.core}"
    second = ", ".join([first, *_differences(to_dict(config), to_dict(other))])
    row = functools.partial(
        Measurement.of, benchmark="compare", threads=config.threads, unit="updates/s"
    )
    return [
        row(speeds[0], case=first, quantity="updates"),
        row(speeds[1], case=second, quantity="updates"),
        row(ratios, case=second, quantity="ratio", unit="×"),
    ]


def _updates(
    learner: Learner, count: int, config: Config | None = None
) -> Callable[[], None]:
    """A call of `count` updates, at the precision of a configuration if given."""

    def call() -> None:
        for _ in range(count):
            learner.update()

    def at_its_precision() -> None:
        with matmul_precision(config.train.matmul_precision):
            call()

    return call if config is None else at_its_precision


def _differences(first: dict, second: dict, prefix: str = "") -> list[str]:
    """`group.name=value` of each value of the second that is another in the first."""
    found = []
    for name in first.keys() | second.keys():
        one, two = first.get(name), second.get(name)
        if isinstance(one, dict) and isinstance(two, dict):
            found += _differences(one, two, f"{prefix}{name}.")
        elif one != two:
            value = str(two).lower() if isinstance(two, bool) else two
            found.append(f"{prefix}{name}={value}")
    return sorted(found)
