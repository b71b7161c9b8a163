"""Evaluation and loaded policies: the same episodes, the same actions."""

import functools

import gymnasium
import numpy as np
import pytest
import torch

from resel_torchrl.collect import RecurrentPolicy, episode_seed, evaluate
from resel_torchrl.config import evaluate_run, load_config
from resel_torchrl.envs import vectorize
from resel_torchrl.errors import RunError
from resel_torchrl.modules import make_agent
from resel_torchrl.training import load_policy
from tests.training.runs import resume, rows, start

SIZES = {"embedding_size": 4, "hidden_size": 6, "context_size": 5, "head_sizes": [8]}
WALK = functools.partial(gymnasium.make, "Walk-v0")


@pytest.fixture(scope="module", params=["resel", "discrete_resel", "td3_resel"])
def run_dir(request, tmp_path_factory):
    """A finished run of each algorithm."""
    folder = tmp_path_factory.mktemp("runs") / "run"
    name = "DiscreteWalk" if request.param == "discrete_resel" else "Walk"
    env = f"env.id=tests.training.envs:{name}-v0"
    options = [env, f"algorithm={request.param}", "steps=80"]
    start(folder, *options, "log.checkpoint_interval=40").run()
    return folder


def test_loaded_policy_equals_the_evaluation_of_the_run_bit_for_bit(run_dir):
    table = rows(run_dir / "eval.csv")
    for row in table:
        policy = load_policy(run_dir, checkpoint=int(row["step"]))
        returns = []
        for episode in range(2):
            env = gymnasium.make(load_config(run_dir / "config.yaml").env.id)
            observation, _ = env.reset(seed=episode_seed(12345, 0, episode))
            policy.reset()
            total, reward, done = 0.0, None, False
            while not done:
                action = policy(observation, reward)
                observation, reward, terminated, truncated, _ = env.step(action)
                total += float(reward)
                done = terminated or truncated
            returns.append(total)
        assert [repr(value) for value in returns] == row["returns"].split()
        assert float(row["mean"]) == pytest.approx(np.mean(returns))
        error = np.std(returns, ddof=1) / np.sqrt(2)
        assert float(row["standard_error"]) == pytest.approx(error)
    assert len(table) == 2
    discrete = isinstance(env.action_space, gymnasium.spaces.Discrete)
    # The best of two actions may not change in so few updates.
    assert discrete or table[0]["returns"] != table[1]["returns"]


def test_evaluating_a_run_by_its_directory(run_dir):
    result = evaluate_run(run_dir, episodes=2)
    expected = rows(run_dir / "eval.csv")[-1]["returns"]
    assert " ".join(map(repr, result.returns)) == expected


def test_evaluation_does_not_disturb_training(tmp_path):
    start(tmp_path / "often", "steps=60", "eval.interval=7", "eval.episodes=3").run()
    start(tmp_path / "never", "steps=60", "eval.interval=0").run()
    assert rows(tmp_path / "often/metrics.csv") == rows(tmp_path / "never/metrics.csv")
    assert len(rows(tmp_path / "often/eval.csv")) == 8
    assert rows(tmp_path / "never/eval.csv") == []


def test_evaluation_leaves_generators_alone_even_if_the_policy_draws():
    env = gymnasium.make("Walk-v0")
    state = torch.get_rng_state()
    drawn = []

    def policy(observation, reward, *, first, deterministic):
        drawn.append(deterministic)
        return torch.rand(1).numpy()

    evaluate(env, policy, episodes=1, seed=0)
    assert torch.equal(state, torch.get_rng_state())
    assert drawn and all(drawn)


def test_checkpoint_that_is_not_there(run_dir):
    with pytest.raises(RunError, match=r"step 55 .*steps with one: 80, 40"):
        load_policy(run_dir, checkpoint=55)


def test_run_without_a_checkpoint(tmp_path):
    start(tmp_path / "run")
    with pytest.raises(RunError, match="has not saved one yet"):
        load_policy(tmp_path / "run")
    assert resume(tmp_path / "run").collector.steps == 0


def make_networks():
    """With an actor of large actions, so that walks fall and lengths differ."""
    torch.manual_seed(2)
    agent = make_agent(2, 1, core="gru", reward_input=True, n_critics=2, **SIZES)
    with torch.no_grad():
        agent.actor.network.layers[-1].weight.mul_(4)
        agent.actor.network.layers[-1].bias[0] = 0.5
    return agent.actor_encoder, agent.actor


@pytest.mark.parametrize(
    ("num_envs", "episodes"), [(1, 4), (2, 7), (3, 3), (4, 2), (5, 13)]
)
def test_results_are_those_of_one_environment_in_order(num_envs, episodes):
    networks, options = make_networks(), {"episodes": episodes, "seed": 5}
    one = evaluate(WALK(), RecurrentPolicy(*networks, 2, 1, mode="eager"), **options)
    policy = RecurrentPolicy(*networks, 2, 1, num_envs=num_envs)
    together = evaluate(vectorize([WALK] * num_envs), policy, **options)
    assert together.lengths == one.lengths
    np.testing.assert_allclose(together.returns, one.returns, rtol=1e-4)
    assert len(set(one.returns)) == episodes
    assert len(set(one.lengths)) > 1


def test_control_other_seeds_and_another_order_are_noticed():
    policy = RecurrentPolicy(*make_networks(), 2, 1, num_envs=2)
    envs = vectorize([WALK] * 2)
    first = evaluate(envs, policy, episodes=4, seed=5)
    other = evaluate(envs, policy, episodes=4, seed=6)
    assert not np.allclose(first.returns, other.returns, rtol=1e-2)
    assert not np.allclose(first.returns, first.returns[::-1], rtol=1e-2)


def test_evaluation_in_several_repeats_itself_and_leaves_generators_alone():
    policy = RecurrentPolicy(*make_networks(), 2, 1, num_envs=3)
    envs = vectorize([WALK] * 3)
    state = torch.get_rng_state()
    results = [evaluate(envs, policy, episodes=5, seed=1) for _ in range(2)]
    assert results[0] == results[1]
    draws = []

    def random(observations, rewards, *, first, deterministic):
        draws.append(deterministic)
        return torch.rand(3, 1).numpy()

    evaluate(envs, random, episodes=1, seed=0)
    assert torch.equal(state, torch.get_rng_state())
    assert draws and all(draws)
    with pytest.raises(ValueError, match="at least 1 episode"):
        evaluate(envs, policy, episodes=0, seed=0)


def test_evaluating_a_run_of_several_equals_its_own_evaluation_bit_for_bit(tmp_path):
    start(tmp_path / "run", "env.copies=3", "steps=120", "eval.episodes=5").run()
    last = rows(tmp_path / "run/eval.csv")[-1]
    assert last["step"] == "120"
    result = evaluate_run(tmp_path / "run", episodes=5)
    assert " ".join(map(repr, result.returns)) == last["returns"]
