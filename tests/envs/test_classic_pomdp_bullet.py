"""PyBullet robots: published masks, Bullet's own episodes, repeatable from seeds."""

import numpy as np
import pytest

from resel_torchrl.envs import make_gym, task_info
from resel_torchrl.envs.classic_pomdp import BULLET_ROBOTS
from tests.envs.helpers import play, random_actions, same

pytest.importorskip("pybullet_envs_gymnasium")

# Dimensions shown, as published: (P, V).
MASKS = {
    "Hopper": ([0, 1, 2, 6, 7, 8, 10, 12, 14], [3, 4, 5, 9, 11, 13]),
    "Walker": (
        [0, 1, 2, 6, 7, 8, 10, 12, 14, 16, 18, 20, 21],
        [3, 4, 5, 9, 11, 13, 15, 17, 19],
    ),
    "Ant": (
        [0, 1, 2, 6, 7, 8, 10, 12, 14, 16, 18, 20, 22, 24, 25, 26, 27],
        [3, 4, 5, 9, 11, 13, 15, 17, 19, 21, 23],
    ),
    "HalfCheetah": (
        [0, 1, 2, 6, 7, 8, 10, 12, 14, 16, 18, 20, 21, 22, 23, 24, 25],
        [3, 4, 5, 9, 11, 13, 15, 17, 19],
    ),
}
SIZES = {"Hopper": 15, "Walker": 22, "Ant": 28, "HalfCheetah": 26}


def bullet(robot):
    """The Bullet environment itself, as the package has it."""
    from pybullet_envs_gymnasium import gym_locomotion_envs

    return getattr(gym_locomotion_envs, BULLET_ROBOTS[robot][0])()


@pytest.mark.parametrize("robot", BULLET_ROBOTS)
def test_masks_are_the_published_ones_and_part_the_observation(robot):
    infos = {part: task_info(f"{robot}BLT-{part}-v0") for part in "FPV"}
    positions, velocities = MASKS[robot]
    assert list(infos["P"].kept) == positions
    assert list(infos["V"].kept) == velocities
    assert sorted(positions + velocities) == list(infos["F"].kept)
    assert infos["F"].observation_size == SIZES[robot]
    assert {info.horizon for info in infos.values()} == {1000}


@pytest.mark.parametrize("robot", BULLET_ROBOTS)
def test_tasks_show_what_bullet_shows(robot):
    raw = bullet(robot)
    raw.reset(seed=123)  # only later resets are repeatable, see `make_bullet`
    actions = random_actions(raw, steps=120)
    expected = play(raw, 5, actions)
    for part in "FPV":
        episode = play(make_gym(f"{robot}BLT-{part}-v0"), 5, actions)
        kept = (
            list(range(SIZES[robot])) if part == "F" else MASKS[robot]["PV".index(part)]
        )
        assert episode.observations.dtype == np.float32
        np.testing.assert_array_equal(
            episode.observations, expected.observations[:, kept]
        )
        np.testing.assert_array_equal(episode.rewards, expected.rewards)
        assert episode.terminated == expected.terminated


@pytest.mark.parametrize("robot", BULLET_ROBOTS)
def test_joints_come_as_position_then_speed(robot):
    env = make_gym(f"{robot}BLT-F-v0")
    observation = play(env, 0, random_actions(env, steps=5)).observations[-1]
    joints = env.unwrapped.robot.ordered_joints
    states = [joint.current_relative_position() for joint in joints]
    _, n_joints, n_feet = BULLET_ROBOTS[robot]
    assert len(joints) == n_joints
    assert len(env.unwrapped.robot.feet) == n_feet
    np.testing.assert_allclose(
        observation[8 : 8 + 2 * n_joints], np.clip(np.ravel(states), -5, 5), rtol=1e-6
    )


@pytest.mark.parametrize("robot", BULLET_ROBOTS)
def test_episode_is_a_function_of_seed_and_actions(robot):
    """To the last bit: first on its instance, after others, and on another."""
    task = f"{robot}BLT-F-v0"
    env = make_gym(task)
    actions = random_actions(env, steps=150, seed=1)
    first = play(env, 3, actions)
    for seed in (0, 1):
        play(env, seed, random_actions(env, steps=150, seed=seed))
    env.reset(seed=9)  # left at its start
    assert same(play(env, 3, actions), first)
    assert same(play(make_gym(task), 3, actions), first)
    assert not same(play(env, 4, actions), first)


@pytest.mark.parametrize("robot", BULLET_ROBOTS)
def test_control_first_episode_of_bullet_itself_is_not_repeatable(robot):
    raw = bullet(robot)
    actions = random_actions(raw, steps=50)
    first = play(raw, 3, actions)
    assert not same(play(raw, 3, actions), first)


def test_instances_side_by_side_do_not_disturb_each_other():
    task = "AntBLT-V-v0"
    one, other = make_gym(task), make_gym(task)
    actions = random_actions(one, steps=60)
    alone = play(one, 3, actions)
    observations = [one.reset(seed=3)[0]]
    other.reset(seed=8)
    for action in actions:
        observations.append(one.step(action)[0])
        other.step(-action)
    np.testing.assert_array_equal(observations, alone.observations)


def test_episodes_without_a_seed_differ():
    starts = [make_gym("HopperBLT-F-v0").reset()[0] for _ in range(2)]
    assert not np.array_equal(*starts)


def test_fall_is_a_terminal_and_the_clock_a_truncation():
    env = make_gym("HopperBLT-V-v0")
    idle = [np.zeros(3, np.float32)] * 1000
    fall = play(env, 0, idle)
    steps = len(fall.rewards)
    assert steps < 1000
    assert fall.terminated[-1] and not fall.truncated[-1]
    cut = play(make_gym("HopperBLT-V-v0", horizon=steps - 1), 0, idle)
    assert cut.truncated[-1] and not cut.terminated[-1]
    both = play(make_gym("HopperBLT-V-v0", horizon=steps), 0, idle)
    assert both.truncated[-1] and both.terminated[-1]


def test_half_cheetah_goes_on_to_the_horizon_after_a_fall():
    env = make_gym("HalfCheetahBLT-P-v0")
    episode = play(env, 0, random_actions(env, steps=1001))
    assert len(episode.rewards) == 1000
    assert episode.truncated[-1] and not any(episode.terminated)
    assert episode.rewards.min() < -0.5  # its alive bonus was -1 at some time


def test_options_reach_bullet():
    env = make_gym("HopperBLT-V-v0", kept=(3,), render_mode="rgb_array")
    assert env.observation_space.shape == (1,)
    env.reset(seed=0)
    assert env.render().shape == (240, 320, 3)
