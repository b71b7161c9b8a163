"""Hidden gravity, masses and damping: what is set, when, and that it stays hidden."""

import gymnasium
import numpy as np
import pytest

from resel_torchrl.envs import dynamics, make_gym, task_info
from tests.envs.helpers import play, random_actions, same

mujoco = pytest.importorskip("mujoco")
pytest.importorskip("gymnasium.envs.mujoco")

ROBOTS = ("Ant", "HalfCheetah", "Hopper", "Humanoid", "Walker2d")
TASKS = [f"{r}-{f}-v5" for f in ("Gravity", "Mass", "Damping") for r in ROBOTS]
#: observed dimensions of Gravity, bodies, damped joints
SIZES = {
    "Ant": (27, 13, 8),
    "HalfCheetah": (17, 7, 6),
    "Hopper": (11, 4, 3),
    "Humanoid": (270, 13, 17),
    "Walker2d": (17, 7, 6),
}


#: parts of the robot's own observation that a task leaves out
LEFT_OUT = {
    **{f"Ant-{factor}-v5": ["cfrc_ext"] for factor in ("Gravity", "Mass", "Damping")},
    "Humanoid-Gravity-v5": ["cfrc_ext"],
    "Humanoid-Damping-v5": ["cfrc_ext"],
    "Humanoid-Mass-v5": ["cinert", "cvel", "cfrc_ext"],
}


def size(task):
    """Number of multipliers of a task."""
    robot, factor, _ = task.split("-")
    return {"Gravity": 1, "Mass": SIZES[robot][1], "Damping": SIZES[robot][2]}[factor]


def play_task(env, number, actions):
    """An episode in the task of a number, always from the same seed."""
    observation, info = env.reset(seed=3, options={"task": number})
    observations, told = [observation], [info["task"]]
    for action in actions:
        observation, _, terminated, _, info = env.step(action)
        observations.append(observation)
        told.append(info["task"])
        if terminated:
            break
    return np.stack(observations), told


@pytest.mark.parametrize("robot", ROBOTS)
def test_robots_have_the_sizes_and_multipliers_of_their_models(robot):
    observed, *_ = SIZES[robot]
    # Humanoid's inertias (130) and body velocities (78) tell its masses.
    fewer = 130 + 78 if robot == "Humanoid" else 0
    for factor, shown in (("Gravity", 0), ("Mass", fewer), ("Damping", 0)):
        task = f"{robot}-{factor}-v5"
        info = task_info(task)
        assert info.observation_size == observed - shown
        assert info.horizon == 1000
        assert [len(t) for t in info.facts["train_tasks"]] == [size(task)] * 40
        assert [len(t) for t in info.facts["test_tasks"]] == [size(task)] * 20
        names = info.facts["multipliers"]
        assert len(set(names)) == len(names) == size(task)


@pytest.mark.parametrize("task", TASKS)
def test_with_multipliers_of_one_it_is_gymnasiums_robot(task):
    robot = task.split("-")[0]
    env = make_gym(task, train_tasks=[[1.0] * size(task)])
    left_out = LEFT_OUT.get(task, [])
    raw = gymnasium.make(
        f"{robot}-v5", **{f"include_{part}_in_observation": False for part in left_out}
    )
    env.reset(seed=5)
    raw.reset(seed=0)
    raw.unwrapped.set_state(env.unwrapped.data.qpos, env.unwrapped.data.qvel)
    scale = raw.action_space.high  # 0.4 for Humanoid, 1 for the others
    for action in random_actions(raw, steps=40):
        observation, reward, terminated, _, _ = env.step(action)
        expected = raw.step(scale * action)
        np.testing.assert_array_equal(observation, expected[0].astype(np.float32))
        assert (reward, terminated) == expected[1:3]
        if terminated:
            break


@pytest.mark.parametrize("task", TASKS)
def test_task_is_told_but_not_seen_and_rules_the_episode(task):
    env = make_gym(task)
    actions = random_actions(env, steps=20)
    first, told = play_task(env, 0, actions)
    second, _ = play_task(env, 1, actions)
    np.testing.assert_array_equal(first[0], second[0])
    shorter = min(len(first), len(second))
    assert np.abs(first[1:shorter] - second[1:shorter]).max() > 1e-3
    names, tasks = (task_info(task).facts[k] for k in ("multipliers", "train_tasks"))
    assert told == [dict(zip(names, tasks[0], strict=True))] * len(first)


