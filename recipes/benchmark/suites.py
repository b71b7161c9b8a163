"""How long replay, updates and acting take, and how much memory an update needs.

Every function returns rows of :class:`Measurement`. Warm-up runs are left out, the
clock is ``time.perf_counter``, data are random numbers, and no simulator is stepped.
"""

from __future__ import annotations

import functools
import importlib.util
import inspect
import json
import math
import subprocess
import sys
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from tensordict import TensorDict
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_map
from torchrl.data import LazyTensorStorage, SliceSampler, TensorDictReplayBuffer

from recipes.benchmark.measurement import (
    WARM_UP,
    Measurement,
    _number,
    at_least_one,
    on_threads,
    seconds_of,
)
from recipes.benchmark.synthetic import (
    acting_policy,
    flat_episodes,
    synthetic_learner,
    task_sizes,
)
from resel_torchrl._random import untouched_generators
from resel_torchrl.collect import flat_episode
from resel_torchrl.config import Config, to_dict, validate
from resel_torchrl.modules.cores import CORES, SequenceCore, make_core
from resel_torchrl.replay import EpisodeSampler, pack_episodes, row_layout
from resel_torchrl.training import (
    Learner,
    compiler_problem,
    keep_freed_memory,
    matmul_precision,
    set_matmul_precision,
)

__all__ = [
    "MatrixProducts",
    "compare_updates",
    "core_table",
    "record_products",
    "replay_memory",
    "time_acting",
    "time_cores",
    "time_replay",
    "time_update",
    "update_memory",
]


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
            plain = {"cudagraph": False, "compile": False}
            train = config.train.model_copy(update=plain)
            counted, _ = synthetic_learner(config.model_copy(update={"train": train}))
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


REFERENCE = "torch.nn.GRU"
ACTING_STEPS = 20  # repetitions of a step for each of those over rows: it is shorter


class _TorchGRU(SequenceCore):
    """PyTorch's GRU layer, which knows no start flags: the row to compare with."""

    def __init__(self, size: int):
        super().__init__(size, state_size=size)
        self.layer = nn.GRU(size, size, batch_first=True)

    def forward(self, x, is_init, state=None):
        state = self.check_sequence(x, is_init, state)
        y, state = self.layer(x, state.unsqueeze(0))
        return y, state.squeeze(0)

    def step(self, x, is_init, state):
        y, state = self.forward(x.unsqueeze(1), is_init.unsqueeze(1), state)
        return y.squeeze(1), state


def time_cores(
    cores: Sequence[str] | None = None,
    *,
    width: int = 64,
    length: int = 200,
    rows: int = 4,
    repetitions: int = 20,
    threads: int = 1,
) -> list[Measurement]:
    """Times cores with their default options, beside PyTorch's own GRU layer.

    Forward and backward pass run over ``[rows, length, width]``, one episode to a row,
    and give gradients of the inputs and all parameters; their time is divided by
    ``rows · length``. A step is that of one environment after half an episode, without
    gradients. The Transformer's context is ``length``. The reference does not look at
    start flags.

    Args:
        cores: Names of cores; None for all.
        width: Width of the cores.
        length: Time steps of a row.
        rows: Rows.
        repetitions: Timed passes over the rows; of steps there are 20 times as many.
        threads: CPU threads of PyTorch; a step has one.

    Returns:
        For the reference and each core, four rows: parameters, numbers of state, µs of
        forward and backward pass a token, µs of a step.

    Raises:
        ValueError: If a number is below 1, or a core is unknown or does not take the
            width.

    >>> rows = time_cores(["gru"], width=8, length=6, rows=2, repetitions=1)
    >>> for row in rows[:2] + rows[4:6]:
    ...     print(row.case, "/", row.quantity, "/", row.median)
    torch.nn.GRU, width 8, [2, 6] / parameters / 432.0
    torch.nn.GRU, width 8, [2, 6] / state / 8.0
    gru, width 8, [2, 6] / parameters / 432.0
    gru, width 8, [2, 6] / state / 8.0
    """
    at_least_one(width=width, length=length, rows=rows)
    at_least_one(repetitions=repetitions, threads=threads)
    measurements = []
    with untouched_generators():
        torch.manual_seed(0)
        made = {REFERENCE: _TorchGRU(width)}
        for name in CORES if cores is None else cores:
            made[name] = _make(name, width, length)
        x = torch.randn(rows, length, width, requires_grad=True)
        is_init = torch.zeros(rows, length, dtype=torch.bool)
        is_init[:, 0] = True
        for name, core in made.items():
            row = functools.partial(
                Measurement.of,
                benchmark="cores",
                case=f"{name}, width {width}, [{rows}, {length}]",
            )
            count = sum(parameter.numel() for parameter in core.parameters())
            passes = _time_rows(core, x, is_init, repetitions, threads)
            steps = _time_steps(core, x, is_init, repetitions * ACTING_STEPS)
            counts = functools.partial(row, unit="numbers", threads=threads)
            times = functools.partial(row, unit="µs")
            measurements += [
                counts([float(count)], quantity="parameters"),
                counts([float(core.state_size)], quantity="state"),
                times(passes, quantity="forward + backward a token", threads=threads),
                times(steps, quantity="one step", threads=1),
            ]
    return measurements


