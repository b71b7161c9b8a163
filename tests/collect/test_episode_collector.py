"""Collecting: seeds, whole episodes, the random phase, what `done` means."""

import gymnasium
import numpy as np
import pytest
import torch
from tensordict import TensorDict
from torchrl.data import LazyTensorStorage, TensorDictReplayBuffer
from torchrl.envs import GymWrapper, InitTracker, TransformedEnv
from torchrl.envs.utils import ExplorationType, set_exploration_type

from resel_torchrl.collect import Collector, RecurrentPolicy, episode_seed
from resel_torchrl.modules import CORES, make_agent, make_policy
from resel_torchrl.replay import pack_episodes
from tests.training import envs

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
    return Collector(
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
        options["core_kwargs"] = {"n_heads": 2, "context": 50}
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
        ends.append(collector.step() is not None)
    last = was_random.index(False)
    assert last >= 20
    assert ends[last - 1]
    assert not any(was_random[last:])
    # And it does not run longer than that episode.
    assert sum(ends[19 : last - 1]) == 0


def test_random_actions_are_uniform_and_need_no_global_generator():
    torch.manual_seed(0)
    state = torch.get_rng_state()
    collector = make_collector(random_steps=2000)
    state = torch.get_rng_state()
    for _ in range(2000):
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
    results = [r for _ in range(600) if (r := collector.step()) is not None]
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
    while (result := collector.step()) is None:
        assert len(collector.replay_buffer) == 0
    assert len(collector.replay_buffer) == result.length


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
