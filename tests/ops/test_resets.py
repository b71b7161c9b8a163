"""What holds for every reset-aware operation: GRU, LSTM, convolution, scans."""

import pytest
import torch

from tests.ops.cases import (
    CASES,
    MODULES,
    PLAIN,
    SCAN_MODULE,
    flags,
    leaves,
    poisoned_memory,
    run_with_gradients,
)

every_operation = pytest.mark.parametrize("case", CASES.values(), ids=CASES)


@pytest.fixture
def short_chunks(monkeypatch):
    """Makes the scan cut time every 3 steps, so that short tests have many chunks."""
    monkeypatch.setattr(SCAN_MODULE, "chunk_length", lambda *sizes: 3)


@every_operation
@pytest.mark.parametrize(("R", "L", "width"), [(1, 1, 1), (3, 63, 5), (2, 130, 7)])
@pytest.mark.parametrize("share", [0.0, 0.2, 1.0])
def test_matches_specification(case, R, L, width, share):
    inputs, is_init = case.inputs(R, L, width), flags(R, L, share)
    with poisoned_memory():
        got = run_with_gradients(case.run, inputs, is_init)
    torch.testing.assert_close(got, run_with_gradients(case.naive, inputs, is_init))


@every_operation
def test_matches_specification_at_500_channels_in_float32(case):
    inputs, is_init = case.inputs(1, 63, 500, torch.float32), flags(1, 63, 0.05)
    got = run_with_gradients(case.run, inputs, is_init)
    wanted = run_with_gradients(case.naive, inputs, is_init)
    torch.testing.assert_close(got, wanted, rtol=1e-4, atol=2e-4)


@every_operation
@pytest.mark.parametrize("L", [1, 2, 8])
@pytest.mark.parametrize("share", [0.0, 0.4])
def test_gradcheck(case, L, share, short_chunks):
    inputs, is_init = case.inputs(2, L, 2), flags(2, L, share, seed=4)
    names = list(leaves(inputs))
    sequences, weights, _ = inputs

    def run(*tensors):
        named = dict(zip(names, tensors, strict=True))
        return case.run(
            {name: named[name] for name in sequences},
            {name: named[name] for name in weights},
            is_init,
            named["state"],
        )

    assert torch.autograd.gradcheck(run, tuple(leaves(inputs).values()))


@every_operation
def test_resets_at_every_place_of_a_chunk(case, short_chunks):
    inputs = case.inputs(1, 9, 2)
    for place in range(9):
        is_init = torch.zeros(1, 9, dtype=torch.bool)
        is_init[0, place] = True
        torch.testing.assert_close(
            run_with_gradients(case.run, inputs, is_init),
            run_with_gradients(case.naive, inputs, is_init),
        )


@every_operation
def test_masking_every_step_changes_nothing(case, monkeypatch):
    """Devices whose flags the host cannot read mask at every step."""
    inputs, is_init = case.inputs(3, 21, 5), flags(3, 21)
    wanted = run_with_gradients(case.run, inputs, is_init)
    for module in MODULES:
        monkeypatch.setattr(module, "reset_steps", lambda f: [True] * f.shape[1])
    torch.testing.assert_close(run_with_gradients(case.run, inputs, is_init), wanted)


@every_operation
def test_two_halves_make_the_whole(case):
    sequences, weights, state = case.inputs(2, 63, 5)
    is_init = flags(2, 63, 0.05)
    y, last = case.run(sequences, weights, is_init, state)
    parts = []
    for part in (slice(0, 30), slice(30, 63)):
        piece = {name: tensor[:, part] for name, tensor in sequences.items()}
        output, state = case.run(piece, weights, is_init[:, part], state)
        parts.append(output)
    torch.testing.assert_close(torch.cat(parts, 1), y)
    torch.testing.assert_close(state, last)


def _with_noise_before(case, start, noise):
    """Inputs and the same with noise in the incoming state and before ``start``."""
    sequences, weights, state = case.inputs(2, 21, 5)
    noisy = {}
    for name, tensor in sequences.items():
        noisy[name] = tensor.detach().clone()
        noisy[name][:, :start] = noise(noisy[name][:, :start])
    return (sequences, weights, state), (noisy, weights, noise(state.detach()))


@every_operation
@pytest.mark.parametrize(
    "noise",
    [lambda x: x + 1, lambda x: torch.full_like(x, torch.nan)],
    ids=["shift", "nan"],
)
def test_nothing_crosses_a_start_flag(case, noise, short_chunks):
    start = 10
    clean, noisy = _with_noise_before(case, start, noise)
    is_init = torch.zeros(2, 21, dtype=torch.bool)
    is_init[:, start] = True

    def tail(inputs, is_init):
        y, last = case.run(inputs[0], inputs[1], is_init, inputs[2])
        return y[:, start:], last

    for got, wanted in zip(tail(noisy, is_init), tail(clean, is_init), strict=True):
        assert torch.equal(got, wanted), "hidden state leaked across a start flag"

    # Control: without the flag the very same noise does reach the second segment.
    is_init[:] = False
    assert not torch.equal(tail(noisy, is_init)[0], tail(clean, is_init)[0])


