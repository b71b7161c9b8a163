"""The linear scan's blocks, its closed form, and what it keeps."""

import pytest
import torch

from resel_torchrl.ops import linear_scan, linear_scan_naive
from resel_torchrl.ops.linear_scan import block_length
from tests.ops.cases import CASES, flags, run_with_gradients, saved_bytes

both = pytest.mark.parametrize("name", ["linear_scan", "constant_scan"])


@both
@pytest.mark.parametrize("L", [2, 3, 49, 50, 51, 200, 211])
def test_lengths_around_the_blocks(name, L):
    case, is_init = CASES[name], flags(2, L, 0.03)
    inputs = case.inputs(2, L, 3)
    torch.testing.assert_close(
        run_with_gradients(case.run, inputs, is_init),
        run_with_gradients(case.naive, inputs, is_init),
    )


@both
def test_a_start_at_every_place_of_every_block(name):
    L = 32
    assert block_length(L) == 4
    case = CASES[name]
    inputs = case.inputs(2, L, 2)
    for place in range(L):
        is_init = torch.zeros(2, L, dtype=torch.bool)
        is_init[1, place] = True
        torch.testing.assert_close(
            run_with_gradients(case.run, inputs, is_init),
            run_with_gradients(case.naive, inputs, is_init),
        )


def test_geometric_series():
    """With a = 1/2 and b = 1, h_t = 2 - 2^-t after each start."""
    is_init = torch.arange(60).remainder(20).eq(0)[None]
    ones = torch.ones(1, 60, 1, dtype=torch.float64)
    for a in (ones / 2, ones[0, 0] / 2):
        h, last = linear_scan(a, ones, is_init, torch.full_like(ones[:, 0], torch.nan))
        wanted = 2 - 0.5 ** torch.arange(20.0).double().repeat(3)
        torch.testing.assert_close(h.flatten(), wanted, rtol=1e-14, atol=0)
        assert last == h[0, -1]


def test_a_rotation_keeps_its_length_over_2048_steps():
    """h_t = e^{iθt} h_0: the constant decay's powers do not drift."""
    angle = torch.tensor([0.1, 3.0], dtype=torch.float64)
    a, zeros = torch.polar(torch.ones(2).double(), angle), torch.zeros(1, 2048, 2)
    state = torch.ones(1, 2, dtype=a.dtype)
    h, _ = linear_scan(a, zeros.to(a), torch.zeros(1, 2048).bool(), state)
    time = torch.arange(1, 2049, dtype=torch.float64)[:, None]
    wanted = torch.polar(torch.ones(2048, 2).double(), angle * time)
    torch.testing.assert_close(h[0], wanted, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("scan", [linear_scan, linear_scan_naive])
def test_a_start_ignores_its_own_decay(scan):
    a, b = torch.full((1, 40, 1), torch.nan), torch.ones(1, 40, 1)
    assert scan(a, b, torch.ones(1, 40).bool(), b[:, 0])[0].eq(1).all()
    assert scan(a, b, torch.zeros(1, 40).bool(), b[:, 0])[0].isnan().all()


@pytest.mark.parametrize("dtype", [torch.float64, torch.complex128])
@pytest.mark.parametrize("constant", [False, True])
def test_keeps_the_outputs_alone(dtype, constant):
    b, is_init = torch.randn(2, 200, 16, dtype=dtype), flags(2, 200)
    a, state = (b[0, 0] if constant else b).clone(), b[:, 0].clone()
    for tensor in (a, b, state):
        tensor.requires_grad_()
    kept = saved_bytes(lambda: linear_scan(a, b, is_init, state))
    assert kept == b.nbytes + is_init.nbytes


def test_decays_of_another_shape_or_dtype():
    b, state, start = torch.zeros(2, 5, 3), torch.zeros(2, 3), flags(2, 5)
    with pytest.raises(ValueError, match=r"\[2, 5, 3\] or.*\[3\], got \[5, 3\]"):
        linear_scan(b[0], b, start, state)
    with pytest.raises(ValueError, match=r"one dtype, got torch.complex64 decays"):
        linear_scan(b + 0j, b, start, state)
