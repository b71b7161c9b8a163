"""The deterministic head: tanh, and noise where it explores."""

import pytest
import torch
from tensordict import TensorDict
from torchrl.collectors import Collector
from torchrl.data import Bounded
from torchrl.envs import ExplorationType, set_exploration_type

from resel_torchrl.envs import make_env
from resel_torchrl.modules import (
    ContextEncoder,
    DeterministicActor,
    TanhNormalActor,
    context_inputs,
    make_policy,
)


def make_actor(**options):
    torch.manual_seed(0)
    return DeterministicActor(4, 2, 5, hidden_sizes=(7,), **options)


def make_data(*batch):
    torch.manual_seed(1)
    return TensorDict(
        observation=torch.randn(*batch, 4),
        context_actor=torch.randn(*batch, 5),
        batch_size=batch,
    )


def act(actor, data, kind):
    with torch.no_grad(), set_exploration_type(kind):
        return actor(data.clone())["action"]


def test_it_is_the_mean_of_the_stochastic_head_with_the_same_weights():
    actor, data = make_actor(), make_data(9)
    other = TanhNormalActor(4, 2, 5, hidden_sizes=(7,))
    mine, theirs = actor.module[0].module, other.module[0].module
    with torch.no_grad():
        for p, q in zip(mine.parameters(), theirs.parameters(), strict=True):
            q[: len(p)] = p  # the last layer's first half is the mean
    expected = act(other, data, ExplorationType.DETERMINISTIC)
    got = act(actor, data, ExplorationType.DETERMINISTIC)
    torch.testing.assert_close(got, expected)


def test_noise_has_its_size_and_is_clipped():
    actor, data = make_actor(exploration_noise=0.2), make_data().expand(20_000).clone()
    mode = act(actor, data, ExplorationType.DETERMINISTIC)
    noise = act(actor, data, ExplorationType.RANDOM) - mode
    assert noise.std() == pytest.approx(0.2, rel=0.05)
    assert abs(noise.mean()) < 0.01
    with torch.no_grad():
        plain = actor.act(data["observation"], data["context_actor"]) - mode
    assert plain.std() == pytest.approx(0.2, rel=0.05)
    loud = make_actor(exploration_noise=50.0)
    for action in (
        act(loud, data, ExplorationType.RANDOM),
        loud.act(data["observation"], data["context_actor"]),
    ):
        assert action.abs().max() == 1


def test_only_the_networks_weights_are_parameters():
    assert {name.split(".")[-1] for name, _ in make_actor().named_parameters()} == {
        "weight",
        "bias",
    }


def test_a_collector_given_only_the_policy_acts():
    encoder = ContextEncoder(context_inputs(1, 1), "gru", hidden_size=8, context_size=4)
    policy = make_policy(encoder, DeterministicActor(1, 1, 4, hidden_sizes=(8,)))
    assert policy.out_keys == ["action", ("next", "context_actor_state")]
    collector = Collector(
        make_env("Pendulum-V-v0", seed=0),
        policy,
        frames_per_batch=20,
        total_frames=20,
        auto_register_policy_transforms=True,
    )
    (data,) = collector
    collector.shutdown()
    assert data["action"].abs().max() <= 1
    assert torch.equal(data["prev_action"][1:], data["action"][:-1])


def test_faults_are_named():
    with pytest.raises(ValueError, match="exploration_noise: expected 0 or more"):
        make_actor(exploration_noise=-0.1)
    with pytest.raises(ValueError, match=r"in \[-1, 1\] with 2 entries, got"):
        make_actor(spec=Bounded(-2.0, 2.0, (2,)))
    with pytest.raises(ValueError, match=r"context of shape \[\*B, 5\], got \[7, 6\]"):
        make_actor().head(torch.zeros(7, 4), torch.zeros(7, 6))
