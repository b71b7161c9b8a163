"""Acting: one environment or several, fused or eager, on a hidden state kept apart."""

import copy
import pickle

import numpy as np
import pytest
import torch

from resel_torchrl.collect import RecurrentPolicy
from resel_torchrl.modules import CORES, make_agent

SIZES = {"embedding_size": 4, "hidden_size": 6, "context_size": 5, "head_sizes": [8]}
NUM_ENVS, STEPS = 3, 14


def make_networks(core="gru", algorithm="resel", reward_input=True):
    torch.manual_seed(3)
    options = {"core": core, "algorithm": algorithm, "reward_input": reward_input}
    if core == "transformer":
        options["core_kwargs"] = {"n_heads": 2, "max_length": 50}
    agent = make_agent(2, 2, n_critics=2, **options, **SIZES)
    return agent.actor_encoder, agent.actor


def make_inputs(seed=0):
    """Observations, rewards, and starts at different steps in each row."""
    rng = np.random.default_rng(seed)
    observations = rng.normal(size=(STEPS, NUM_ENVS, 2)).astype("f4")
    first = rng.random((STEPS, NUM_ENVS)) < 0.25
    first[0] = True
    return observations, rng.normal(size=(STEPS, NUM_ENVS)), first


def act(policy, observations, rewards, first, **options):
    return np.stack(
        [
            policy.act(o, r, f, **options)
            for o, r, f in zip(observations, rewards, first, strict=True)
        ]
    )


@pytest.mark.parametrize(
    ("core", "algorithm"),
    [*((core, "resel") for core in CORES), ("gru", "discrete_resel")],
)
@pytest.mark.parametrize("reward_input", [False, True])
def test_each_environment_gets_what_a_policy_of_its_own_computes(
    core, algorithm, reward_input
):
    networks = make_networks(core, algorithm, reward_input)
    observations, rewards, first = make_inputs()
    policy = RecurrentPolicy(*networks, 2, 2, num_envs=NUM_ENVS, deterministic=True)
    together = act(policy, observations, rewards, first)
    for i in range(NUM_ENVS):
        single = RecurrentPolicy(*networks, 2, 2, deterministic=True, mode="eager")
        alone = act(single, observations[:, i], rewards[:, i], first[:, i])
        np.testing.assert_allclose(together[:, i], alone, atol=2e-6)
        called = policy.to_env(together[0])[i]
        np.testing.assert_allclose(called, single.to_env(together[0, i]), rtol=1e-6)


def test_reset_of_a_row_does_not_touch_the_others():
    networks = make_networks()
    observations, rewards, first = make_inputs()
    first[1:] = False
    more = first.copy()
    more[6, 1] = True
    plain, reset = (
        act(
            RecurrentPolicy(*networks, 2, 2, num_envs=NUM_ENVS, deterministic=True),
            *(observations, rewards, starts),
        )
        for starts in (first, more)
    )
    assert np.array_equal(plain[:, [0, 2]], reset[:, [0, 2]])
    assert np.array_equal(plain[:6], reset[:6])
    # The control: its own row forgets, and acts as a new episode does.
    assert (np.abs(plain[6:, 1] - reset[6:, 1]).max(-1) > 1e-5).any()
    single = RecurrentPolicy(*networks, 2, 2, deterministic=True, mode="eager")
    alone = act(single, observations[6:, 1], rewards[6:, 1], more[6:, 1])
    np.testing.assert_allclose(reset[6:, 1], alone, atol=2e-6)


def test_what_a_row_saw_before_its_start_is_gone_even_if_it_was_nan():
    networks = make_networks()
    observations, rewards, first = make_inputs()
    first[1:] = False
    first[5, 2] = True
    expected = act(
        RecurrentPolicy(*networks, 2, 2, num_envs=NUM_ENVS, deterministic=True),
        *(observations, rewards, first),
    )
    observations[:5, 2], rewards[:6, 2] = np.nan, np.nan
    policy = RecurrentPolicy(*networks, 2, 2, num_envs=NUM_ENVS, deterministic=True)
    got = act(policy, observations, rewards, first)
    assert np.isnan(got[4, 2]).all()
    assert np.array_equal(got[5:], expected[5:])
    assert np.array_equal(got[:, :2], expected[:, :2])


