"""Collecting: seeds, whole episodes, the random phase, what `done` means.

From one environment or several: each one's episodes, whole, from its seeds.
"""

import functools

import gymnasium
import numpy as np
import pytest
import torch
from gymnasium.vector import SyncVectorEnv
from tensordict import TensorDict
from torchrl.data import LazyTensorStorage, TensorDictReplayBuffer
from torchrl.envs import GymWrapper, InitTracker, TransformedEnv
from torchrl.envs.utils import ExplorationType, set_exploration_type

from resel_torchrl.collect import EpisodeCollector, RecurrentPolicy, episode_seed
from resel_torchrl.envs import vectorize
from resel_torchrl.modules import CORES, make_agent, make_policy
from resel_torchrl.replay import EpisodeSampler, pack_episodes
from tests.training import envs
from tests.training.runs import leaves, same

SIZES = {"embedding_size": 4, "hidden_size": 6, "context_size": 5, "head_sizes": [8]}


# Walk-v0 has one action in [-1, 1], DiscreteWalk-v0 two discrete ones.
WALKS = {
    "resel": ("Walk-v0", 1),
    "discrete_resel": ("DiscreteWalk-v0", 2),
    "td3_resel": ("Walk-v0", 1),
}


def make_collector(
    seed=0, random_steps=0, env=None, horizon=envs.HORIZON, algorithm="resel"
):
    torch.manual_seed(seed)
    name, size = WALKS[algorithm]
    agent = make_agent(2, size, algorithm=algorithm, core="gru", n_critics=2, **SIZES)
    policy = RecurrentPolicy(agent.actor_encoder, agent.actor, 2, size)
    buffer = TensorDictReplayBuffer(storage=LazyTensorStorage(3000))
    env = env or gymnasium.make(name)
    return EpisodeCollector(
        env, policy, buffer, horizon=horizon, seed=seed, random_steps=random_steps
    )


def stored(collector) -> TensorDict:
    return collector.replay_buffer.storage.get(slice(0, len(collector.replay_buffer)))


@pytest.mark.parametrize(
    ("algorithm", "core"),
    [
        *(("resel", core) for core in CORES),
        ("discrete_resel", "gru"),
        ("td3_resel", "gru"),
    ],
)
@pytest.mark.parametrize("reward_input", [False, True])
@pytest.mark.parametrize(
    "kind", [ExplorationType.DETERMINISTIC, ExplorationType.RANDOM]
)
def test_lean_path_equals_the_tensordict_path(algorithm, core, reward_input, kind):
    torch.manual_seed(3)
    name, size = WALKS[algorithm]
    options = {"algorithm": algorithm, "core": core, "reward_input": reward_input}
    if core == "transformer":
        options["core_kwargs"] = {"n_heads": 2, "max_length": 50}
    agent = make_agent(2, size, **options, **SIZES)
    deterministic = kind == ExplorationType.DETERMINISTIC
    networks = agent.actor_encoder, agent.actor
    policy = RecurrentPolicy(
        *networks, 2, size, deterministic=deterministic, mode="eager"
    )
    env = TransformedEnv(GymWrapper(gymnasium.make(name)), InitTracker())
    env.append_transform(agent.actor_encoder.make_tensordict_primer())
    env.set_seed(5)
    with set_exploration_type(kind), torch.no_grad():
        torch.manual_seed(7)
        rollout = env.rollout(
            40, make_policy(agent.actor_encoder, agent.actor), break_when_any_done=False
        )
    torch.manual_seed(7)
    reward = None
    for row in rollout:
        observation = row["observation"].numpy()
        action = policy.act(observation, reward, first=row["is_init"].item())
        np.testing.assert_allclose(action, row["action"].numpy(), rtol=1e-5, atol=1e-5)
        reward = row["next", "reward"].item()
    assert rollout["is_init"].sum() > 2


def test_memory_matters_after_the_first_step():
    """The control: with the memory dropped, actions differ."""
    collector = make_collector()
    policy = collector.policy
    policy.deterministic = True
    observations = np.random.default_rng(0).normal(size=(5, 2)).astype("f4")
    kept = [policy(o, first=t == 0) for t, o in enumerate(observations)]
    dropped = [policy(o, first=True) for o in observations]
    assert np.array_equal(kept[0], dropped[0])
    assert not np.allclose(kept[-1], dropped[-1], atol=1e-7)


