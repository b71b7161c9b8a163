"""The fused convolution against its specification, under Triton's interpreter."""

import pytest
import torch

from tests.ops.cases import flags, poisoned_memory, saved_bytes
from tests.ops.triton_cases import CONV, conv_inputs, naive_conv, with_gradients

conv = CONV.causal_conv_triton


def check(inputs, is_init, tolerance=1e-10, **options):
    with poisoned_memory():
        got = with_gradients(conv, inputs, is_init, **options)
    wanted = with_gradients(naive_conv, inputs, is_init, **options)
    torch.testing.assert_close(got, wanted, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize(
    ("sizes", "share", "silu", "dtype"),
    [
        ((2, 1, 5, 8), 0.2, True, torch.float64),
        ((2, 3, 5, 8), 0.2, False, torch.float64),
        ((1, 70, 24, 8), 0.2, True, torch.float64),
        ((1, 40, 24, 8), 0.0, False, torch.float32),
        ((2, 33, 3, 1), 0.2, True, torch.float32),
        ((1, 65, 70, 2), 1.0, True, torch.float64),
    ],
)
def test_matches_specification(sizes, share, silu, dtype):
    tolerance = 1e-10 if dtype == torch.float64 else 2e-5
    check(conv_inputs(*sizes, dtype), flags(*sizes[:2], share), tolerance, silu=silu)


def test_resets_around_the_border_of_two_blocks():
    """One row for each place of the start flag."""
    is_init = torch.eye(40, dtype=torch.bool)[[0, 1, 29, 31, 32, 33, 39]]
    check(conv_inputs(7, 40, 2, 4), is_init, silu=True)


def test_nothing_crosses_a_start_flag():
    """NaN before the flag leaves no trace; the control without a flag shows it."""
    clean, start = conv_inputs(1, 40, 3, 8), 10
    noisy = {name: tensor.detach().clone() for name, tensor in clean.items()}
    noisy["state"].fill_(torch.nan)
    noisy["x"][:, :start] = torch.nan
    for tensor in noisy.values():
        tensor.requires_grad_()
    is_init = torch.zeros(1, 40, dtype=torch.bool)
    is_init[:, start] = True

    def after(function, inputs):
        y, last = function(**inputs, is_init=is_init, silu=True)
        loss = y[:, start:].square().sum() + last.sum()
        (gradient,) = torch.autograd.grad(loss, inputs["x"])
        return y[:, start:], last, gradient[:, start:]

    torch.testing.assert_close(after(conv, noisy), after(naive_conv, clean))
    is_init[:] = False
    assert conv(**noisy, is_init=is_init)[0][:, start : start + 7].isnan().all()


def test_views_of_wider_tensors():
    inputs, is_init = conv_inputs(2, 9, 6, 4), flags(2, 9)
    wide = torch.cat([inputs["x"], inputs["x"]], -1).detach().requires_grad_()
    weight = inputs["weight"].detach().t().contiguous().requires_grad_()
    state = inputs["state"].detach().mT.contiguous().requires_grad_()

    def view(function):
        x = wide.chunk(2, -1)[1]
        y, last = function(x, weight.t(), inputs["bias"], is_init, state.mT)
        loss = y.square().sum() + last.sum()
        return y, last, *torch.autograd.grad(loss, [wide, weight, state])

    torch.testing.assert_close(view(conv), view(naive_conv))


def test_two_runs_are_equal_bit_for_bit():
    inputs, is_init = conv_inputs(1, 40, 70, 2, torch.float32), flags(1, 40)
    first, second = (with_gradients(conv, inputs, is_init, silu=True) for _ in range(2))
    assert all(torch.equal(first[name], second[name]) for name in first)


@pytest.mark.parametrize("index", [0, 1])
def test_one_unused_output_is_no_hindrance(index):
    inputs, is_init = conv_inputs(2, 9, 3, 4), flags(2, 9)
    leaves = [inputs["x"], inputs["state"]]

    def gradients(function):
        return torch.autograd.grad(
            function(**inputs, is_init=is_init)[index].sum(), leaves
        )

    torch.testing.assert_close(gradients(conv), gradients(naive_conv))


def test_keeps_what_its_docstring_says():
    inputs, is_init = conv_inputs(2, 33, 5, 8), flags(2, 33)
    for silu, outputs in ((False, 0), (True, 2 * 33 * 5)):
        kept = saved_bytes(lambda s=silu: conv(**inputs, is_init=is_init, silu=s))
        assert kept == is_init.numel() + 8 * outputs


@pytest.mark.parametrize("silu", [False, True])
def test_operator_is_registered_in_full(silu):
    """Schema, fake tensors, autograd, and tracing with dynamic shapes."""
    inputs = conv_inputs(2, 9, 3, 4, torch.float32)
    arguments = [inputs["x"], inputs["weight"], inputs["bias"], flags(2, 9)]
    torch.library.opcheck(CONV._forward, (*arguments, inputs["state"], silu, True))


def test_compiles_in_one_graph():
    inputs, is_init = conv_inputs(2, 9, 3, 4, torch.float32), flags(2, 9)
    compiled = torch.compile(conv, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(
        with_gradients(compiled, inputs, is_init, silu=True),
        with_gradients(conv, inputs, is_init, silu=True),
    )
