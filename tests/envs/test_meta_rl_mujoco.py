"""AntDir, CheetahDir and HalfCheetahVel, their rewards computed anew from the state."""

import numpy as np
import pytest

from resel_torchrl.envs import make_gym, task_info
from tests.envs.helpers import play, random_actions, same

mujoco = pytest.importorskip("mujoco")
pytest.importorskip("gymnasium.envs.mujoco")

SIZES = {"AntDir-v0": (28, 8), "CheetahDir-v0": (21, 6), "HalfCheetahVel-v0": (21, 6)}
FACTORS = {
    "AntDir-v0": "direction",
    "CheetahDir-v0": "direction",
    "HalfCheetahVel-v0": "target_speed",
}


@pytest.fixture(scope="module")
def envs():
    return {name: make_gym(name) for name in SIZES}


@pytest.fixture(params=SIZES)
def env(request, envs):
    return envs[request.param]


def name_of(env):
    return env.spec.id


def factor_of(env, info):
    return info["task"][FACTORS[name_of(env)]]


def expected_reward(env, factor, before, action):
    """The formula, from the simulator's state before and after the step."""
    data = env.unwrapped.data
    velocity = (data.qpos - before) / 0.05
    squared = np.square(action, dtype=np.float64).sum()
    if name_of(env) == "CheetahDir-v0":
        return factor * velocity[0] - 0.05 * squared
    if name_of(env) == "HalfCheetahVel-v0":
        return -abs(velocity[0] - factor) - 0.05 * squared
    ahead = velocity[0] * np.cos(factor) + velocity[1] * np.sin(factor)
    forces = np.square(np.clip(data.cfrc_ext, -1, 1)).sum()
    return ahead - 0.5 * squared - 5e-4 * forces + 1


def expected_observation(env):
    data = env.unwrapped.data
    if name_of(env) == "AntDir-v0":
        return np.concatenate([data.qpos[2:], data.qvel])
    torso = data.geom("torso").xpos  # its capsule's middle is the body's position
    return np.concatenate([data.qpos[1:], data.qvel, torso])


def test_sizes_and_horizon(env):
    info = task_info(name_of(env))
    assert (info.observation_size, info.action_size) == SIZES[name_of(env)]
    assert info.horizon == 400
    assert info.measures == ("return_1", "return_2", "adaptation")


def test_observations_and_rewards_are_those_of_the_formulas(env):
    observation, info = env.reset(seed=1)
    data, factor = env.unwrapped.data, factor_of(env, info)
    expected = expected_observation(env)
    np.testing.assert_allclose(observation[:-1], expected, rtol=1e-6, atol=1e-7)
    for action in random_actions(env, steps=60):
        before = data.qpos.copy()
        observation, reward, _, _, info = env.step(action)
        # Gymnasium sums the squares of the action in float32.
        paid = expected_reward(env, factor, before, action)
        assert reward == pytest.approx(paid, rel=1e-6, abs=1e-6)
        expected = expected_observation(env)
        np.testing.assert_allclose(observation[:-1], expected, rtol=1e-6, atol=1e-7)
        assert factor_of(env, info) == factor and observation[-1] == 0


def test_torso_is_seen_where_the_joints_put_it(envs):
    env = envs["CheetahDir-v0"]
    observation, _ = env.reset(seed=1)
    data = env.unwrapped.data
    place = [data.qpos[0], 0, 0.7 + data.qpos[1]]
    np.testing.assert_allclose(observation[17:20], place, atol=1e-6)
    for action in random_actions(env, steps=20):
        observation, *_ = env.step(action)
    # One substep of 0.01 s behind at the speed it has.
    place = [data.qpos[0], 0, 0.7 + data.qpos[1]]
    np.testing.assert_allclose(
        observation[17:20], place, atol=0.02 * np.abs(data.qvel[:2]).max()
    )


