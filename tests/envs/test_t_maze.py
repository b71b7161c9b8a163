"""T-Maze: the known best return, its clock, its sign and its penalty."""

import gymnasium
import numpy as np
import pytest
from gymnasium.spaces import Box, Discrete

from resel_torchrl.envs import make_gym, task_info, vectorize
from resel_torchrl.envs.t_maze import TMaze
from tests.envs.helpers import play, random_actions, same

EAST, UP, WEST, DOWN = range(4)
TASKS = {"TMaze-Passive-v0": (50, 51), "TMaze-Active-v0": (20, 23)}


def way(length: int, goal: int, active: bool) -> list[int]:
    """The best actions: by way of the sign to the arm of the goal."""
    to_sign = [WEST, EAST] if active else []
    return [*to_sign, *[EAST] * length, UP if goal == 1 else DOWN]


def goal_of(env: gymnasium.Env, seed: int) -> int:
    return int(env.reset(seed=seed)[1]["task"]["goal"])


def outcome(env: gymnasium.Env, seed: int, actions: list) -> tuple[float, dict]:
    """Return and measures of an episode that ends with the last action."""
    env.reset(seed=seed)
    total = 0.0
    for number, action in enumerate(actions, start=1):
        _, reward, terminated, truncated, info = env.step(action)
        total += reward
        assert (terminated, truncated) == (number == len(actions), False)
        assert ("measures" in info) == terminated
    return total, info["measures"]


@pytest.mark.parametrize("task", TASKS)
def test_best_policy_returns_one_and_a_guess_half_of_it(task):
    length, horizon = TASKS[task]
    active = "Active" in task
    env = make_gym(task)
    assert env.horizon == horizon
    guesses = []
    for seed in range(200):
        goal = goal_of(env, seed)
        best = outcome(env, seed, way(length, goal, active))
        assert best == (1.0, {"success": 1.0})
        guesses.append(outcome(env, seed, way(length, 1, active))[1]["success"])
        assert guesses[-1] == (goal == 1)
    assert 0.4 < np.mean(guesses) < 0.6


@pytest.mark.parametrize("task", TASKS)
def test_sizes_and_measures(task):
    info = task_info(task)
    sizes = info.observation_size, info.action_size, info.discrete, info.horizon
    assert sizes == (2, 4, True, TASKS[task][1])
    assert info.measures == ("success",)
    assert task_info(task, length=7).horizon == 7 + TASKS[task][1] - TASKS[task][0]
    assert gymnasium.spec(task).max_episode_steps is None


def test_passive_sign_is_seen_at_the_start_and_never_again():
    env = make_gym("TMaze-Passive-v0", length=3)
    for seed in range(8):
        goal = goal_of(env, seed)
        seen = play(env, seed, [WEST, EAST, WEST, EAST]).observations
        assert seen.tolist() == [[0, goal], *[[0, 0]] * 4]
        seen = play(env, seed, way(3, goal, active=False)).observations
        assert seen.tolist() == [[0, goal], [0, 0], [0, 0], [1, 0], [1, goal]]


def test_active_sign_is_seen_once_and_only_one_step_west():
    env = make_gym("TMaze-Active-v0", length=2)
    for seed in range(8):
        goal = goal_of(env, seed)
        seen = play(env, seed, way(2, goal, active=True)).observations[:, 1]
        assert seen.tolist() == [0, goal, 0, 0, 0, goal]
        seen = play(env, seed, [WEST, WEST, EAST, WEST, EAST]).observations[:, 1]
        assert seen.tolist() == [0, goal, 0, 0, 0, 0]
        # The control: without the sign nothing tells one goal from the other.
        seen = play(env, seed, [EAST, EAST, UP, DOWN, DOWN]).observations
        expected = [[0, 0], [0, 0], [1, 0], [1, 1], [1, 0], [1, -1]]
        assert seen.tolist() == expected


def test_walls_stop_every_other_move():
    env = make_gym("TMaze-Passive-v0", length=8)
    actions = [UP, DOWN, WEST, *[EAST] * 3, UP, DOWN, WEST]
    assert play(env, 0, actions).observations[1:].tolist() == [[0, 0]] * 9
    env = make_gym("TMaze-Passive-v0", length=1)
    for seed, action in [(0, UP), (1, EAST)]:
        assert play(env, seed, [EAST, action]).observations[-1, 0] == 1
    env = TMaze(length=9, active=False)
    env.reset(seed=0, options={"length": 9})
    for _ in range(9):
        env.step(EAST)
    env.reset(seed=0)
    shown = [env.step(a)[0].tolist() for a in [EAST] * 9]
    assert shown == [*[[0, 0]] * 8, [1, 0]]


def test_arms_are_one_cell_long_and_are_left_by_the_junction_only():
    env = TMaze(length=1, active=True)
    env.reset(seed=0, options=None)
    shown = [env.step(action)[0].tolist() for action in (EAST, UP, UP, EAST)]
    assert shown == [[1, 0], [1, 1], [1, 1], [1, 1]]
    env.reset(seed=0)
    shown = [env.step(action)[0].tolist() for action in (EAST, DOWN, WEST, UP)]
    assert shown == [[1, 0], [1, -1], [1, -1], [1, 0]]


