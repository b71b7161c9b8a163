"""The Triton kernels on a CUDA device, at the paper's size."""

import importlib

import pytest
import torch

from tests.ops.cases import flags
from tests.ops.triton_cases import (
    CONV,
    GRU,
    SCAN,
    conv_inputs,
    gru_inputs,
    naive_conv,
    naive_gru,
    naive_scan,
    scan_inputs,
    with_gradients,
)

pytestmark = pytest.mark.gpu


def on_gpu(inputs, dtype=torch.float32):
    return {
        name: tensor.detach().to("cuda", dtype).requires_grad_()
        for name, tensor in inputs.items()
    }


def scan_at(R, L, D=512, N=64):
    return scan_inputs(R, L, D, N), flags(R, L, 0.01)


def check(function, specification, inputs, is_init, **options):
    """In float32 on the GPU against float64, by each result's relative error."""
    is_init = is_init.cuda()
    got = with_gradients(function, on_gpu(inputs), is_init, **options)
    wanted = with_gradients(
        specification, on_gpu(inputs, torch.float64), is_init, **options
    )
    for name, tensor in wanted.items():
        error = (got[name] - tensor).norm() / tensor.norm().clamp_min(1e-30)
        assert error < 1e-4, f"{name}: {error}"


@pytest.mark.parametrize(
    ("R", "L", "D", "N"),
    [(2, 1010, 512, 64), (1, 300, 512, 64), (16, 70, 500, 64), (1, 999, 24, 16)],
)
def test_scan_matches_specification(R, L, D, N):
    inputs, is_init = scan_at(R, L, D, N)
    check(SCAN.selective_scan_triton, naive_scan, inputs, is_init, dt_softplus=True)


@pytest.mark.parametrize("silu", [False, True])
def test_convolution_matches_specification(silu):
    inputs, is_init = conv_inputs(2, 1010, 500, 8), flags(2, 1010, 0.01)
    check(CONV.causal_conv_triton, naive_conv, inputs, is_init, silu=silu)


@pytest.mark.parametrize(
    ("R", "L", "H"),
    [
        *((2, 1010, 256), (1, 1010, 256), (16, 300, 256), (64, 60, 256)),
        *((2, 300, 64), (300, 20, 64), (16, 100, 128), (3, 1, 256), (2, 50, 3)),
        *((2, 100, 500), (9, 100, 499), (1, 50, 1024), (1, 20, 1100)),
    ],
)
@pytest.mark.parametrize("time_major", [False, True])
def test_gru_matches_specification(R, L, H, time_major):
    """The last width does not fit in registers and goes through plain PyTorch."""

    def scan(gates, **others):
        if time_major:
            gates = gates.transpose(0, 1).contiguous().transpose(0, 1)
        return GRU.gru_scan_triton(gates, **others)

    check(scan, naive_gru, gru_inputs(R, L, H), flags(R, L, 0.01))


def test_gru_in_double_precision():
    inputs, is_init = on_gpu(gru_inputs(3, 50, 100), torch.float64), flags(3, 50).cuda()
    torch.testing.assert_close(
        with_gradients(GRU.gru_scan_triton, inputs, is_init),
        with_gradients(naive_gru, inputs, is_init),
    )


@pytest.mark.parametrize("rows", [2, 64])
def test_the_gru_repeats_bit_for_bit(rows):
    """Whichever program is first; and two at once do not wait for each other."""
    inputs, is_init = on_gpu(gru_inputs(rows, 200, 256)), flags(rows, 200, 0.01).cuda()
    first = with_gradients(GRU.gru_scan_triton, inputs, is_init)
    torch.cuda.synchronize()
    results = []
    for stream in [torch.cuda.Stream(), torch.cuda.Stream()] * 5:
        with torch.cuda.stream(stream):
            results.append(with_gradients(GRU.gru_scan_triton, inputs, is_init))
    torch.cuda.synchronize()
    for again in results:
        assert all(torch.equal(first[name], again[name]) for name in first)