def test_a_robot_at_rest_is_paid_by_the_goal_alone(envs):
    """Without action only the speed counts, and it is nearly none."""
    rewards = {}
    for name, env in envs.items():
        env.reset(seed=0)
        rest = [
            env.step(np.zeros(env.action_space.shape, np.float32)) for _ in "a" * 50
        ]
        info, rewards[name] = rest[-1][4], rest[-1][1]
        if name == "HalfCheetahVel-v0":
            assert rewards[name] == pytest.approx(-factor_of(env, info), abs=0.05)
    assert rewards["CheetahDir-v0"] == pytest.approx(0, abs=0.05)
    assert 0.9 < rewards["AntDir-v0"] < 1.1


def test_hidden_goal_changes_rewards_and_nothing_that_is_seen(env):
    episodes, factors = [], []
    actions = random_actions(env, steps=30)
    for task in (0, 1):
        observation, info = env.reset(seed=5, options={"task": task})
        steps = [env.step(action) for action in actions]
        episodes.append([observation, *(step[0] for step in steps)])
        factors.append((factor_of(env, info), sum(step[1] for step in steps)))
    np.testing.assert_array_equal(*episodes)
    (one, one_return), (other, other_return) = factors
    assert one != other and one_return != other_return


@pytest.mark.parametrize("name", ["AntDir-v0", "CheetahDir-v0"])
def test_directions_are_drawn_anew_for_each_trial(name, envs):
    assert task_info(name).facts["train_tasks"] == [[-1.0], [1.0]]
    env = envs[name]
    env.reset(seed=0)
    drawn = [factor_of(env, env.reset()[1]) for _ in range(60)]
    assert set(drawn) == {-1.0, 1.0} and 15 < drawn.count(1.0) < 45


def test_target_speeds_are_100_and_20_between_0_and_3():
    sets = task_info("HalfCheetahVel-v0").facts
    speeds = [speed for [speed] in sets["train_tasks"] + sets["test_tasks"]]
    assert (len(sets["train_tasks"]), len(sets["test_tasks"])) == (100, 20)
    assert len(set(speeds)) == 120
    assert 0 < min(speeds) < 0.2 and 2.8 < max(speeds) < 3
    env = make_gym("HalfCheetahVel-v0", split="test")
    drawn = {factor_of(env, env.reset(seed=seed)[1]) for seed in range(40)}
    assert drawn <= {speed for [speed] in sets["test_tasks"]}


def test_robot_is_put_back_between_the_inner_episodes(env):
    observation, start = env.reset(seed=2)
    model, data = env.unwrapped.model, env.unwrapped.data
    idle = np.zeros(env.action_space.shape, np.float32)
    for step in range(1, 401):
        before = data.qpos.copy()
        shown, reward, terminated, truncated, info = env.step(idle)
        assert shown[-1] == (step in (200, 400)), step
        assert (terminated, truncated) == (False, step == 400)
        if step == 200:
            assert np.abs(before - env.unwrapped.init_qpos).max() > 0.1
            # A start, with noise of its own, from Gymnasium's range.
            assert np.abs(data.qpos - env.unwrapped.init_qpos).max() <= 0.1
            assert (shown[:-1] != observation[:-1]).sum() > 10
            expected = expected_observation(env)
            np.testing.assert_allclose(shown[:-1], expected, rtol=1e-6, atol=1e-7)
        elif step == 201:
            factor = factor_of(env, info)  # paid for the way from the new start
            assert reward == pytest.approx(expected_reward(env, factor, before, idle))
    assert info["task"] == start["task"]
    assert env.unwrapped.model is model and env.unwrapped.data is data


def test_each_trial_has_a_start_of_its_own_at_its_inner_reset():
    env = make_gym("CheetahDir-v0", inner_steps=1)
    starts = []
    for seed in (0, 1, None, None):
        first, _ = env.reset(seed=seed)
        second, *_ = env.step(np.zeros(6, np.float32))
        starts += [tuple(first[:-1]), tuple(second[:-1])]
    assert len(set(starts)) == len(starts)


