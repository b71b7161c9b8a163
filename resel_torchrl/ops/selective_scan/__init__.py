"""Selective state space scan of Mamba-1, with resets."""

import torch
from torch import Tensor

from resel_torchrl._nearest import did_you_mean
from resel_torchrl.ops.selective_scan.cpu import chunk_length, selective_scan_cpu
from resel_torchrl.ops.selective_scan.naive import (
    recurrence_step,
    selective_scan_naive,
)

__all__ = [
    "BACKENDS",
    "check_backend",
    "chunk_length",
    "recurrence_step",
    "selective_scan",
    "selective_scan_cpu",
    "selective_scan_naive",
    "selective_scan_step",
]

BACKENDS = {"naive": selective_scan_naive, "cpu": selective_scan_cpu}
"""Implementations of the recurrence, by name. ``"auto"`` picks one of them."""


def check_backend(backend: str) -> str:
    """Returns ``backend`` if there is such a one.

    Raises:
        ValueError: if there is not; the message lists those that are.

    Examples:
        >>> check_backend("cpu")
        'cpu'
    """
    names = ["auto", *BACKENDS]
    if backend not in names:
        raise ValueError(
            f"Unknown selective_scan backend {backend!r}: expected one of {names}."
            + did_you_mean(backend, names)
        )
    return backend


def selective_scan(
    x: Tensor,
    dt: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor,
    is_init: Tensor,
    state: Tensor,
    z: Tensor | None = None,
    *,
    backend: str = "auto",
) -> tuple[Tensor, Tensor]:
    """Runs the selective state space model over time, from zero at each start flag.

    For each channel d, with h = 0 before a step that has ``is_init``,

        h_t = exp(dt_t A) h_{t-1} + dt_t x_t B_t,    y_t = C_t · h_t + D x_t,

    and ``y_t`` is multiplied by SiLU(``z_t``) where a gate is given. Source: arXiv
    2312.00752, algorithm 2.

    Args:
        x: input, ``[R, L, D]``.
        dt: step sizes after bias and softplus, ``[R, L, D]``.
        A: decay rates, negative, ``[D, N]``.
        B: input maps, ``[R, L, N]``.
        C: output maps, ``[R, L, N]``.
        D: skip weights, ``[D]``.
        is_init: start flags, bool ``[R, L]``.
        state: state before the first step, ``[R, D, N]``. It is ignored, with no
            gradient, in rows whose first flag is true.
        z: gate before its SiLU, ``[R, L, D]``, or None.
        backend: ``"naive"`` (the specification), ``"cpu"`` (chunked PyTorch; see
            :func:`~resel_torchrl.ops.selective_scan.cpu.selective_scan_cpu` for its
            memory) or ``"auto"``, which is ``"cpu"`` on every device.

    Returns:
        The outputs ``[R, L, D]`` and the state after the last step ``[R, D, N]``.

    Raises:
        ValueError: if the backend is unknown.

    Examples:
        >>> x = torch.ones(1, 3, 1)
        >>> is_init = torch.tensor([[True, False, True]])
        >>> A, D = -torch.ones(1, 1), torch.zeros(1)
        >>> y, state = selective_scan(
        ...     x, x, A, x, x, D, is_init, torch.full((1, 1, 1), torch.nan)
        ... )
        >>> y.flatten()
        tensor([1.0000, 1.3679, 1.0000])
    """
    backend = check_backend(backend)
    scan = BACKENDS["cpu" if backend == "auto" else backend]
    y, state = scan(x, dt, A, B, C, is_init, state)
    return _skip_and_gate(y, x, D, z), state


def selective_scan_step(
    x: Tensor,
    dt: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor,
    is_init: Tensor,
    state: Tensor,
    z: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """One time step of :func:`selective_scan`: the same arguments without ``L``.

    Returns:
        The output ``[B, D]`` and the new state ``[B, D, N]``.

    Examples:
        >>> x = torch.ones(1, 1)
        >>> start = torch.tensor([True])
        >>> y, state = selective_scan_step(
        ...     x, x, -x, x, x, torch.ones(1), start, torch.zeros(1, 1, 1)
        ... )
        >>> y
        tensor([[2.]])
    """
    y, state = recurrence_step(x, dt, A, B, C, is_init, state)
    return _skip_and_gate(y, x, D, z), state


def _skip_and_gate(y: Tensor, x: Tensor, D: Tensor, z: Tensor | None) -> Tensor:
    y = torch.addcmul(y, x, D)
    return y if z is None else y * torch.nn.functional.silu(z)
