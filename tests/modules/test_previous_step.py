from functools import partial

import pytest
import torch
from tensordict import TensorDict
from torchrl.data import MultiCategorical
from torchrl.envs import (
    ActionScaling,
    Compose,
    DoubleToFloat,
    ExcludeTransform,
    GymEnv,
    InitTracker,
    ParallelEnv,
    RenameTransform,
    RewardScaling,
    SerialEnv,
    StepCounter,
    TransformedEnv,
)
from torchrl.envs.utils import check_env_specs
from torchrl.testing.mocking_classes import ContinuousActionVecMockEnv

from resel_torchrl.modules import PreviousStep


def pendulum(horizon, *transforms):
    return TransformedEnv(
        GymEnv("Pendulum-v1"), Compose(StepCounter(horizon), InitTracker(), *transforms)
    )


def pendulum_with_previous(horizon):
    return pendulum(horizon, PreviousStep())


def shifted(x, is_init):
    """Return ``x`` one step later in time, dimension -2; zero where is_init."""
    previous = torch.zeros_like(x)
    previous[..., 1:, :] = x[..., :-1, :]
    return torch.where(is_init, torch.zeros(()), previous)


def assert_previous_values(data):
    is_init = data["is_init"]
    assert is_init.sum() > 2  # resets in mid-batch
    sources = {
        "prev_observation": data["observation"],
        "prev_action": data["action"],
        "prev_reward": data["next", "reward"],
    }
    for key, source in sources.items():
        assert torch.equal(data[key], shifted(source, is_init)), key
        assert torch.equal(
            data["next", key][..., :-1, :][~is_init[..., 1:, 0]],
            data[key][..., 1:, :][~is_init[..., 1:, 0]],
        )


def test_entries_are_the_last_steps_and_zero_after_each_reset():
    env = pendulum(5, PreviousStep())
    data = env.rollout(17, break_when_any_done=False)
    assert data["prev_reward"].shape == (17, 1)
    assert data["prev_observation"].abs().sum() > 0
    assert_previous_values(data)


def test_specs_are_right():
    env = pendulum(5, PreviousStep())
    check_env_specs(env)
    spec = env.observation_spec
    assert spec["prev_observation"].shape == (3,)
    assert spec["prev_action"].shape == (1,)
    assert spec["prev_reward"].shape == (1,)


def test_first_reset_has_the_right_shapes_before_any_spec_is_read():
    data = TransformedEnv(GymEnv("Pendulum-v1"), PreviousStep()).reset()
    assert data["prev_observation"].shape == (3,)
    assert data["prev_reward"].shape == (1,)


def horizons():
    # Different lengths: resets are partial, one environment at a time.
    return [lambda: pendulum(3), lambda: pendulum(4)]


def test_partial_resets_with_the_transform_around_a_batched_environment():
    env = TransformedEnv(SerialEnv(2, horizons()), PreviousStep())
    check_env_specs(env)
    data = env.rollout(14, break_when_any_done=False)
    assert data.shape == (2, 14)
    assert not torch.equal(data["is_init"][0], data["is_init"][1])
    assert_previous_values(data)


@pytest.mark.parametrize(
    ("batched", "kwargs"),
    [(SerialEnv, {}), (ParallelEnv, {"mp_start_method": "fork"})],
)
def test_partial_resets_with_the_transform_in_the_workers(batched, kwargs):
    env = batched(
        2,
        [partial(pendulum_with_previous, 3), partial(pendulum_with_previous, 4)],
        **kwargs,
    )
    try:
        data = env.rollout(14, break_when_any_done=False)
        assert_previous_values(data)
        assert env.observation_spec["prev_reward"].shape == (2, 1)
    finally:
        env.close()


def test_the_action_is_the_policys_and_the_reward_the_transformed_one():
    env = pendulum(4, ActionScaling(), RewardScaling(0.0, 0.1), PreviousStep())
    data = env.rollout(13, break_when_any_done=False)
    assert data["action"].abs().max() <= 1  # the environment's own go up to 2
    assert_previous_values(data)


def test_single_precision_beside_a_double_precision_environment():
    env = TransformedEnv(
        GymEnv("InvertedPendulum-v5"),
        Compose(InitTracker(), DoubleToFloat(), PreviousStep()),
    )
    check_env_specs(env)
    data = env.rollout(4)
    assert data["prev_observation"].dtype == torch.float32
    assert torch.equal(data["prev_action"], shifted(data["action"], data["is_init"]))


