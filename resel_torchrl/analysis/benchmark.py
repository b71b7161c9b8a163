"""How long replay, updates and acting take, and how much memory an update needs.

Every function returns rows of :class:`Measurement`. Warm-up runs are left out, the
clock is ``time.perf_counter``, data are random numbers, and no simulator is stepped.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Sequence

import numpy as np
import torch
from tensordict import TensorDict
from torchrl.data import LazyTensorStorage, SliceSampler, TensorDictReplayBuffer

from resel_torchrl.analysis.matrix_products import record_products
from resel_torchrl.analysis.measurements import Measurement
from resel_torchrl.analysis.synthetic import (
    acting_policy,
    flat_episodes,
    synthetic_learner,
)
from resel_torchrl.analysis.timing import (
    WARM_UP,
    at_least_one,
    on_threads,
    seconds_of,
)
from resel_torchrl.analysis.update_memory import update_memory
from resel_torchrl.config import Config
from resel_torchrl.replay import EpisodeSampler, pack_episodes, row_layout
from resel_torchrl.training import (
    Learner,
    compiler_problem,
    keep_freed_memory,
    matmul_precision,
    untouched_generators,
)

__all__ = ["time_acting", "time_replay", "time_update"]


def time_replay(
    stored: Sequence[int] = (100_000, 1_000_000),
    lengths: Sequence[int] = (20, 1000),
    *,
    batch_size: int = 2000,
    observation_size: int = 9,
    action_size: int = 6,
    repetitions: int = 100,
    threads: int = 1,
) -> list[Measurement]:
    """Times drawing a batch from a filled buffer, beside TorchRL's own sampler.

    For each number of stored transitions and each length of the episodes there are four
    rows: :class:`~resel_torchrl.replay.EpisodeSampler` alone, the same with
    :func:`~resel_torchrl.replay.pack_episodes`, TorchRL's ``SliceSampler`` alone with
    slices of whole episodes, and that with ``cache_values=True``, which TorchRL means
    for data sets that are not written any more. "Alone" includes reading the batch out
    of the storage. The default sizes are those of WalkerBLT-V. Nothing is written
    between two draws.

    Args:
        stored: Numbers of transitions; rounded down to whole episodes.
        lengths: Lengths of the episodes.
        batch_size: Transitions of a batch; rounded up to whole episodes.
        observation_size: Entries of an observation.
        action_size: Entries of an action.
        repetitions: Draws of each row.
        threads: CPU threads of PyTorch.

    Returns:
        The rows, in milliseconds per draw.

    Raises:
        ValueError: If a number is below 1 or fewer transitions than a batch are stored.

    >>> rows = time_replay([200], [20], batch_size=40, repetitions=2)
    >>> for row in rows:
    ...     print(row.case, "/", row.quantity)
    200 stored, episodes of 20, batch of 40 / EpisodeSampler
    200 stored, episodes of 20, batch of 40 / EpisodeSampler + pack_episodes
    200 stored, episodes of 20, batch of 40 / SliceSampler
    200 stored, episodes of 20, batch of 40 / SliceSampler(cache_values=True)
    """
    at_least_one(batch_size=batch_size, repetitions=repetitions, threads=threads)
    at_least_one(observation_size=observation_size, action_size=action_size)
    for length in lengths:
        at_least_one(length=length)
        for count in stored:
            batch = -(-batch_size // length) * length
            if count // length * length < batch:
                raise ValueError(
                    f"stored: expected room for a batch of {batch} transitions in "
                    f"episodes of {length}, got {count}; store more."
                )
    measurements = []
    with untouched_generators(), on_threads(threads):
        torch.manual_seed(0)
        for count in stored:
            for length in lengths:
                flat = flat_episodes(
                    count // length, length, observation_size, action_size
                )
                measurements += _time_draws(
                    flat, length, batch_size, repetitions, threads
                )
    return measurements


def time_update(
    config: Config, *, repetitions: int = 20, memory_runs: int = 3
) -> list[Measurement]:
    """Times the updates of a training run on episodes of full length.

    Networks, optimizer, buffer, batch and packing are those of the configuration. An
    update is one call of :meth:`~resel_torchrl.training.Learner.update`: sampling,
    packing, critic step, target step, and at every ``train.policy_delay``-th one a
    step of actor and temperature. A repetition is ``train.policy_delay`` updates, so
    each holds one of the latter.

    Args:
        config: Configuration, as :func:`resel_torchrl.config.compose` returns it; it
            gives the threads too.
        repetitions: Timed repetitions.
        memory_runs: Fresh processes in which :func:`update_memory` is measured; 0
            leaves memory out.

    Returns:
        A row of updates per second, one of what its matrix products alone would allow,
        and one of peak memory in MiB: over the idle process on a CPU, allocated on a
        GPU, with CUDA graphs reserved. Of compiled updates on a CPU there is none: the
        compiler's own memory would be in it.

    Raises:
        ValueError: If a number is too small, the task has discrete actions, or
            ``train.compile`` lacks its compiler.

    >>> from resel_torchrl.config import compose
    >>> config = compose(["task=pendulum_v", "core=gru", "agent.hidden_size=8"])
    >>> rows = time_update(config, repetitions=2, memory_runs=0)
    >>> rows[0].case, rows[0].unit
    ('pendulum_v, gru, batch of 4 full episodes of 200 packed [4, 201]', 'updates/s')
    """
    at_least_one(repetitions=repetitions)
    if memory_runs < 0:
        raise ValueError(f"memory_runs: expected 0 or more, got {memory_runs}.")
    if config.train.compile:
        lacking = compiler_problem(torch.device(config.device))
        if lacking is not None:
            raise ValueError(
                "train.compile: expected what torch.compile needs, got an installation "
                f"without {lacking}, or write train.compile=false."
            )
    delay = config.train.policy_delay
    precision = matmul_precision(config.train.matmul_precision)
    keep_freed_memory()  # as a training run does
    with untouched_generators(), on_threads(config.threads), precision:
        learner, horizon = synthetic_learner(config)
        packed = learner.pack(learner.replay_buffer.sample(learner.batch_size))
        episodes = int(packed["next", "done"].sum())

        def make_updates(learner: Learner) -> None:
            for _ in range(delay):
                learner.update()

        counted = learner
        if config.train.cudagraph or config.train.compile:
            # Graphs come after a few calls, more than the warm-up below has.
            for _ in range(WARM_UP):
                make_updates(learner)
            # Of a graph, compiled or replayed, no product can be seen.
            train = dataclasses.replace(config.train, cudagraph=False, compile=False)
            counted, _ = synthetic_learner(dataclasses.replace(config, train=train))
        some_updates = functools.partial(make_updates, learner)
        seconds = seconds_of(some_updates, repetitions, config.device)
        make_updates(counted)  # the first ones are measured for the log too
        products = record_products(functools.partial(make_updates, counted))
        floor = seconds_of(products, repetitions, config.device)
    settings = config.train
    flags = ", compiled" if settings.compile else ""
    flags += ", parallel passes" if settings.parallel_passes else ""
    flags += ", CUDA graphs" if settings.cudagraph else ""
    flags += ", bfloat16" if settings.autocast else ""
    if settings.matmul_precision != "highest":
        flags += f", matmul_precision={settings.matmul_precision}"
    row = functools.partial(
        Measurement.of,
        benchmark="update",
        case=f"{config.task}, {config.agent.core}, batch of {episodes} full episodes "
        f"of {horizon} packed {list(packed.shape)}{flags}",
        threads=config.threads,
    )
    rows = [
        row([delay / s for s in seconds], quantity="updates", unit="updates/s"),
        row(
            [delay / s for s in floor],
            quantity="updates' matrix products alone",
            unit="updates/s",
        ),
    ]
    compiler_counts = settings.compile and torch.device(config.device).type == "cpu"
    if memory_runs and not compiler_counts:
        peaks = [update_memory(config) for _ in range(memory_runs)]
        rows.append(row(peaks, quantity="peak memory over idle", unit="MiB"))
    return rows


def time_acting(config: Config, *, repetitions: int = 1000) -> list[Measurement]:
    """Times one step of the policy that collects, on one thread.

    It is a call of :class:`~resel_torchrl.training.RecurrentPolicy` with one
    observation and a sampled action. The environment is not in it: see
    :func:`~resel_torchrl.analysis.time_collecting`.

    Args:
        config: Configuration, as :func:`resel_torchrl.config.compose` returns it.
        repetitions: Timed steps.

    Returns:
        One row, in milliseconds per step.

    Raises:
        ValueError: If there is no repetition, the task has discrete actions, or the
            device is not there.

    >>> from resel_torchrl.config import compose
    >>> config = compose(["task=pendulum_v", "core=gru", "agent.hidden_size=8"])
    >>> [row] = time_acting(config, repetitions=5)
    >>> row.case, row.unit, row.repetitions, row.threads
    ('pendulum_v, gru', 'ms', 5, 1)
    """
    at_least_one(repetitions=repetitions)
    with untouched_generators(), on_threads(1):
        policy = acting_policy(config)
        observation = np.random.default_rng(config.seed).standard_normal(
            policy.observation_size, dtype=np.float32
        )
        seconds = seconds_of(lambda: policy(observation, 0.0), repetitions)
    row = Measurement.of(
        [1000 * s for s in seconds],
        benchmark="acting",
        case=f"{config.task}, {config.agent.core}",
        quantity="policy alone",
        unit="ms",
        threads=1,
    )
    return [row]


def _time_draws(
    flat: TensorDict, length: int, batch_size: int, repetitions: int, threads: int
) -> list[Measurement]:
    """The four rows of one filled buffer, which all samplers read from."""
    slices = -(-batch_size // length)
    storage = LazyTensorStorage(len(flat))
    buffer = TensorDictReplayBuffer(
        storage=storage, sampler=EpisodeSampler(seed=0), batch_size=batch_size
    )
    buffer.extend(flat)
    stock, cached = (
        TensorDictReplayBuffer(
            storage=storage,
            sampler=SliceSampler(
                num_slices=slices, end_key=("next", "done"), cache_values=cache
            ),
            batch_size=slices * length,
        )
        for cache in (False, True)
    )
    layout = row_layout(batch_size, length)
    calls = {
        "EpisodeSampler": buffer.sample,
        "EpisodeSampler + pack_episodes": lambda: pack_episodes(
            buffer.sample(), **layout._asdict()
        ),
        "SliceSampler": stock.sample,
        "SliceSampler(cache_values=True)": cached.sample,
    }
    return [
        Measurement.of(
            [1000 * s for s in seconds_of(call, repetitions)],
            benchmark="replay",
            case=f"{len(flat):,} stored, episodes of {length}, "
            f"batch of {slices * length}",
            quantity=quantity,
            unit="ms",
            threads=threads,
        )
        for quantity, call in calls.items()
    ]
