"""MuJoCo robots: Gymnasium's own episodes, of which a part is shown."""

import logging

import gymnasium
import numpy as np
import pytest

from resel_torchrl.envs import make_gym, task_info
from tests.envs.helpers import play, random_actions, same

mujoco = pytest.importorskip("mujoco")
pytest.importorskip("gymnasium.envs.mujoco")

# Sizes of P and V; what the full observation has beyond them.
SIZES = {
    "Ant": (13, 14, 78),
    "HalfCheetah": (8, 9, 0),
    "Hopper": (5, 6, 0),
    "Humanoid": (22, 23, 303),
    "Walker2d": (8, 9, 0),
}


@pytest.mark.parametrize("robot", SIZES)
def test_p_and_v_are_the_positions_and_velocities_of_the_observation(robot):
    n_positions, n_velocities, n_others = SIZES[robot]
    infos = [task_info(f"{robot}-{part}-v5") for part in "PV"]
    assert infos[0].kept == tuple(range(n_positions))
    assert infos[1].kept == tuple(range(n_positions, n_positions + n_velocities))
    full = task_info(f"{robot}-v5")
    assert full.observation_size == n_positions + n_velocities + n_others
    assert infos[0].horizon == infos[1].horizon == full.horizon == 1000


@pytest.mark.parametrize("robot", SIZES)
def test_tasks_show_what_gymnasium_shows(robot):
    raw = gymnasium.make(f"{robot}-v5")
    actions = random_actions(raw, steps=60)
    scale = raw.action_space.high  # 0.4 for Humanoid, 1 for the others
    expected = play(raw, 5, [scale * action for action in actions])
    for part in "PV":
        task = f"{robot}-{part}-v5"
        env = make_gym(task)
        assert env.action_space.low.min() == -1 and env.action_space.high.max() == 1
        episode = play(env, 5, actions)
        shown = expected.observations[:, list(task_info(task).kept)]
        np.testing.assert_array_equal(episode.observations, shown.astype(np.float32))
        np.testing.assert_array_equal(episode.rewards, expected.rewards)
        assert episode.terminated == expected.terminated
        # Not merely the right slice: the simulator's own state. Hopper and Walker2d
        # clip their velocities to 10.
        data = env.unwrapped.data
        state = data.qpos[-len(shown[0]) :] if part == "P" else data.qvel
        limit = 10 if robot in ("Hopper", "Walker2d") and part == "V" else np.inf
        np.testing.assert_allclose(
            episode.observations[-1], np.clip(state, -limit, limit), rtol=1e-6
        )


@pytest.mark.parametrize("robot", SIZES)
def test_episode_is_a_function_of_seed_and_actions(robot):
    env = make_gym(f"{robot}-V-v5")
    actions = random_actions(env, steps=60)
    first = play(env, 3, actions)
    play(env, 4, actions)
    assert same(play(env, 3, actions), first)
    assert same(play(make_gym(f"{robot}-V-v5"), 3, actions), first)


def test_masks_follow_the_options_of_the_robot():
    env = make_gym("Hopper-P-v5", exclude_current_positions_from_observation=False)
    env.reset(seed=0)
    assert env.observation_space.shape == (6,)
    assert env.get_wrapper_attr("kept") == tuple(range(6))


@pytest.mark.parametrize("part", ["P", "V"])
def test_masks_do_not_move_when_other_parts_are_left_out(part):
    env = make_gym(f"Ant-{part}-v5", include_cfrc_ext_in_observation=False)
    assert env.get_wrapper_attr("kept") == task_info(f"Ant-{part}-v5").kept


def test_mujoco_warnings_go_to_the_log_and_to_no_file(tmp_path, monkeypatch, caplog):
    monkeypatch.chdir(tmp_path)
    caplog.set_level(logging.DEBUG, logger="resel_torchrl")
    env = make_gym("HalfCheetah-V-v5")  # its model has a deprecated attribute
    assert all(record.levelno < logging.WARNING for record in caplog.records)
    env.reset(seed=0)
    env.unwrapped.data.qvel[0] = np.nan  # MuJoCo restarts the robot, and warns
    env.step(np.zeros(6, np.float32))
    warned = [r.message for r in caplog.records if r.levelno == logging.WARNING]
    assert any("unstable" in message for message in warned)
    assert not list(tmp_path.iterdir())


def test_a_handler_of_somebody_else_stays():
    mine = mujoco.get_mju_user_warning()
    try:
        messages = []
        handler = messages.append
        mujoco.set_mju_user_warning(handler)
        make_gym("HalfCheetah-V-v5")
        assert mujoco.get_mju_user_warning() is handler
    finally:
        mujoco.set_mju_user_warning(mine)