@pytest.mark.parametrize("categorical", [False, True])
def test_discrete_actions_enter_one_hot(categorical):
    env = TransformedEnv(
        GymEnv("CartPole-v1", categorical_action_encoding=categorical),
        Compose(StepCounter(5), InitTracker(), PreviousStep()),
    )
    check_env_specs(env)
    data = env.rollout(12, break_when_any_done=False)
    assert data["prev_action"].dtype == torch.float32
    action = data["action"]
    if categorical:
        action = torch.nn.functional.one_hot(action, 2)
    expected = shifted(action.float(), data["is_init"])
    assert torch.equal(data["prev_action"], expected)
    assert data["prev_action"].sum(-1).max() == 1


def test_nested_keys():
    rename = RenameTransform(["observation"], [("agent", "observation")])
    env = pendulum(4, rename, PreviousStep([("agent", "prev_observation")]))
    data = env.rollout(9, break_when_any_done=False)
    expected = shifted(data["agent", "observation"], data["is_init"])
    assert torch.equal(data["agent", "prev_observation"], expected)


def test_an_entry_that_is_there_already_is_left_alone():
    class Loud(PreviousStep):
        def _step(self, tensordict, next_tensordict):
            next_tensordict = super()._step(tensordict, next_tensordict)
            return next_tensordict.set(
                "prev_action", next_tensordict["prev_action"] + 7
            )

    env = pendulum(9, Loud(["prev_action"]), PreviousStep())
    check_env_specs(env)
    data = env.rollout(5)
    assert torch.equal(data["prev_action"][1:], data["action"][:-1] + 7)
    assert torch.equal(data["prev_reward"][1:], data["next", "reward"][:-1])


def test_the_previous_observation_does_not_share_memory():
    env = pendulum(9, PreviousStep())
    data = env.rand_step(env.reset())
    expected = data["observation"].clone()
    data["observation"].zero_()
    assert torch.equal(data["next", "prev_observation"], expected)


def test_works_in_a_compose_within_a_compose():
    env = pendulum(3, Compose(RewardScaling(0.0, 1.0), PreviousStep()))
    data = env.rollout(8, break_when_any_done=False)
    assert_previous_values(data)


def test_an_unknown_source_is_named_with_what_there_is():
    env = pendulum(5, PreviousStep(["prev_pixels"]))
    with pytest.raises(ValueError, match=r"'pixels'.*'reward'.*'observation'"):
        env.reset()


def test_names_must_say_previous():
    with pytest.raises(ValueError, match=r"begin with 'prev_'.*\['action'\]"):
        PreviousStep(["prev_observation", "action"])


def test_multi_categorical_actions_are_refused():
    env = ContinuousActionVecMockEnv(
        action_spec=MultiCategorical([2, 3]), observation_spec=None
    )
    transformed = TransformedEnv(env, PreviousStep(["prev_action"]))
    with pytest.raises(ValueError, match="MultiOneHot"):
        transformed.transform._bind()


def test_a_step_without_the_current_observation_is_refused():
    env = pendulum(5, PreviousStep())
    env.reset()
    with pytest.raises(KeyError, match=r"'observation', which 'prev_observation'"):
        env.step(TensorDict({"action": torch.zeros(1), "step_count": torch.zeros(1)}))


def test_a_reward_that_the_environment_has_not_is_named():
    env = pendulum(5, ExcludeTransform("reward"), PreviousStep())
    with pytest.raises(
        ValueError, match=r"'prev_reward'.*'reward': \[\].*leave it out"
    ):
        env.reset()
    env = pendulum(5, ExcludeTransform("reward"), PreviousStep(["prev_action"]))
    assert env.rollout(3)["prev_action"].shape == (3, 1)


def test_a_step_without_the_reward_it_declares_is_refused():
    class Unpaid(ContinuousActionVecMockEnv):
        def _step(self, tensordict):
            return super()._step(tensordict).exclude("reward")

    env = TransformedEnv(Unpaid(), PreviousStep(["prev_reward"]))
    with pytest.raises(KeyError, match=r"return 'reward', which 'prev_reward' repeats"):
        env.rollout(2)