def test_samples_differ_by_row_and_come_from_the_global_generator():
    networks = make_networks()
    policy = RecurrentPolicy(*networks, 2, 2, num_envs=NUM_ENVS)
    same = np.zeros((NUM_ENVS, 2), "f4")
    draws = []
    for _ in range(2):
        torch.manual_seed(5)
        policy.reset()
        draws.append(policy.act(same))
    assert np.array_equal(*draws)
    assert len({tuple(row) for row in draws[0]}) == NUM_ENVS
    mode = policy.act(same, first=np.ones(NUM_ENVS, bool), deterministic=True)
    assert len({tuple(row) for row in mode.round(6)}) == 1


def test_memory_goes_on_from_its_state():
    networks = make_networks()
    observations, rewards, first = make_inputs()
    policy = RecurrentPolicy(*networks, 2, 2, num_envs=NUM_ENVS, deterministic=True)
    act(policy, observations[:7], rewards[:7], first[:7])
    state = policy.state_dict()
    rest = act(policy, observations[7:], rewards[7:], first[7:])
    other = RecurrentPolicy(*networks, 2, 2, num_envs=NUM_ENVS, deterministic=True)
    other.load_state_dict(state)
    assert np.array_equal(rest, act(other, observations[7:], rewards[7:], first[7:]))


def test_bad_input():
    networks = make_networks()
    with pytest.raises(ValueError, match="num_envs of 1 environment or more, got 0"):
        RecurrentPolicy(*networks, 2, 2, num_envs=0)
    policy = RecurrentPolicy(*networks, 2, 2, num_envs=NUM_ENVS)
    with pytest.raises(ValueError, match=r"shape \(3, 2\).*got \(2,\)"):
        policy(np.zeros(2))
    zeros = np.zeros((NUM_ENVS, 2), "f4")
    policy(zeros)  # all rows begin
    with pytest.raises(ValueError, match="expected the rewards"):
        policy(zeros, first=np.array([True, True, False]))
    with pytest.raises(ValueError, match=r"rewards of shape \(3,\), .*got \(3, 1\)"):
        policy(zeros, np.zeros((3, 1)))
    with pytest.raises(ValueError, match=r"first of shape \(3,\)"):
        policy(zeros, np.zeros(3), first=np.array(True))


@pytest.mark.parametrize("mode", ["eager", "auto"])
def test_one_environment_with_and_without_its_dimension(mode):
    networks = make_networks()
    observations, rewards, first = (x[:, :1] for x in make_inputs())
    plain, batch = (RecurrentPolicy(*networks, 2, 2, mode=mode) for _ in range(2))
    torch.manual_seed(0)
    wanted = act(plain, observations[:, 0], rewards[:, 0], first[:, 0])
    torch.manual_seed(0)
    assert np.array_equal(act(batch, observations, rewards, first)[:, 0], wanted)


@pytest.mark.parametrize("mode", ["eager", "auto"])
@pytest.mark.parametrize(
    "how", [copy.deepcopy, lambda x: pickle.loads(pickle.dumps(x))]
)
def test_a_copy_goes_on_alike_and_by_itself(mode, how):
    networks = make_networks()
    observations, rewards, first = (x[:, :1] for x in make_inputs())
    policy = RecurrentPolicy(*networks, 2, 2, deterministic=True, mode=mode)
    act(policy, observations[:7], rewards[:7], first[:7])
    copied = how(policy)
    wanted = act(policy, observations[7:], rewards[7:], first[7:])
    assert np.array_equal(wanted, act(copied, observations[7:], rewards[7:], first[7:]))


def _policies(core, *modes):
    torch.manual_seed(0)
    agent = make_agent(3, 2, core=core, n_critics=2, **SIZES)
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
