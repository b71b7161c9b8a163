"""Causal convolution that never looks across the start of an episode."""

import torch
from torch import Tensor

from resel_torchrl.ops import _backends
from resel_torchrl.ops._backends import Backend, Backends
from resel_torchrl.ops._precision import in_full_precision
from resel_torchrl.ops.causal_conv.naive import causal_conv_naive, causal_conv_step

__all__ = ["BACKENDS", "causal_conv", "causal_conv_naive", "causal_conv_step"]

BACKENDS = Backends(
    "causal_conv",
    {
        "naive": Backend(f"{__name__}.naive", "causal_conv_naive"),
        "torch": Backend(f"{__name__}.plain", "causal_conv_plain"),
        "cpu": Backend(
            f"{__name__}.cpu", "causal_conv_cpu", "numba", "cpu", "cpu", fused=True
        ),
        "triton": Backend(
            f"{__name__}.triton",
            "causal_conv_triton",
            "triton",
            "cuda",
            "cuda",
            fused=True,
        ),
    },
)
"""Implementations of the convolution, by name. ``"auto"`` picks one of them."""


@in_full_precision
def causal_conv(
    x: Tensor,
    weight: Tensor,
    bias: Tensor,
    is_init: Tensor,
    state: Tensor,
    *,
    silu: bool = False,
    backend: str = "auto",
) -> tuple[Tensor, Tensor]:
    """Convolve each channel with its own ``K`` causal taps, inside episodes only.

    ``y_t = bias + Σ_j weight[:, K-1-j] · x_{t-j}``, where inputs from before the last
    start flag count as zero, be they NaN. The backward pass keeps the inputs only and
    cannot be differentiated again.

    Args:
        x: ``[R, L, D]``.
        weight: ``[D, K]``; the last tap meets the present input.
        bias: ``[D]``.
        is_init: start flags, bool ``[R, L]``.
        state: the ``K - 1`` inputs before the first step, oldest first,
            ``[R, D, K - 1]``.
        silu: whether SiLU is applied to the outputs.
        backend: a name in :data:`~resel_torchrl.ops.causal_conv.BACKENDS`, or
            ``"auto"``: in float32 the kernel for the device if it is installed, else
            ``"torch"``.

    Returns:
        The outputs ``[R, L, D]`` and the last ``K - 1`` inputs ``[R, D, K - 1]``,
        those of earlier episodes set to zero.

    Raises:
        ValueError: if the backend is unknown, or does not run on the inputs' device.
        ModuleNotFoundError: if it needs a package that is not installed.

    Examples:
        >>> x, is_init = torch.ones(1, 4, 1), torch.tensor([[True, False, True, False]])
        >>> y, state = causal_conv(
        ...     x, torch.ones(1, 3), torch.zeros(1), is_init, torch.ones(1, 1, 2)
        ... )
        >>> y.flatten(), state.flatten()
        (tensor([1., 2., 1., 2.]), tensor([1., 1.]))
    """
    chosen = BACKENDS.choose(backend, x)
    convolve = _backends.load(chosen)
    if chosen.fused:
        return convolve(x, weight, bias, is_init, state, silu)
    y, state = convolve(x, weight, bias, is_init, state)
    return (torch.nn.functional.silu(y) if silu else y), state