def test_random_phase_ends_at_an_episode_boundary():
    collector = make_collector(random_steps=20)
    ends, was_random = [], []
    for _ in range(60):
        was_random.append(collector.in_random_phase)
        ends.append(bool(collector.step()))
    last = was_random.index(False)
    assert last >= 20
    assert ends[last - 1]
    assert not any(was_random[last:])
    # And it does not run longer than that episode.
    assert sum(ends[19 : last - 1]) == 0


@pytest.mark.parametrize("num_envs", [1, 3])
def test_random_actions_are_uniform_and_need_no_global_generator(num_envs):
    if num_envs == 1:
        collector = make_collector(random_steps=2000)
    else:
        collector = make_vector(num_envs, random_steps=2000)
    state = torch.get_rng_state()
    while collector.steps < 2000:
        collector.step()
    assert torch.equal(state, torch.get_rng_state())
    actions = collector.replay_buffer[:]["action"]
    assert actions.abs().max() <= 1
    assert abs(actions.mean()) < 0.06
    assert abs(actions.var() - 1 / 3) < 0.03


def test_discrete_actions_are_stored_one_hot_and_random_ones_are_uniform():
    collector = make_collector(random_steps=2000, algorithm="discrete_resel")
    while collector.in_random_phase:
        collector.step()
    for _ in range(100):
        collector.step()
    data = collector.replay_buffer[:]
    actions = data["action"]
    assert actions.dtype == torch.float32
    assert set(actions.sum(-1).tolist()) == set(actions.amax(-1).tolist()) == {1.0}
    assert abs(actions[:2000, 0].mean() - 0.5) < 0.04
    packed = pack_episodes(data[:24], 13)
    rows = packed["valid"].squeeze(-1)[0].nonzero().flatten()
    assert torch.equal(
        packed["prev_action"][0, rows[1:]][~packed["is_init"][0, rows[1:], 0]],
        packed["action"][0, rows[1:] - 1][~packed["is_init"][0, rows[1:], 0]],
    )


def test_the_environment_gets_a_number_and_the_encoder_the_one_hot_action():
    policy = make_collector(algorithm="discrete_resel").policy
    observation = np.ones(2, np.float32)
    torch.manual_seed(0)
    drawn = [policy(observation) for _ in range(40)]
    assert {type(action) for action in drawn} == {int} and set(drawn) == {0, 1}
    previous = policy.state_dict()["prev_action"]
    assert previous[0].tolist() == [float(drawn[-1] == i) for i in range(2)]


def test_exploration_noise_is_in_collected_actions_and_not_in_evaluated_ones():
    policy = make_collector(algorithm="td3_resel").policy
    observation = np.ones(2, np.float32)
    torch.manual_seed(0)
    mode = policy(observation, first=True, deterministic=True)
    assert policy(observation, first=True, deterministic=True) == mode
    noise = [policy(observation, first=True) - mode for _ in range(400)]
    assert np.std(noise) == pytest.approx(policy.actor.exploration_noise, rel=0.15)
    policy.actor.exploration_noise = 100.0
    assert {abs(policy(observation, first=True).item()) for _ in range(9)} == {1.0}


def test_episodes_start_from_the_seed_of_run_environment_and_number():
    collector = make_collector(seed=4)
    while len(collector.replay_buffer) < 60:
        collector.step()
    data = collector.replay_buffer[:]
    starts = data["observation"][data["is_init"].squeeze(-1)]
    env = gymnasium.make("Walk-v0")
    for episode, start in enumerate(starts):
        expected, _ = env.reset(seed=episode_seed(4, 0, episode))
        assert np.array_equal(expected, start.numpy())
    assert len(torch.unique(starts, dim=0)) == len(starts)


def test_truncation_is_not_termination():
    """A fall is terminal; the horizon is done, but values bootstrap through it."""
    collector = make_collector(random_steps=10_000)
    results = [r for _ in range(600) for r in collector.step()]
    data = stored(collector)
    done = data["next", "done"].squeeze(-1)
    lengths = torch.tensor([r.length for r in results])
    assert torch.equal(done.nonzero().squeeze(-1), lengths.cumsum(0) - 1)
    full = lengths == envs.HORIZON
    assert 0 < full.sum() < len(full)
    truncated = data["next", "truncated"].squeeze(-1)[done]
    terminated = data["next", "terminated"].squeeze(-1)[done]
    assert torch.equal(truncated, full)
    assert terminated[~full].all()
    assert not terminated[full].all()
    assert not data["next", "terminated"].squeeze(-1)[~done].any()