@every_operation
def test_no_gradient_crosses_a_start_flag(case, short_chunks):
    start = 10
    sequences, weights, state = case.inputs(2, 21, 5)
    is_init = torch.zeros(2, 21, dtype=torch.bool)

    def gradients_before_start():
        y, last = case.run(sequences, weights, is_init, state)
        loss = y[:, start:].square().sum() + last.square().sum()
        wrt = [*sequences.values(), state]
        *early, of_state = torch.autograd.grad(loss, wrt)
        return [gradient[:, :start] for gradient in early] + [of_state]

    # Control: without the flag there are gradients (the scan's C has none either way,
    # and the convolution reaches its last taps only).
    assert any(gradient.any() for gradient in gradients_before_start())
    is_init[:, start] = True
    assert not any(gradient.any() for gradient in gradients_before_start())


@every_operation
def test_first_flag_cuts_the_gradient_of_the_state_row_by_row(case):
    inputs = case.inputs(2, 9, 5)
    is_init = torch.zeros(2, 9, dtype=torch.bool)
    is_init[1, 0] = True
    _, _, gradients = run_with_gradients(case.run, inputs, is_init)
    assert gradients["state"][0].any()
    assert not gradients["state"][1].any()


@every_operation
def test_without_gradients_nothing_is_recorded_and_nothing_changes(case):
    sequences, weights, state = case.inputs(2, 21, 5)
    is_init = flags(2, 21)
    recorded = case.run(sequences, weights, is_init, state)
    with torch.no_grad():
        plain = case.run(sequences, weights, is_init, state)
    for got, wanted in zip(plain, recorded, strict=True):
        assert got.grad_fn is None
        assert wanted.grad_fn is not None
        torch.testing.assert_close(got, wanted, rtol=1e-12, atol=1e-12)


@every_operation
@pytest.mark.parametrize(("R", "L"), [(1, 1), (2, 21)])
def test_inputs_are_left_as_they_were(case, R, L):
    inputs, is_init = case.inputs(R, L, 5), flags(R, L)
    before = {name: tensor.detach().clone() for name, tensor in leaves(inputs).items()}
    run_with_gradients(case.run, inputs, is_init)
    for name, tensor in leaves(inputs).items():
        assert torch.equal(tensor, before[name]), name


@every_operation
def test_backward_twice_gives_the_same(case):
    inputs, is_init = case.inputs(2, 21, 5), flags(2, 21)
    sequences, weights, state = inputs
    y, _ = case.run(sequences, weights, is_init, state)
    tensors = list(leaves(inputs).values())
    first = torch.autograd.grad(y.sum(), tensors, retain_graph=True)
    second = torch.autograd.grad(y.sum(), tensors)
    for one, other in zip(first, second, strict=True):
        assert torch.equal(one, other)


@every_operation
def test_double_backward_is_refused(case):
    inputs = case.inputs(1, 3, 2)
    y, _ = case.run(*inputs[:2], flags(1, 3), inputs[2])
    (gradient,) = torch.autograd.grad(
        y.square().sum(), next(iter(leaves(inputs).values())), create_graph=True
    )
    with pytest.raises(RuntimeError, match=r"once_differentiable|no autograd formula"):
        gradient.sum().backward()


@pytest.mark.parametrize("case", [CASES[name] for name in PLAIN], ids=PLAIN)
@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_cuda_matches_cpu_and_never_waits(case):
    inputs, is_init = case.inputs(3, 63, 5), flags(3, 63)
    wanted = run_with_gradients(case.run, inputs, is_init)
    sequences, weights, state = (
        {k: v.detach().cuda().requires_grad_() for k, v in group.items()}
        if isinstance(group, dict)
        else group.detach().cuda().requires_grad_()
        for group in inputs
    )
    on_device = is_init.cuda()
    torch.cuda.set_sync_debug_mode("error")
    try:
        y, _ = case.run(sequences, weights, on_device, state)
        y.sum().backward()
    finally:
        torch.cuda.set_sync_debug_mode("default")
    got = run_with_gradients(case.run, (sequences, weights, state), on_device)
    y, last, gradients = got
    gradients = {name: gradient.cpu() for name, gradient in gradients.items()}
    torch.testing.assert_close((y.cpu(), last.cpu(), gradients), wanted)
