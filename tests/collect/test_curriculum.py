"""A task that grows: by steps, by success, in the log, through a resume."""

import itertools

import pytest
import torch
from torchrl.data import LazyTensorStorage, TensorDictReplayBuffer

from resel_torchrl.collect import (
    Curriculum,
    EpisodeCollector,
    EpisodeResult,
    RecurrentPolicy,
)
from resel_torchrl.config import compose
from resel_torchrl.envs import vectorize
from resel_torchrl.errors import ConfigError
from resel_torchrl.modules import make_agent
from tests.training import envs
from tests.training.runs import assert_same_run, leaves, resume, rows, same, start

MAZE = [
    "env.id=TMaze-Passive-v0",
    "env.kwargs.length=8",
    "eval.interval=40",
    "steps=120",
    "train.random_steps=20",
    "curriculum.option=length",
    "curriculum.values=[2,4,8]",
]
LOGGED = "curriculum_length"
BY_STEPS = [*MAZE, "curriculum.at_steps=[30,60]"]
BY_SUCCESS = [*MAZE, "curriculum.level=0.0", "curriculum.window=5"]


def finish(training):
    training.run()
    return rows(training.run_directory.metrics)


def episode(success):
    return EpisodeResult(0.0, 3, {"success": success})


def test_stages_begin_at_their_steps_and_with_an_episode(tmp_path):
    training = start(tmp_path / "run", *BY_STEPS, "log.interval=1")
    log = finish(training)
    shown = [(int(r["step"]), float(r[LOGGED])) for r in log if r[LOGGED]]
    # Episodes of length + 1 steps; the one under way at step 30 or 60 ends as it began.
    assert shown[0] == (3, 2.0)
    lengths = [length for _, length in shown]
    assert lengths == sorted(lengths) and set(lengths) == {2.0, 4.0, 8.0}
    assert [step for step, length in shown if length == 2.0][-1] == 30
    assert [step for step, length in shown if length == 4.0][-1] == 60


def test_without_a_curriculum_every_episode_is_the_whole_task(tmp_path):
    log = finish(start(tmp_path / "run", *MAZE[:5]))
    assert LOGGED not in log[0]
    assert {row["length"] for row in log if row["length"]} == {"9.0"}


def test_evaluation_takes_the_whole_task_throughout(tmp_path):
    training = start(tmp_path / "run", *BY_STEPS)
    training.run()
    assert training.evaluation().lengths == (9, 9)
    assert "success" in rows(training.run_directory.eval)[0]


def test_stage_ends_once_the_mean_over_its_window_reaches_the_level():
    grow = Curriculum("length", [2, 4, 8], level=0.75, window=4)
    for success in (1.0, 1.0, 1.0):
        grow.end_episode(episode(success))
    assert grow.begin_episode(0) == {"length": 2}  # the window is not full
    grow.end_episode(episode(0.0))
    assert grow.begin_episode(0) == {"length": 4}
    for success in (1.0, 1.0, 0.0, 0.0, 1.0):  # those of the former stage are gone
        grow.end_episode(episode(success))
    assert grow.begin_episode(0) == {"length": 4}
    for _ in range(20):
        grow.end_episode(episode(1.0))
    assert grow.begin_episode(0) == {"length": 8}  # and no further


@pytest.mark.parametrize("num_envs", [1, 3])
@pytest.mark.parametrize("schedule", [BY_STEPS, BY_SUCCESS])
def test_resumed_run_is_the_run_that_never_stopped(tmp_path, schedule, num_envs):
    schedule = [*schedule, f"env.copies={num_envs}"]
    whole = start(tmp_path / "whole", *schedule)
    whole.run()
    # In the midst of an episode, and of the second stage by steps.
    start(tmp_path / "parts", *schedule, "steps=48").run()
    resumed = resume(tmp_path / "parts", "steps=120")
    assert resumed.collector.curriculum.stage > 0
    resumed.run()
    stages = [t.collector.curriculum.state_dict() for t in (whole, resumed)]
    assert stages[0] == stages[1]
    assert_same_run(tmp_path / "whole", tmp_path / "parts")


def test_each_environment_begins_its_episodes_with_the_stage_of_then(tmp_path):
    training = start(tmp_path / "run", *BY_STEPS, "log.interval=3", "env.copies=3")
    collector, ended = training.collector, []
    step, starts = collector.step, [0, 0, 0]

    def watched():
        steps, _, t = collector.counters()
        for i in range(3):
            if t[i] < 0:
                starts[i] = steps
        results = step()
        after = collector.counters().t
        begun = [starts[i] for i in range(3) if after[i] < 0]
        ended.extend(zip(begun, results, strict=True))
        return results

    collector.step = watched
    training.run()
    for began, result in ended:
        length = 2 if began < 30 else 4 if began < 60 else 8
        assert result.measures[LOGGED] == length and result.length == length + 1
    assert len({began for began, _ in ended}) > 6


class GrowingWalk(envs.Walk):
    """Episodes of `length` to `length + 2` steps, by their seed; each succeeds."""

    def reset(self, *, seed=None, options=None):
        self.left = (options or {}).get("length", 9) + seed % 3
        return super().reset(seed=seed)

    def step(self, action):
        observation, reward, *_ = super().step(action)
        self.left -= 1
        info = {} if self.left else {"measures": {"success": 1.0}}
        return observation, reward, False, self.left == 0, info


