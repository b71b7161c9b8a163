"""Selective state space scan of Mamba-1, with resets."""

import torch
from torch import Tensor

from resel_torchrl.ops import _backends
from resel_torchrl.ops._backends import Backend, Backends
from resel_torchrl.ops._precision import in_full_precision
from resel_torchrl.ops.selective_scan.naive import (
    recurrence_step,
    selective_scan_naive,
)

__all__ = ["BACKENDS", "selective_scan", "selective_scan_naive", "selective_scan_step"]

BACKENDS = Backends(
    "selective_scan",
    {
        "naive": Backend(f"{__name__}.naive", "selective_scan_naive", loops=True),
        "torch": Backend(f"{__name__}.chunked", "selective_scan_chunked", loops=True),
        "cpu": Backend(
            f"{__name__}.cpu", "selective_scan_cpu", "numba", "cpu", "cpu", fused=True
        ),
        "triton": Backend(
            f"{__name__}.triton",
            "selective_scan_triton",
            "triton",
            "cuda",
            "cuda",
            fused=True,
        ),
        "mamba_ssm": Backend(
            f"{__name__}.mamba_ssm",
            "selective_scan_mamba_ssm",
            "mamba_ssm",
            "mamba-ssm",
            "cuda",
            fused=True,
            blank_rows=1,
            pip_options=" --no-build-isolation",
        ),
    },
)
"""Implementations of the recurrence, by name. ``"auto"`` picks one of them."""


@in_full_precision
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
    dt_softplus: bool = False,
    backend: str = "auto",
) -> tuple[Tensor, Tensor]:
    """Run the selective state space model over time, from zero at each start flag.

    For each channel d, with h = 0 before a step that has ``is_init``,

        h_t = exp(dt_t A) h_{t-1} + dt_t x_t B_t,    y_t = C_t · h_t + D x_t,

    and ``y_t`` is multiplied by SiLU(``z_t``) where a gate is given. Source: arXiv
    2312.00752, algorithm 2.

    Args:
        x: input, ``[R, L, D]``.
        dt: step sizes, ``[R, L, D]``; with ``dt_softplus`` before their softplus, bias
            included.
        A: decay rates, negative, ``[D, N]``.
        B: input maps, ``[R, L, N]``.
        C: output maps, ``[R, L, N]``.
        D: skip weights, ``[D]``.
        is_init: start flags, bool ``[R, L]``.
        state: state before the first step, ``[R, D, N]``. It is ignored, with no
            gradient, in rows whose first flag is true.
        z: gate before its SiLU, ``[R, L, D]``, or None.
        dt_softplus: whether ``dt`` still has to pass through softplus.
        backend: a name in :data:`~resel_torchrl.ops.selective_scan.BACKENDS`, or
            ``"auto"``: in float32 this library's kernel for the device if it is
            installed, else ``"torch"``. ``"mamba_ssm"`` is state-spaces' kernel for a
            CUDA device (package ``mamba-ssm``); it needs a blank step before each start
            inside of a row, see :func:`~resel_torchrl.replay.pack_episodes`'s ``gap``.

    Returns:
        The outputs ``[R, L, D]`` and the state after the last step ``[R, D, N]``.

    Raises:
        ValueError: if the backend is unknown, or does not run on the inputs' device.
        ModuleNotFoundError: if it needs a package that is not installed.
        RuntimeError: with ``"mamba_ssm"``, if a start inside of a row follows no blank
            step, or a row begins with a state and no start flag.

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
    chosen = BACKENDS.choose(backend, x)
    scan = _backends.load(chosen)
    if chosen.fused:
        return scan(x, dt, A, B, C, D, is_init, state, z, dt_softplus)
    if dt_softplus:
        dt = torch.nn.functional.softplus(dt)
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
