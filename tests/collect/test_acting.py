"""Fused and eager acting."""

import numpy as np
import pytest
import torch

from resel_torchrl.collect import RecurrentPolicy
from resel_torchrl.modules import make_agent

SIZES = {"embedding_size": 8, "hidden_size": 16, "context_size": 8, "n_critics": 2}


def _policies(core, *modes):
    torch.manual_seed(0)
    agent = make_agent(3, 2, core=core, head_sizes=(16,), **SIZES)
    networks = agent.actor_encoder, agent.actor
    return agent, [RecurrentPolicy(*networks, 3, 2, mode=mode) for mode in modes]


def _act(policy, observations, starts, deterministic):
    torch.manual_seed(1)
    return np.stack(
        [
            policy(o, first=bool(start), deterministic=deterministic)
            for o, start in zip(observations, starts, strict=True)
        ]
    )


@pytest.fixture
def episodes():
    generator = np.random.default_rng(0)
    starts = np.zeros(30, bool)
    starts[[0, 7, 19]] = True
    return generator.standard_normal((30, 3)).astype("f4"), starts


@pytest.mark.parametrize("core", ["gru", "lstm", "mamba", "one_step"])
@pytest.mark.parametrize("deterministic", [True, False])
def test_fused_acting_is_eager_acting_to_rounding(core, deterministic, episodes):
    pytest.importorskip("numba")
    _, policies = _policies(core, "eager", "fused")
    eager, fused = (_act(p, *episodes, deterministic) for p in policies)
    np.testing.assert_allclose(fused, eager, atol=1e-5)
    torch.testing.assert_close(
        policies[1].state_dict()["state"],
        policies[0].state_dict()["state"],
        rtol=1e-5,
        atol=1e-5,
    )


def test_forgetting_shows_without_the_start_flags(episodes):
    """The control of the comparison above: resets do matter to what is compared."""
    pytest.importorskip("numba")
    _, (policy,) = _policies("mamba", "fused")
    observations, starts = episodes
    with_starts = _act(policy, observations, starts, True)
    starts = starts.copy()
    starts[1:] = False
    assert not np.allclose(_act(policy, observations, starts, True), with_starts)


def test_auto_is_fused_where_it_can_be(monkeypatch):
    pytest.importorskip("numba")
    assert _policies("gru", "auto")[1][0].mode == "fused"
    monkeypatch.setattr(
        "resel_torchrl.modules.fused_step.is_usable", lambda name: False
    )
    assert _policies("gru", "auto")[1][0].mode == "eager"
    with pytest.raises(ValueError, match="package numba"):
        _policies("gru", "fused")
    with pytest.raises(ValueError, match="auto, eager, fused, got 'fast'"):
        _policies("gru", "fast")


def test_a_memory_goes_on_in_the_other_mode(episodes):
    """A checkpoint of one mode can be resumed in the other."""
    pytest.importorskip("numba")
    _, (eager, fused, whole) = _policies("mamba", "eager", "fused", "eager")
    observations, starts = episodes
    wanted = _act(whole, observations, starts, True)
    _act(eager, observations[:12], starts[:12], True)
    fused.load_state_dict(eager.state_dict())
    got = _act(fused, observations[12:], starts[12:], True)
    np.testing.assert_allclose(got, wanted[12:], atol=1e-5)


def test_an_episode_begins_with_the_parameters_as_they_are_then(episodes):
    """One that was replaced, and not just changed, is found at the next start."""
    pytest.importorskip("numba")
    agent, (eager, fused) = _policies("gru", "eager", "fused")
    _act(fused, *episodes, True)
    projection = agent.actor_encoder.trunk.in_projection
    projection.weight = torch.nn.Parameter(2 * projection.weight.detach())
    np.testing.assert_allclose(
        _act(fused, *episodes, True), _act(eager, *episodes, True), atol=1e-5
    )
