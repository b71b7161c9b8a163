"""GRU over time with resets."""

from torch import Tensor

from resel_torchrl.ops import _backends
from resel_torchrl.ops._backends import Backend, Backends
from resel_torchrl.ops._precision import in_full_precision
from resel_torchrl.ops.gru.naive import gru_scan_naive

__all__ = ["BACKENDS", "gru_scan", "gru_scan_naive"]

BACKENDS = Backends(
    "gru_scan",
    {
        "naive": Backend(f"{__name__}.naive", "gru_scan_naive", loops=True),
        "torch": Backend(f"{__name__}.plain", "gru_scan_plain", loops=True),
        "cpu": Backend(f"{__name__}.cpu", "gru_scan_cpu", "numba", "cpu", "cpu"),
        "triton": Backend(
            f"{__name__}.triton", "gru_scan_triton", "triton", "cuda", "cuda"
        ),
    },
)
"""Implementations of the recurrence, by name. ``"auto"`` picks one of them."""


@in_full_precision
def gru_scan(
    gates: Tensor,
    is_init: Tensor,
    weight_hh: Tensor,
    bias_hh: Tensor,
    state: Tensor,
    *,
    backend: str = "auto",
) -> tuple[Tensor, Tensor]:
    """Run a GRU over time, starting from zero wherever ``is_init`` is true.

    The gates, their order and the equations are those of :class:`torch.nn.GRU`; the
    input's share of the gates comes ready-made, since it needs no recurrence.

    Args:
        gates: ``x W_ihᵀ + b_ih`` in the order reset, update, new: ``[R, L, 3H]``.
        is_init: start flags, bool ``[R, L]``.
        weight_hh: ``[3H, H]``.
        bias_hh: ``[3H]``.
        state: hidden state before the first step, ``[R, H]``. It is ignored, with no
            gradient, in rows whose first flag is true.
        backend: a name in :data:`~resel_torchrl.ops.gru.BACKENDS`, or ``"auto"``: in
            float32 the kernel for the device if it is installed, else ``"torch"``.

    Returns:
        The outputs ``[R, L, H]`` and the state after the last step ``[R, H]``.

    Raises:
        ValueError: if the backend is unknown, or does not run on the inputs' device.
        ModuleNotFoundError: if it needs a package that is not installed.

    Examples:
        >>> import torch
        >>> gates = torch.zeros(1, 4, 6)
        >>> is_init = torch.tensor([[False, False, True, False]])
        >>> h = torch.ones(1, 2)
        >>> y, h = gru_scan(gates, is_init, torch.zeros(6, 2), torch.zeros(6), h)
        >>> y[0, :, 0]
        tensor([0.5000, 0.2500, 0.0000, 0.0000])
    """
    scan = _backends.load(BACKENDS.choose(backend, gates))
    return scan(gates, is_init, weight_hh, bias_hh, state)
