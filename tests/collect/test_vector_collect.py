"""Collecting from several environments: each one's episodes, whole, from its seeds."""

import functools

import gymnasium
import pytest
import torch
from gymnasium.vector import SyncVectorEnv
from torchrl.data import LazyTensorStorage, TensorDictReplayBuffer

from resel_torchrl.collect import (
    Collector,
    RecurrentPolicy,
    VectorCollector,
    VectorPolicy,
)
from resel_torchrl.envs import vectorize
from resel_torchrl.modules import make_agent
from resel_torchrl.replay import EpisodeSampler
from tests.training import envs
from tests.training.runs import leaves, same

SIZES = {"embedding_size": 4, "hidden_size": 6, "context_size": 5, "head_sizes": [8]}


def make_networks(algorithm="resel", size=1):
    torch.manual_seed(0)
    options = {"algorithm": algorithm, "reward_input": True, "core": "gru"}
    agent = make_agent(2, size, n_critics=2, **options, **SIZES)
    return agent.actor_encoder, agent.actor


def make_buffer():
    return TensorDictReplayBuffer(
        storage=LazyTensorStorage(3000), sampler=EpisodeSampler(seed=0)
    )


def make_vector(copies=3, name="Walk-v0", deterministic=False, **options):
    size = 2 if name == "DiscreteWalk-v0" else 1
    networks = make_networks("discrete_resel" if size == 2 else "resel", size)
    policy = VectorPolicy(
        *networks, 2, size, copies=copies, deterministic=deterministic
    )
    together = vectorize([functools.partial(gymnasium.make, name)] * copies)
    options = {"horizon": envs.HORIZON, "seed": 0} | options
    return VectorCollector(together, policy, make_buffer(), **options)


def make_single(env_index=0, deterministic=False, **options):
    policy = RecurrentPolicy(
        *make_networks(), 2, 1, deterministic=deterministic, mode="eager"
    )
    options = {"horizon": envs.HORIZON, "seed": 0, "env_index": env_index} | options
    return Collector(gymnasium.make("Walk-v0"), policy, make_buffer(), **options)


def episodes(collector):
    """The stored episodes in order, each as one TensorDict."""
    data = collector.replay_buffer[:].exclude("index")
    ends = data["next", "done"].flatten().nonzero().flatten() + 1
    return data.split(torch.diff(ends, prepend=ends.new_zeros(1)).tolist())


def test_one_copy_equals_the_collector_bit_for_bit():
    pair = make_vector(1, random_steps=20), make_single(random_steps=20)
    for collector in pair:
        torch.manual_seed(1)
        results = [collector.step() for _ in range(100)]
        collector.found = [
            result
            for step in results
            for result in (step if isinstance(step, list) else [step])
            if result is not None
        ]
    assert pair[0].found == pair[1].found and len(pair[0].found) > 5
    pairs = list(zip(*map(episodes, pair), strict=True))
    assert all((a == b).all() for a, b in pairs)


@pytest.mark.parametrize("random_steps", [0, 10**6])
def test_each_copy_has_the_episodes_of_a_collector_of_its_own(random_steps):
    """Seeds go by environment and episode, however long the others' episodes are."""
    options = {"random_steps": random_steps, "deterministic": True}
    together = make_vector(3, **options)
    for _ in range(120):
        together.step()
    found = episodes(together)
    starts = [tuple(episode["observation"][0].tolist()) for episode in found]
    total = 0
    for k in range(3):
        alone = make_single(env_index=k, **options)
        for _ in range(120):
            alone.step()
        expected = episodes(alone)
        total += len(expected)
        for episode in expected:
            start = tuple(episode["observation"][0].tolist())
            match = found[starts.index(start)]
            for key, value in episode.items(True, True):
                torch.testing.assert_close(match[key], value, atol=1e-4, rtol=1e-4)
    assert len(found) == total == together.episodes
    if random_steps:
        assert len({len(episode) for episode in found}) > 2  # not in step
    assert len(set(starts)) == len(starts)
    # The control: of another environment number there is none.
    other = make_single(env_index=3, **options)
    while other.step() is None:
        pass
    assert tuple(episodes(other)[0]["observation"][0].tolist()) not in starts


