"""The terms of the losses and their interface."""

import copy

import pytest
import torch
from torchrl.modules import GRUModule
from torchrl.objectives import SACLoss, SoftUpdate

from resel_torchrl.objectives import RESeLLoss
from tests.objectives.episodes import (
    ACTION,
    ALGORITHMS,
    CONTEXT,
    CRITICS,
    OBSERVATION,
    ROW_LENGTH,
    is_discrete,
    locate,
    make_episodes,
    make_loss,
    make_modules,
    pack,
    targets,
)

# Most tests build no target updater; TorchRL reminds of it.
pytestmark = pytest.mark.filterwarnings("ignore:No target network updater")
of_every_loss = pytest.mark.parametrize("algorithm", ALGORITHMS)


@of_every_loss
def test_time_limit_bootstraps_and_terminal_state_does_not(algorithm):
    """Reward 1 for ever is worth 1 / (1 - gamma): the target of a critic that knows."""
    gamma = 0.9
    episodes = make_episodes([5, 5], discrete=is_discrete(algorithm))
    for episode in episodes:
        episode.reward.fill_(1.0)
    batch = pack(episodes, ROW_LENGTH)
    no_entropy = {"alpha_init": 1e-12, "fixed_alpha": True}
    options = {} if algorithm == "td3_resel" else no_entropy
    loss = make_loss(algorithm=algorithm, **options)
    loss.make_value_estimator(gamma=gamma)
    for name, parameter in loss.target_qvalue_network_params.items(True, True):
        parameter.zero_()
        if name == ("biases", "2"):
            parameter.fill_(1 / (1 - gamma))

    def last_targets():
        target = targets(loss, batch)
        return [
            target[row, column + 4].item() for row, column in locate(batch, episodes)
        ]

    assert [episode.terminated for episode in episodes] == [True, False]
    assert last_targets() == pytest.approx([1.0, 1 / (1 - gamma)])
    # Control: cutting at every end, a time limit included, is the wrong value.
    loss.set_keys(terminated="done")
    assert last_targets() == pytest.approx([1.0, 1.0])


@of_every_loss
def test_target_takes_one_random_subset_of_the_target_critics_per_update(
    batch, algorithm
):
    options = {"critic_subset_size": 1, "target_bound": False, "reduction": "none"}
    loss = make_loss(algorithm=algorithm, **options)
    with torch.no_grad():
        for name, parameter in loss.target_qvalue_network_params.items(True, True):
            parameter.zero_()
            if name == ("biases", "2"):
                parameter += 100.0 * torch.arange(CRITICS).unsqueeze(-1)
    seen = set()
    packed = loss.read(batch)
    ongoing = packed.mask & ~packed.terminated
    for seed in range(12):
        torch.manual_seed(seed)
        target = targets(loss, batch)
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


@of_every_loss
def test_forward_is_the_critic_term_then_the_policy_term(batch, algorithm):
    loss = make_loss(algorithm=algorithm)
    apart = copy.deepcopy(loss)
    torch.manual_seed(3)
    together = loss(batch)
    torch.manual_seed(3)
    separate = apart.critic_loss(batch).update(apart.policy_loss(batch))
    assert set(together.keys()) == set(loss.out_keys)
    for key, value in together.items():
        assert torch.equal(value, separate[key]), key
    assert torch.equal(loss.bootstrap_low, apart.bootstrap_low)


@of_every_loss
def test_reductions_agree(batch, algorithm):
    terms = {}
    for reduction in ("mean", "sum", "none"):
        torch.manual_seed(0)
        terms[reduction] = make_loss(algorithm=algorithm, reduction=reduction)(batch)
    valid = batch["valid"].squeeze(-1)
    losses = [key for key, _ in terms["mean"].items() if key.startswith("loss_")]
    for key in losses:
        each = terms["none"][key]
        assert each.shape == batch.shape
        assert (each[~valid] == 0).all()
        torch.testing.assert_close(terms["sum"][key], each.sum())
        torch.testing.assert_close(terms["mean"][key], each[valid].mean())


@of_every_loss
def test_loss_mask_key_leaves_transitions_out_but_not_their_observations(
    batch, algorithm
):
    loss = make_loss(algorithm=algorithm, reduction="none")
    torch.manual_seed(0)
    each = loss(batch)["loss_actor"]
    loss = make_loss(algorithm=algorithm)
    loss.loss_mask_key = "late"
    late = torch.arange(ROW_LENGTH).expand(batch.shape).unsqueeze(-1) >= 3
    batch["late"] = late
    torch.manual_seed(0)
    kept = each[(late & batch["valid"]).squeeze(-1)]
    torch.testing.assert_close(loss(batch)["loss_actor"], kept.mean())
    with pytest.raises(KeyError, match="loss_mask_key"):
        loss(batch.exclude("late"))


