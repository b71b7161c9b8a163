"""A task that grows: by steps, by success, in the log, through a resume."""

import pytest

from resel_torchrl.collect import Curriculum, EpisodeResult
from resel_torchrl.config import compose
from resel_torchrl.errors import ConfigError
from tests.training.runs import assert_same_run, resume, rows, start

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


@pytest.mark.parametrize("schedule", [BY_STEPS, BY_SUCCESS])
def test_resumed_run_is_the_run_that_never_stopped(tmp_path, schedule):
    whole = start(tmp_path / "whole", *schedule)
    whole.run()
    # In the midst of an episode, and of the second stage by steps.
    start(tmp_path / "parts", *schedule, "steps=47").run()
    resumed = resume(tmp_path / "parts", "steps=120")
    assert resumed.collector.curriculum.stage > 0
    resumed.run()
    stages = [t.collector.curriculum.state_dict() for t in (whole, resumed)]
    assert stages[0] == stages[1]
    assert_same_run(tmp_path / "whole", tmp_path / "parts")


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
        ("env.copies=2", "episodes begin at different steps, got env.copies = 2"),
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
