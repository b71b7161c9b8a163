"""The reset-aware operations behind one signature, and helpers around them."""

import importlib
from collections.abc import Callable
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from importlib.util import find_spec

import torch
from torch import Tensor

from resel_torchrl.ops import (
    causal_conv_naive,
    gru_scan_naive,
    linear_scan,
    linear_scan_naive,
    lstm_scan,
    lstm_scan_naive,
)
from resel_torchrl.ops.causal_conv.plain import causal_conv_plain
from resel_torchrl.ops.gru.plain import gru_scan_plain
from resel_torchrl.ops.selective_scan import selective_scan_naive
from resel_torchrl.ops.selective_scan.chunked import selective_scan_chunked

# The package's names for its functions hide the submodules of the same names.
SCAN_MODULE = importlib.import_module("resel_torchrl.ops.selective_scan.chunked")
MODULES = [
    importlib.import_module(f"resel_torchrl.ops.{name}")
    for name in ("gru.plain", "linear_scan", "lstm", "causal_conv.plain")
] + [SCAN_MODULE]


@dataclass(frozen=True)
class Case:
    """An operation as ``run(sequences, weights, is_init, state) -> (y, state)``."""

    run: Callable
    naive: Callable
    sequences: dict[str, Callable]  # name -> (R, L, width) -> [R, L, *]
    weights: dict[str, Callable]  # name -> (width,) -> parameter
    state: Callable  # (R, width) -> [R, *]

    def inputs(self, R: int, L: int, width: int, dtype=torch.float64, seed: int = 0):
        """Leaves that require gradients, drawn from a seed of their own."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            drawn = (
                {name: make(R, L, width) for name, make in self.sequences.items()},
                {name: make(width) for name, make in self.weights.items()},
                self.state(R, width),
            )
        sequences, weights, state = drawn
        return (
            {k: v.to(dtype).requires_grad_() for k, v in sequences.items()},
            {k: v.to(dtype).requires_grad_() for k, v in weights.items()},
            state.to(dtype).requires_grad_(),
        )


def _gated(function, gates):
    def run(sequences, weights, is_init, state):
        return function(
            sequences["gates"], is_init, weights["weight"], weights["bias"], state
        )

    return run


def _conv(function):
    def run(sequences, weights, is_init, state):
        return function(
            sequences["x"], weights["weight"], weights["bias"], is_init, state
        )

    return run


def _then_silu(function):
    def run(*arguments):
        y, state = function(*arguments)
        return torch.nn.functional.silu(y), state

    return run


def _scan(function):
    def run(sequences, weights, is_init, state):
        s = sequences
        return function(s["x"], s["dt"], weights["A"], s["B"], s["C"], is_init, state)

    return run


def _whole_scan(function):
    def run(sequences, weights, is_init, state):
        s, (A, D) = sequences, (weights["A"], weights["D"])
        return function(
            s["x"], s["dt"], A, s["B"], s["C"], D, is_init, state, s.get("z")
        )

    return run


def _with_skip_and_gate(function, softplus=False):
    def run(x, dt, A, B, C, D, is_init, state, z):
        dt = torch.nn.functional.softplus(dt) if softplus else dt
        y, last = function(x, dt, A, B, C, is_init, state)
        y = y + D * x
        return (y if z is None else y * torch.nn.functional.silu(z)), last

    return run


def _linear(function):
    def run(sequences, weights, is_init, state):
        return function(sequences["a"], sequences["b"], is_init, state)

    return run


def _constant(function):
    """Complex numbers as pairs of real ones, side by side."""

    def as_complex(tensor):
        return torch.complex(*tensor.chunk(2, -1))

    def as_real(tensor):
        return torch.cat([tensor.real, tensor.imag], -1)

    def run(sequences, weights, is_init, state):
        a, b, state = map(as_complex, (weights["a"], sequences["b"], state))
        h, last = function(a, b, is_init, state)
        return as_real(h), as_real(last)

    return run


def _recurrence(function, naive, gates, state_parts):
    return Case(
        _gated(function, gates),
        _gated(naive, gates),
        {"gates": lambda R, L, H: torch.randn(R, L, gates * H)},
        {
            "weight": lambda H: torch.randn(gates * H, H) / H**0.5,
            "bias": lambda H: torch.randn(gates * H),
        },
        lambda R, H: torch.randn(R, state_parts * H),
    )


TAPS, STATES = 4, 3
CASES = {
    "gru": _recurrence(gru_scan_plain, gru_scan_naive, 3, 1),
    "lstm": _recurrence(lstm_scan, lstm_scan_naive, 4, 2),
    "causal_conv": Case(
        _conv(causal_conv_plain),
        _conv(causal_conv_naive),
        {"x": lambda R, L, D: torch.randn(R, L, D)},
        {
            "weight": lambda D: torch.randn(D, TAPS),
            "bias": lambda D: torch.randn(D),
        },
        lambda R, D: torch.randn(R, D, TAPS - 1),
    ),
    "linear_scan": Case(
        _linear(linear_scan),
        _linear(linear_scan_naive),
        {
            "a": lambda R, L, D: 1 - 2 * torch.rand(R, L, D),
            "b": lambda R, L, D: torch.randn(R, L, D),
        },
        {},
        lambda R, D: torch.randn(R, D),
    ),
    "constant_scan": Case(
        _constant(linear_scan),
        _constant(linear_scan_naive),
        {"b": lambda R, L, D: torch.randn(R, L, 2 * D)},
        {"a": lambda D: torch.rand(2 * D) / 2**0.5},
        lambda R, D: torch.randn(R, 2 * D),
    ),
    "selective_scan": Case(
        _scan(selective_scan_chunked),
        _scan(selective_scan_naive),
        {
            "x": lambda R, L, D: torch.randn(R, L, D),
            "dt": lambda R, L, D: torch.rand(R, L, D),
            "B": lambda R, L, D: torch.randn(R, L, STATES),
            "C": lambda R, L, D: torch.randn(R, L, STATES),
        },
        {"A": lambda D: -3 * torch.rand(D, STATES)},
        lambda R, D: torch.randn(R, D, STATES),
    ),
}

PLAIN = list(CASES)
"""The operations in plain PyTorch; the Numba kernels follow where Numba is there."""

if find_spec("numba"):
    from resel_torchrl.ops.causal_conv.cpu import causal_conv_cpu
    from resel_torchrl.ops.gru.cpu import gru_scan_cpu
    from resel_torchrl.ops.selective_scan.cpu import selective_scan_cpu

    CASES["gru_cpu"] = replace(CASES["gru"], run=_gated(gru_scan_cpu, 3))
    CASES["causal_conv_cpu"] = replace(CASES["causal_conv"], run=_conv(causal_conv_cpu))
    CASES["causal_conv_silu_cpu"] = replace(
        CASES["causal_conv"],
        run=_conv(partial(causal_conv_cpu, silu=True)),
        naive=_conv(_then_silu(causal_conv_naive)),
    )
    skipping = replace(
        CASES["selective_scan"],
        run=_whole_scan(selective_scan_cpu),
        naive=_whole_scan(_with_skip_and_gate(selective_scan_naive)),
        weights={**CASES["selective_scan"].weights, "D": lambda D: torch.randn(D)},
    )
    CASES["selective_scan_cpu"] = skipping
    CASES["selective_scan_gated_cpu"] = replace(
        skipping,
        run=_whole_scan(partial(selective_scan_cpu, dt_softplus=True)),
        naive=_whole_scan(_with_skip_and_gate(selective_scan_naive, softplus=True)),
        sequences={
            **skipping.sequences,
            "dt": lambda R, L, D: torch.randn(R, L, D),
            "z": lambda R, L, D: torch.randn(R, L, D),
        },
    )


def flags(R: int, L: int, share: float = 0.2, seed: int = 0) -> Tensor:
    """Start flags anywhere, the first column included, bool [R, L]."""
    return torch.rand(R, L, generator=torch.Generator().manual_seed(seed)) < share


def leaves(inputs) -> dict[str, Tensor]:
    """All tensors of a case's inputs by name."""
    sequences, weights, state = inputs
    return {**sequences, **weights, "state": state}