@of_every_loss
def test_soft_update_moves_every_target_by_tau(batch, algorithm):
    loss = make_loss(algorithm=algorithm)
    updater = SoftUpdate(loss, tau=0.25)
    names = ["qvalue_network", "critic_encoder"]
    if algorithm == "td3_resel":
        names += ["actor_network", "actor_encoder"]
    with torch.no_grad():
        for name in names:
            for parameter in getattr(loss, f"{name}_params").values(True, True):
                if parameter.requires_grad:
                    parameter += 1.0
    updater.step()
    for name in names:
        source = getattr(loss, f"{name}_params")
        target = getattr(loss, f"target_{name}_params")
        for key in source.keys(True, True):
            distance = 0.75 * torch.ones_like(target[key])
            if source[key].requires_grad:
                torch.testing.assert_close(source[key] - target[key], distance)


@of_every_loss
def test_state_dict_round_trip_continues_identically(batch, algorithm):
    options = {} if algorithm == "td3_resel" else {"alpha_init": 0.3}
    source = make_loss(seed=0, algorithm=algorithm)
    copied = make_loss(seed=1, algorithm=algorithm, **options)
    source.make_value_estimator(gamma=0.8)
    source(batch)
    SoftUpdate(source, tau=0.5).step()
    copied.load_state_dict(source.state_dict())
    for name in ("bootstrap_low", "bootstrap_high", *(["log_alpha"] * bool(options))):
        assert torch.equal(getattr(copied, name), getattr(source, name))
        assert name in source.state_dict()
    torch.manual_seed(0)
    expected = source(batch)
    torch.manual_seed(0)
    assert (copied(batch) == expected).all()


@of_every_loss
def test_deepcopy_after_use_is_independent(batch, algorithm):
    loss = make_loss(algorithm=algorithm)
    loss(batch)
    twin = copy.deepcopy(loss)
    with torch.no_grad():
        for parameter in twin.parameters():
            parameter += 0.1
    fresh = make_loss(seed=1, algorithm=algorithm)
    fresh.load_state_dict(twin.state_dict())
    outputs = []
    for module in (twin, fresh, loss):
        torch.manual_seed(0)
        outputs.append(module(batch))
    assert (outputs[0] == outputs[1]).all()
    assert (outputs[0] != outputs[2]).any()


@of_every_loss
def test_set_keys_renames_what_is_read(batch, algorithm):
    loss = make_loss(algorithm=algorithm)
    torch.manual_seed(0)
    expected = loss(batch)
    renamed = batch.clone()
    for old, new in [
        ("valid", "is_transition"),
        (("next", "reward"), ("next", "gain")),
        (("next", "terminated"), ("next", "over")),
    ]:
        renamed.rename_key_(old, new)
    loss = make_loss(algorithm=algorithm)
    loss.set_keys(valid="is_transition", reward="gain", terminated="over")
    assert {"is_transition", ("next", "gain"), ("next", "over")} < set(loss.in_keys)
    torch.manual_seed(0)
    assert (loss(renamed) == expected).all()


@of_every_loss
def test_keyword_arguments_are_accepted(batch, algorithm):
    loss = make_loss(algorithm=algorithm)
    torch.manual_seed(0)
    expected = loss(batch)
    arguments = {
        key if isinstance(key, str) else "_".join(key): batch[key]
        for key in loss.in_keys
    }
    loss = make_loss(algorithm=algorithm)
    torch.manual_seed(0)
    assert loss(**arguments) == tuple(expected[key] for key in loss.out_keys)


def test_the_methods_of_sac_loss_give_the_same_terms(batch):
    loss = make_loss()
    assert isinstance(loss, SACLoss)
    torch.manual_seed(0)
    terms = copy.deepcopy(loss)(batch)
    torch.manual_seed(0)
    loss_qvalue, diagnostics = loss.qvalue_v2_loss(batch)
    loss_actor, rest = loss.actor_loss(batch)
    assert torch.equal(loss_qvalue, terms["loss_qvalue"]) and "td_error" in diagnostics
    assert torch.equal(loss_actor, terms["loss_actor"])
    assert torch.equal(rest["loss_alpha"], terms["loss_alpha"])
    torch.testing.assert_close(loss.alpha_loss(-rest["entropy"]), terms["loss_alpha"])


def test_target_entropy_is_known_from_construction():
    assert make_loss().state_dict()["_target_entropy"] == -ACTION
    assert make_loss(target_entropy=0.0).target_entropy == 0


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
