"""The interface of RESeLLoss and what each of its terms may touch."""

import copy
import pickle

import pytest
import torch
from tensordict.nn import TensorDictModule
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode
from torchrl.data import Bounded, Categorical, OneHot
from torchrl.modules import GRUModule, OneHotCategorical, ProbabilisticActor
from torchrl.objectives import SoftUpdate, ValueEstimators
from torchrl.objectives.value import TD0Estimator

from resel_torchrl.modules import EnsembleCritic
from resel_torchrl.objectives import RESeLLoss
from tests.objectives.episodes import (
    ACTION,
    CONTEXT,
    CRITICS,
    OBSERVATION,
    flatten,
    locate,
    make_episodes,
    make_loss,
    make_modules,
    pack,
)

# Most tests build no target updater; TorchRL reminds of it.
pytestmark = pytest.mark.filterwarnings("ignore:No target network updater")
LENGTHS, ROW_LENGTH = [4, 1, 6, 2, 3], 13


@pytest.fixture
def batch():
    return pack(make_episodes(LENGTHS), ROW_LENGTH)


def trained_by(loss, name, batch):
    """Which parts of the loss get a gradient from one term."""
    loss.zero_grad()
    loss(batch)[name].backward()
    return {
        key.split("_params")[0]
        for key, p in loss.named_parameters()
        if p.grad is not None
    }


# Gradients


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


# Encoder passes and host reads


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


# Terms


def test_time_limit_bootstraps_and_terminal_state_does_not():
    """Reward 1 for ever is worth 1 / (1 - gamma): the target of a critic that knows."""
    gamma = 0.9
    episodes = make_episodes([5, 5])
    for episode in episodes:
        episode.reward.fill_(1.0)
    batch = pack(episodes, ROW_LENGTH)
    loss = make_loss(alpha_init=1e-12, fixed_alpha=True)
    loss.make_value_estimator(gamma=gamma)
    for name, parameter in loss.target_qvalue_network_params.items(True, True):
        parameter.zero_()
        if name == ("biases", "2"):
            parameter.fill_(1 / (1 - gamma))

    def last_targets():
        target, _ = loss._compute_target_v2(loss._read(batch))
        return [
            target[row, column + 4].item() for row, column in locate(batch, episodes)
        ]

    assert [episode.terminated for episode in episodes] == [True, False]
    assert last_targets() == pytest.approx([1.0, 1 / (1 - gamma)])
    # Control: cutting at every end, a time limit included, is the wrong value.
    loss.set_keys(terminated="done")
    assert last_targets() == pytest.approx([1.0, 1.0])


def test_target_takes_one_random_subset_of_the_target_critics_per_update(batch):
    loss = make_loss(critic_subset_size=1, target_bound=False, reduction="none")
    with torch.no_grad():
        for name, parameter in loss.target_qvalue_network_params.items(True, True):
            parameter.zero_()
            if name == ("biases", "2"):
                parameter.copy_(100.0 * torch.arange(CRITICS).unsqueeze(-1))
    seen = set()
    packed = loss._read(batch)
    ongoing = packed.mask & ~packed.terminated
    for seed in range(12):
        torch.manual_seed(seed)
        target, _ = loss._compute_target_v2(packed)
        members = (target[ongoing] / (100 * 0.99)).round()
        assert (members == members[0]).all()  # one subset for the whole batch
        seen.add(int(members[0]))
    assert seen == set(range(CRITICS))


def test_alpha_of_both_policy_terms_is_clamped_in_place(batch):
    loss = make_loss()
    storage = loss.log_alpha.data_ptr()
    loss.log_alpha.data.fill_(7.0)
    terms = loss.policy_loss(batch)
    torch.testing.assert_close(terms["alpha"], torch.tensor(torch.e))
    assert loss.log_alpha.item() == pytest.approx(1.0)
    assert loss.log_alpha.data_ptr() == storage
    terms["loss_alpha"].backward()
    surplus = -terms["entropy"] + loss.target_entropy
    torch.testing.assert_close(loss.log_alpha.grad, -surplus)


def test_forward_is_the_critic_term_then_the_policy_term(batch):
    loss = make_loss()
    apart = copy.deepcopy(loss)
    torch.manual_seed(3)
    together = loss(batch)
    torch.manual_seed(3)
    separate = apart.critic_loss(batch).update(apart.policy_loss(batch))
    assert set(together.keys()) == set(loss.out_keys)
    for key, value in together.items():
        assert torch.equal(value, separate[key]), key
    assert torch.equal(loss.bootstrap_low, apart.bootstrap_low)