@pytest.mark.parametrize("part", ["cinert", "cvel"])
def test_parts_of_humanoid_that_tell_its_masses(part):
    option = f"include_{part}_in_observation"
    with pytest.raises(ValueError, match=f"expected no {option}.*leave it out"):
        make_gym("Humanoid-Mass-v5", **{option: True})
    # Were it shown, the first observation would differ from task to task.
    hidden = {f"include_{p}_in_observation": p == part for p in ("cinert", "cvel")}
    robot = gymnasium.make("Humanoid-v5", **hidden)
    masses = {"log_range": 2.0, "n_train": 2, "n_test": 0, "task_seed": 0}
    env = dynamics.HiddenDynamics(robot, "mass", split="train", **masses)
    starts = [env.reset(seed=3, options={"task": number})[0] for number in (0, 1)]
    assert np.abs(starts[0] - starts[1]).max() > 1e-5
    # It tells nothing of gravity or damping.
    for task in ("Humanoid-Gravity-v5", "Humanoid-Damping-v5"):
        assert make_gym(task).unwrapped.observation_structure[part] > 0


@pytest.mark.parametrize("task", TASKS)
def test_episode_is_a_function_of_seed_task_and_actions(task):
    env = make_gym(task)
    model = env.unwrapped.model
    actions = random_actions(env, steps=20)
    first, _ = play_task(env, 0, actions)
    for number in (7, 7, 3):
        play_task(env, number, actions)
    np.testing.assert_array_equal(play_task(env, 0, actions)[0], first)
    np.testing.assert_array_equal(play_task(make_gym(task), 0, actions)[0], first)
    assert env.unwrapped.model is model
    episode = play(env, 4, actions)  # of the task that the seed chooses
    play(env, 5, actions)
    assert same(play(env, 4, actions), episode)


def test_what_is_set_in_a_model_survives_a_reset():
    """The control: without setting it anew, a task would last into the next episode."""
    robot = gymnasium.make("Hopper-v5").unwrapped
    robot.model.opt.gravity[:] = -1
    robot.model.body_mass[1] = 9
    robot.model.dof_damping[3] = 8
    robot.reset(seed=0)
    assert robot.model.opt.gravity[2] == -1
    assert (robot.model.body_mass[1], robot.model.dof_damping[3]) == (9, 8)


def test_multipliers_do_not_multiply_up():
    for factor, values in (
        ("Gravity", lambda model: model.opt.gravity[2:]),
        ("Mass", lambda model: model.body_mass[1:]),
        ("Mass", lambda model: model.body_inertia[1:, 1]),
        ("Damping", lambda model: model.dof_damping[3:]),
    ):
        env = make_gym(f"Walker2d-{factor}-v5")
        original = values(env.unwrapped.model).copy()
        for number in (0, 1, 1, 2):
            _, info = env.reset(options={"task": number})
            multipliers = np.array(list(info["task"].values()))
            got = values(env.unwrapped.model)
            np.testing.assert_allclose(got, original * multipliers, rtol=1e-12)


@pytest.mark.parametrize("multiplier", [0.3, 1.0, 3.0])
def test_a_robot_in_the_air_falls_by_the_gravity_of_its_task(multiplier):
    env = make_gym("HalfCheetah-Gravity-v5", train_tasks=[[multiplier]])
    env.reset(seed=0)
    robot = env.unwrapped
    qpos = robot.init_qpos.copy()
    qpos[1] += 5
    robot.set_state(qpos, np.zeros_like(qpos))
    speeds = []
    for _ in range(2):
        mujoco.mj_forward(robot.model, robot.data)
        mujoco.mj_subtreeVel(robot.model, robot.data)
        speeds.append(robot.data.subtree_linvel[1, 2])  # of the centre of mass
        env.step(np.zeros(6, np.float32))
    gained = speeds[1] - speeds[0]
    assert gained == pytest.approx(-9.81 * multiplier * robot.dt, rel=1e-9)


@pytest.mark.parametrize("robot", ["Ant", "Hopper", "Humanoid", "Walker2d"])
def test_masses_are_those_of_a_robot_built_with_other_densities(robot):
    env = make_gym(f"{robot}-Mass-v5")
    model = env.unwrapped.model
    spec = mujoco.MjSpec.from_file(env.unwrapped.fullpath)
    plain = spec.compile()
    _, info = env.reset(seed=0)
    for body, multiplier in zip(spec.bodies[1:], info["task"].values(), strict=True):
        for geom in body.geoms:
            geom.density *= multiplier
    built = spec.compile()
    for name in (
        *("body_mass", "body_inertia", "body_subtreemass", "body_invweight0"),
        *("dof_invweight0", "dof_M0"),
    ):
        expected = getattr(built, name)
        np.testing.assert_allclose(
            getattr(model, name), expected, rtol=1e-9, err_msg=name
        )
        assert not np.allclose(getattr(plain, name), expected, rtol=0.05), name


def test_horizon_is_a_truncation():
    env = make_gym("HalfCheetah-Gravity-v5")
    episode = play(env, 0, random_actions(env, steps=1100))
    assert len(episode.rewards) == 1000
    assert episode.truncated[-1] and not any(episode.terminated)
