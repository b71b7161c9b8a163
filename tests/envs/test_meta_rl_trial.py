"""The rules of a trial, on an environment whose falls and rewards are chosen."""

import gymnasium
import numpy as np
import pytest
from gymnasium.spaces import Box

from resel_torchrl.envs.meta_rl import Trial

START = 100.0


class Scripted(gymnasium.Env):
    """Observes (hidden factor's stand-in 7, steps since the start + 100).

    Pays the action, and falls where the action is above 1.
    """

    observation_space = Box(-np.inf, np.inf, (2,), np.float64)
    action_space = Box(-2.0, 2.0, (1,), np.float64)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.resets = 1 + getattr(self, "resets", 0)
        return self.restart(), {"task": {"factor": 7.0}}

    def restart(self):
        self.steps = 0
        return np.array([7.0, START])

    def step(self, action):
        self.steps += 1
        observation = np.array([7.0, START + self.steps])
        fell = bool(action[0] > 1)
        return observation, float(action[0]), fell, False, {"task": {"factor": 7.0}}


def play(env, actions):
    observations, flags, ends = [], [], []
    observation, info = env.reset(seed=0)
    for action in [*actions, None]:
        observations.append(float(observation[1]))
        flags.append(float(observation[2]))
        if action is not None:
            assert observation.dtype == np.float32 and info["task"] == {"factor": 7.0}
            observation, _, terminated, truncated, info = env.step(np.array([action]))
            ends.append((terminated, truncated, info["inner_episode"]))
    return observations, flags, ends, info


def test_flag_marks_the_observation_at_which_an_inner_episode_has_just_ended():
    env = Trial(Scripted(), inner_episodes=3, inner_steps=3)
    _, flags, ends, _ = play(env, [0.0] * 9)
    #        start        end           end           end of the trial
    assert flags == [0.0, 0, 0, 1, 0, 0, 1, 0, 0, 1]
    assert ends[:-1] == [(False, False, i // 3) for i in range(8)]
    assert ends[-1] == (False, True, 2)  # the clock's end is a truncation
    assert env.unwrapped.resets == 1  # put back, but not reset: the factor stays


@pytest.mark.parametrize(
    ("mode", "at_the_end"), [("start", START), ("last", START + 2)]
)
def test_either_the_new_start_or_the_last_observation_comes_with_the_flag(
    mode, at_the_end
):
    env = Trial(
        Scripted(), inner_episodes=2, inner_steps=2, inner_reset_observation=mode
    )
    observations, flags, _, _ = play(env, [0.0] * 4)
    # The next step starts from the start in either case, and nothing follows the end
    # of the trial, which shows the robot as it was.
    expected = [START, START + 1, at_the_end, START + 1, START + 2]
    assert (observations, flags) == (expected, [0, 0, 1, 0, 1])


def test_a_fall_ends_an_inner_episode_and_only_at_the_last_one_the_trial():
    env = Trial(Scripted(), inner_episodes=2, inner_steps=4)
    observations, flags, ends, info = play(env, [0.5, 2.0, 0.25, 0.25, 2.0])
    assert flags == [0, 0, 1, 0, 0, 1]
    assert observations == [START, START + 1, START, START + 1, START + 2, START + 3]
    assert ends[1] == (False, False, 0)  # values bootstrap across the first fall
    assert ends[-1] == (True, False, 1)
    assert info["measures"] == {"return_1": 2.5, "return_2": 2.5, "adaptation": 0.0}


def test_a_fall_at_the_last_tick_of_the_clock_is_a_fall():
    env = Trial(Scripted(), inner_episodes=2, inner_steps=2)
    _, _, ends, _ = play(env, [0.0, 2.0, 0.0, 2.0])
    assert ends == [(False, False, 0)] * 2 + [(False, False, 1), (True, False, 1)]


def test_a_fall_leaves_the_next_inner_episode_its_full_length():
    env = Trial(Scripted(), inner_episodes=2, inner_steps=3)
    _, flags, ends, _ = play(env, [2.0, 0.0, 0.0, 0.0])
    assert flags == [0, 1, 0, 0, 1]
    assert ends[-1] == (False, True, 1)


def test_measures_are_the_return_of_each_inner_episode_and_their_difference():
    env = Trial(Scripted(), inner_episodes=3, inner_steps=2)
    actions = [0.5, 0.25, -1.0, -1.0, 1.0, 1.0]
    for _ in range(2):  # nothing is left over from the trial before
        _, _, _, info = play(env, actions)
        assert tuple(info["measures"]) == env.measures
        measures = dict(info["measures"])
        assert measures.pop("adaptation") == 2.0 - 0.75
        assert measures == {"return_1": 0.75, "return_2": -2.0, "return_3": 2.0}
        assert sum(measures.values()) == sum(actions)


def test_one_inner_episode_has_neither_flag_nor_measures():
    env = Trial(Scripted(), inner_episodes=1, inner_steps=2)
    assert env.observation_space.shape == (2,) and env.measures == ()
    env.reset(seed=0)
    env.step(np.zeros(1))
    observation, _, terminated, truncated, info = env.step(np.zeros(1))
    assert observation.shape == (2,) and "measures" not in info
    assert (terminated, truncated) == (False, True)


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        (
            "inner_episodes",
            0,
            "inner_episodes to be a whole number of 1 or more, got 0",
        ),
        (
            "inner_steps",
            2.5,
            r"inner_steps to be a whole number of 1 or more, got 2\.5",
        ),
        ("inner_reset_observation", "first", "start .* or last .*, got 'first'"),
    ],
)
def test_wrong_values_are_named(name, value, message):
    kwargs = {"inner_episodes": 2, "inner_steps": 2, name: value}
    with pytest.raises(ValueError, match=message):
        Trial(Scripted(), **kwargs)
