"""Tasks by name: registration, Gymnasium and TorchRL environments, what is refused."""

import importlib
import subprocess
import sys

import gymnasium
import numpy as np
import pytest
import torch
from gymnasium.spaces import Box, Discrete
from torchrl.envs.utils import check_env_specs

from resel_torchrl.envs import find_spec, make_env, make_gym, task_info, task_names
from tests.envs.helpers import Counter, play, random_actions

MUJOCO = "gymnasium.envs.mujoco"
FAMILIES = {"BLT": "pybullet_envs_gymnasium", "-v5": MUJOCO, "DMC-": "dm_control"}
FAMILIES |= {"AntDir": MUJOCO, "Cheetah": MUJOCO}
#: All but most of dm_control's, of which tests/envs/test_dm_control.py makes each.
TASKS = [task for task in task_names() if not task.startswith("DMC-")]
TASKS += ["DMC-CheetahRun-v0", "DMC-PendulumSwingup-v0", "DMC-QuadrupedEscape-v0"]


def skip_without_simulator(task):
    for mark, module in FAMILIES.items():
        if mark in task:
            pytest.importorskip(module)


@pytest.fixture
def register():
    """Registers environments of the user's own for the length of a test."""
    names = []

    def add(name, entry_point, **kwargs):
        names.append(name)
        gymnasium.register(id=name, entry_point=entry_point, **kwargs)
        return name

    yield add
    for name in names:
        del gymnasium.registry[name]


def test_names_are_those_of_the_families():
    names = task_names()
    assert len(names) == len(set(names))
    assert {"AntBLT-F-v0", "Pendulum-V-v0", "Wind-v0", "TMaze-Active-v0"} <= set(names)
    assert sum(name.startswith("DMC-") for name in names) == 24


@pytest.mark.parametrize("task", TASKS)
@pytest.mark.filterwarnings("error")
def test_gymnasium_makes_every_task_and_has_no_complaint(task):
    skip_without_simulator(task)
    env = gymnasium.make(task)  # with Gymnasium's own checker around it
    play(env, 0, random_actions(env, steps=3))
    assert env.spec.id == task
    assert env.spec.max_episode_steps in (task_info(task).horizon, None)


@pytest.mark.parametrize("task", [*TASKS, "MountainCarContinuous-v0"])
def test_torchrl_environment_keeps_its_specs(task):
    skip_without_simulator(task)
    env = make_env(task, seed=0)
    check_env_specs(env)
    info = task_info(task)
    assert env.observation_spec["observation"].shape == (info.observation_size,)
    assert env.action_spec.shape == (info.action_size,)
    steps = env.rollout(3)
    assert steps["observation"].dtype == steps["next", "reward"].dtype == torch.float32
    assert steps["is_init"].shape == (3, 1)
    if info.discrete:
        assert (steps["action"].sum(-1) == 1).all()
    else:
        assert steps["action"].dtype == torch.float32
        assert (env.action_spec.space.low == -1).all()
        assert (env.action_spec.space.high == 1).all()


@pytest.mark.parametrize("task", ["Pendulum-V-v0", "CartPole-P-v0", "HopperBLT-V-v0"])
def test_torchrl_environment_is_a_function_of_its_seed(task):
    skip_without_simulator(task)

    def rollouts(seed):
        torch.manual_seed(0)  # of the random actions
        env = make_env(task, seed=seed)
        return [env.rollout(20) for _ in range(2)]

    first, again, other = rollouts(1), rollouts(1), rollouts(2)
    for one, two in zip(first, again, strict=True):
        assert (one == two).all()
    # The robot of HopperBLT-V stands still at the start of every episode.
    second = [rollout["observation"][1] for rollout in (*first, *other)]
    assert not torch.equal(second[0], second[1])
    assert not torch.equal(second[0], second[2])


def test_torchrl_reset_takes_the_seed_of_an_episode():
    env = make_env("Pendulum-V-v0", seed=0)
    gym = make_gym("Pendulum-V-v0")
    for seed in (5, 6, 5):
        expected = torch.from_numpy(gym.reset(seed=seed)[0])
        torch.testing.assert_close(env.reset(seed=seed)["observation"], expected)