def test_a_missing_program_of_the_gru_shows_as_nan_and_not_as_a_hang(monkeypatch):
    """The control: with all of them there nobody waits for so long."""
    plan = GRU.launch_plan
    monkeypatch.setattr(GRU, "_PATIENCE", 10_000)
    inputs, is_init = on_gpu(gru_inputs(2, 50, 256)), flags(2, 50, 0).cuda()
    y, _ = GRU.gru_scan_triton(**inputs, is_init=is_init)
    assert y.isfinite().all()

    def one_less(*sizes):
        return plan(*sizes)._replace(programs=plan(*sizes).programs - 1)

    monkeypatch.setattr(GRU, "launch_plan", one_less)
    y, last = GRU.gru_scan_triton(**inputs, is_init=is_init)
    assert y[:, 1:].isnan().all() and last.isnan().all()


def test_a_step_of_training_with_the_gru_can_be_captured_in_a_graph():
    inputs, is_init = on_gpu(gru_inputs(2, 64, 256)), flags(2, 64, 0.05).cuda()

    def run():
        y, last = GRU.gru_scan_triton(**inputs, is_init=is_init)
        loss = y.square().sum() + last.sum()
        return y.detach(), *torch.autograd.grad(loss, list(inputs.values()))

    aside = torch.cuda.Stream()
    aside.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(aside):
        wanted = run()
    torch.cuda.current_stream().wait_stream(aside)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        captured = run()
    for _ in range(2):  # the second finds the outputs of the first in its memory
        graph.replay()
        torch.testing.assert_close(captured, wanted)


def test_two_runs_are_equal_bit_for_bit():
    inputs, is_init = scan_at(2, 1010)
    first, second = (
        with_gradients(
            SCAN.selective_scan_triton, on_gpu(inputs), is_init.cuda(), dt_softplus=True
        )
        for _ in range(2)
    )
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_the_host_never_waits():
    """The first pass compiles. The control shows that a wait would be noticed."""
    inputs, is_init = scan_at(2, 1010)
    inputs, is_init = on_gpu(inputs), is_init.cuda()
    taps = on_gpu(conv_inputs(2, 1010, 512, 8))
    units = on_gpu(gru_inputs(2, 1010, 256))

    def run():
        y, _ = GRU.gru_scan_triton(**units, is_init=is_init)
        y.sum().backward()
        y, _ = SCAN.selective_scan_triton(**inputs, is_init=is_init, dt_softplus=True)
        y.sum().backward()
        y, _ = CONV.causal_conv_triton(**taps, is_init=is_init, silu=True)
        y.sum().backward()

    run()
    torch.cuda.set_sync_debug_mode("error")
    try:
        run()
        with pytest.raises(RuntimeError, match="synchroniz"):
            is_init.any().item()
    finally:
        torch.cuda.set_sync_debug_mode("default")


def test_can_be_captured_in_a_graph():
    inputs, is_init = scan_at(2, 64)
    inputs, is_init = on_gpu(inputs), is_init.cuda()

    def run():
        with torch.no_grad():
            return SCAN.selective_scan_triton(
                **inputs, is_init=is_init, dt_softplus=True
            )[0]

    wanted = run()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        y = run()
    y.zero_()
    graph.replay()
    assert torch.equal(y, wanted)


def test_mamba_ssm_matches_specification_on_packed_episodes():
    """State-spaces' kernel, at blank rows; outputs and gradients, not the state."""
    pytest.importorskip("mamba_ssm")
    scan = importlib.import_module("resel_torchrl.ops.selective_scan.mamba_ssm")
    inputs = scan_inputs(2, 1010, 512, 64)
    is_init = torch.zeros(2, 1010, dtype=torch.bool)
    is_init[:, [0, 499, 500, 1009]] = True  # blank: 499 and the last
    blank = torch.zeros(1, 1010, 1, dtype=torch.bool)
    blank[:, [499, 1009]] = True
    state = inputs.pop("state").detach()

    def without_state(function):
        def run(x, **arguments):
            x = torch.where(blank.to(x.device), 0, x)
            y, last = function(x=x, **arguments, state=state.to(x))
            return y, last.detach()

        return run

    check(
        without_state(scan.selective_scan_mamba_ssm),
        without_state(naive_scan),
        inputs,
        is_init,
        dt_softplus=True,
    )
