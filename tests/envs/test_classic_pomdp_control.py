"""Pendulum and CartPole: Gymnasium's own episodes, of which a part is shown."""

import gymnasium
import numpy as np
import pytest

from resel_torchrl.envs import make_gym
from tests.envs.helpers import play, random_actions, same


@pytest.mark.parametrize(
    ("task", "full", "kept", "scale"),
    [
        ("Pendulum-P-v0", "Pendulum-v1", [0, 1], 2),
        ("Pendulum-V-v0", "Pendulum-v1", [2], 2),
        ("CartPole-P-v0", "CartPole-v1", [0, 2], 1),
        ("CartPole-V-v0", "CartPole-v1", [1, 3], 1),
    ],
)
def test_tasks_show_what_gymnasium_shows(task, full, kept, scale):
    env = make_gym(task)
    actions = random_actions(env, steps=200)
    episode = play(env, 7, actions)
    expected = play(gymnasium.make(full), 7, [scale * action for action in actions])
    np.testing.assert_array_equal(episode.observations, expected.observations[:, kept])
    np.testing.assert_array_equal(episode.rewards, expected.rewards)
    assert episode.terminated == expected.terminated
    assert episode.observations.dtype == np.float32


def test_pendulum_ends_by_the_clock_at_200():
    env = make_gym("Pendulum-V-v0")
    episode = play(env, 0, random_actions(env, steps=300))
    assert len(episode.rewards) == 200
    assert episode.truncated == [False] * 199 + [True]
    assert not any(episode.terminated)


def test_full_torque_is_two_newton_metres():
    env = make_gym("Pendulum-V-v0")
    env.reset(seed=0)
    env.step(np.float32([-1.0]))
    assert env.unwrapped.last_u == -2.0


def test_cart_pole_ends_by_the_clock_at_200_or_by_a_fall():
    env = make_gym("CartPole-P-v0")
    fall = play(env, 0, [1] * 200)
    assert len(fall.rewards) < 20
    assert fall.terminated[-1] and not fall.truncated[-1]
    env.reset(seed=0)
    for step in range(1, 201):  # balance by the hidden state
        _, _, angle, speed = env.unwrapped.state
        _, _, terminated, truncated, _ = env.step(int(angle + speed > 0))
        assert not terminated
        assert truncated == (step == 200)


@pytest.mark.parametrize("task", ["Pendulum-V-v0", "CartPole-V-v0"])
def test_episode_is_a_function_of_seed_and_actions(task):
    env = make_gym(task)
    actions = random_actions(env, steps=200)
    first = play(env, 3, actions)
    play(env, 4, actions)
    assert same(play(env, 3, actions), first)
    assert same(play(make_gym(task), 3, actions), first)