def run_with_gradients(run, inputs, is_init):
    """Outputs, last state, and the gradients of a fixed mixture of both."""
    sequences, weights, state = inputs
    y, last = run(sequences, weights, is_init, state)
    generator = torch.Generator().manual_seed(1)
    loss = 0
    for tensor in (y, last):
        mixture = torch.randn(tensor.shape, generator=generator, dtype=torch.float64)
        loss = loss + (tensor * mixture.to(tensor)).sum()
    named = leaves(inputs)
    gradients = torch.autograd.grad(loss, list(named.values()))
    return y.detach(), last.detach(), dict(zip(named, gradients, strict=True))


@contextmanager
def poisoned_memory():
    """Fills every torch.empty with NaN, so that unwritten memory shows."""
    before = torch.are_deterministic_algorithms_enabled()
    torch.use_deterministic_algorithms(True)
    try:
        assert torch.empty(3).isnan().all()
        yield
    finally:
        torch.use_deterministic_algorithms(before)


def saved_bytes(function) -> int:
    """Bytes that autograd keeps for the backward pass of ``function()``.

    Each storage counts once, the leaves' own not at all.
    """
    kept = {}

    def pack(tensor):
        if not tensor.is_leaf or not tensor.requires_grad:
            storage = tensor.untyped_storage()
            kept[storage.data_ptr()] = (storage.nbytes(), tensor)
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        result = function()
    total = sum(size for size, _ in kept.values())
    del result
    return total
