"""The terms of RESeLLoss and its interface."""

import copy

import pytest
import torch
from torchrl.modules import GRUModule
from torchrl.objectives import SoftUpdate

from resel_torchrl.objectives import RESeLLoss
from tests.objectives.episodes import (
    ACTION,
    CONTEXT,
    CRITICS,
    OBSERVATION,
    ROW_LENGTH,
    locate,
    make_episodes,
    make_loss,
    make_modules,
    pack,
)

# Most tests build no target updater; TorchRL reminds of it.
pytestmark = pytest.mark.filterwarnings("ignore:No target network updater")


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
