"""One policy for N environments: N single ones, each row by itself."""

import numpy as np
import pytest
import torch

from resel_torchrl.collect import RecurrentPolicy, VectorPolicy
from resel_torchrl.modules import CORES, make_agent

SIZES = {"embedding_size": 4, "hidden_size": 6, "context_size": 5, "head_sizes": [8]}
COPIES, STEPS = 3, 14


def make_networks(core="gru", algorithm="resel", reward_input=True):
    torch.manual_seed(3)
    options = {"core": core, "algorithm": algorithm, "reward_input": reward_input}
    if core == "transformer":
        options["core_kwargs"] = {"n_heads": 2, "context": 50}
    agent = make_agent(2, 2, n_critics=2, **options, **SIZES)
    return agent.actor_encoder, agent.actor


def make_inputs(seed=0):
    """Observations, rewards, and starts at different steps in each row."""
    rng = np.random.default_rng(seed)
    observations = rng.normal(size=(STEPS, COPIES, 2)).astype("f4")
    first = rng.random((STEPS, COPIES)) < 0.25
    first[0] = True
    return observations, rng.normal(size=(STEPS, COPIES)), first


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
def test_rows_equal_single_policies(core, algorithm, reward_input):
    networks = make_networks(core, algorithm, reward_input)
    observations, rewards, first = make_inputs()
    policy = VectorPolicy(*networks, 2, 2, copies=COPIES, deterministic=True)
    together = act(policy, observations, rewards, first)
    for i in range(COPIES):
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
            VectorPolicy(*networks, 2, 2, copies=COPIES, deterministic=True),
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
        VectorPolicy(*networks, 2, 2, copies=COPIES, deterministic=True),
        *(observations, rewards, first),
    )
    observations[:5, 2], rewards[:6, 2] = np.nan, np.nan
    policy = VectorPolicy(*networks, 2, 2, copies=COPIES, deterministic=True)
    got = act(policy, observations, rewards, first)
    assert np.isnan(got[4, 2]).all()
    assert np.array_equal(got[5:], expected[5:])
    assert np.array_equal(got[:, :2], expected[:, :2])


def test_samples_differ_by_row_and_come_from_the_global_generator():
    networks = make_networks()
    policy = VectorPolicy(*networks, 2, 2, copies=COPIES)
    same = np.zeros((COPIES, 2), "f4")
    draws = []
    for _ in range(2):
        torch.manual_seed(5)
        policy.reset()
        draws.append(policy.act(same))
    assert np.array_equal(*draws)
    assert len({tuple(row) for row in draws[0]}) == COPIES
    mode = policy.act(same, first=np.ones(COPIES, bool), deterministic=True)
    assert len({tuple(row) for row in mode.round(6)}) == 1


def test_memory_goes_on_from_its_state():
    networks = make_networks()
    observations, rewards, first = make_inputs()
    policy = VectorPolicy(*networks, 2, 2, copies=COPIES, deterministic=True)
    act(policy, observations[:7], rewards[:7], first[:7])
    state = policy.state_dict()
    rest = act(policy, observations[7:], rewards[7:], first[7:])
    other = VectorPolicy(*networks, 2, 2, copies=COPIES, deterministic=True)
    other.load_state_dict(state)
    assert np.array_equal(rest, act(other, observations[7:], rewards[7:], first[7:]))


def test_bad_input():
    networks = make_networks()
    with pytest.raises(ValueError, match="copies of 1 environment or more, got 0"):
        VectorPolicy(*networks, 2, 2, copies=0)
    policy = VectorPolicy(*networks, 2, 2, copies=COPIES)
    with pytest.raises(ValueError, match=r"shape \(3, 2\).*got \(2,\)"):
        policy(np.zeros(2))
    zeros = np.zeros((COPIES, 2), "f4")
    policy(zeros)  # all rows begin
    with pytest.raises(ValueError, match="expected the rewards"):
        policy(zeros, first=np.array([True, True, False]))
    with pytest.raises(ValueError, match=r"rewards of shape \(3,\), .*got \(3, 1\)"):
        policy(zeros, np.zeros((3, 1)))
    with pytest.raises(ValueError, match=r"first of shape \(3,\)"):
        policy(zeros, np.zeros(3), first=np.array(True))
