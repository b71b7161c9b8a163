"""What each sequence core costs: time over rows, time of a step, parameters, state."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Iterable, Sequence

import torch
from torch import nn

from resel_torchrl.analysis.measurements import Measurement, _number
from resel_torchrl.analysis.timing import at_least_one, on_threads, seconds_of
from resel_torchrl.modules.cores import CORES, SequenceCore, make_core
from resel_torchrl.training import untouched_generators

__all__ = ["core_table", "time_cores"]

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