def test_successor_of_a_transition_is_the_next_observation():
    collector = make_collector()
    for _ in range(100):
        collector.step()
    data = stored(collector)
    inner = ~data["next", "done"].squeeze(-1)[:-1]
    after = data["next", "observation"][:-1][inner]
    assert torch.equal(after, data["observation"][1:][inner])


def test_unfinished_episode_is_not_in_the_buffer():
    collector = make_collector()
    while not (ended := collector.step()):
        assert len(collector.replay_buffer) == 0
    assert len(collector.replay_buffer) == ended[0].length


def test_episode_longer_than_the_horizon_is_an_error():
    env = gymnasium.make("Walk-v0", max_episode_steps=1000)
    collector = make_collector(env=env, horizon=2)
    with pytest.raises(RuntimeError, match=r"at most 2 steps.*env.horizon"):
        for _ in range(50):
            collector.step()


def test_nan_is_noticed_in_any_environment(monkeypatch):
    monkeypatch.setattr(envs.FailingWalk, "steps", 0)
    monkeypatch.setattr(envs.FailingWalk, "fail_at", 5)
    collector = make_collector(env=gymnasium.make("FailingWalk-v0"), random_steps=99)
    with pytest.raises(FloatingPointError, match="observation that is not"):
        for _ in range(envs.HORIZON + 1):
            collector.step()
    assert len(collector.replay_buffer) == 0


@pytest.mark.parametrize("mode", ["eager", "auto"])
def test_wrong_shape_and_missing_reward_are_errors(mode):
    agent = make_agent(2, 1, core="gru", reward_input=True, **SIZES)
    policy = RecurrentPolicy(agent.actor_encoder, agent.actor, 2, 1, mode=mode)
    with pytest.raises(ValueError, match=r"shape \(2,\), got \(3,\)"):
        policy(np.zeros(3))
    policy(np.zeros(2))
    with pytest.raises(ValueError, match=r"got None; call policy\(observation, rew"):
        policy(np.zeros(2))
    policy(np.zeros(2), 0.5)
    policy.reset()
    policy(np.zeros(2))  # the first step has none before it


def make_networks(algorithm="resel", size=1):
    torch.manual_seed(0)
    options = {"algorithm": algorithm, "reward_input": True, "core": "gru"}
    agent = make_agent(2, size, n_critics=2, **options, **SIZES)
    return agent.actor_encoder, agent.actor


def make_buffer():
    return TensorDictReplayBuffer(
        storage=LazyTensorStorage(3000), sampler=EpisodeSampler(seed=0)
    )


def make_vector(num_envs=3, name="Walk-v0", deterministic=False, **options):
    size = 2 if name == "DiscreteWalk-v0" else 1
    networks = make_networks("discrete_resel" if size == 2 else "resel", size)
    policy = RecurrentPolicy(
        *networks,
        2,
        size,
        num_envs=num_envs,
        deterministic=deterministic,
        mode="eager",
    )
    together = vectorize([functools.partial(gymnasium.make, name)] * num_envs)
    options = {"horizon": envs.HORIZON, "seed": 0} | options
    return EpisodeCollector(together, policy, make_buffer(), **options)


def make_single(env_index=0, deterministic=False, **options):
    policy = RecurrentPolicy(
        *make_networks(), 2, 1, deterministic=deterministic, mode="eager"
    )
    options = {"horizon": envs.HORIZON, "seed": 0, "env_index": env_index} | options
    return EpisodeCollector(gymnasium.make("Walk-v0"), policy, make_buffer(), **options)


def episodes(collector):
    """The stored episodes in order, each as one TensorDict."""
    data = collector.replay_buffer[:].exclude("index")
    ends = data["next", "done"].flatten().nonzero().flatten() + 1
    return data.split(torch.diff(ends, prepend=ends.new_zeros(1)).tolist())


def test_a_vector_of_one_equals_the_environment_bit_for_bit():
    pair = make_vector(1, random_steps=20), make_single(random_steps=20)
    found = []
    for collector in pair:
        torch.manual_seed(1)
        found.append([result for _ in range(100) for result in collector.step()])
    assert found[0] == found[1] and len(found[0]) > 5
    pairs = list(zip(*map(episodes, pair), strict=True))
    assert all((a == b).all() for a, b in pairs)


