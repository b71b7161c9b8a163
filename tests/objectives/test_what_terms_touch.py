"""What each term of a loss trains, reads and leaves alone."""

import copy
import pickle

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from tests.objectives.episodes import (
    ALGORITHMS,
    LOSSES,
    make_loss,
    make_modules,
    total,
)

# Most tests build no target updater; TorchRL reminds of it.
pytestmark = pytest.mark.filterwarnings("ignore:No target network updater")
of_every_loss = pytest.mark.parametrize("algorithm", ALGORITHMS)
NETWORKS = ("actor_network", "actor_encoder", "qvalue_network", "critic_encoder")
TARGETS = {
    "resel": {"qvalue_network", "critic_encoder"},
    "discrete_resel": {"qvalue_network", "critic_encoder"},
    "td3_resel": set(NETWORKS),
}


def tuned(algorithm):
    """Options of a loss whose temperature, if any, is tuned."""
    return {"fixed_alpha": False} if algorithm == "discrete_resel" else {}


def own_parameters(loss):
    """The loss's own parameters, beside those of its networks."""
    return [] if isinstance(loss, LOSSES["td3_resel"]) else [loss.log_alpha]


def trained_by(loss, name, batch):
    """Which parts of the loss get a gradient from one term."""
    loss.zero_grad()
    loss(batch)[name].backward()
    return {
        key.split("_params")[0]
        for key, p in loss.named_parameters()
        if p.grad is not None
    }


@of_every_loss
def test_each_term_trains_its_own_side_only(batch, algorithm):
    loss = make_loss(algorithm=algorithm, **tuned(algorithm))
    critic, actor = (
        {"qvalue_network", "critic_encoder"},
        {"actor_network", "actor_encoder"},
    )
    assert trained_by(loss, "loss_qvalue", batch) == critic
    assert trained_by(loss, "loss_actor", batch) == actor
    if algorithm != "td3_resel":
        assert trained_by(loss, "loss_alpha", batch) == {"log_alpha"}


@of_every_loss
def test_every_parameter_of_its_side_gets_a_gradient(batch, algorithm):
    loss = make_loss(algorithm=algorithm, **tuned(algorithm))
    total(loss(batch)).backward()
    assert all((p.grad != 0).any() for p in loss.parameters())


@of_every_loss
def test_parameters_are_the_users_own_objects(algorithm):
    modules = make_modules(algorithm=algorithm)
    loss = LOSSES[algorithm](**modules, **tuned(algorithm))
    users = [p for module in modules.values() for p in module.parameters()]
    users += own_parameters(loss)
    listed = [p for _, p in loss.named_parameters()]
    assert {id(p) for p in listed} == {id(p) for p in users}
    assert len(listed) == len(users)


def test_a_fixed_temperature_is_no_parameter(batch):
    loss = make_loss(algorithm="discrete_resel")
    assert "log_alpha" not in dict(loss.named_parameters())
    assert "log_alpha" in loss.state_dict()


@of_every_loss
def test_parameters_stay_the_users_own_after_a_cast_and_an_update(batch, algorithm):
    modules = make_modules(algorithm=algorithm)
    loss = LOSSES[algorithm](**modules).float()
    batch = batch.apply(lambda x: x.float() if x.is_floating_point() else x)
    loss(batch)["loss_qvalue"].backward()
    users = [p for module in modules.values() for p in module.parameters()]
    assert {id(p) for p in users} <= {id(p) for p in loss.parameters()}
    assert all(p.dtype is torch.float32 for p in users)


def pickled(loss):
    return pickle.loads(pickle.dumps(loss))


@of_every_loss
@pytest.mark.parametrize("duplicate", [copy.deepcopy, pickled])
def test_a_copy_runs_on_the_parameters_it_lists(duplicate, algorithm):
    twin = duplicate(make_loss(algorithm=algorithm))
    for name in NETWORKS:
        run = {id(p) for p in getattr(twin, name).parameters()}
        listed = getattr(twin, f"{name}_params").values(True, True)
        assert run == {id(p) for p in listed if p.requires_grad}


@of_every_loss
def test_calls_leave_modules_and_targets_registered_as_they_were(batch, algorithm):
    modules = make_modules(algorithm=algorithm)
    loss = LOSSES[algorithm](**modules)

    def registered():
        users = [
            (key, id(p)) for m in modules.values() for key, p in m.named_parameters()
        ]
        targets = [
            (key, id(p), p.requires_grad)
            for name in sorted(TARGETS[algorithm])
            for key, p in getattr(loss, f"target_{name}_params").items(True, True)
        ]
        return users, targets, [(key, id(p)) for key, p in loss.named_parameters()]

    before = registered()
    loss(batch)["loss_qvalue"].backward()
    assert registered() == before
    assert not any(requires_grad for _, _, requires_grad in before[1])


