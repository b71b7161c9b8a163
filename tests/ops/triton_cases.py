"""The operations in Triton and their specifications, with skip, gate and softplus."""

import importlib

import torch
from torch import Tensor

from resel_torchrl.ops import causal_conv_naive, gru_scan_naive
from resel_torchrl.ops.selective_scan import selective_scan_naive

# The package's function hides the package of the same name.
SCAN = importlib.import_module("resel_torchrl.ops.selective_scan.triton")
CONV = importlib.import_module("resel_torchrl.ops.causal_conv.triton")
GRU = importlib.import_module("resel_torchrl.ops.gru.triton")
naive_gru = gru_scan_naive


def naive_scan(x, dt, A, B, C, D, is_init, state, z=None, dt_softplus=False):
    dt = torch.nn.functional.softplus(dt) if dt_softplus else dt
    y, last = selective_scan_naive(x, dt, A, B, C, is_init, state)
    y = y + D * x
    return (y if z is None else y * torch.nn.functional.silu(z)), last


def naive_conv(x, weight, bias, is_init, state, silu=False):
    y, last = causal_conv_naive(x, weight, bias, is_init, state)
    return (torch.nn.functional.silu(y) if silu else y), last


def scan_inputs(
    R: int, L: int, D: int, N: int, dtype=torch.float64, gated=True, softplus=True
) -> dict[str, Tensor | None]:
    """Leaves that require gradients, by the name of the argument."""
    draw = torch.Generator().manual_seed(0)

    def normal(*shape):
        return torch.randn(shape, generator=draw, dtype=torch.float64)

    dt = normal(R, L, D) - 3
    inputs = {
        "x": normal(R, L, D),
        "dt": dt if softplus else dt.exp(),
        "A": -normal(D, N).exp(),
        "B": normal(R, L, N),
        "C": normal(R, L, N),
        "D": normal(D),
        "state": normal(R, D, N),
        "z": normal(R, L, D) if gated else None,
    }
    return {
        name: None if v is None else v.to(dtype).requires_grad_()
        for name, v in inputs.items()
    }


def conv_inputs(R: int, L: int, D: int, K: int, dtype=torch.float64):
    """Leaves that require gradients, by the name of the argument."""
    draw = torch.Generator().manual_seed(0)
    shapes = {"x": (R, L, D), "weight": (D, K), "bias": (D,), "state": (R, D, K - 1)}
    return {
        name: torch.randn(shape, generator=draw, dtype=torch.float64)
        .to(dtype)
        .requires_grad_()
        for name, shape in shapes.items()
    }


def gru_inputs(R: int, L: int, H: int, dtype=torch.float64):
    """Leaves that require gradients, by the name of the argument."""
    draw = torch.Generator().manual_seed(0)
    shapes = {"gates": (R, L, 3 * H), "weight_hh": (3 * H, H), "bias_hh": (3 * H,)}
    scales = {"weight_hh": H**-0.5}
    return {
        name: (
            torch.randn(shape, generator=draw, dtype=torch.float64)
            * scales.get(name, 1)
        )
        .to(dtype)
        .requires_grad_()
        for name, shape in (shapes | {"state": (R, H)}).items()
    }


def with_gradients(function, inputs, is_init, weigh=None, **flags):
    """Outputs, last state, and the gradients of a fixed mixture of both, by name."""
    y, last = function(**inputs, is_init=is_init, **flags)
    draw = torch.Generator().manual_seed(1)
    loss = 0
    for tensor in (y, last):
        mixture = torch.randn(tensor.shape, generator=draw, dtype=torch.float64)
        mixture = mixture.to(tensor)
        if weigh is not None and tensor is y:
            mixture = mixture * weigh.to(tensor)
        loss = loss + (tensor * mixture).sum()
    named = {name: tensor for name, tensor in inputs.items() if tensor is not None}
    gradients = torch.autograd.grad(loss, list(named.values()))
    return {
        "y": y.detach(),
        "last": last.detach(),
        **dict(zip(named, gradients, strict=True)),
    }