def test_torchrl_tells_terminal_from_truncation():
    by_clock = make_env("CartPole-V-v0", seed=0, horizon=3).rollout(9)["next"]
    assert by_clock["truncated"].flatten().tolist() == [False, False, True]
    assert not by_clock["terminated"].any()
    env = make_env("CartPole-V-v0", seed=0)
    fall = env.rollout(200, lambda td: td.set("action", torch.tensor([0, 1])))["next"]
    assert fall["terminated"][-1] and not fall["truncated"].any()


def test_environment_of_the_users_own_becomes_a_task(register):
    task = register("Own-v0", Counter, max_episode_steps=4)
    env = make_gym(task)
    assert env.action_space == Box(-1.0, 1.0, (1,), np.float32)
    assert env.observation_space.dtype == np.float32
    episode = play(env, 0, [np.float32([1.0])] * 9)
    assert episode.rewards.tolist() == [3.0] * 4  # the upper bound of its actions
    assert episode.truncated == [False] * 3 + [True]
    assert episode.observations[:, 0].tolist() == [0, 1, 2, 3, 4]
    info = task_info(task)
    assert (info.observation_size, info.action_size, info.horizon) == (2, 1, 4)
    assert info.kept == (0, 1)
    check_env_specs(make_env(task))


def test_module_prefix_imports_the_users_module(tmp_path, monkeypatch, register):
    (tmp_path / "my_tasks.py").write_text(
        "import gymnasium\n"
        "gymnasium.register('Prefixed-v0', 'tests.envs.helpers:Counter',"
        " max_episode_steps=5)\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    assert make_gym("my_tasks:Prefixed-v0").spec.max_episode_steps == 5
    del gymnasium.registry["Prefixed-v0"]


def test_horizon_must_be_known(register):
    task = register("Endless-v0", Counter)
    with pytest.raises(
        ValueError, match=r"no horizon is known for 'Endless-v0'.*horizon="
    ):
        make_gym(task)
    env = make_gym(task, horizon=2)
    assert len(play(env, 0, random_actions(env, steps=5)).rewards) == 2
    assert task_info(task, horizon=2).horizon == 2
    with pytest.raises(ValueError, match="at least 1 step, got 0"):
        make_gym(task, horizon=0)


def test_non_finite_values_of_a_task_are_errors(register):
    faults = {2: {"observation": np.nan}}
    task = register("Faulty-v0", lambda: Counter(faults), max_episode_steps=9)
    env = make_gym(task)
    env.reset(seed=31)
    env.step(np.zeros(1, np.float32))
    with pytest.raises(FloatingPointError, match=r"Faulty-v0.*step 2 \(seed 31\)"):
        env.step(np.zeros(1, np.float32))
    with pytest.raises(FloatingPointError, match="Faulty-v0"):
        make_env(task, seed=0).rollout(5)


@pytest.mark.parametrize(
    "space", [Discrete(3, start=1), gymnasium.spaces.MultiDiscrete([2, 2])]
)
def test_other_kinds_of_actions_are_refused(register, space):
    class Odd(Counter):
        action_space = space

    task = register("Odd-v0", Odd, max_episode_steps=5)
    with pytest.raises(
        ValueError, match="expected actions that are a Box, or Discrete"
    ):
        make_gym(task)


@pytest.mark.parametrize(
    ("wrong", "meant"),
    [
        ("HoperBLT-V-v0", "HopperBLT-V-v0"),
        ("pendulum-v-v0", "Pendulum-V-v0"),
        ("walker_v", "WalkerBLT-V-v0"),
        ("HalfCheetah-V-v4", "HalfCheetah-V-v5"),
        ("cheetah-run", "DMC-CheetahRun-v0"),
    ],
)
def test_unknown_task_lists_the_nearest_names(wrong, meant):
    with pytest.raises(ValueError, match=f"unknown task '{wrong}'; did you .*{meant}"):
        make_gym(wrong)


@pytest.mark.parametrize(
    ("task", "options", "message"),
    [
        (
            "TMaze-Active-v0",
            {"lenght": 3},
            r"option 'lenght'\. Did you mean 'length'\?",
        ),
        ("Wind-v0", {"split": "test", "splt": "test"}, "Did you mean 'split'"),
        ("Pendulum-V-v0", {"colour": 1}, r"has no option 'colour'\.$"),
    ],
)
def test_unknown_option_is_named_with_the_nearest_one(task, options, message):
    with pytest.raises(TypeError, match=message):
        make_gym(task, **options)


def test_unknown_task_near_to_nothing_says_where_names_are():
    with pytest.raises(ValueError, match=r"unknown task '\?\?'\. task_names\(\) lists"):
        find_spec("??")


@pytest.mark.parametrize(
    ("task", "package", "extra"),
    [
        ("HopperBLT-V-v0", "pybullet", "bullet"),
        ("HopperBLT-V-v0", "pybullet_envs_gymnasium", "bullet"),
        ("HalfCheetah-V-v5", "mujoco", "mujoco"),
        ("HalfCheetah-v5", "mujoco", "mujoco"),
        ("DMC-CheetahRun-v0", "dm_control", "dmc"),
    ],
)
def test_missing_simulator_names_the_extra(monkeypatch, task, package, extra):
    for name in [m for m in sys.modules if m.split(".")[0] == package]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, package, None)
    message = rf"package '{package}'.*pip install \"resel_torchrl\[{extra}\]\""
    with pytest.raises(ModuleNotFoundError, match=message):
        make_gym(task)


