"""Key-to-Door: pictures against a plain reference, rooms, clock and bad input."""

import numpy as np
import pytest
from gymnasium.spaces import Box, Discrete

from resel_torchrl.envs import make_gym, task_info
from tests.envs.helpers import play, random_actions, same
from tests.envs.key_to_door import (
    NORTH,
    RGB,
    SOUTH,
    WEST,
    cells,
    reference,
    shows,
    to_key,
)

TASKS = [f"KeyToDoor-{frames}-v0" for frames in (60, 120, 250, 500)]


@pytest.mark.parametrize("frames", [60, 3, 30])
def test_pictures_and_rewards_are_those_of_the_reference(frames):
    env = make_gym("KeyToDoor-60-v0", frames=frames)
    white = opened = twice = 0
    for seed in range(20):
        observation, _ = env.reset(seed=seed)
        expected = reference(env, frames)
        np.testing.assert_array_equal(observation, expected.observation())
        actions = random_actions(env, env.horizon, seed)
        if seed % 2:  # random play seldom finds the key and the door
            way = to_key(env)
            actions[: len(way)] = way
            actions[-10:-7] = [NORTH] * 3
        for action in actions:
            expected.step(action)
            observation, reward, *_, info = env.step(action)
            assert reward == expected.rewards[-1]
            np.testing.assert_array_equal(observation, expected.observation())
            white += shows(observation, "white") != []
        apples = expected.rewards.count(1.0)
        measures = {"success": float(expected.opened), "apples": float(apples)}
        assert info["measures"] == measures
        opened += expected.opened
        twice += apples > sum(step > 0 for step in expected.taken_at.values())
    # What is compared does occur.
    assert white >= 10 and opened >= 10
    assert frames < 60 or twice > 0


def test_the_reference_would_notice_an_apple_that_returns_one_step_late():
    env = make_gym("KeyToDoor-60-v0")
    env.reset(seed=0)
    expected, differ = reference(env, 60), 0
    for action in random_actions(env, env.horizon):
        observation, *_ = env.step(action)
        expected.step(action)
        taken_at = expected.taken_at
        expected.taken_at = {cell: step + 1 for cell, step in taken_at.items()}
        differ += not np.array_equal(observation, expected.observation())
        expected.taken_at = taken_at
    assert differ > 0


@pytest.mark.parametrize("task", TASKS)
def test_sizes_and_clock_are_those_of_the_name(task):
    frames = int(task.split("-")[1])
    info = task_info(task)
    sizes = info.observation_size, info.action_size, info.discrete, info.horizon
    assert sizes == (75, 4, True, 15 + frames + 10)
    assert info.measures == ("success", "apples")
    env = make_gym(task)
    assert env.action_space == Discrete(4)
    assert env.observation_space == Box(0.0, 1.0, (75,), np.float32)
    episode = play(env, 0, random_actions(env, 1000))
    assert episode.terminated == [False] * (14 + frames + 10) + [True]
    assert not any(episode.truncated)


def test_rooms_change_with_the_fifteenth_and_the_last_apple_step():
    env = make_gym("KeyToDoor-60-v0", frames=7)
    for seed in range(3):
        seen = play(env, seed, [SOUTH] * 32).observations
        walls = [(cells(observation) == RGB["#"]).all(-1) for observation in seen]
        # At the start, and from the first step on at the lower wall of each room.
        assert all(wall[3].sum() >= 3 for wall in walls[2:15])
        assert all(not shows(o, "a") and not shows(o, "d") for o in seen[:15])
        in_apple_room = [[False] * 5] * 3 + [[True] * 5, [False] * 5]
        assert all(wall.tolist() == in_apple_room for wall in walls[15:22])
        assert walls[22].tolist() == [
            [True, True, False, True, True],
            [True, False, False, False, True],
            [True, False, False, False, True],
            [True, False, False, False, True],
            [True, True, True, True, True],
        ]
        doors = [shows(observation, "d") for observation in seen]
        assert doors == [[]] * 22 + [[(-2, 0)]] + [[]] * 10


def test_crop_keeps_the_agent_in_its_middle_even_in_a_corner():
    env = make_gym("KeyToDoor-60-v0")
    env.reset(seed=0)
    actions = [SOUTH] * 15 + [WEST] * 4 + [NORTH] * 4
    for action in actions:
        observation, *_ = env.step(action)
        assert (cells(observation)[2, 2] == RGB["+"]).all()
        assert len(shows(observation, "+")) == 1
    assert env.unwrapped.player == (1, 1)
    around = cells(observation)
    assert (around[0] == RGB[" "]).all() and (around[:, 0] == RGB[" "]).all()
    assert (around[1, 1:] == RGB["#"]).all() and (around[1:, 1] == RGB["#"]).all()


def test_colours_are_the_given_ones_over_255():
    env = make_gym("KeyToDoor-60-v0")
    actions = random_actions(env, 85)
    seen = np.stack([play(env, seed, actions).observations for seed in range(5)])
    colours = seen.reshape(-1, 3, 25).swapaxes(1, 2).reshape(-1, 3)
    given = {tuple(np.float32(colour) / np.float32(255)) for colour in RGB.values()}
    found = set(map(tuple, colours))
    assert found <= given and len(found) >= 6


@pytest.mark.parametrize("task", TASKS[:2])
def test_episode_is_a_function_of_seed_and_actions(task):
    env = make_gym(task)
    actions = random_actions(env, env.horizon)
    first = play(env, 3, actions)
    assert not same(play(env, 4, actions), first)
    assert same(play(env, 3, actions), first)
    assert same(play(make_gym(task), 3, actions), first)


def test_a_kept_observation_never_changes():
    env = make_gym("KeyToDoor-60-v0")
    first, _ = env.reset(seed=0)
    kept = first.copy()
    for action in random_actions(env, 85):
        env.step(action)
    env.reset(seed=1)
    np.testing.assert_array_equal(first, kept)


def test_curriculum_shortens_one_episode():
    env = make_gym("KeyToDoor-60-v0")
    first = env.reset(seed=2)[0]
    for frames in (1, 20, 60):
        observation, _ = env.reset(seed=2, options={"frames": frames})
        np.testing.assert_array_equal(observation, first)
        steps = [env.step(SOUTH)[2] for _ in range(15 + frames + 10)]
        assert steps == [False] * (len(steps) - 1) + [True]
    assert env.horizon == 85
    env.reset(seed=2)
    assert not any(env.step(SOUTH)[2] for _ in range(84))


@pytest.mark.parametrize("frames", [0, -1, 2.5, True, "60"])
def test_frames_out_of_range_are_refused(frames):
    message = f"frames to be a whole number of 1 or more, got {frames!r}"
    with pytest.raises(ValueError, match=message):
        make_gym("KeyToDoor-60-v0", frames=frames)


def test_unknown_options_and_actions_are_refused():
    env = make_gym("KeyToDoor-60-v0")
    with pytest.raises(ValueError, match=r"frames to be .* from 1 to 60, got 61"):
        env.reset(options={"frames": 61})
    with pytest.raises(ValueError, match="no reset option but 'frames', got 'length'"):
        env.reset(options={"length": 5})
    env.reset(seed=0)
    for action in (-1, 4):
        with pytest.raises(ValueError, match=f"from 0 to 3, got {action}"):
            env.step(action)