def core_table(measurements: Iterable[Measurement]) -> str:
    """The rows of :func:`time_cores` as a Markdown table with a line for each core.

    Args:
        measurements: The rows; medians are shown.

    >>> row = Measurement("cores", "gru, width 8", "state", "numbers", 8, 8, 8, 1, 1)
    >>> print(core_table([row]))
    | core | state, numbers |
    |---|---|
    | `gru` | 8 |
    """
    lines: dict[str, dict[str, str]] = {}
    for m in measurements:
        line = lines.setdefault(m.case.partition(",")[0], {})
        exact = m.unit == "numbers"
        line[f"{m.quantity}, {m.unit}"] = (
            f"{m.median:,.0f}" if exact else _number(m.median)
        )
    columns = list(dict.fromkeys(column for line in lines.values() for column in line))
    table = [["core", *columns], ["---"] * (1 + len(columns))]
    for name, line in lines.items():
        table.append([f"`{name}`", *(line.get(column, "") for column in columns)])
    head, rule, *body = table
    return "\n".join(
        [f"| {' | '.join(head)} |", f"|{'|'.join(rule)}|"]
        + [f"| {' | '.join(line)} |" for line in body]
    )


def _make(name: str, width: int, length: int) -> SequenceCore:
    limited = name in CORES and "context" in inspect.signature(CORES[name]).parameters
    return make_core(name, width, **({"context": length} if limited else {}))


def _time_rows(core, x, is_init, repetitions, threads) -> list[float]:
    """Microseconds a token of each forward and backward pass."""
    leaves = [x, *core.parameters()]

    def call() -> None:
        torch.autograd.grad(core(x, is_init)[0].sum(), leaves)

    with on_threads(threads):
        seconds = seconds_of(call, repetitions)
    return [1e6 * s / is_init.numel() for s in seconds]


