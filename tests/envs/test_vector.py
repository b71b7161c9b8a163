"""Environments put together: each episode from its seed, equal spaces."""

import functools

import gymnasium
import numpy as np
import pytest
from gymnasium.spaces import Box
from gymnasium.vector import AutoresetMode

from resel_torchrl.envs import make_gym, vectorize

PENDULUM = functools.partial(make_gym, "Pendulum-V-v0")


def of_other_bounds():
    env = PENDULUM()
    env.observation_space = Box(-1.0, 1.0, (1,), np.float32)
    return env


def test_masked_reset_begins_the_episode_of_its_seed_and_leaves_the_others_alone():
    envs, alone = vectorize([PENDULUM] * 3), PENDULUM()
    assert envs.metadata["autoreset_mode"] == AutoresetMode.DISABLED
    first, _ = envs.reset(seed=[1, 2, 3])
    action = np.full((3, 1), 0.5, np.float32)
    before, *_ = envs.step(action)
    mask = np.array([False, True, False])
    after, _ = envs.reset(seed=[None, 7, None], options={"reset_mask": mask})
    expected, _ = alone.reset(seed=7)
    assert np.array_equal(after[1], expected)
    assert np.array_equal(after[[0, 2]], before[[0, 2]])
    assert not np.array_equal(after[1], first[1])
    moved, *_ = envs.step(action)
    expected, *_ = alone.step(action[0])
    assert np.array_equal(moved[1], expected)


def test_unequal_spaces_are_named():
    others = [functools.partial(make_gym, "Pendulum-P-v0"), of_other_bounds]
    for other in others:
        with pytest.raises(ValueError, match=r"equal .*spaces.*observation_space of"):
            vectorize([PENDULUM, PENDULUM, other])
    with pytest.raises(ValueError, match=r"action_space of number 0 is .* number 1 D"):
        vectorize([functools.partial(gymnasium.make, name) for name in MASKLESS])


MASKLESS = ("MountainCarContinuous-v0", "MountainCar-v0")


def test_none_and_an_unknown_way_are_refused():
    with pytest.raises(ValueError, match="1 environment or more"):
        vectorize([])
    with pytest.raises(ValueError, match="sync, async, got 'threads'"):
        vectorize([PENDULUM], "threads")
