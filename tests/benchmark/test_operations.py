"""Timing of the operations, of the matrix products, and of TorchRL's own parts."""

import pytest
import torch

from recipes.benchmark import operations, peers
from recipes.benchmark.operations import time_operations
from recipes.benchmark.peers import time_torchrl_update
from recipes.benchmark.products import record_products
from resel_torchrl.config import compose
from resel_torchrl.ops import gru

SIZES = {"rows": 2, "length": 9, "channels": 6, "states": 3, "repetitions": 2}


def test_two_rows_for_each_operation_and_installed_implementation():
    pytest.importorskip("numba")
    rows = time_operations(**SIZES)
    cases = [row.case for row in rows]
    for name, width in {"selective_scan": 6, "causal_conv": 6, "gru": 3}.items():
        for backend in ("torch", "cpu"):
            assert cases.count(f"{name}, {backend}, cpu, [2, 9, {width}]") == 2
    assert {row.quantity for row in rows} == {"forward", "forward and backward"}
    assert all(row.median > 0 and row.repetitions == 2 for row in rows)


def test_a_wrong_implementation_is_not_timed(monkeypatch):
    right = gru.BACKENDS["naive"]
    wrong = gru.Backend(__name__, "_forgetful")
    monkeypatch.setitem(gru.BACKENDS, "naive", wrong)
    with pytest.raises(RuntimeError, match=r"gru of backend naive to equal"):
        time_operations(["gru"], ["naive"], **SIZES)
    monkeypatch.setitem(gru.BACKENDS, "naive", right)  # the control: it is timed
    assert len(time_operations(["gru"], ["naive"], **SIZES)) == 2


def _forgetful(gates, is_init, weight, bias, state):
    return gru.gru_scan_naive(gates, torch.ones_like(is_init), weight, bias, state)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((["gur"],), "operations: expected some of .* got 'gur'"),
        ((["gru"], ["numba"]), "backends: expected some of .* got 'numba'"),
    ],
)
def test_unknown_names(arguments, message):
    with pytest.raises(ValueError, match=message):
        time_operations(*arguments, **SIZES)
    with pytest.raises(ValueError, match="rows: expected 1 or more"):
        time_operations(**SIZES | {"rows": 0})


def test_products_are_recorded_with_their_backward_passes():
    x = torch.randn(2, 4, 3)
    weight = torch.randn(3, 5, requires_grad=True)
    layer = torch.nn.Linear(5, 7)

    def run():
        y = torch.bmm(layer(x @ weight), torch.randn(2, 7, 2))
        y.square().sum().backward()

    products = record_products(run)
    names = sorted(str(function) for function, _ in products.calls)
    # Forward: x W, the layer, bmm; backward: one for each, and two of the layer.
    assert names.count("aten.addmm.default") == 1
    assert names.count("aten.bmm.default") == 2
    assert names.count("aten.mm.default") == 4
    products()


def test_products_of_one_layout_share_their_numbers():
    a, b = torch.randn(2, 3, 3)
    first, second = record_products(lambda: (a @ b) @ b).calls
    assert first[1][0] is first[1][1] is second[1][0]


def test_products_keep_shapes_and_layouts():
    a, b = torch.randn(4, 3).t(), torch.randn(1, 4).expand(4, 4)
    [(_, (one, other))] = record_products(lambda: a @ b).calls
    assert (one.shape, one.stride()) == (a.shape, a.stride())
    assert (other.shape, other.stride()) == (b.shape, b.stride())


def test_torchrls_own_update_moves_parameters_and_targets(monkeypatch):
    made, moved = [], []
    make = peers._loss
    monkeypatch.setattr(peers, "_loss", lambda *a: made.append(make(*a)) or made[0])

    def watched(call, repetitions, device):
        before = {k: v.clone() for k, v in made[0].state_dict().items()}
        assert call()["loss_qvalue"].isfinite()
        after = made[0].state_dict()
        moved.extend(k for k in before if not torch.equal(before[k], after[k]))
        return [0.5]

    monkeypatch.setattr(peers, "seconds_of", watched)
    small = ["agent.hidden_size=4", "agent.n_critics=2", "replay.batch_size=400"]
    [row] = time_torchrl_update(compose(["task=pendulum_v", *small]))
    assert row.case == "pendulum_v, gru, batch of 2 full episodes of 200"
    assert row.median == 2
    for name in ("actor_network_params", "qvalue_network_params", "target_qvalue"):
        assert any(key.startswith(name) for key in moved), name


def test_operations_can_be_named():
    assert list(operations.OPERATIONS) == ["selective_scan", "causal_conv", "gru"]
