"""The sets of tasks of hidden dynamics, and what is refused."""

import numpy as np
import pytest

from resel_torchrl.envs import make_gym, task_info
from resel_torchrl.envs.vector import vectorize

pytest.importorskip("gymnasium.envs.mujoco")


def tasks(name="Hopper-Gravity-v5", **kwargs):
    """The tasks of a split, `[tasks, multipliers]`."""
    return np.array(make_gym(name, **kwargs).get_wrapper_attr("task_set").tasks)


def test_splits_are_fixed_and_have_nothing_in_common():
    train, test = tasks(), tasks(split="test")
    assert (train.shape, test.shape) == ((40, 1), (20, 1))
    assert not set(train.flat) & set(test.flat)
    np.testing.assert_array_equal(tasks(), train)
    assert not set(tasks(task_seed=1).flat) & set(train.flat)
    # The split of the released code.
    released = {"n_train": 100, "n_test": 20}
    assert tasks(**released).shape == (100, 1)
    assert tasks(**released, split="test").shape == (20, 1)


@pytest.mark.parametrize(
    ("name", "limit"),
    [
        ("Hopper-Gravity-v5", 3),
        ("Humanoid-Gravity-v5", 2),
        ("Walker2d-Mass-v5", 3),
        ("Humanoid-Damping-v5", 2),
    ],
)
def test_multipliers_are_uniform_in_their_logarithm(name, limit):
    exponents = np.log(tasks(name, n_train=2000)) / np.log(1.5)
    assert np.abs(exponents).max() < limit
    # Each quarter of the range has a quarter; of uniform multipliers the first would
    # have a tenth.
    counts = [np.histogram(e, 4, (-limit, limit))[0] / 2000 for e in exponents.T]
    np.testing.assert_allclose(counts, 0.25, atol=0.04)
    if exponents.shape[1] > 1:  # each element has a multiplier of its own
        correlation = np.corrcoef(exponents.T) - np.eye(exponents.shape[1])
        assert np.abs(correlation).max() < 0.1


def test_log_range_limits_the_multipliers():
    exponents = np.log(tasks(log_range=1)) / np.log(1.5)
    assert 0.5 < np.abs(exponents).max() < 1


def test_each_episode_takes_a_random_task_of_the_split():
    env = make_gym("Hopper-Gravity-v5", split="test")
    env.reset(seed=0)
    drawn = {env.reset()[1]["task"]["gravity"] for _ in range(200)}
    assert drawn == set(env.get_wrapper_attr("task_set").test[i][0] for i in range(20))


def test_numbers_name_the_tasks_of_the_split():
    env = make_gym("Hopper-Mass-v5", split="test", n_test=3)
    assert env.get_wrapper_attr("n_tasks") == 3
    facts = task_info("Hopper-Mass-v5", n_test=3).facts
    assert facts["multipliers"] == ["mass_torso", "mass_thigh", "mass_leg", "mass_foot"]
    for number, task in enumerate(facts["test_tasks"]):
        _, info = env.reset(seed=9, options={"task": number})
        assert list(info["task"].values()) == task
    with pytest.raises(ValueError, match="number of a test task, from 0 to 2, got 3"):
        env.reset(options={"task": 3})


def test_bodies_without_a_name_go_by_their_number():
    names = task_info("Ant-Mass-v5").facts["multipliers"]
    assert names[:5] == [
        *("mass_torso", "mass_front_left_leg", "mass_aux_1", "mass_body_4"),
        "mass_front_right_leg",
    ]


def test_given_tasks_are_taken():
    assert tasks(train_tasks=[0.5, 2]).tolist() == [[0.5], [2.0]]
    assert (
        tasks(train_tasks=[[0.5], [2]], split="test").tolist()
        == tasks(split="test").tolist()
    )


def test_several_environments_at_once():
    names = [lambda: make_gym("Hopper-Gravity-v5")] * 2
    envs = vectorize(names)
    _, info = envs.reset(seed=[1, 2])
    alone = [make_gym("Hopper-Gravity-v5").reset(seed=seed)[1] for seed in (1, 2)]
    expected = [single["task"]["gravity"] for single in alone]
    assert info["task"]["gravity"].tolist() == expected
    *_, info = envs.step(np.zeros((2, 3), np.float32))
    assert info["task"]["gravity"].tolist() == expected


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        ({"log_range": 0}, "expected a log_range above 0, got 0"),
        ({"log_range": float("inf")}, "expected a log_range above 0, got inf"),
        ({"split": "tset"}, "expected split train or test, got 'tset'"),
        ({"n_train": 0}, "expected one train task or more, got none; raise n_train"),
        ({"train_tasks": [[1.0, 2.0]]}, "given tasks of 1 numbers each, got"),
        ({"train_tasks": [0.0]}, r"multipliers above 0 \(gravity\), got \[0.0\]"),
        ({"train_tasks": [1.0], "test_tasks": [1.0]}, "not trained on, but"),
    ],
)
def test_bad_arguments_are_named(kwargs, message):
    with pytest.raises(ValueError, match=message):
        make_gym("Hopper-Gravity-v5", **kwargs)