def test_reductions_agree(batch):
    terms = {}
    for reduction in ("mean", "sum", "none"):
        torch.manual_seed(0)
        terms[reduction] = make_loss(reduction=reduction)(batch)
    valid = batch["valid"].squeeze(-1)
    for key in ("loss_qvalue", "loss_actor", "loss_alpha"):
        each = terms["none"][key]
        assert each.shape == batch.shape
        assert (each[~valid] == 0).all()
        torch.testing.assert_close(terms["sum"][key], each.sum())
        torch.testing.assert_close(terms["mean"][key], each[valid].mean())


def test_loss_mask_key_leaves_transitions_out_but_not_their_observations(batch):
    loss = make_loss(reduction="none")
    torch.manual_seed(0)
    each = loss(batch)["loss_actor"]
    loss = make_loss()
    loss.loss_mask_key = "late"
    late = torch.arange(ROW_LENGTH).expand(batch.shape).unsqueeze(-1) >= 3
    batch["late"] = late
    torch.manual_seed(0)
    kept = each[(late & batch["valid"]).squeeze(-1)]
    torch.testing.assert_close(loss(batch)["loss_actor"], kept.mean())
    with pytest.raises(KeyError, match="loss_mask_key"):
        loss(batch.exclude("late"))


# Interface


def test_input_batch_is_not_changed(batch):
    loss = make_loss()
    before = batch.clone()
    for term in (loss.critic_loss, loss.policy_loss, loss):
        term(batch)
        assert set(batch.keys(True, True)) == set(before.keys(True, True))
        assert (batch == before).all()


def test_soft_update_moves_both_targets_by_tau(batch):
    loss = make_loss()
    updater = SoftUpdate(loss, tau=0.25)
    names = ("qvalue_network", "critic_encoder")
    with torch.no_grad():
        for name in names:
            for parameter in getattr(loss, f"{name}_params").values(True, True):
                parameter += 1.0
    updater.step()
    for name in names:
        source = getattr(loss, f"{name}_params")
        target = getattr(loss, f"target_{name}_params")
        for key in source.keys(True, True):
            torch.testing.assert_close(
                source[key] - target[key], 0.75 * torch.ones_like(target[key])
            )


def test_state_dict_round_trip_continues_identically(batch):
    source, copied = make_loss(seed=0), make_loss(seed=1, alpha_init=0.3)
    source.make_value_estimator(gamma=0.8)
    source(batch)
    SoftUpdate(source, tau=0.5).step()
    copied.load_state_dict(source.state_dict())
    for name in ("bootstrap_low", "bootstrap_high", "log_alpha"):
        assert torch.equal(getattr(copied, name), getattr(source, name))
        assert name in source.state_dict()
    torch.manual_seed(0)
    expected = source(batch)
    torch.manual_seed(0)
    assert (copied(batch) == expected).all()


def test_deepcopy_after_use_is_independent(batch):
    loss = make_loss()
    loss(batch)
    twin = copy.deepcopy(loss)
    with torch.no_grad():
        for parameter in twin.parameters():
            parameter += 0.1
    fresh = make_loss(seed=1)
    fresh.load_state_dict(twin.state_dict())
    outputs = []
    for module in (twin, fresh, loss):
        torch.manual_seed(0)
        outputs.append(module(batch))
    assert (outputs[0] == outputs[1]).all()
    assert (outputs[0] != outputs[2]).any()


def test_set_keys_renames_what_is_read(batch):
    loss = make_loss()
    torch.manual_seed(0)
    expected = loss(batch)
    renamed = batch.clone()
    for old, new in [
        ("valid", "is_transition"),
        (("next", "reward"), ("next", "gain")),
        (("next", "terminated"), ("next", "over")),
    ]:
        renamed.rename_key_(old, new)
    loss = make_loss()
    loss.set_keys(valid="is_transition", reward="gain", terminated="over")
    assert {"is_transition", ("next", "gain"), ("next", "over")} < set(loss.in_keys)
    torch.manual_seed(0)
    assert (loss(renamed) == expected).all()


def test_keyword_arguments_are_accepted(batch):
    loss = make_loss()
    torch.manual_seed(0)
    expected = loss(batch)
    arguments = {
        key if isinstance(key, str) else "_".join(key): batch[key]
        for key in loss.in_keys
    }
    loss = make_loss()
    torch.manual_seed(0)
    assert loss(**arguments) == tuple(expected[key] for key in loss.out_keys)


def test_target_entropy_is_known_from_construction():
    assert make_loss().state_dict()["_target_entropy"] == -ACTION
    assert make_loss(target_entropy=0.0).target_entropy == 0