def _time_steps(core, x, is_init, repetitions) -> list[float]:
    """Microseconds of each step that follows half an episode."""
    half = -(-x.shape[1] // 2)
    inputs, start = x.detach()[:1], is_init[:1]
    with on_threads(1), torch.no_grad():
        _, state = core(inputs[:, :half], start[:, :half])
        x_t, start_t = inputs[:, -1], torch.zeros_like(start[:, -1])
        if half == x.shape[1]:  # a single time step: no room for another in an episode
            start_t = ~start_t
        seconds = seconds_of(lambda: core.step(x_t, start_t, state), repetitions)
    return [1e6 * s for s in seconds]


# A turn lasts about as long, so that starting it costs nothing.
_TURN_SECONDS = 0.5


def compare_updates(
    config: Config, other: Config, *, repetitions: int = 10
) -> list[Measurement]:
    """Times the updates of two configurations in turns, in one process.

    Updates and episodes are those of :func:`~resel_torchrl.analysis.time_update`. In a
    repetition each of the two makes as many updates as the first makes in about half a
    second; the ratio is taken of neighbours in time.

    Args:
        config: What the other is compared with; it gives the threads.
        other: The same but for some values.
        repetitions: Turns of each, after a warm-up in which graphs are made.

    Returns:
        Rows of the updates per second of both, and of their ratio: above 1 where
        `other` is faster.

    Raises:
        ValueError: If there is no repetition, or a task has discrete actions.

    >>> from resel_torchrl.config import compose
    >>> small = ["task=pendulum_v", "core=gru", "agent.hidden_size=8"]
    >>> other = compose([*small, "agent.n_critics=3"])
    >>> rows = compare_updates(compose(small), other, repetitions=1)
    >>> [row.unit for row in rows], rows[2].case
    (['updates/s', 'updates/s', '×'], 'pendulum_v, gru, agent.n_critics=3')
    """
    at_least_one(repetitions=repetitions)
    configs, speeds = (config, other), ([], [])
    keep_freed_memory()  # as a training run does
    with untouched_generators(), on_threads(config.threads):
        learners = [synthetic_learner(each)[0] for each in configs]
        delay = math.lcm(*(each.train.policy_delay for each in configs))
        for each, learner in zip(configs, learners, strict=True):
            _seconds(each, learner, 4 * delay)  # what is built or recorded once
        count = delay * math.ceil(_TURN_SECONDS / _seconds(config, learners[0], delay))
        for _ in range(repetitions):
            for each, learner, rates in zip(configs, learners, speeds, strict=True):
                rates.append(count / _seconds(each, learner, count))
    changed = ", ".join(_differences(to_dict(config), to_dict(other)))
    case = f"{config.task}, {config.agent.core}"
    row = functools.partial(
        Measurement.of, benchmark="compare", threads=config.threads, unit="updates/s"
    )
    ratios = [second / first for first, second in zip(*speeds, strict=True)]
    return [
        row(speeds[0], case=case, quantity="updates"),
        row(speeds[1], case=f"{case}, {changed}", quantity="updates"),
        row(ratios, case=f"{case}, {changed}", quantity="ratio", unit="×"),
    ]


def _seconds(config: Config, learner: Learner, updates: int) -> float:
    def make_updates() -> None:
        for _ in range(updates):
            learner.update()

    with matmul_precision(config.train.matmul_precision):
        return seconds_of(make_updates, 1, config.device, warm_up=0)[0]


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


def replay_memory(
    stored: Sequence[int] = (1_000_000,),
    lengths: Sequence[int] = (1000,),
    *,
    observation_size: int = 9,
    action_size: int = 6,
) -> list[Measurement]:
    """Memory of buffers filled as training fills them: every entry, and the index.

    The default sizes are those of WalkerBLT-V.

    Args:
        stored: Numbers of transitions; rounded down to whole episodes.
        lengths: Lengths of the episodes.
        observation_size: Entries of an observation.
        action_size: Entries of an action.

    Returns:
        A row in MB (10⁶ bytes) for each number of transitions and each length.

    Raises:
        ValueError: If a number is below 1 or no whole episode is stored.

    >>> [row] = replay_memory([1000], [100])
    >>> row.case, row.unit, row.median < 0.12
    ('1,000 stored, episodes of 100, 9 observations and 6 actions', 'MB', True)
    """
    at_least_one(observation_size=observation_size, action_size=action_size)
    rows = []
    for length in lengths:
        at_least_one(length=length)
        for count in stored:
            at_least_one(stored=count // length)
            total = count // length * length
            size = _buffer_bytes(total, length, observation_size, action_size)
            rows.append(
                Measurement.of(
                    [size / 1e6],
                    benchmark="replay",
                    case=f"{total:,} stored, episodes of {length}, "
                    f"{observation_size} observations and {action_size} actions",
                    quantity="memory",
                    unit="MB",
                    threads=torch.get_num_threads(),
                )
            )
    return rows


def _buffer_bytes(
    total: int, length: int, observation_size: int, action_size: int
) -> int:
    buffer = TensorDictReplayBuffer(
        storage=LazyTensorStorage(total), sampler=EpisodeSampler(seed=0), batch_size=1
    )
    episode = flat_episode(
        np.zeros((length + 1, observation_size), "f4"),
        np.zeros((length, action_size), "f4"),
        np.zeros(length, "f4"),
        terminated=False,
        truncated=True,
    )
    buffer.extend(episode.repeat(total // length))
    buffer.sample()  # which reads the index
    entries = buffer.storage.get(slice(0, total)).values(True, True)
    index = buffer.sampler.state_dict()["index"]["episodes"].values()
    return sum(
        value.numel() * value.element_size()
        for value in (*entries, *index)
        if isinstance(value, torch.Tensor)
    )


MEASURE = """
import sys
from recipes.benchmark.suites import _measure
_measure(*sys.argv[1:])
"""
# On Linux ru_maxrss of a new process starts at what its parent held, so it is started
# by a process that holds next to nothing.
RELAY = "import subprocess, sys; sys.exit(subprocess.call(sys.argv[1:]))"


def update_memory(config: Config, *, updates: int | None = None) -> float:
    """Peak memory of a training run's updates, in MiB.

    On a GPU that is the most that PyTorch had allocated there, with CUDA graphs the
    most that it had reserved: a graph keeps what it was recorded on. On a CPU it is
    what a process held over an idle one: a fresh process imports the library and reads
    its peak resident memory (idle), then builds networks, optimizer and buffer, makes
    updates on random episodes of full length, and reads the peak again. The difference
    holds weights, Adam moments, targets, batch and everything kept for the backward
    pass; of the replay buffer only the few episodes stored, as memory that is reserved
    but not written does not count.

    Args:
        config: Configuration, as :func:`resel_torchrl.config.compose` returns it.
        updates: Updates to make; None makes twice ``train.policy_delay``, and with
            CUDA graphs eight times.

    Raises:
        ValueError: If there is no update to make, the task has discrete actions, or the
            device is not there.
        RuntimeError: If the process fails, or the system has no module ``resource``.

    >>> from resel_torchrl.config import compose
    >>> update_memory(compose(["task=pendulum_v"]), updates=0)
    Traceback (most recent call last):
    ...
    ValueError: updates: expected 1 or more, got 0.
    """
    if updates is None:
        rounds = 8 if config.train.cudagraph else 2
        updates = rounds * config.train.policy_delay
    if updates < 1:
        raise ValueError(f"updates: expected 1 or more, got {updates}.")
    idle, peak, _ = _run_process(config, updates)
    return peak - idle


def _run_process(config: Config, updates: int) -> tuple[float, float, int]:
    """Idle and peak memory in MiB, and the updates made."""
    task_sizes(config)  # a mistake is told here, not by the process
    if importlib.util.find_spec("resource") is None:
        raise RuntimeError(
            "expected Python's module resource, which this system lacks; measure on "
            "Linux or macOS, or leave memory out: memory_runs=0."
        )
    arguments = json.dumps(to_dict(config)), str(updates)
    python = sys.executable
    command = [python, "-c", RELAY, python, "-c", MEASURE, *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(
            f"expected a process that makes {updates} updates, got exit status "
            f"{done.returncode}:\n{done.stderr[-2000:]}"
        )
    idle, peak, made = json.loads(done.stdout.splitlines()[-1])
    return idle, peak, made


def _measure(config_json: str, updates: str) -> None:
    """What the process does: prints idle and peak memory and the updates made."""
    config = validate(json.loads(config_json))
    torch.set_num_threads(config.threads)
    set_matmul_precision(config.train.matmul_precision)
    keep_freed_memory()
    reserved = config.train.cudagraph
    idle = _peak_memory(config.device, reserved=reserved)
    learner, _ = synthetic_learner(config)
    for _ in range(int(updates)):
        learner.update()
    peak = _peak_memory(config.device, reserved=reserved)
    print(json.dumps([idle, peak, learner.updates]))


def _peak_memory(device: str, *, reserved: bool) -> float:
    if torch.device(device).type == "cuda":
        if reserved:
            return torch.cuda.max_memory_reserved(device) / 2**20
        return torch.cuda.max_memory_allocated(device) / 2**20
    import resource  # Unix only

    usage = resource.getrusage(resource.RUSAGE_SELF)
    return _mebibytes(usage.ru_maxrss, sys.platform)


def _mebibytes(maxrss: int, platform: str) -> float:
    """ru_maxrss counts bytes on macOS and kibibytes elsewhere."""
    return maxrss / (2**20 if platform == "darwin" else 2**10)


PRODUCTS = {
    op
    for packet in (
        torch.ops.aten.mm,
        torch.ops.aten.addmm,
        torch.ops.aten.addmm_,
        torch.ops.aten.bmm,
        torch.ops.aten.baddbmm,
    )
    for op in (getattr(packet, overload) for overload in packet.overloads())
}


@dataclass(frozen=True)
class MatrixProducts:
    """Matrix products to be made, one after another, by a call.

    Attributes:
        calls: Function and arguments of each.

    >>> products = record_products(lambda: torch.ones(2, 3) @ torch.ones(3, 2))
    >>> isinstance(products, MatrixProducts), len(products.calls)
    (True, 1)
    """

    calls: list[tuple[Callable, tuple]]

    @torch.no_grad()
    def __call__(self) -> None:
        """Makes them."""
        for function, arguments in self.calls:
            function(*arguments)


class _Recorder(TorchDispatchMode):
    def __init__(self) -> None:
        super().__init__()
        self.calls: list[tuple[Callable, tuple]] = []
        self._operands: dict[tuple, Tensor] = {}

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple = (), kwargs: dict | None = None
    ) -> Any:
        if func in PRODUCTS and not kwargs:
            self.calls.append((func, tree_map(self._like, args)))
        return func(*args, **(kwargs or {}))

    def _like(self, value: Any) -> Any:
        """Random numbers of the same layout; one tensor serves all of a layout."""
        if not isinstance(value, Tensor):
            return value
        layout = value.shape, value.stride(), value.dtype, value.device
        if layout not in self._operands:
            self._operands[layout] = _random(*layout)
        return self._operands[layout]


def _random(
    shape: torch.Size, stride: tuple[int, ...], dtype: torch.dtype, device: torch.device
) -> Tensor:
    if 0 not in stride:
        return torch.empty_strided(shape, stride, dtype=dtype, device=device).normal_()
    # An expanded tensor: its memory is that of a smaller one.
    held = [1 if s == 0 else size for size, s in zip(shape, stride, strict=True)]
    return torch.randn(held, dtype=dtype, device=device).expand(shape)


def record_products(run: Callable[[], object]) -> MatrixProducts:
    """Runs a computation and returns one that makes its matrix products alone.

    Products of the same shapes and memory layouts, in the same order, on random
    numbers: a floor for the time of the whole. Counted are those that PyTorch hands to
    a library of matrix products, one by one where a recurrence in plain PyTorch makes
    one per step; products within a kernel of a recurrence are not among them.

    Args:
        run: The computation, backward passes included; it is run once.

    >>> a, b = torch.ones(2, 3), torch.ones(3, 2)
    >>> products = record_products(lambda: (a @ b) @ a)
    >>> products()
    """
    recorder = _Recorder()
    with recorder:
        run()
    return MatrixProducts(recorder.calls)
