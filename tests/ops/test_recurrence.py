"""GRU and LSTM scans against torch.nn, and what they keep."""

import pytest
import torch

from tests.ops.cases import CASES, flags, leaves, saved_bytes


@pytest.mark.parametrize(
    ("name", "layer"), [("gru", torch.nn.GRU), ("lstm", torch.nn.LSTM)]
)
def test_matches_torch_without_resets(name, layer):
    R, L, H = 3, 63, 11
    module = layer(H, H, batch_first=True).double()
    _, _, state = CASES[name].inputs(R, L, H)
    x = torch.randn(R, L, H, dtype=torch.float64, requires_grad=True)
    hidden = [part.unsqueeze(0).contiguous() for part in state.split(H, -1)]
    wanted, last = module(x, hidden[0] if name == "gru" else tuple(hidden))
    last = last[0] if name == "gru" else torch.cat([last[0][0], last[1][0]], -1)

    weights = {"weight": module.weight_hh_l0, "bias": module.bias_hh_l0}
    gates = torch.nn.functional.linear(x, module.weight_ih_l0, module.bias_ih_l0)
    is_init = torch.zeros(R, L, dtype=torch.bool)
    got, got_last = CASES[name].run({"gates": gates}, weights, is_init, state)
    torch.testing.assert_close(got, wanted)
    torch.testing.assert_close(got_last, last)

    tensors = [x, state, *module.parameters()]
    torch.testing.assert_close(
        torch.autograd.grad(got.square().sum() + got_last.sum(), tensors),
        torch.autograd.grad(wanted.square().sum() + last.sum(), tensors),
    )


@pytest.mark.parametrize(("name", "per_step"), [("gru", 5), ("lstm", 6)])
def test_keeps_what_its_docstring_says(name, per_step):
    R, L, H = 2, 101, 16
    case, is_init = CASES[name], flags(2, 101)
    sequences, weights, state = case.inputs(R, L, H)

    kept = saved_bytes(lambda: case.run(sequences, weights, is_init, state))
    assert kept == 8 * per_step * R * L * H + is_init.numel()


@pytest.mark.parametrize("name", ["gru", "lstm"])
def test_one_unused_output_is_no_hindrance(name):
    case, is_init = CASES[name], flags(2, 9)
    inputs = case.inputs(2, 9, 3)
    sequences, weights, state = inputs
    tensors = list(leaves(inputs).values())
    for index in (0, 1):
        torch.testing.assert_close(
            torch.autograd.grad(
                case.run(sequences, weights, is_init, state)[index].sum(), tensors
            ),
            torch.autograd.grad(
                case.naive(sequences, weights, is_init, state)[index].sum(), tensors
            ),
        )