def test_an_episode_is_stored_whole_with_its_last_observation():
    collector = make_vector(3)
    total = 0
    for _ in range(200):
        for result in collector.step():
            total += result.length
        assert len(collector.replay_buffer) == total
    for episode in episodes(collector):
        assert episode["is_init"].flatten().tolist() == [
            t == 0 for t in range(len(episode))
        ]
        observation, following = episode["observation"], episode["next", "observation"]
        assert torch.equal(observation[1:], following[:-1])
        # That of the state it ended in, not of the next episode's start, where the
        # walk stands still.
        assert following[-1, 0] != 0 == observation[0, 0]
        fallen = episode["next", "terminated"][-1].item()
        assert fallen == bool(episode["next", "reward"][-1] < -1.5)
        assert fallen != episode["next", "truncated"][-1].item()
    assert any(e["next", "terminated"][-1] for e in episodes(collector))
    collector.replay_buffer.sample(10)  # and the flags are in order


def test_discrete_actions():
    collector = make_vector(2, "DiscreteWalk-v0", random_steps=60)
    for _ in range(80):
        collector.step()
    actions = collector.replay_buffer[:]["action"]
    assert set(actions.sum(-1).tolist()) == set(actions.amax(-1).tolist()) == {1.0}


def test_each_copy_finishes_its_random_episode_then_acts():
    collector = make_vector(3, random_steps=40)
    acted, phase = [], []
    act = collector.policy.act
    collector.policy.act = lambda *a, **k: acted.append(collector.steps) or act(*a, **k)
    at_random = []
    for _ in range(40):
        phase.append(collector.in_random_phase)
        steps, before = collector.steps, list(collector._random)
        started = collector._t < 0
        collector.step()
        for i, random in enumerate(collector._random):
            if started[i]:
                assert random.whole == (steps < 40)
            else:
                assert random is before[i]
        at_random.append(sum(random.whole for random in collector._random))
    assert phase == [count > 0 for count in at_random]
    last = phase.index(False)
    assert not any(phase[last:]) and 3 * last > 40
    # They do not stop together, and the policy acts as soon as one has stopped.
    assert {1, 2} & set(at_random)
    mixed = [3 * k for k, count in enumerate(at_random) if 0 < count < 3]
    assert acted[: len(mixed)] == mixed != []


def test_random_phase_needs_no_global_generator():
    collector = make_vector(3, random_steps=10**6)
    state = torch.get_rng_state()
    for _ in range(50):
        collector.step()
    assert torch.equal(state, torch.get_rng_state())


@pytest.mark.parametrize(
    ("random_steps", "random_start_steps"), [(0, 0), (50, 0), (10**6, 0), (50, 5)]
)
def test_state_goes_on_bit_for_bit_from_any_step(random_steps, random_start_steps):
    options = {"random_steps": random_steps, "random_start_steps": random_start_steps}
    collector = make_vector(3, **options)
    torch.manual_seed(4)
    saved, results = [], []
    for _ in range(40):
        saved.append((collector.state_dict(), torch.get_rng_state()))
        results.append(collector.step())
    final = dict(leaves(collector.state_dict()))
    for k, (state, generator) in enumerate(saved):
        other = make_vector(3, **options)
        other.load_state_dict(state)
        torch.set_rng_state(generator)
        assert results[k:] == [other.step() for _ in range(k, 40)]
        got = dict(leaves(other.state_dict()))
        assert got.keys() == final.keys()
        assert all(same(got[key], final[key]) for key in final)
    # Episodes of several lengths were under way, some just over.
    lengths = [{len(actions) for actions in state["actions"]} for state, _ in saved]
    assert any(len(some) > 1 for some in lengths)
    assert any(0 in some and len(some) > 1 for some in lengths[1:])


def test_bad_input():
    with pytest.raises(ValueError, match="a policy for 3 environments, got one for 2"):
        good = make_vector(3)
        policy = VectorPolicy(*make_networks(), 2, 1, copies=2)
        VectorCollector(good.envs, policy, good.replay_buffer, horizon=12, seed=0)
    resetting = SyncVectorEnv([lambda: gymnasium.make("Walk-v0")] * 2)
    with pytest.raises(ValueError, match=r"DISABLED.*NEXT_STEP.*vectorize"):
        VectorCollector(resetting, policy, make_buffer(), horizon=12, seed=0)
    short = make_vector(2, horizon=2, random_steps=99)
    with pytest.raises(RuntimeError, match=r"at most 2 steps.*env.horizon"):
        for _ in range(50):
            short.step()
