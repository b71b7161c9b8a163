"""Delayed-Catch: what is caught, when it is paid, and how a run begins."""

import numpy as np
import pytest
from gymnasium.spaces import Box, Discrete

from resel_torchrl.envs import make_gym, task_info
from tests.envs.helpers import play, random_actions, same

LEFT, STAY, RIGHT = range(3)


def places(observation: np.ndarray) -> tuple[tuple[int, int] | None, int]:
    """(row, column) of the fruit, None where the basket hides it; basket's column."""
    grid = observation.reshape(7, 7)
    fruits, baskets = np.argwhere(grid == -1), np.argwhere(grid == 1)
    assert len(baskets) == 1 and baskets[0][0] == 6 and len(fruits) <= 1
    assert np.isin(grid, (-1, 0, 1)).all()
    fruit = tuple(fruits[0].tolist()) if len(fruits) else None
    return fruit, int(baskets[0][1])


def after_it(observation: np.ndarray) -> int:
    """The move towards the column of the fruit."""
    fruit, basket = places(observation)
    if fruit is None or fruit[1] == basket:
        return STAY
    return LEFT if fruit[1] < basket else RIGHT


def away(observation: np.ndarray) -> int:
    """A move out of the column of the fruit."""
    fruit, basket = places(observation)
    if fruit is None or fruit[1] != basket:
        return STAY
    return LEFT if basket > 0 else RIGHT


@pytest.mark.parametrize("runs", [1, 2, 10, 40])
def test_following_the_fruit_catches_all_and_avoiding_it_none(runs):
    env = make_gym("DelayedCatch-v0", runs=runs)
    for policy, caught in ((after_it, runs), (away, 0)):
        for seed in range(5):
            observation, _ = env.reset(seed=seed)
            for step in range(1, 7 * runs):
                observation, reward, *ends, info = env.step(policy(observation))
                assert ends == [step == 7 * runs - 1, False]
                assert reward == (caught if ends[0] else 0)
                assert ("measures" in info) == ends[0]
            assert info["measures"] == {"caught": caught / runs}


def test_random_play_catches_what_the_pictures_show():
    env = make_gym("DelayedCatch-v0", runs=40)
    shares = []
    for seed in range(10):
        actions = random_actions(env, env.horizon, seed)
        episode = play(env, seed, actions)
        hidden = [
            places(observation)[0] is None for observation in episode.observations
        ]
        assert episode.rewards[-1] == sum(hidden)
        assert not episode.rewards[:-1].any()
        # Hidden in the bottom row only, at the end of a run.
        assert {step % 7 for step in np.flatnonzero(hidden)} <= {6}
        shares.append(episode.rewards[-1] / 40)
    assert 0.1 < np.mean(shares) < 0.4


def test_fruit_falls_and_the_basket_moves_between_the_edges():
    env = make_gym("DelayedCatch-v0", runs=2)
    for seed, action, edge in ((0, LEFT, 0), (1, RIGHT, 6)):
        seen = [places(o) for o in play(env, seed, [action] * 6).observations]
        fruits = [fruit for fruit, _ in seen[:6]]
        assert [row for row, _ in fruits] == list(range(6))
        assert len({column for _, column in fruits}) == 1
        moves = np.diff([basket for _, basket in seen])
        start = seen[0][1]
        n_moves = abs(edge - start)
        expected = [np.sign(edge - start)] * n_moves + [0] * (6 - n_moves)
        assert moves.tolist() == expected


def test_a_run_begins_anew_whatever_the_action():
    env = make_gym("DelayedCatch-v0", runs=40)
    shown = [
        play(env, 3, [STAY] * 6 + [action]).observations[-1] for action in range(3)
    ]
    for observation in shown:
        np.testing.assert_array_equal(observation, shown[0])
    fruits, baskets = set(), set()
    for seed in range(10):
        observations = play(env, seed, [STAY] * 279).observations[::7]
        for fruit, basket in map(places, observations):
            assert fruit[0] == 0
            fruits.add(fruit[1])
            baskets.add(basket)
    assert fruits == set(range(6)) and baskets == set(range(1, 5))


def test_sizes_and_measures():
    info = task_info("DelayedCatch-v0")
    sizes = info.observation_size, info.action_size, info.discrete, info.horizon
    assert sizes == (49, 3, True, 69)
    assert info.measures == ("caught",)
    env = make_gym("DelayedCatch-v0", runs=40)
    assert env.observation_space == Box(-1.0, 1.0, (49,), np.float32)
    assert env.action_space == Discrete(3) and env.horizon == 279


def test_episode_is_a_function_of_seed_and_actions():
    env = make_gym("DelayedCatch-v0")
    actions = random_actions(env, env.horizon)
    first = play(env, 3, actions)
    assert not same(play(env, 4, actions), first)
    assert same(play(env, 3, actions), first)
    assert same(play(make_gym("DelayedCatch-v0"), 3, actions), first)


def test_one_episode_may_have_fewer_runs():
    env = make_gym("DelayedCatch-v0")
    for runs in (1, 4, 10):
        observation, _ = env.reset(seed=0, options={"runs": runs})
        terminated, steps = False, 0
        while not terminated:
            step = env.step(after_it(observation))
            observation, reward, terminated, _, info = step
            steps += 1
        assert (steps, reward) == (7 * runs - 1, runs)
        assert info["measures"] == {"caught": 1.0}
    assert env.horizon == 69


@pytest.mark.parametrize("runs", [0, 41, 2.5, True, "3"])
def test_runs_out_of_range_are_refused(runs):
    message = f"runs to be a whole number from 1 to 40, got {runs!r}"
    with pytest.raises(ValueError, match=message):
        make_gym("DelayedCatch-v0", runs=runs)


def test_unknown_options_and_actions_are_refused():
    env = make_gym("DelayedCatch-v0")
    with pytest.raises(ValueError, match="runs to be a whole number from 1 to 10, got"):
        env.reset(options={"runs": 11})
    with pytest.raises(ValueError, match="no reset option but 'runs', got 'length'"):
        env.reset(options={"length": 5})
    env.reset(seed=0)
    for action in (-1, 3):
        with pytest.raises(ValueError, match=f"from 0 to 2, got {action}"):
            env.step(action)