def test_task_info_makes_the_environment_once(monkeypatch):
    first = task_info("Pendulum-P-v0", g=9.5)
    monkeypatch.setattr(gymnasium, "make", None)
    assert task_info("Pendulum-P-v0", g=9.5) is first
    with pytest.raises(TypeError):  # the control: another task must be made
        task_info("Pendulum-P-v0", g=9.25)


def test_task_info_takes_the_lists_of_a_configuration(register):
    def make(sizes, limits):
        env = Counter()
        env.observation_space = Box(-1.0, 1.0, (sizes[limits["first"]],), np.float32)
        return env

    task = register("Sized-v0", make, max_episode_steps=4)
    sizes = [
        task_info(task, sizes=sizes, limits={"first": first}).observation_size
        for sizes in ([3, 5], [4, 5])
        for first in (0, 1, True)
    ]
    assert sizes == [3, 5, 5, 4, 5, 5]


QUIET = """
import sys
simulators = ("pybullet", "pybullet_envs_gymnasium", "mujoco", "dm_control")
sys.modules.update(dict.fromkeys(simulators))  # as if not installed
import resel_torchrl.envs as envs
envs.make_gym("Pendulum-V-v0").reset()
for simulator in simulators:
    del sys.modules[simulator]
print("before")
for task in {tasks}:
    env = envs.make_gym(task)
    env.reset()
    env.step(env.action_space.sample())
    env.reset()
print("after", flush=True)
if {control}:
    from pybullet_envs_gymnasium.gym_locomotion_envs import HopperBulletEnv
    HopperBulletEnv().reset()
"""


@pytest.mark.parametrize("control", [False, True])
def test_simulators_write_neither_to_the_terminal_nor_into_the_directory(
    tmp_path, control
):
    """And none is needed before a task of its own is made."""
    tasks = []
    for task in ("HopperBLT-V-v0", "HalfCheetah-V-v5", "DMC-CheetahRun-v0"):
        mark = next(mark for mark in FAMILIES if mark in task)
        try:
            importlib.import_module(FAMILIES[mark])
        except ModuleNotFoundError:
            continue
        tasks.append(task)
    if control and "HopperBLT-V-v0" not in tasks:
        pytest.skip("needs pybullet")
    done = subprocess.run(
        [sys.executable, "-c", QUIET.format(tasks=tasks, control=control)],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stderr == ""
    assert not list(tmp_path.iterdir())
    if control:
        assert "argv[0]" in done.stdout
    else:
        assert done.stdout == "before\nafter\n"
