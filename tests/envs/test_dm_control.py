"""DeepMind Control's suite as tasks, against dm_control driven by hand."""

import importlib
import subprocess
import sys
from importlib import resources
from pathlib import Path
from types import SimpleNamespace

import gymnasium
import numpy as np
import pytest
import yaml

from resel_torchrl.config import choices
from resel_torchrl.envs import dm_control, make_gym
from tests.envs.helpers import Episode, play, random_actions, same

pytest.importorskip("dm_control")

PAGE = Path(__file__).parents[2] / "docs" / "tasks" / "dmcontrol.md"
QUICK = ("DMC-CheetahRun-v0", "DMC-PendulumSwingup-v0", "DMC-WalkerWalk-v0")


def by_hand(task: str, seed: int) -> SimpleNamespace:
    """The suite's own environment of a task, its time limit included."""
    make_gym(task)  # imports the suite without its chatter
    suite = importlib.import_module("dm_control.suite")
    return suite.load(**gymnasium.spec(task).kwargs, task_kwargs={"random": seed})


def play_by_hand(env, actions: list) -> Episode:
    """Plays actions in [-1, 1], scaled to what the suite takes."""
    spec = env.action_spec()
    middle, half = (spec.maximum + spec.minimum) / 2, (spec.maximum - spec.minimum) / 2
    steps = [env.reset()]
    for action in actions:
        steps.append(env.step(middle + action * half))
        if steps[-1].last():
            break
    observations = [np.hstack([*map(np.ravel, s.observation.values())]) for s in steps]
    ends = [(s.last() and s.discount == 0, s.last() and s.discount > 0) for s in steps]
    return Episode(
        np.stack(observations).astype(np.float32),
        np.array([step.reward for step in steps[1:]]),
        *([bool(end[flag]) for end in ends[1:]] for flag in (0, 1)),
    )


@pytest.mark.parametrize("task", QUICK)
def test_episodes_are_those_of_the_suite_to_the_last_bit(task):
    env, plain = make_gym(task), by_hand(task, seed=3)
    actions = random_actions(env, steps=120)
    expected = play_by_hand(plain, actions)
    assert same(play(env, 3, actions), expected)
    assert not same(play(env, 4, actions), expected)  # the control
    # Without a seed the next one follows, here as there.
    play(env, 3, actions)
    following = play_by_hand(plain, actions)
    assert same(play(env, None, actions), following)
    assert not same(following, expected)


@pytest.mark.parametrize("task", QUICK)
def test_episode_is_a_function_of_seed_and_actions(task):
    env = make_gym(task)
    actions = random_actions(env, steps=60)
    first = play(env, 3, actions)
    simulation = env.unwrapped.suite_env.physics
    play(env, 4, [np.ones_like(action) for action in actions])
    assert same(play(env, 3, actions), first)
    assert env.unwrapped.suite_env.physics is simulation  # nothing was built anew
    assert same(play(make_gym(task), 3, actions), first)


def test_the_suites_time_limit_is_a_truncation_at_the_horizon():
    task = "DMC-PendulumSwingup-v0"
    env = make_gym(task)
    actions = random_actions(env, steps=1100)
    expected = play_by_hand(by_hand(task, seed=0), actions)
    episode = play(env, 0, actions)
    assert len(expected.rewards) == env.horizon == 1000
    assert same(episode, expected)
    assert episode.truncated[-1] and not any(episode.terminated)
    assert env.action_space.low.min() == -1 and env.action_space.high.max() == 1
    assert ((episode.rewards >= 0) & (episode.rewards <= 1)).all()
    # A longer episode is not cut by the suite.
    longer = play(make_gym(task, horizon=1050), 0, actions)
    assert len(longer.rewards) == 1050


@pytest.mark.parametrize("discount", [0.0, 1.0])
def test_an_end_of_the_task_is_terminal_where_nothing_follows_it(monkeypatch, discount):
    env = make_gym("DMC-PendulumSwingup-v0")
    task = env.unwrapped.suite_env.task
    monkeypatch.setattr(task, "get_termination", lambda physics: discount)
    episode = play(env, 0, random_actions(env, steps=5))
    assert (episode.terminated, episode.truncated) == ([discount == 0], [discount == 1])


