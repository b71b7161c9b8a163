"""The MuJoCo robots that show everything, as the tasks `*_mdp` make them."""

import gymnasium
import numpy as np
import pytest

from resel_torchrl.config import compose
from resel_torchrl.config.build import make_run_env
from resel_torchrl.envs import task_info
from tests.envs.helpers import play, random_actions, same

pytest.importorskip("mujoco")

# Observation, actions, the bound of an action as Gymnasium has it.
SIZES = {
    "ant_mdp": (105, 8, 1.0),
    "halfcheetah_mdp": (17, 6, 1.0),
    "hopper_mdp": (11, 3, 1.0),
    "humanoid_mdp": (348, 17, 0.4),
    "walker2d_mdp": (17, 6, 1.0),
}


@pytest.mark.parametrize("task", SIZES)
def test_robot_is_gymnasiums_own_with_scaled_actions(task):
    observed, actions, bound = SIZES[task]
    config = compose([f"task={task}"])
    info = task_info(config.env.id)
    assert (info.observation_size, info.action_size) == (observed, actions)
    assert info.kept == tuple(range(observed))
    assert (info.horizon, info.discrete) == (1000, False)
    env, raw = make_run_env(config), gymnasium.make(config.env.id)
    moves = random_actions(env, steps=60)
    episode = play(env, 5, moves)
    expected = play(raw, 5, [np.float32(bound) * move for move in moves])
    shown = expected.observations.astype(np.float32)
    np.testing.assert_array_equal(episode.observations, shown)
    np.testing.assert_array_equal(episode.rewards, expected.rewards)
    assert episode.terminated == expected.terminated
    # What was played before leaves no trace.
    play(env, 6, moves)
    assert same(play(env, 5, moves), episode)