def test_contact_forces_of_the_ant_are_clipped(envs):
    env = envs["AntDir-v0"]
    env.reset(seed=1)
    data, largest = env.unwrapped.data, 0.0
    for action in random_actions(env, steps=60):
        *_, info = env.step(action)
        squares = np.square(np.clip(data.cfrc_ext, -1, 1)).sum()
        assert info["reward_contact"] == pytest.approx(-5e-4 * squares)
        largest = max(largest, np.abs(data.cfrc_ext).max())
    assert largest > 1  # so that the clip had something to do


def test_reset_builds_no_model(env):
    model = env.unwrapped.model
    env.reset(seed=0)
    env.reset()
    assert env.unwrapped.model is model


def test_last_observation_is_shown_where_that_is_asked_for():
    env = make_gym("CheetahDir-v0", inner_steps=3, inner_reset_observation="last")
    actions = random_actions(env, steps=6)
    shown = play(env, 0, actions).observations
    whole = play(make_gym("CheetahDir-v0"), 0, actions[:3]).observations
    np.testing.assert_array_equal(shown[:4, :-1], whole[:, :-1])
    assert shown[:, -1].tolist() == [0, 0, 0, 1, 0, 0, 1]
    # The robot is put back all the same: every other observation is that of a trial
    # which shows the start.
    start = make_gym("CheetahDir-v0", inner_steps=3)
    other = play(start, 0, actions).observations
    np.testing.assert_array_equal(np.delete(shown, 3, 0), np.delete(other, 3, 0))
    assert (shown[3, :-1] != other[3, :-1]).any()


def fall(env):
    """Lifts the ant's torso above 1.0 m, and steps."""
    env.unwrapped.data.qpos[2] = 1.5
    return env.step(np.zeros(8, np.float32))


def test_a_fall_of_the_ant_ends_the_trial_at_its_last_inner_episode_only(envs):
    env = envs["AntDir-v0"]
    env.reset(seed=0)
    env.step(np.zeros(8, np.float32))
    observation, _, terminated, truncated, info = fall(env)
    assert observation[-1] == 1 and not terminated and not truncated
    assert 0.2 <= observation[0] <= 1.0  # stands again
    assert info["inner_episode"] == 0
    observation, _, terminated, truncated, info = env.step(np.zeros(8, np.float32))
    assert observation[-1] == 0 and not terminated and info["inner_episode"] == 1
    before = env.unwrapped.data.qpos.copy()
    observation, reward, terminated, truncated, info = fall(env)
    assert observation[-1] == 1 and terminated and not truncated
    assert observation[0] > 1.0
    # The fall itself is paid the 1 of a step as well.
    expected = expected_reward(env, factor_of(env, info), before, np.zeros(8))
    assert reward == pytest.approx(expected)


def test_measures_add_up_to_the_return(envs):
    env = envs["AntDir-v0"]
    env.reset(seed=0)
    total, done = 0.0, False
    for step, action in enumerate(random_actions(env, steps=400)):
        _, reward, terminated, truncated, info = (
            fall(env) if step == 20 else env.step(action)
        )
        total += reward
        done = terminated or truncated
        if done:
            break
        assert "measures" not in info
    measures = info["measures"]
    assert done and tuple(measures) == task_info("AntDir-v0").measures
    assert measures["return_1"] + measures["return_2"] == pytest.approx(total)
    difference = measures["return_2"] - measures["return_1"]
    assert measures["adaptation"] == pytest.approx(difference)


def test_episode_is_a_function_of_seed_and_actions(env):
    actions = random_actions(env, steps=210)
    first = play(env, 3, actions)
    play(env, 4, actions)
    assert same(play(env, 3, actions), first)
    assert same(play(make_gym(name_of(env)), 3, actions), first)
