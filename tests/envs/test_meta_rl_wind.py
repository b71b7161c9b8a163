"""Wind: what a step does, what is paid, and the sets of winds."""

import math

import numpy as np
import pytest

from resel_torchrl.envs import make_gym, task_info
from tests.envs.helpers import play, random_actions, same


def wind_of(info):
    return np.array([info["task"]["wind_x"], info["task"]["wind_y"]])


def go(env, task, believed_wind):
    """The return of walking straight to the goal in the wind that is believed."""
    observation, info = env.reset(seed=0, options={"task": task})
    wind, total, done = believed_wind(wind_of(info)), 0.0, False
    while not done:
        action = np.array([0.0, 1.0]) - observation - wind
        action = np.clip(action / 0.1, -1, 1).astype(np.float32)
        observation, reward, terminated, truncated, _ = env.step(action)
        total += reward
        done = terminated or truncated
    return total


def test_who_knows_the_wind_gets_the_optimum_and_who_ignores_it_does_not():
    env = make_gym("Wind-v0", split="test")
    tasks = range(env.get_wrapper_attr("n_tasks"))
    winds = [wind_of(env.reset(options={"task": task})[1]) for task in tasks]
    # y is the longer way, at 0.1 + wind a step; then 1 at every step that is left.
    optimum = [75 - math.ceil((1 - 0.03) / (0.1 + y)) + 1 for _, y in winds]
    knowing = [go(env, task, lambda wind: wind) for task in tasks]
    assert knowing == optimum and np.mean(knowing) > 60
    # Ignoring it ends beside the goal by the wind, having crossed it once at most.
    ignoring = [go(env, task, lambda wind: 0 * wind) for task in tasks]
    assert np.mean(ignoring) < 20
    for wind, total in zip(winds, ignoring, strict=True):
        assert (total <= 1) == (np.hypot(*wind) > 0.03)


def test_steps_add_the_clipped_action_and_the_wind():
    env = make_gym("Wind-v0", test_tasks=[[0.05, -0.02]], split="test")
    actions = random_actions(env, steps=75)
    actions[0] = np.float32([3.0, -3.0])  # beyond the range: as 1 and -1
    episode = play(env, 0, actions)
    moves = 0.1 * np.clip(np.array(actions, np.float64), -1, 1) + [0.05, -0.02]
    positions = np.concatenate([np.zeros((1, 2)), moves.cumsum(0)])
    np.testing.assert_allclose(episode.observations, positions, atol=1e-6)
    assert episode.truncated == [False] * 74 + [True] and not any(episode.terminated)


@pytest.mark.parametrize(
    ("place", "reward"), [((0.0, 1.029), 1), ((0.0, 1.031), 0), ((0.022, 0.978), 0)]
)
def test_the_reward_is_that_of_being_within_the_goal(place, reward):
    env = make_gym("Wind-v0", train_tasks=[[0.0, 0.0]])
    env.reset(seed=0)
    for _ in range(11):
        _, got, _, _, _ = env.step(np.float32(place) / 1.1)
    assert got == reward


def test_the_wind_is_hidden_and_stays_within_an_episode():
    env = make_gym("Wind-v0")
    (one, one_info), (other, other_info) = (
        env.reset(seed=1, options={"task": task}) for task in (0, 1)
    )
    np.testing.assert_array_equal(one, other)
    assert (wind_of(one_info) != wind_of(other_info)).all()
    _, info = env.reset(seed=2)
    for action in random_actions(env, steps=75):
        *_, step_info = env.step(action)
        assert step_info["task"] == info["task"]


def test_the_set_has_40_and_20_tasks_and_episodes_take_those_of_their_split():
    envs = {split: make_gym("Wind-v0", split=split) for split in ("train", "test")}
    seen = {}
    for split, env in envs.items():
        facts = task_info("Wind-v0", split=split).facts
        tasks = {tuple(task) for task in facts[f"{split}_tasks"]}
        assert len(tasks) == {"train": 40, "test": 20}[split] == env.unwrapped.n_tasks
        seen[split] = {tuple(wind_of(env.reset(seed=i)[1])) for i in range(300)}
        assert seen[split] == tasks
        assert np.abs(list(tasks)).max() <= 0.08
    assert not seen["train"] & seen["test"]


def test_the_set_depends_on_its_own_seed_alone():
    sets = [task_info("Wind-v0", task_seed=s).facts["train_tasks"] for s in (0, 0, 1)]
    assert sets[0] == sets[1] != sets[2]


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        ({"train_tasks": [[0.1]]}, r"given tasks of 2 numbers each, got \[0\.1\]"),
        (
            {"train_tasks": [[0, 0.1]], "test_tasks": [[0, 0.1]]},
            "not trained on, but .* is among",
        ),
        ({"split": "valid"}, "expected split train or test, got 'valid'"),
    ],
)
def test_wrong_sets_are_refused(kwargs, message):
    with pytest.raises(ValueError, match=message):
        make_gym("Wind-v0", **kwargs)


def test_episode_is_a_function_of_seed_and_actions():
    env = make_gym("Wind-v0")
    actions = random_actions(env, steps=75)
    first = play(env, 3, actions)
    play(env, 4, actions)
    assert same(play(env, 3, actions), first)
    assert same(play(make_gym("Wind-v0"), 3, actions), first)
    assert not same(play(env, 4, actions), first)


def test_task_is_described():
    info = task_info("Wind-v0")
    assert (info.observation_size, info.action_size, info.horizon) == (2, 2, 75)
    assert info.measures == ()


def test_goal_of_one_episode_may_be_larger():
    env = make_gym("Wind-v0", train_tasks=[[0.0, 0.0]])
    up = np.float32([0.0, 1.0])  # 0.1 a step
    first = {}
    for radius in (0.03, 0.55, None):
        options = None if radius is None else {"radius": radius}
        env.reset(seed=0, options=options)
        rewards = [env.step(up)[1] for _ in range(12)]
        first[radius] = 1 + rewards.index(1.0)
    assert first == {0.03: 10, 0.55: 5, None: 10}
    for radius in (0, -1.0, "wide", float("nan"), True):
        with pytest.raises(ValueError, match="expected radius to be a number above 0"):
            env.reset(seed=0, options={"radius": radius})
        with pytest.raises(ValueError, match="expected radius to be a number above 0"):
            make_gym("Wind-v0", radius=radius)
