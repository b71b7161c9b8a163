"""A batch of no rows gives none back, whatever the backend; gradients are zero."""

from dataclasses import replace

import pytest
import torch

from resel_torchrl.modules import CORES, make_core
from resel_torchrl.ops import causal_conv, gru_scan, linear_scan, lstm_scan
from resel_torchrl.ops._backends import Backends
from resel_torchrl.ops.selective_scan import BACKENDS, selective_scan

L, D, N, K = 5, 4, 3, 8


def tensors(*shapes):
    return [torch.randn(shape, requires_grad=True) for shape in shapes]


def scan(is_init, **backend):
    x, dt, A, B, C, skip, state = inputs = tensors(
        (0, L, D), (0, L, D), (D, N), (0, L, N), (0, L, N), (D,), (0, D, N)
    )
    return inputs, selective_scan(x, dt, A, B, C, skip, is_init, state, **backend)


def convolution(is_init, **backend):
    x, weight, bias, state = inputs = tensors((0, L, D), (D, K), (D,), (0, D, K - 1))
    return inputs, causal_conv(x, weight, bias, is_init, state, **backend)


def gru(is_init, **backend):
    gates, weight, bias, h = inputs = tensors(
        (0, L, 3 * D), (3 * D, D), (3 * D,), (0, D)
    )
    return inputs, gru_scan(gates, is_init, weight, bias, h, **backend)


def lstm(is_init):
    gates, weight, bias, h_c = inputs = tensors(
        (0, L, 4 * D), (4 * D, D), (4 * D,), (0, 2 * D)
    )
    return inputs, lstm_scan(gates, is_init, weight, bias, h_c)


def linear(is_init):
    a, b, state = inputs = tensors((0, L, D), (0, L, D), (0, D))
    return inputs, linear_scan(a, b, is_init, state)


RUNS = [(run, {}) for run in (scan, convolution, gru, lstm, linear)]
RUNS += [
    (run, {"backend": name})
    for run in (scan, convolution, gru)
    for name in ("naive", "torch", "cpu")
]


@pytest.mark.parametrize(("run", "backend"), RUNS)
def test_no_rows_give_none_back(run, backend):
    if backend == {"backend": "cpu"}:
        pytest.importorskip("numba")
    inputs, (y, last) = run(torch.zeros(0, L, dtype=torch.bool), **backend)
    assert y.shape == (0, L, D)
    assert last.shape == inputs[-1].shape
    grads = torch.autograd.grad(y.sum() + last.sum(), inputs, materialize_grads=True)
    for tensor, grad in zip(inputs, grads, strict=True):
        assert grad.shape == tensor.shape
        assert not grad.any()


@pytest.mark.parametrize("name", CORES)
def test_cores_give_none_back(name):
    core = make_core(name, 16)
    x = torch.zeros(0, L, 16, requires_grad=True)
    is_init = torch.zeros(0, L, dtype=torch.bool)
    y, state = core(x, is_init, torch.zeros(0, core.state_size))
    assert y.shape == (0, L, 16) and state.shape == (0, core.state_size)
    y.sum().backward()
    assert x.grad.shape == x.shape


@pytest.mark.parametrize(("rows", "chosen"), [(0, "naive"), (1, "triton")])
def test_a_gpu_s_kernels_are_not_launched_for_none(rows, chosen):
    """A launch of no programs is an error; one row is the control."""
    stand_in = {"triton": replace(BACKENDS["triton"], device="meta", package=None)}
    backends = Backends("selective_scan", {**BACKENDS, **stand_in})
    x = torch.empty(rows, L, D, device="meta")
    assert backends.choose("triton", x) is backends[chosen]