def test_actions_are_scaled_to_bounds_of_the_suite_that_are_not_one():
    env = make_gym("DMC-QuadrupedWalk-v0")
    lift = env.unwrapped.action_space.high
    assert lift.max() == pytest.approx(1.1)
    env.reset(seed=0)
    env.step(env.action_space.high)
    control = env.unwrapped.suite_env.physics.data.ctrl
    np.testing.assert_array_equal(control, lift)


def test_arguments_reach_the_suite_or_are_refused():
    task = "DMC-ManipulatorBringBall-v0"
    full, blind = make_gym(task), make_gym(task, fully_observable=False)
    assert full.observation_space.shape[0] - blind.observation_space.shape[0] == 15
    with pytest.raises(
        ValueError, match=r"expected no 'time_limit'.*got 5; .*horizon="
    ):
        make_gym(task, time_limit=5)
    with pytest.raises(ValueError, match=r"expected no 'random'.*reset\(seed="):
        make_gym(task, random=3)
    with pytest.raises(TypeError, match="fully_observed"):
        make_gym(task, fully_observed=False)
    with pytest.raises(ValueError, match=r"got reachr easy\. Did you .*'reacher easy'"):
        make_gym(task, domain_name="reachr", task_name="easy")
    other = make_gym(task, domain_name="reacher", task_name="easy")
    assert other.observation_space.shape == (6,)


HEADLESS = """
import sys
import mujoco
sys.modules.update({"OpenGL": None, "glfw": None})  # as if not installed
handler = print
mujoco.set_mju_user_warning(handler)
from resel_torchrl.envs import make_gym
assert "dm_control" not in sys.modules
env = make_gym("DMC-QuadrupedEscape-v0")
assert mujoco.get_mju_user_warning() is handler
env.reset(seed=0)
env.step(env.action_space.sample())
from dm_control import suite
try:
    suite.load("quadruped", "escape").reset()
except RuntimeError as error:
    assert "No OpenGL" in str(error)
else:
    raise AssertionError("the suite draws: no control")
"""


def test_no_display_and_no_opengl_is_needed(tmp_path, monkeypatch):
    """And the handler of MuJoCo's warnings stays. The suite itself needs OpenGL."""
    monkeypatch.delenv("MUJOCO_GL", raising=False)
    monkeypatch.delenv("DISPLAY", raising=False)
    command = [sys.executable, "-c", HEADLESS]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
    assert not list(tmp_path.iterdir())


def test_each_of_the_suites_tasks_has_a_configuration():
    files = resources.files("resel_torchrl.config") / "task"
    named = {
        f"dmc_{spec.kwargs['domain_name']}_{spec.kwargs['task_name']}": spec.id
        for spec in dm_control.TASKS
    }
    assert len(named) == 24
    assert {name for name in choices("task") if name.startswith("dmc_")} == set(named)
    for name, task in named.items():
        values = yaml.safe_load((files / f"{name}.yaml").read_text())
        assert (values["task"], values["env"]["id"]) == (name, task)


@pytest.mark.slow
@pytest.mark.parametrize("task", [spec.id for spec in dm_control.TASKS])
def test_whole_episodes_of_every_task_are_those_of_the_suite(task, monkeypatch):
    plain, env = by_hand(task, seed=3), make_gym(task)
    plain.physics.__class__ = type(env.unwrapped.suite_env.physics)  # draws nothing
    actions = random_actions(env, steps=1100)
    play(env, 4, actions)
    episode, expected = play(env, 3, actions), play_by_hand(plain, actions)
    assert same(episode, expected)
    assert len(expected.rewards) == env.horizon == 1000
    assert episode.truncated[-1] and not any(episode.terminated)
    assert ((episode.rewards >= 0) & (episode.rewards <= 1)).all()
    sizes = f"| `{task}` | {len(episode.observations[0])} | {len(actions[0])} |"
    assert sizes in PAGE.read_text()
