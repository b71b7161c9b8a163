"""The fused selective scan against its specification, under Triton's interpreter."""

import pytest
import torch

from tests.ops.cases import flags, poisoned_memory, saved_bytes
from tests.ops.triton_cases import SCAN, naive_scan, scan_inputs, with_gradients

scan = SCAN.selective_scan_triton
TOLERANCE = {
    torch.float64: {"rtol": 1e-10, "atol": 1e-10},
    torch.float32: {"rtol": 1e-4, "atol": 2e-5},
}


@pytest.fixture
def short_chunks(monkeypatch):
    """Cuts time every 8 steps, as is done where rows and channels are few."""
    plan = SCAN.launch_plan

    def cut(*sizes):
        return SCAN.LaunchPlan(*(way._replace(chunk=8) for way in plan(*sizes)))

    monkeypatch.setattr(SCAN, "launch_plan", cut)


def check(inputs, is_init, dtype=torch.float64, **options):
    with poisoned_memory():
        got = with_gradients(scan, inputs, is_init, **options)
    wanted = with_gradients(naive_scan, inputs, is_init, **options)
    torch.testing.assert_close(got, wanted, **TOLERANCE[dtype])


@pytest.mark.parametrize(
    ("sizes", "share", "gated", "softplus", "dtype"),
    [
        ((2, 1, 5, 3), 0.5, True, True, torch.float64),
        ((1, 15, 5, 64), 0.2, True, True, torch.float64),
        ((1, 33, 33, 3), 0.1, True, True, torch.float64),  # two blocks for each kernel
        ((1, 17, 24, 16), 0.2, True, False, torch.float64),
        ((1, 17, 24, 16), 0.2, True, True, torch.float32),
        ((2, 16, 24, 3), 1.0, False, True, torch.float64),
        ((1, 17, 1, 1), 0.0, False, False, torch.float32),
    ],
)
def test_matches_specification(sizes, share, gated, softplus, dtype):
    inputs = scan_inputs(*sizes, dtype, gated, softplus)
    check(inputs, flags(*sizes[:2], share), dtype, dt_softplus=softplus)


def test_both_layouts_match_specification(monkeypatch):
    """Four states a lane and sixteen, read eight steps at a time and four."""
    inputs, is_init, plan = scan_inputs(1, 17, 5, 64), flags(1, 17), SCAN.launch_plan
    for forward in (SCAN.PassPlan(8, 4, 8, 24), SCAN.PassPlan(8, 1, 4, 24)):
        monkeypatch.setattr(
            SCAN, "launch_plan", lambda *s, way=forward: plan(*s)._replace(forward=way)
        )
        check(inputs, is_init, dt_softplus=True)


@pytest.mark.parametrize(
    ("share", "dtype"),
    [(0.0, torch.float64), (0.1, torch.float64), (0.1, torch.float32)],
)
def test_chunks_of_time_match_specification(share, dtype, short_chunks):
    inputs = scan_inputs(1, 21, 5, 3, dtype)
    check(inputs, flags(1, 21, share), dtype, dt_softplus=True)


def test_resets_around_the_border_of_two_chunks(short_chunks):
    """One row for each place of the start flag, and one row without."""
    is_init = torch.zeros(5, 10, dtype=torch.bool)
    is_init[range(4), [0, 7, 8, 9]] = True
    check(scan_inputs(5, 10, 2, 3), is_init, dt_softplus=True)


def test_many_blocks_of_channels_add_up():
    """B and C get their gradients from three blocks of channels."""
    plan = SCAN.launch_plan(1, 9, 20, 64)
    assert plan.forward.channels == plan.backward.channels == 8
    check(scan_inputs(1, 9, 20, 64), flags(1, 9), dt_softplus=True)


@pytest.mark.parametrize("split", [False, True])
def test_nothing_crosses_a_start_flag(split, request):
    """NaN in the state and before the flag leaves no trace after it, in gradients too.

    The control: without the flag the same NaN reaches every output.
    """
    if split:
        request.getfixturevalue("short_chunks")
    clean, start = scan_inputs(1, 17, 3, 2), 10
    noisy = {name: tensor.detach().clone() for name, tensor in clean.items()}
    noisy["state"].fill_(torch.nan)
    for name in ("x", "dt", "B", "C", "z"):
        noisy[name][:, :start] = torch.nan
    for tensor in noisy.values():
        tensor.requires_grad_()
    is_init = torch.zeros(1, 17, dtype=torch.bool)
    is_init[:, start] = True

    y, last = scan(**noisy, is_init=is_init, dt_softplus=True)
    loss = y[:, start:].square().sum() + last.sum()
    names = ["x", "dt", "B", "C", "z", "state"]
    got = dict(
        zip(names, torch.autograd.grad(loss, [noisy[n] for n in names]), strict=True)
    )
    wanted_y, wanted_last = naive_scan(**clean, is_init=is_init, dt_softplus=True)
    wanted_loss = wanted_y[:, start:].square().sum() + wanted_last.sum()
    wanted = torch.autograd.grad(wanted_loss, [clean[n] for n in names])
    torch.testing.assert_close(y[:, start:], wanted_y[:, start:])
    torch.testing.assert_close(last, wanted_last)
    for name, gradient in zip(names[:-1], wanted, strict=False):
        torch.testing.assert_close(got[name][:, start:], gradient[:, start:])

    is_init[:] = False
    y, last = scan(**noisy, is_init=is_init, dt_softplus=True)
    assert y[:, start:].isnan().all() and last.isnan().all()