def make_growing():
    torch.manual_seed(0)
    agent = make_agent(2, 1, core="gru", hidden_size=6, n_critics=2)
    policy = RecurrentPolicy(agent.actor_encoder, agent.actor, 2, 1, num_envs=3)
    return EpisodeCollector(
        vectorize([GrowingWalk] * 3),
        policy,
        TensorDictReplayBuffer(storage=LazyTensorStorage(1000)),
        horizon=12,
        seed=0,
        curriculum=Curriculum("length", [2, 5, 9], window=4),
    )


def test_several_environments_out_of_step_keep_what_each_began_with():
    collector, saved, results = make_growing(), [], []
    for _ in range(50):
        saved.append((collector.state_dict(), torch.get_rng_state()))
        results.append(collector.step())
    for result in itertools.chain(*results):
        assert 0 <= result.length - result.measures[LOGGED] <= 2
    options = [
        {e["options"]["length"] for e in state["in_flight"] if e["options"]}
        for state, _ in saved
    ]
    assert any(len(lengths) > 1 for lengths in options)  # stages mix
    assert collector.curriculum.stage == 2
    final = dict(leaves(collector.state_dict()))
    for k, (state, generator) in enumerate(saved):
        other = make_growing()
        other.load_state_dict(state)
        torch.set_rng_state(generator)
        assert results[k:] == [other.step() for _ in range(k, 50)]
        got = dict(leaves(other.state_dict()))
        assert all(same(got[key], final[key]) for key in final)


def test_episodes_of_an_earlier_stage_do_not_count():
    grow = Curriculum("length", [2, 4], level=0.5, window=1)
    grow.end_episode(EpisodeResult(0.0, 3, {"success": 1.0, LOGGED: 2.0}))
    assert grow.stage == 1
    grow = Curriculum("length", [2, 4, 8], level=0.5, window=1)
    for began_with in (2.0, 2.0, 2.0):
        grow.end_episode(EpisodeResult(0.0, 3, {"success": 1.0, LOGGED: began_with}))
    assert grow.stage == 1
    grow.end_episode(EpisodeResult(0.0, 3, {"success": 1.0, LOGGED: 4.0}))
    assert grow.stage == 2


def test_process_collects_by_the_curriculum_and_takes_it_back(tmp_path):
    options = [*BY_SUCCESS, "train.collection=process", "eval.interval=0"]
    training = start(tmp_path / "run", *options)
    training.run()
    stage = training.collector.curriculum.stage
    assert stage > 0  # counted here, made there
    assert rows(training.run_directory.metrics)[-1][LOGGED] == "8.0"
    resumed = resume(tmp_path / "run", "steps=130")
    assert resumed.collector.curriculum.stage == stage
    resumed.run()


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("curriculum.at_steps=[-5,60]", "ascending steps above 0, got"),
        ("curriculum.at_steps=[60,30]", "ascending steps above 0, got"),
        ("curriculum.at_steps=[30]", "one fewer than the 3 values"),
        ("curriculum.values=[2,-4,8]", "numbers above 0, got"),
        ("curriculum.values=[]", "one value or more, got none"),
    ],
)
def test_mistakes_of_a_schedule(override, message):
    with pytest.raises(ConfigError, match=message.replace("[", r"\[")):
        compose(["task=pendulum_v", *BY_STEPS, override])


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("env.id=Pendulum-V-v0", r"takes none\), got 'length'"),
        ("curriculum.option=frames", r"takes length\), got 'frames'"),
        ("curriculum.values=[2,4,9]", "9 cannot be used"),
        ("curriculum.values=[2,4,6]", "length of the whole task, 8, got 6"),
        ("curriculum.measure=reached", r"measures \(success\), got 'reached'"),
    ],
)
def test_schedule_that_does_not_fit_the_environment(tmp_path, override, message):
    kwargs = [o for o in BY_SUCCESS if "kwargs" not in o or "Pendulum" not in override]
    with pytest.raises(ConfigError, match=message):
        start(tmp_path / "run", *kwargs, override)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("level", ["-0.1", "1.1", "nan", "inf"])
def test_level_that_no_or_every_mean_of_success_reaches(level):
    with pytest.raises(ConfigError, match=r"curriculum\.level: expected"):
        compose(["task=pendulum_v", *BY_SUCCESS, f"curriculum.level={level}"])
    with pytest.raises(ValueError, match="level: expected"):
        Curriculum("length", [2, 4], level=float(level))


def test_level_of_another_measure_may_be_any_number():
    assert Curriculum("length", [2, 4], measure="apples", level=12).level == 12


@pytest.mark.parametrize(
    "options",
    [
        ["curriculum.at_steps=[-5]", "curriculum.values=[2,4]"],
        ["curriculum.at_steps=[5]"],
    ],
)
def test_mistakes_of_a_schedule_that_names_no_option(options):
    with pytest.raises(ConfigError, match=r"it out: curriculum\.option is null"):
        compose(["task=pendulum_v", *options])


def test_measure_that_an_environment_does_not_give():
    grow = Curriculum("length", [2, 4])
    with pytest.raises(KeyError, match="measures 'success', got one that measures not"):
        grow.end_episode(EpisodeResult(0.0, 3))
