"""Evaluation in several environments: the episodes and results of one."""

import functools

import gymnasium
import numpy as np
import pytest
import torch

from resel_torchrl.collect import (
    RecurrentPolicy,
    VectorPolicy,
    evaluate,
    evaluate_vector,
)
from resel_torchrl.config import evaluate_run
from resel_torchrl.envs import vectorize
from resel_torchrl.modules import make_agent
from tests.training.runs import rows, start

SIZES = {"embedding_size": 4, "hidden_size": 6, "context_size": 5, "head_sizes": [8]}
WALK = functools.partial(gymnasium.make, "Walk-v0")


def make_networks():
    """With an actor of large actions, so that walks fall and lengths differ."""
    torch.manual_seed(2)
    agent = make_agent(2, 1, core="gru", reward_input=True, n_critics=2, **SIZES)
    with torch.no_grad():
        agent.actor.network.layers[-1].weight.mul_(4)
        agent.actor.network.layers[-1].bias[0] = 0.5
    return agent.actor_encoder, agent.actor


@pytest.mark.parametrize(
    ("copies", "episodes"), [(1, 4), (2, 7), (3, 3), (4, 2), (5, 13)]
)
def test_results_are_those_of_one_environment_in_order(copies, episodes):
    networks, options = make_networks(), {"episodes": episodes, "seed": 5}
    one = evaluate(WALK(), RecurrentPolicy(*networks, 2, 1, mode="eager"), **options)
    policy = VectorPolicy(*networks, 2, 1, copies=copies)
    together = evaluate_vector(vectorize([WALK] * copies), policy, **options)
    assert together.lengths == one.lengths
    np.testing.assert_allclose(together.returns, one.returns, rtol=1e-4)
    assert len(set(one.returns)) == episodes
    assert len(set(one.lengths)) > 1


def test_control_other_seeds_and_another_order_are_noticed():
    policy = VectorPolicy(*make_networks(), 2, 1, copies=2)
    envs = vectorize([WALK] * 2)
    first = evaluate_vector(envs, policy, episodes=4, seed=5)
    other = evaluate_vector(envs, policy, episodes=4, seed=6)
    assert not np.allclose(first.returns, other.returns, rtol=1e-2)
    assert not np.allclose(first.returns, first.returns[::-1], rtol=1e-2)


def test_evaluation_repeats_itself_and_leaves_generators_alone():
    policy = VectorPolicy(*make_networks(), 2, 1, copies=3)
    envs = vectorize([WALK] * 3)
    state = torch.get_rng_state()
    results = [evaluate_vector(envs, policy, episodes=5, seed=1) for _ in range(2)]
    assert results[0] == results[1]
    draws = []

    def random(observations, rewards, *, first, deterministic):
        draws.append(deterministic)
        return torch.rand(3, 1).numpy()

    evaluate_vector(envs, random, episodes=1, seed=0)
    assert torch.equal(state, torch.get_rng_state())
    assert draws and all(draws)
    with pytest.raises(ValueError, match="at least 1 episode"):
        evaluate_vector(envs, policy, episodes=0, seed=0)


def test_evaluating_a_run_equals_its_own_evaluation_bit_for_bit(tmp_path):
    start(tmp_path / "run", "env.copies=3", "steps=120", "eval.episodes=5").run()
    last = rows(tmp_path / "run/eval.csv")[-1]
    assert last["step"] == "120"
    result = evaluate_run(tmp_path / "run", episodes=5)
    assert " ".join(map(repr, result.returns)) == last["returns"]
