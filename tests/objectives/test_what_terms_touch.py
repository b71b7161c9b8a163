"""What each term of RESeLLoss trains, reads and leaves alone."""

import copy
import pickle

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from resel_torchrl.objectives import RESeLLoss
from tests.objectives.episodes import (
    make_loss,
    make_modules,
)

# Most tests build no target updater; TorchRL reminds of it.
pytestmark = pytest.mark.filterwarnings("ignore:No target network updater")


def trained_by(loss, name, batch):
    """Which parts of the loss get a gradient from one term."""
    loss.zero_grad()
    loss(batch)[name].backward()
    return {
        key.split("_params")[0]
        for key, p in loss.named_parameters()
        if p.grad is not None
    }


def test_each_term_trains_its_own_side_only(batch):
    loss = make_loss()
    critic, actor = (
        {"qvalue_network", "critic_encoder"},
        {"actor_network", "actor_encoder"},
    )
    assert trained_by(loss, "loss_qvalue", batch) == critic
    assert trained_by(loss, "loss_actor", batch) == actor
    assert trained_by(loss, "loss_alpha", batch) == {"log_alpha"}


def test_every_parameter_of_its_side_gets_a_gradient(batch):
    loss = make_loss()
    terms = loss(batch)
    (terms["loss_qvalue"] + terms["loss_actor"] + terms["loss_alpha"]).backward()
    assert all((p.grad != 0).any() for p in loss.parameters())


def test_parameters_are_the_users_own_objects():
    modules = make_modules()
    loss = RESeLLoss(**modules)
    users = [p for module in modules.values() for p in module.parameters()]
    listed = [p for _, p in loss.named_parameters()]
    assert {id(p) for p in listed} == {id(p) for p in [*users, loss.log_alpha]}
    assert len(listed) == len(users) + 1


def test_parameters_stay_the_users_own_after_a_cast_and_an_update(batch):
    modules = make_modules()
    loss = RESeLLoss(**modules).float()
    batch = batch.apply(lambda x: x.float() if x.is_floating_point() else x)
    loss(batch)["loss_qvalue"].backward()
    users = [p for module in modules.values() for p in module.parameters()]
    assert {id(p) for p in users} < {id(p) for p in loss.parameters()}
    assert all(p.dtype is torch.float32 for p in users)


def pickled(loss):
    return pickle.loads(pickle.dumps(loss))


@pytest.mark.parametrize("duplicate", [copy.deepcopy, pickled])
def test_a_copy_runs_on_the_parameters_it_lists(duplicate):
    twin = duplicate(make_loss())
    for name in ("actor_network", "actor_encoder", "qvalue_network", "critic_encoder"):
        run = {id(p) for p in getattr(twin, name).parameters()}
        listed = getattr(twin, f"{name}_params").values(True, True)
        assert run == {id(p) for p in listed}


def test_calls_leave_modules_and_targets_registered_as_they_were(batch):
    modules = make_modules()
    loss = RESeLLoss(**modules)

    def registered():
        users = [
            (key, id(p)) for m in modules.values() for key, p in m.named_parameters()
        ]
        targets = [
            (key, id(p), p.requires_grad)
            for name in ("qvalue_network", "critic_encoder")
            for key, p in getattr(loss, f"target_{name}_params").items(True, True)
        ]
        return users, targets, [(key, id(p)) for key, p in loss.named_parameters()]

    before = registered()
    loss(batch)["loss_qvalue"].backward()
    assert registered() == before
    assert not any(requires_grad for _, _, requires_grad in before[1])


def test_three_encoder_passes_per_critic_term_and_two_per_policy_term(batch):
    loss = make_loss()
    calls = []
    for name in ("actor_encoder", "critic_encoder"):
        getattr(loss, name).register_forward_hook(
            lambda module, inputs, out, name=name: calls.append(
                (name, out[module.out_key].requires_grad)
            )
        )
    loss.critic_loss(batch)
    assert sorted(calls) == [
        ("actor_encoder", False),
        ("critic_encoder", False),  # target parameters
        ("critic_encoder", True),
    ]
    calls.clear()
    loss.policy_loss(batch)
    assert sorted(calls) == [("actor_encoder", True), ("critic_encoder", False)]


class NoHostReads(TorchDispatchMode):
    """Raise where a value is read on the host or a shape depends on values."""

    FORBIDDEN = ("_local_scalar_dense", "nonzero", "masked_select", "equal", "unique")

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        name = func.overloadpacket.__name__
        if name in self.FORBIDDEN:
            raise AssertionError(f"aten.{name} reads tensor values on the host")
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("core", ["gru", "mamba"])
def test_no_value_is_read_on_the_host(core, batch):
    loss = make_loss(core)
    with NoHostReads():
        for _ in range(2):
            terms = loss(batch)
            (terms["loss_qvalue"] + terms["loss_actor"]).backward()
    with NoHostReads(), pytest.raises(AssertionError, match="_local_scalar_dense"):
        terms["loss_qvalue"].item()


def test_input_batch_is_not_changed(batch):
    loss = make_loss()
    before = batch.clone()
    for term in (loss.critic_loss, loss.policy_loss, loss):
        term(batch)
        assert set(batch.keys(True, True)) == set(before.keys(True, True))
        assert (batch == before).all()


@pytest.mark.gpu
@pytest.mark.parametrize("core", ["gru", "mamba"])
def test_runs_on_cuda_without_synchronising(core, batch):
    loss = make_loss(core).cuda()
    batch = batch.cuda()
    torch.cuda.set_sync_debug_mode("error")
    try:
        terms = loss(batch)
        (terms["loss_qvalue"] + terms["loss_actor"]).backward()
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert terms["loss_qvalue"].isfinite()