def test_a_state_ignored_gets_no_gradient(short_chunks):
    inputs, is_init = scan_inputs(2, 9, 3, 2), torch.zeros(2, 9, dtype=torch.bool)
    is_init[0, 0] = True
    gradient = with_gradients(scan, inputs, is_init)["state"]
    assert (gradient[0] == 0).all() and (gradient[1] != 0).all()


def test_views_of_wider_tensors():
    """As the Mamba mixer has them: x, z halves of one tensor, B and C parts of one."""
    inputs, is_init = scan_inputs(2, 9, 6, 4), flags(2, 9)
    xz = torch.cat([inputs["x"], inputs["z"]], -1).detach().requires_grad_()
    rest = inputs["x"][..., :3]
    projected = torch.cat([rest, inputs["B"], inputs["C"]], -1).detach()
    projected.requires_grad_()
    state = inputs["state"].detach().mT.contiguous().requires_grad_()

    def view(function):
        x, z = xz.chunk(2, -1)
        _, B, C = projected.split([3, 4, 4], -1)
        dt = inputs["dt"].transpose(0, 1).contiguous().transpose(0, 1)
        y, last = function(
            *(x, dt, inputs["A"], B, C, inputs["D"], is_init, state.mT, z, True)
        )
        loss = y.square().sum() + last.sum()
        return y, last, *torch.autograd.grad(loss, [xz, projected, state])

    torch.testing.assert_close(view(scan), view(naive_scan), rtol=1e-10, atol=1e-10)


def test_two_runs_are_equal_bit_for_bit(short_chunks):
    inputs, is_init = scan_inputs(1, 9, 9, 64, torch.float32), flags(1, 9)
    first, second = (
        with_gradients(scan, inputs, is_init, dt_softplus=True) for _ in range(2)
    )
    assert all(torch.equal(first[name], second[name]) for name in first)


@pytest.mark.parametrize("index", [0, 1])
def test_one_unused_output_is_no_hindrance(index):
    inputs, is_init = scan_inputs(1, 3, 3, 2), flags(1, 3)
    leaves = [inputs[name] for name in ("x", "dt", "A", "B", "state")]

    def gradients(function):
        loss = function(**inputs, is_init=is_init)[index].sum()
        return torch.autograd.grad(loss, leaves, allow_unused=True)

    torch.testing.assert_close(gradients(scan), gradients(naive_scan))


def test_strong_decay_underflows_to_zero_without_nan(short_chunks):
    inputs = scan_inputs(1, 17, 2, 3, torch.float32)
    with torch.no_grad():
        inputs["A"].fill_(-1e6)
    results = with_gradients(scan, inputs, flags(1, 17, 0), dt_softplus=True)
    assert all(tensor.isfinite().all() for tensor in results.values())


def test_keeps_what_its_docstring_says():
    R, L, D, N = 2, 17, 6, 4
    inputs, is_init = scan_inputs(R, L, D, N), flags(R, L)

    def kept(gated, softplus):
        arguments = dict(inputs) if gated else {**inputs, "z": None}
        arguments |= {"is_init": is_init, "dt_softplus": softplus}
        return (saved_bytes(lambda: scan(**arguments)) - R * L) / 8

    states = 3 * R * D * N
    assert kept(False, False) == states
    assert kept(True, False) == states + R * L * D
    assert kept(True, True) == states + 2 * R * L * D  # step sizes, not their inputs
    with torch.no_grad():
        assert kept(True, True) == -R * L / 8


@pytest.mark.parametrize("gated", [False, True])
def test_operator_is_registered_in_full(gated):
    """Schema, fake tensors, autograd, and tracing with dynamic shapes."""
    inputs, is_init = scan_inputs(1, 3, 2, 2, torch.float32, gated), flags(1, 3)
    names = ["x", "dt", "A", "B", "C", "D"]
    arguments = (
        *(inputs[name] for name in names),
        *(is_init, inputs["state"], inputs["z"], True, True),
    )
    torch.library.opcheck(SCAN._forward, arguments)


def test_compiles_in_one_graph():
    inputs, is_init = scan_inputs(1, 3, 3, 2, torch.float32), flags(1, 3)
    compiled = torch.compile(scan, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(
        with_gradients(compiled, inputs, is_init, dt_softplus=True),
        with_gradients(scan, inputs, is_init, dt_softplus=True),
    )