# Bad input


def test_flat_batch_names_pack_episodes():
    with pytest.raises(ValueError, match=r"pack_episodes"):
        make_loss()(flatten(make_episodes([3, 2])))


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda b: b.exclude("valid"), "'valid.*pack_episodes"),
        (lambda b: b.exclude("prev_action"), "'prev_action.*Store it"),
        (lambda b: b.set("valid", b["valid"].double()), "'valid' of dtype torch.bool"),
        (lambda b: b.set("is_init", b["is_init"].squeeze(-1)), "'is_init' of shape"),
        (
            lambda b: b.set(("next", "reward"), b["next", "reward"].expand(-1, -1, 2)),
            "'reward'.*of shape",
        ),
        (lambda b: b[:, :1], r"\[R, L\], L at least 2"),
    ],
    ids=["no-valid", "no-input", "float-valid", "no-trailing", "wide", "one-column"],
)
def test_bad_batch_is_refused_with_what_to_do(batch, spoil, message):
    with pytest.raises((ValueError, KeyError), match=message):
        make_loss()(spoil(batch))


@pytest.mark.parametrize("spec", [OneHot(ACTION), Categorical(ACTION)])
def test_discrete_action_spec_is_refused(spec):
    with pytest.raises(ValueError, match="continuous actions"):
        make_loss(action_spec=spec)


def test_discrete_actor_is_refused():
    modules = make_modules()
    modules["actor_network"] = ProbabilisticActor(
        TensorDictModule(
            nn.Linear(CONTEXT, ACTION), in_keys=["context_actor"], out_keys=["logits"]
        ),
        in_keys=["logits"],
        distribution_class=OneHotCategorical,
    )
    with pytest.raises(ValueError, match="continuous actions, got OneHotCategorical"):
        RESeLLoss(**modules, action_spec=Bounded(-1, 1, (ACTION,)))


def test_modules_that_do_not_fit_are_refused():
    modules = make_modules()
    with pytest.raises(TypeError, match="TanhNormalActor"):
        RESeLLoss(**{**modules, "actor_network": nn.Linear(1, 1)})
    with pytest.raises(ValueError, match="same key"):
        RESeLLoss(**{**modules, "critic_encoder": modules["actor_encoder"]})
    shared = copy.copy(modules["actor_encoder"])
    shared.out_keys = ["context_critic", ("next", "context_critic_state")]
    with pytest.raises(ValueError, match="parameters of their own"):
        RESeLLoss(**{**modules, "critic_encoder": shared})
    with pytest.raises(ValueError, match="critic_subset_size"):
        RESeLLoss(**modules, critic_subset_size=CRITICS + 1)
    with pytest.raises(ValueError, match="reduction"):
        RESeLLoss(**modules, reduction="median")


@pytest.mark.parametrize(
    "arguments",
    [
        {"value_type": ValueEstimators.TDLambda},
        {"value_type": TD0Estimator(gamma=0.9, value_network=None)},
        {"average_rewards": True},
    ],
    ids=["lambda", "instance", "option"],
)
def test_value_estimators_without_a_place_in_the_target_are_refused(arguments):
    with pytest.raises(NotImplementedError, match="one-step"):
        make_loss().make_value_estimator(**arguments)


def test_critic_with_values_in_another_layout_is_refused(batch):
    class OneByOne(EnsembleCritic):
        def values(self, observation, action, context):
            return super().values(observation, action, context).unsqueeze(-1)

    modules = make_modules()
    modules["qvalue_network"] = OneByOne(OBSERVATION, ACTION, CONTEXT, n_critics=3)
    with pytest.raises(ValueError, match="n_critics"):
        RESeLLoss(**modules)(batch)


def test_torchrl_recurrent_modules_serve_as_encoders(batch):
    """Heads and encoders meet through keys only, so TorchRL's GRUModule fits."""

    def gru(key):
        return GRUModule(
            OBSERVATION,
            CONTEXT,
            in_keys=["observation", f"{key}_memory", "is_init"],
            out_keys=[key, ("next", f"{key}_memory")],
        )

    modules = make_modules()
    modules["actor_encoder"] = gru("context_actor")
    modules["critic_encoder"] = gru("context_critic")
    loss = RESeLLoss(**modules)
    assert "prev_action" not in loss.in_keys
    terms = loss(batch)
    (terms["loss_qvalue"] + terms["loss_actor"]).backward()
    for name in ("actor_encoder", "critic_encoder"):
        assert all((p.grad != 0).any() for p in modules[name].parameters())


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
