"""Each wrapper alone: what it changes, and what it refuses."""

import gymnasium
import numpy as np
import pytest
from gymnasium.spaces import Box

from resel_torchrl.envs import CheckEpisode, MaskObservation, ScaleAction
from resel_torchrl.errors import HorizonExceededError
from tests.envs.helpers import Counter

ZERO = np.zeros(1, np.float32)


def test_mask_shows_the_kept_dimensions_in_the_order_given():
    full = gymnasium.make("Pendulum-v1")
    masked = MaskObservation(gymnasium.make("Pendulum-v1"), kept=[2, 0])
    whole, shown = full.reset(seed=1)[0], masked.reset(seed=1)[0]
    np.testing.assert_array_equal(shown, whole[[2, 0]])
    assert masked.observation_space == Box(
        np.float32([-8, -1]), np.float32([8, 1]), dtype=np.float32
    )
    assert masked.kept == (2, 0)


def test_mask_of_all_casts_to_float32_and_hides_nothing():
    env = MaskObservation(Counter())
    observation, _ = env.reset()
    assert observation.dtype == env.observation_space.dtype == np.float32
    assert env.kept == (0, 1)


def test_mask_copies_so_that_a_kept_observation_never_changes():
    class InPlace(Counter):
        observation_space = Box(-np.inf, np.inf, (2,), np.float32)
        buffer = np.zeros(2, np.float32)

        def step(self, action):
            self.buffer += 1
            return self.buffer, 0.0, False, False, {}

    env = MaskObservation(InPlace())
    env.reset()
    first = env.step(ZERO)[0]
    env.step(ZERO)
    np.testing.assert_array_equal(first, [1, 1])


@pytest.mark.parametrize(
    ("kept", "message"),
    [
        ([], "kept is empty: expected at least one of the 3 dimensions"),
        ([0, 3], "dimension 3 is out of range: the observation has 3 dimensions"),
        ([-1], "dimension -1 is out of range"),
        ([0, 2, 0], "dimension 0 is named 2 times"),
    ],
)
def test_mask_refuses_bad_dimensions(kept, message):
    with pytest.raises(ValueError, match=message):
        MaskObservation(gymnasium.make("Pendulum-v1"), kept=kept)


def test_mask_refuses_fractional_dimensions():
    with pytest.raises(TypeError):
        MaskObservation(gymnasium.make("Pendulum-v1"), kept=[0.5])


def test_mask_refuses_observations_that_are_no_vectors():
    with pytest.raises(ValueError, match="FlattenObservation"):
        MaskObservation(gymnasium.make("FrozenLake-v1"))


def test_scaled_actions_reach_both_bounds_and_the_middle():
    env = ScaleAction(Counter())
    env.reset()
    rewards = [env.step(np.float32([action]))[1] for action in (-1, 0, 1)]
    assert rewards == [-1.0, 1.0, 3.0]
    assert env.action_space == Box(-1.0, 1.0, (1,), np.float32)


def test_scaling_refuses_unbounded_and_discrete_actions():
    env = Counter()
    env.action_space = Box(-1.0, np.inf, (1,), np.float32)
    with pytest.raises(ValueError, match="unbounded"):
        ScaleAction(env)
    with pytest.raises(ValueError, match="expected a Box"):
        ScaleAction(gymnasium.make("CartPole-v1"))


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("what", ["observation", "reward"])
def test_non_finite_values_name_what_where_and_seed(what, value):
    env = CheckEpisode(Counter({3: {what: value}}))
    env.reset(seed=17)
    for _ in range(2):  # the steps before it pass
        env.step(ZERO)
    with pytest.raises(FloatingPointError, match=rf"{what} at step 3 \(seed 17\)"):
        env.step(ZERO)


def test_non_finite_value_at_reset_and_in_a_later_episode():
    env = CheckEpisode(Counter({2: {"reward": np.nan}}))
    env.reset(seed=4)
    env.reset()
    env.reset()
    env.step(ZERO)
    with pytest.raises(FloatingPointError, match=r"step 2 \(seed 4, 2 resets later\)"):
        env.step(ZERO)
    env = CheckEpisode(Counter({0: {"observation": np.nan}}))
    with pytest.raises(FloatingPointError, match=r"observation at step 0 \(no seed"):
        env.reset()


def test_non_finite_action_is_stopped_before_the_simulator():
    env = CheckEpisode(Counter())
    env.reset(seed=0)
    with pytest.raises(FloatingPointError, match="non-finite action at step 1"):
        env.step(np.float32([np.inf]))
    assert env.unwrapped.steps == 0


def test_largest_finite_values_pass_unchanged():
    large = float(np.finfo(np.float64).max)
    env = CheckEpisode(Counter({1: {"observation": large, "reward": -large}}))
    env.reset()
    observation, reward, *_ = env.step(ZERO)
    assert observation[0] == large and reward == -large


def test_episode_longer_than_the_horizon_is_an_error():
    env = CheckEpisode(Counter(), horizon=3)
    for _ in range(2):  # the count starts anew with each episode
        env.reset(seed=8)
        for _ in range(3):
            env.step(ZERO)
    with pytest.raises(
        HorizonExceededError, match="longer than the horizon of 3 steps"
    ):
        env.step(ZERO)


def test_step_after_the_end_is_an_error():
    env = CheckEpisode(Counter({"ends": [2]}), horizon=3)
    env.reset()
    env.step(ZERO)
    assert env.step(ZERO)[2]
    with pytest.raises(RuntimeError, match=r"had ended.*call reset\(\) first"):
        env.step(ZERO)
    env.reset()
    env.step(ZERO)
