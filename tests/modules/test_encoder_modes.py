"""Sequential and recurrent mode of a context encoder."""

import pytest
import torch
from torchrl.modules import set_recurrent_mode

from resel_torchrl.modules import CORES
from tests.modules.encoders import make_data, make_encoder, run_recurrent, run_steps

TOLERANCE = {torch.float32: 1e-5, torch.float64: 1e-10}


def gradients(encoder, context):
    weights = torch.linspace(-1, 1, context.numel(), dtype=context.dtype)
    loss = (context * weights.reshape(context.shape)).sum()
    return torch.autograd.grad(loss, list(encoder.parameters()))


@pytest.mark.parametrize("core", sorted(CORES))
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_sequential_mode_equals_recurrent_mode_across_resets(core, dtype):
    encoder, data = make_encoder(core, dtype), make_data(dtype=dtype)
    recurrent = run_recurrent(encoder, data)
    sequential, _ = run_steps(encoder, data)
    tolerance = TOLERANCE[dtype]
    torch.testing.assert_close(sequential, recurrent, atol=tolerance, rtol=0)
    for a, b in zip(
        gradients(encoder, sequential), gradients(encoder, recurrent), strict=True
    ):
        torch.testing.assert_close(a, b, atol=30 * tolerance, rtol=30 * tolerance)


@pytest.mark.parametrize("core", sorted(CORES))
def test_start_flags_matter_exactly_to_cores_with_memory(core):
    encoder = make_encoder(core)
    with_resets = run_recurrent(encoder, make_data())
    without = run_recurrent(encoder, make_data(resets=False))
    assert torch.equal(with_resets, without) == (encoder.state_size == 0)


@pytest.mark.parametrize("mode", ["sequential", "recurrent"])
def test_nothing_passes_a_start_flag(mode):
    encoder, data = make_encoder(), make_data(rows=1, length=9, resets=False)
    data["is_init"][0, 4] = True
    changed = data.clone()
    changed["observation"][0, :4] += 10.0
    run = run_recurrent if mode == "recurrent" else lambda *a: run_steps(*a)[0]
    before, after = run(encoder, data), run(encoder, changed)
    assert torch.equal(before[0, 4:], after[0, 4:])
    data["is_init"][0, 4] = changed["is_init"][0, 4] = False
    before, after = run(encoder, data), run(encoder, changed)
    assert not torch.equal(before[0, 4:], after[0, 4:])


def test_recurrent_mode_writes_the_context_and_no_memory():
    encoder, data = make_encoder(), make_data()
    with set_recurrent_mode(True):
        out = encoder(data.clone())
    added = set(out.keys(True, True)) - set(data.keys(True, True))
    assert added == {"context_actor"}
    assert out["context_actor"].shape == (3, 17, 3)


def test_recurrent_mode_starts_from_the_first_column_of_the_memory():
    encoder, data = make_encoder(), make_data()
    _, memory = run_steps(encoder, data[:, :6])
    rest = data[:, 6:].clone()
    rest["is_init"][:, 0] = False
    whole = data.clone()
    whole["is_init"][:, 6] = False
    expected, _ = run_steps(encoder, whole)
    from_zeros = run_recurrent(encoder, rest)
    stored = torch.full((3, 11, encoder.state_size), torch.nan)
    stored[:, 0] = memory
    rest[encoder.state_key] = stored
    resumed = run_recurrent(encoder, rest)
    torch.testing.assert_close(resumed, expected[:, 6:], atol=1e-5, rtol=0)
    assert not torch.allclose(from_zeros, expected[:, 6:], atol=1e-3)


def test_a_flat_batch_is_one_row_and_more_dimensions_are_folded():
    encoder, data = make_encoder(), make_data(rows=6)
    rows = run_recurrent(encoder, data)
    torch.testing.assert_close(
        run_recurrent(encoder, data[2]), run_recurrent(encoder, data[2:3])[0]
    )
    folded = run_recurrent(encoder, data.reshape(2, 3, 17))
    torch.testing.assert_close(folded, rows.reshape(2, 3, 17, 3))


@pytest.mark.parametrize("batch", [(), (5,), (2, 3), (0,)])
def test_sequential_mode_takes_any_batch_shape(batch):
    encoder = make_encoder()
    data = make_data(1, 1)[0, 0].expand(*batch).clone()
    data[encoder.state_key] = torch.zeros(*batch, encoder.state_size)
    encoder(data)
    assert data["context_actor"].shape == (*batch, 3)
    assert data["next", encoder.state_key].shape == (*batch, encoder.state_size)