@of_every_loss
def test_three_encoder_passes_per_critic_term_and_two_per_policy_term(batch, algorithm):
    loss = make_loss(algorithm=algorithm)
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


@pytest.mark.parametrize("algorithm", ["resel", "discrete_resel"])
def test_policy_encodes_once_for_both_terms(batch, algorithm):
    """The same to the bit, from a pass less; with other contexts it is not."""

    def terms(contexts):
        loss = make_loss(algorithm=algorithm, **tuned(algorithm))
        context = loss.policy_context(batch) if contexts else None
        passes.clear()
        loss.actor_encoder.register_forward_hook(lambda *_: passes.append(1))
        torch.manual_seed(0)
        first = [] if context is None else [contexts * context.detach()]
        second = [] if context is None else [contexts * context]
        values = loss.critic_loss(batch, *first)
        values.update(loss.policy_loss(batch, *second))
        total(values).backward()
        return {
            **values.to_dict(),
            **{name: p.grad for name, p in loss.named_parameters()},
        }

    passes = []
    twice = terms(contexts=0)
    assert len(passes) == 2
    once = terms(contexts=1)
    assert len(passes) == 0 and once.keys() == twice.keys()
    assert all(torch.equal(once[name], value) for name, value in twice.items())
    other = terms(contexts=2)
    assert other["loss_qvalue"] != once["loss_qvalue"]
    assert other["loss_actor"] != once["loss_actor"]


@pytest.mark.parametrize("algorithm", ["resel", "discrete_resel"])
def test_a_context_that_does_not_fit_is_refused(batch, algorithm):
    loss = make_loss(algorithm=algorithm)
    context = loss.policy_context(batch)
    loss.critic_loss(batch, context.detach())  # which needs no gradient of it
    with pytest.raises(ValueError, match="Expected a policy_context with gradient"):
        loss.policy_loss(batch, context.detach())
    for term in (loss.critic_loss, loss.policy_loss):
        with pytest.raises(ValueError, match=r"Expected a policy_context \[R, L, C\]"):
            term(batch, context[:, :-1])


def test_td3_refuses_a_context_in_place_of_its_target_policys(batch):
    loss = make_loss(algorithm="td3_resel")
    assert not hasattr(loss, "policy_context")
    context = loss.encode("actor_encoder", loss.read(batch).rows)
    with pytest.raises(ValueError, match=r"Expected no policy_context.*of its own"):
        loss.critic_loss(batch, context)


class NoHostReads(TorchDispatchMode):
    """Raise where a value is read on the host or a shape depends on values."""

    FORBIDDEN = ("_local_scalar_dense", "nonzero", "masked_select", "equal", "unique")

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        name = func.overloadpacket.__name__
        if name in self.FORBIDDEN:
            raise AssertionError(f"aten.{name} reads tensor values on the host")
        return func(*args, **(kwargs or {}))


@of_every_loss
@pytest.mark.parametrize("core", ["gru", "mamba"])
def test_no_value_is_read_on_the_host(core, batch, algorithm):
    loss = make_loss(core, algorithm=algorithm)
    with NoHostReads():
        for _ in range(2):
            terms = loss(batch)
            (terms["loss_qvalue"] + terms["loss_actor"]).backward()
    with NoHostReads(), pytest.raises(AssertionError, match="_local_scalar_dense"):
        terms["loss_qvalue"].item()


@of_every_loss
def test_input_batch_is_not_changed(batch, algorithm):
    loss = make_loss(algorithm=algorithm)
    before = batch.clone()
    for term in (loss.critic_loss, loss.policy_loss, loss):
        term(batch)
        assert set(batch.keys(True, True)) == set(before.keys(True, True))
        assert (batch == before).all()


@pytest.mark.gpu
@of_every_loss
@pytest.mark.parametrize("core", ["gru", "mamba"])
def test_runs_on_cuda_without_synchronising(core, batch, algorithm):
    loss = make_loss(core, algorithm=algorithm).cuda()
    batch = batch.cuda()
    torch.cuda.set_sync_debug_mode("error")
    try:
        terms = loss(batch)
        (terms["loss_qvalue"] + terms["loss_actor"]).backward()
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert terms["loss_qvalue"].isfinite()
