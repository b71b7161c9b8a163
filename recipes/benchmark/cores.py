"""How long sequence cores take by themselves, beside PyTorch's GRU layer."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Iterable, Sequence

import torch
from torch import nn
from torch.utils.benchmark import set_torch_threads

from recipes.benchmark.measurement import (
    Measurement,
    at_least_one,
    seconds_of,
    three_digits,
)
from resel_torchrl._random import untouched_generators
from resel_torchrl.modules.cores import CORES, SequenceCore, make_core

REFERENCE = "torch.nn.GRU"
#: Repetitions of a step for each of those over rows: it is shorter.
ACTING_STEPS = 20


class TorchGRU(SequenceCore):
    """PyTorch's GRU layer, which knows no start flags: the row to compare with."""

    def __init__(self, size: int):
        super().__init__(size, state_size=size)
        self.layer = nn.GRU(size, size, batch_first=True)

    def forward(self, x, is_init, state=None):
        """Unroll over `[R, L, size]`."""
        state = self.check_sequence(x, is_init, state)
        y, state = self.layer(x, state.unsqueeze(0))
        return y, state.squeeze(0)

    def step(self, x, is_init, state):
        """One step of `[B, size]`."""
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
    """Time cores with their default options, beside PyTorch's own GRU layer.

    Forward and backward pass run over `[rows, length, width]`, one episode to a row,
    and give gradients of the inputs and all parameters; their time is divided by
    `rows · length`. A step is that of one environment after half an episode, on one
    thread, without gradients; there are 20 times as many. The Transformer's
    `max_length` is `length`.

    Returns:
        For the reference and each core (None for all), four rows: parameters, numbers
        of state, µs of forward and backward pass a token, µs of a step.

    Raises:
        ValueError: If a number is below 1, or a core is unknown or does not take the
            width.
    """
    at_least_one(width=width, length=length, rows=rows)
    at_least_one(repetitions=repetitions, threads=threads)
    measurements = []
    with untouched_generators():
        torch.manual_seed(0)
        made = {REFERENCE: TorchGRU(width)}
        for name in CORES if cores is None else cores:
            made[name] = _make(name, width, length)
        x = torch.randn(rows, length, width, requires_grad=True)
        is_init = torch.zeros(rows, length, dtype=torch.bool)
        is_init[:, 0] = True
        for name, core in made.items():
            with set_torch_threads(threads):
                passes = _time_rows(core, x, is_init, repetitions)
            with set_torch_threads(1):
                steps = _time_steps(core, x, is_init, repetitions * ACTING_STEPS)
            row = functools.partial(
                Measurement.of,
                benchmark="cores",
                case=f"{name}, width {width}, [{rows}, {length}]",
            )
            counts = functools.partial(row, unit="numbers", threads=threads)
            times = functools.partial(row, unit="µs")
            parameters = float(sum(p.numel() for p in core.parameters()))
            measurements += [
                counts([parameters], quantity="parameters"),
                counts([float(core.state_size)], quantity="state"),
                times(passes, quantity="forward + backward a token", threads=threads),
                times(steps, quantity="one step", threads=1),
            ]
    return measurements


def core_table(measurements: Iterable[Measurement]) -> str:
    """The medians of :func:`time_cores` as a Markdown table, a line for each core."""
    lines: dict[str, dict[str, str]] = {}
    for m in measurements:
        exact = m.unit == "numbers"
        value = f"{m.median:,.0f}" if exact else three_digits(m.median)
        line = lines.setdefault(m.case.partition(",")[0], {})
        line[f"{m.quantity}, {m.unit}"] = value
    columns = list(dict.fromkeys(column for line in lines.values() for column in line))
    body = [
        [f"`{name}`", *(line.get(column, "") for column in columns)]
        for name, line in lines.items()
    ]
    head, *body = [f"| {' | '.join(line)} |" for line in [["core", *columns], *body]]
    return "\n".join([head, "|---" * (1 + len(columns)) + "|", *body])


def _make(name: str, width: int, length: int) -> SequenceCore:
    options = inspect.signature(CORES[name]).parameters if name in CORES else ()
    limit = {"max_length": length} if "max_length" in options else {}
    return make_core(name, width, **limit)


def _time_rows(core, x, is_init, repetitions) -> list[float]:
    """Microseconds a token of each forward and backward pass."""
    leaves = [x, *core.parameters()]

    def call() -> None:
        torch.autograd.grad(core(x, is_init)[0].sum(), leaves)

    return [1e6 * s / is_init.numel() for s in seconds_of(call, repetitions)]


@torch.no_grad()
def _time_steps(core, x, is_init, repetitions) -> list[float]:
    """Microseconds of each step that follows half an episode."""
    half = -(-x.shape[1] // 2)
    inputs, start = x.detach()[:1], is_init[:1]
    _, state = core(inputs[:, :half], start[:, :half])
    x_t, start_t = inputs[:, -1], torch.zeros_like(start[:, -1])
    if half == x.shape[1]:  # a single time step: no room for another in an episode
        start_t = ~start_t
    seconds = seconds_of(lambda: core.step(x_t, start_t, state), repetitions)
    return [1e6 * s for s in seconds]
