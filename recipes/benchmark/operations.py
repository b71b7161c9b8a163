"""How long the sequence operations take, implementation by implementation."""

from __future__ import annotations

import functools
import importlib
from collections.abc import Callable, Sequence

import torch
from torch import Tensor
from torch.utils.benchmark import set_torch_threads

from recipes.benchmark.measurement import (
    Measurement,
    at_least_one,
    check_device,
    seconds_of,
)
from resel_torchrl._random import untouched_generators
from resel_torchrl.ops import causal_conv, gru_scan, selective_scan
from resel_torchrl.ops._backends import Backends
from resel_torchrl.training import matmul_precision

# Largest difference to plain PyTorch, as a share of the largest number there.
PARITY = 1e-3
TAPS = 8  # of the convolution

Inputs = tuple[list[Tensor], Callable[[Sequence[Tensor], str], Tensor]]


def time_operations(
    operations: Sequence[str] | None = None,
    backends: Sequence[str] | None = None,
    *,
    rows: int = 2,
    length: int = 1010,
    channels: int = 512,
    states: int = 64,
    device: str = "cpu",
    repetitions: int = 10,
    threads: int = 1,
) -> list[Measurement]:
    """Time forward and backward pass of each operation and each implementation, in ms.

    Inputs are random, with a start in the middle of each row. Before an implementation
    is timed its outputs and gradients are compared with plain PyTorch's. The default
    sizes are those of the paper's Mamba block on two episodes of 1,000 steps; the GRU
    has half as many channels, as it has in the paper's encoder.

    Args:
        operations: Names in :data:`OPERATIONS`; None takes all.
        backends: Names of implementations; None takes those that are installed and run
            on the device, but for the step-by-step specification.
        rows: `R`.
        length: `L`.
        channels: `D`.
        states: `N`, of the scan.
        device: Where to compute.
        repetitions: Timed repetitions.
        threads: CPU threads of PyTorch.

    Returns:
        For each operation and implementation a row of the forward pass without
        gradients and one of forward and backward pass.

    Raises:
        ValueError: If a number is below 1, or a name is unknown.
        RuntimeError: If an implementation gives other results.
    """
    at_least_one(rows=rows, length=length, channels=channels, states=states)
    at_least_one(repetitions=repetitions, threads=threads)
    check_device(device)
    names = list(OPERATIONS) if operations is None else operations
    for name in names:
        if name not in OPERATIONS:
            raise ValueError(
                f"operations: expected some of {list(OPERATIONS)}, got {name!r}."
            )
        _chosen(name, backends, device)  # all mistakes before anything is timed
    measurements = []
    precision = matmul_precision("highest")
    with untouched_generators(), set_torch_threads(threads), precision:
        for name in names:
            torch.manual_seed(0)
            inputs, run = OPERATIONS[name](rows, length, channels, states, device)
            for backend in _chosen(name, backends, device):
                _check_parity(name, backend, inputs, run)
                width = channels // 2 if name == "gru" else channels
                row = functools.partial(
                    Measurement.of,
                    benchmark="operations",
                    case=f"{name}, {backend}, {device}, [{rows}, {length}, {width}]",
                    unit="ms",
                    threads=threads,
                )
                for quantity, call in {
                    "forward": functools.partial(_forward, inputs, run, backend),
                    "forward and backward": functools.partial(
                        _gradients, inputs, run, backend
                    ),
                }.items():
                    seconds = seconds_of(call, repetitions, device)
                    measurements.append(
                        row([1000 * s for s in seconds], quantity=quantity)
                    )
    return measurements


def _chosen(
    operation: str, backends: Sequence[str] | None, device: str
) -> Sequence[str]:
    module = importlib.import_module(f"resel_torchrl.ops.{operation}")
    known: Backends = module.BACKENDS
    if backends is None:
        kind = torch.device(device).type
        return [
            name
            for name, backend in known.items()
            if name != "naive"
            and backend.device in (None, kind)
            and backend.is_installed()
        ]
    for name in backends:
        if name not in known:
            raise ValueError(
                f"backends: expected some of {list(known)} for {operation}, got "
                f"{name!r}; name the operations that have it."
            )
        known.check(name)
    return backends


@torch.no_grad()
def _forward(inputs: list[Tensor], run: Callable, backend: str) -> Tensor:
    return run(inputs, backend)


def _gradients(inputs: list[Tensor], run: Callable, backend: str) -> tuple[Tensor, ...]:
    y = run(inputs, backend)
    return torch.autograd.grad(y.square().mean(), inputs)


def _check_parity(name: str, backend: str, inputs: list[Tensor], run: Callable) -> None:
    for measure in (_forward, _gradients):
        got, wanted = (measure(inputs, run, which) for which in (backend, "torch"))
        if measure is _forward:
            got, wanted = (got,), (wanted,)
        for one, other in zip(got, wanted, strict=True):
            error = (one - other).abs().max() / other.abs().max().clamp_min(1e-30)
            if not error < PARITY:
                raise RuntimeError(
                    f"expected {name} of backend {backend} to equal plain PyTorch to "
                    f"{PARITY:g}, got {float(error):g}; its timing would mean nothing."
                )


def _flags(R: int, L: int, device: str) -> Tensor:
    is_init = torch.zeros(R, L, dtype=torch.bool, device=device)
    is_init[:, [0, L // 2]] = True
    return is_init


def _leaves(device: str, *tensors: Tensor) -> list[Tensor]:
    return [tensor.to(device).requires_grad_() for tensor in tensors]


def _selective_scan(R: int, L: int, D: int, N: int, device: str) -> Inputs:
    is_init, state = _flags(R, L, device), torch.zeros(R, D, N, device=device)
    rates = -torch.arange(1.0, N + 1).expand(D, N)
    x = torch.randn(R, L, D)
    if L > 3:  # a blank row before the second start, for the backend that needs it
        is_init[:, L // 2 - 1] = True
        x[:, L // 2 - 1] = 0
    inputs = _leaves(
        device,
        *(x, 0.1 * torch.rand(R, L, D), rates),
        *(torch.randn(R, L, N), torch.randn(R, L, N), torch.ones(D)),
        torch.randn(R, L, D),
    )

    def run(inputs: Sequence[Tensor], backend: str) -> Tensor:
        *main, z = inputs
        return selective_scan(*main, is_init, state, z, backend=backend)[0]

    return inputs, run


def _causal_conv(R: int, L: int, D: int, N: int, device: str) -> Inputs:
    is_init, state = _flags(R, L, device), torch.zeros(R, D, TAPS - 1, device=device)
    inputs = _leaves(device, torch.randn(R, L, D), torch.randn(D, TAPS), torch.randn(D))

    def run(inputs: Sequence[Tensor], backend: str) -> Tensor:
        return causal_conv(*inputs, is_init, state, backend=backend)[0]

    return inputs, run


def _gru(R: int, L: int, D: int, N: int, device: str) -> Inputs:
    H = max(D // 2, 1)
    is_init, state = _flags(R, L, device), torch.zeros(R, H, device=device)
    inputs = _leaves(
        device,
        *(torch.randn(R, L, 3 * H), torch.randn(3 * H, H) / H**0.5),
        torch.randn(3 * H),
    )

    def run(inputs: Sequence[Tensor], backend: str) -> Tensor:
        gates, weight, bias = inputs
        return gru_scan(gates, is_init, weight, bias, state, backend=backend)[0]

    return inputs, run


OPERATIONS: dict[str, Callable[..., Inputs]] = {
    "selective_scan": _selective_scan,
    "causal_conv": _causal_conv,
    "gru": _gru,
}
"""What can be timed, by name."""