@pytest.mark.parametrize("random_steps", [0, 10**6])
def test_each_environment_has_the_episodes_of_a_collector_of_its_own(random_steps):
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
    while not other.step():
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


def test_discrete_actions_of_several():
    collector = make_vector(2, "DiscreteWalk-v0", random_steps=60)
    for _ in range(80):
        collector.step()
    actions = collector.replay_buffer[:]["action"]
    assert set(actions.sum(-1).tolist()) == set(actions.amax(-1).tolist()) == {1.0}


def test_each_environment_finishes_its_random_episode_then_acts():
    collector = make_vector(3, random_steps=40)
    acted, phase, at_random = [], [], []
    act = collector.policy.act
    collector.policy.act = lambda *a, **k: acted.append(collector.steps) or act(*a, **k)
    starts = [0, 0, 0]  # steps made when the episode under way began
    for _ in range(40):
        phase.append(collector.in_random_phase)
        steps, _, t = collector.counters()
        starts = [steps if t[i] < 0 else starts[i] for i in range(3)]
        random = [start < 40 for start in starts]
        at_random.append(sum(random))
        before = [drawn(collector, i) for i in range(3)]
        under_way = collector.step() == []
        state = collector.state_dict()["in_flight"]
        for i in range(3 * under_way):
            last = state[i]["actions"][-1].numpy()
            assert np.array_equal(last, before[i]) == random[i]
    assert phase == [count > 0 for count in at_random]
    last = phase.index(False)
    assert not any(phase[last:]) and 3 * last > 40
    # They do not stop together, and the policy acts as soon as one has stopped.
    assert {1, 2} & set(at_random)
    mixed = [3 * k for k, count in enumerate(at_random) if 0 < count < 3]
    assert acted[: len(mixed)] == mixed != []


def drawn(collector, i):
    """The next action of environment i if it is random: of the episode's generator."""
    _, episodes, t = collector.counters()
    rng = np.random.default_rng(episode_seed(collector.seed, i, episodes[i]))
    return [rng.uniform(-1, 1, 1).astype("f4") for _ in range(max(t[i], 0) + 1)][-1]


@pytest.mark.parametrize("num_envs", [1, 3])
@pytest.mark.parametrize(
    ("random_steps", "random_start_steps"), [(0, 0), (50, 0), (10**6, 0), (50, 5)]
)
def test_state_goes_on_bit_for_bit_from_any_step(
    num_envs, random_steps, random_start_steps
):
    options = {"random_steps": random_steps, "random_start_steps": random_start_steps}
    make = make_single if num_envs == 1 else functools.partial(make_vector, num_envs)
    collector = make(**options)
    torch.manual_seed(4)
    saved, results = [], []
    for _ in range(40):
        saved.append((collector.state_dict(), torch.get_rng_state()))
        results.append(collector.step())
    final = dict(leaves(collector.state_dict()))
    for k, (state, generator) in enumerate(saved):
        other = make(**options)
        other.load_state_dict(state)
        torch.set_rng_state(generator)
        assert results[k:] == [other.step() for _ in range(k, 40)]
        got = dict(leaves(other.state_dict()))
        assert got.keys() == final.keys()
        assert all(same(got[key], final[key]) for key in final)
    # Episodes of several lengths were under way, some just over.
    lengths = [{len(e["actions"]) for e in state["in_flight"]} for state, _ in saved]
    assert {0} in lengths[1:] or any(0 in some for some in lengths[1:])
    assert num_envs == 1 or any(0 in some and len(some) > 1 for some in lengths[1:])


def test_bad_environments():
    with pytest.raises(ValueError, match="a policy for 3 environments, got one for 2"):
        good = make_vector(3)
        policy = RecurrentPolicy(*make_networks(), 2, 1, num_envs=2)
        EpisodeCollector(good.env, policy, good.replay_buffer, horizon=12, seed=0)
    resetting = SyncVectorEnv([lambda: gymnasium.make("Walk-v0")] * 2)
    with pytest.raises(ValueError, match=r"DISABLED.*NEXT_STEP.*vectorize"):
        EpisodeCollector(resetting, policy, make_buffer(), horizon=12, seed=0)
    short = make_vector(2, horizon=2, random_steps=99)
    with pytest.raises(RuntimeError, match=r"at most 2 steps.*env.horizon"):
        for _ in range(50):
            short.step()