@pytest.mark.parametrize("active", [False, True])
def test_penalty_of_every_step_behind_the_best_but_the_last(active):
    env = TMaze(length=4, active=active)
    best = way(4, goal_of(env, 0), active)
    np.testing.assert_array_equal(play(env, 0, best).rewards[:-1], 0)
    # One wasted step costs a quarter at each later step, and the goal with it.
    for wasted in range(len(best) - 1):
        late = [*best[:wasted], UP, *best[wasted:-1]]
        rewards = play(env, 0, late).rewards
        expected = np.where(np.arange(len(best)) < wasted, 0, -0.25)
        if active and wasted == 0:  # going west is the step that wastes nothing
            expected[:1] = 0
        expected[-1] = 0
        np.testing.assert_array_equal(rewards, expected)
    # Reading the sign costs nothing; passing it by makes up for no later step.
    rewards = play(env, 0, [EAST] * len(best)).rewards
    np.testing.assert_array_equal(rewards[: 4 + active], 0)


def test_resting_at_the_junction_costs_what_the_rule_says():
    env = TMaze(length=4, active=True)  # the junction is at x = 5
    env.reset(seed=0)
    rewards = [env.step(EAST)[1] for _ in range(7)]
    # x < t - 1 holds after the seventh step only, which is the last.
    assert rewards == [0.0] * 7


@pytest.mark.parametrize("task", TASKS)
def test_episode_is_a_function_of_seed_and_actions(task):
    env = make_gym(task)
    for seed in (3, 4):
        actions = random_actions(env, env.horizon, seed)
        first = play(env, seed, actions)
        assert first.terminated == [False] * (env.horizon - 1) + [True]
        play(env, 9, actions)
        assert same(play(env, seed, actions), first)
        assert same(play(make_gym(task), seed, actions), first)


def test_goal_is_drawn_anew_and_stands_in_every_info():
    env = make_gym("TMaze-Active-v0", length=1)
    goals = set()
    env.reset(seed=0)
    for _ in range(20):
        goal = env.reset()[1]["task"]
        goals.add(goal["goal"])
        assert all(env.step(EAST)[-1]["task"] == goal for _ in range(4))
    assert goals == {1.0, -1.0}


@pytest.mark.parametrize("active", [False, True])
def test_curriculum_shortens_one_episode_and_its_penalty(active):
    env = make_gym("TMaze-Active-v0" if active else "TMaze-Passive-v0", length=6)
    horizon = env.horizon
    for length in (1, 4, 6):
        info = env.reset(seed=2, options={"length": length})[1]
        goal = int(info["task"]["goal"])
        for action in way(length, goal, active):
            _, reward, terminated, *_ = env.step(action)
        assert terminated and reward == 1.0
    env.reset(seed=2, options={"length": 4})
    rewards = [env.step(UP)[1] for _ in range(3)]
    assert rewards[1 + active] == -0.25
    assert env.horizon == horizon
    env.reset(seed=2)  # and the next one is whole again
    steps = [env.step(UP)[2] for _ in range(horizon)]
    assert steps == [False] * (horizon - 1) + [True]


def test_continuous_actions_are_the_largest_of_four():
    discrete = make_gym("TMaze-Active-v0", length=5)
    assert discrete.action_space == Discrete(4)
    env = make_gym("TMaze-Active-v0", length=5, continuous=True)
    assert env.action_space == Box(-1.0, 1.0, (4,), np.float32)
    actions = random_actions(env, env.horizon)
    chosen = [int(np.argmax(action)) for action in actions]
    assert len(set(chosen)) > 2
    assert same(play(env, 0, actions), play(discrete, 0, chosen))


def test_mazes_can_be_vectorized():
    envs = vectorize([lambda: make_gym("TMaze-Passive-v0", length=2)] * 2)
    envs.reset(seed=[0, 1], options={"reset_mask": np.array([True, True])})
    for _ in range(3):
        *_, terminated, _, _ = envs.step(np.array([EAST, EAST]))
    assert terminated.all()


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        ({"length": 0}, "length to be a whole number of 1 or more, got 0"),
        ({"length": 2.5}, "length to be a whole number of 1 or more, got 2.5"),
        ({"length": True}, "whole number of 1 or more, got True"),
        ({"length": "9"}, "whole number of 1 or more, got '9'"),
        ({"continuous": "no"}, "continuous to be true or false, got 'no'"),
    ],
)
def test_bad_arguments_are_named(kwargs, message):
    with pytest.raises(ValueError, match=message):
        make_gym("TMaze-Passive-v0", **kwargs)


@pytest.mark.parametrize("length", [0, 11, 1.5, None])
def test_lengths_out_of_range_are_refused(length):
    env = make_gym("TMaze-Passive-v0", length=10)
    with pytest.raises(ValueError, match=r"length to be .* from 1 to 10, got"):
        env.reset(options={"length": length})
    with pytest.raises(ValueError, match="no reset option but 'length', got 'frames'"):
        env.reset(options={"frames": 5})


def test_unknown_actions_are_refused():
    env = make_gym("TMaze-Passive-v0")
    env.reset(seed=0)
    for action in (-1, 4):
        with pytest.raises(ValueError, match=f"from 0 to 3, got {action}"):
            env.step(action)
    env = make_gym("TMaze-Passive-v0", continuous=True)
    env.reset(seed=0)
    with pytest.raises(ValueError, match=r"of shape \(4,\), got one of \(3,\)"):
        env.step(np.zeros(3, np.float32))
