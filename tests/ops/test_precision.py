"""Under autocast recurrences compute in float32; the products before them do not."""

import pytest
import torch

from resel_torchrl.ops import (
    causal_conv,
    gru_scan,
    linear_scan,
    lstm_layer,
    lstm_scan,
    selective_scan,
)
from resel_torchrl.ops._precision import in_full_precision
from tests.ops.cases import flags

R, L, H = 2, 40, 6


def normal(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def rates():
    return torch.sigmoid(normal(R, L, H) + 2)


# Sequences come from products, so they are lower; weights and states are float32.
OPERATIONS = {
    "causal_conv": (causal_conv, 1, [normal(H, 4), normal(H)], normal(R, H, 3)),
    "gru_scan": (gru_scan, 3, [normal(3 * H, H), normal(3 * H)], normal(R, H)),
    "lstm_scan": (lstm_scan, 4, [normal(4 * H, H), normal(4 * H)], normal(R, 2 * H)),
}


@pytest.mark.parametrize("name", [*OPERATIONS, "selective_scan", "linear_scan", "lstm"])
def test_autocast_changes_no_bit(name):
    is_init, x = flags(R, L, 0.05), normal(R, L, H).bfloat16()
    if name in OPERATIONS:
        function, width, weights, state = OPERATIONS[name]
        sequence, *rest = (x.repeat(1, 1, width), is_init, *weights, state)
        if name == "causal_conv":
            rest = [*weights, is_init, state]
        arguments = [sequence, *rest]
    elif name == "selective_scan":
        function, A = selective_scan, -torch.rand(H, 3)
        B = normal(R, L, 3).bfloat16()
        dt = rates().bfloat16()
        arguments = [x, dt, A, B, B, normal(H), is_init, torch.zeros(R, H, 3), x]
    elif name == "linear_scan":
        function = linear_scan
        arguments = [rates().bfloat16(), x, is_init, torch.zeros(R, H)]
    else:
        function, weights = lstm_layer, list(torch.nn.LSTM(H, H).parameters())
        arguments = [x, is_init, *weights, torch.zeros(R, 2 * H)]
    raised = [a.float() if a.is_floating_point() else a for a in arguments]
    # With a gradient both times: without one an operation may take another kernel.
    raised[0].requires_grad_(), arguments[0].requires_grad_()
    y, last = function(*raised)
    with torch.autocast("cpu", torch.bfloat16):
        got, got_last = function(*arguments)
    assert got.dtype == got_last.dtype == torch.float32
    assert torch.equal(got, y)
    assert torch.equal(got_last, last)
    got.sum().backward()
    assert arguments[0].grad.dtype == torch.bfloat16


def test_control_without_it_the_state_is_lower():
    function, width, weights, state = OPERATIONS["gru_scan"]
    sequence, is_init = normal(R, L, H).repeat(1, 1, width), flags(R, L, 0.05)
    with torch.autocast("cpu", torch.bfloat16):
        naive = {"backend": "naive"}
        kept, _ = function(sequence, is_init, *weights, state, **naive)
        lost, _ = function.__wrapped__(sequence, is_init, *weights, state, **naive)
    assert (kept - lost).abs().max() > 1e-3


def test_arguments_by_keyword():
    is_init, state = flags(R, L, 0.05), torch.zeros(R, H)
    by_keyword = {"a": rates(), "b": normal(R, L, H), "is_init": is_init}
    h, _ = linear_scan(**by_keyword, state=state)
    assert torch.equal(h, linear_scan(rates(), normal(R, L, H), is_init, state)[0])


def test_compiles_for_a_device_without_autocast():
    add = in_full_precision(lambda a, b: a + b)
    compiled = torch.compile(add, backend="eager", fullgraph=True)
    assert compiled(*torch.ones(2, 3, device="meta")).device.type == "meta"
