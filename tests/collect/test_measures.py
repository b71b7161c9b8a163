"""What is measured beside the return, and evaluation on given tasks."""

import csv
import functools

import numpy as np
import pytest
import yaml
from omegaconf import OmegaConf

from resel_torchrl.cli import main
from resel_torchrl.collect import evaluate
from resel_torchrl.envs import make_gym, vectorize
from resel_torchrl.errors import ConfigError, RunError
from tests.training.runs import resume, rows, start

MAZE = ["env.id=TMaze-Passive-v0", "env.kwargs.length=4", "eval.interval=25"]
LUCKY = "env.id=tests.training.envs:LuckyWalk-v0"
WINDS = {
    "split": "test",
    "train_tasks": [[0.01, 0.0]],
    "test_tasks": [[0.0, 0.01], [0.02, 0.03], [0.05, 0.06]],
}
SETS = ["env.kwargs.n_train=40", "env.kwargs.n_test=20"]
#: Another environment's training tasks, among them one that is tested here.
TRAINED = ["env.kwargs.train_tasks=[[0.05,0.05]]", "eval.kwargs.train_tasks=[[0,0]]"]


def told(run_dir):
    """What the environments of a run told of themselves."""
    return yaml.safe_load((run_dir / "environment.yaml").read_text())


class Still:
    """Does nothing."""

    def __call__(self, observation, reward=None, first=False, *, deterministic=None):
        return np.zeros((*np.shape(observation)[:-1], 2), np.float32)


@pytest.mark.parametrize("copies", [1, 2])
def test_success_stands_in_both_files(tmp_path, copies):
    options = [
        f"env.copies={copies}",
        "steps=120",
        "log.interval=40",
        "eval.episodes=9",
    ]
    start(tmp_path / "run", LUCKY, *options).run()
    log, evals = (rows(tmp_path / f"run/{name}.csv") for name in ("metrics", "eval"))
    # A reward of 1 at each of 9 steps where it succeeds, else of 0.
    rates = [[float(row["success"]) for row in table] for table in (log, evals)]
    for row in evals:
        returns = [float(value) for value in row["returns"].split()]
        assert {*returns} == {0.0, 9.0}
        assert float(row["success"]) == pytest.approx(np.mean(returns) / 9)
    for row, rate in zip(log, rates[0], strict=True):
        assert rate == pytest.approx(float(row["return"]) / 9)
    assert 0 < np.mean(rates[0]) < 1


def test_measures_that_were_not_declared_end_in_a_sentence(tmp_path):
    undeclared = LUCKY.replace("Lucky", "Undeclared")
    with pytest.raises(RunError, match=r"names \(nothing\), got success"):
        start(tmp_path / "run", undeclared, "eval.interval=0").run()
    with pytest.raises(RunError, match="the evaluation at step 5 failed: expected an"):
        start(tmp_path / "eval", undeclared, "eval.interval=5").run()


def test_environment_without_measures_has_no_such_column(tmp_path):
    start(tmp_path / "run", "steps=50").run()
    assert "success" not in rows(tmp_path / "run/eval.csv")[0]


def test_unwritten_episodes_keep_their_measures_through_a_resume(tmp_path):
    options = [*MAZE, "log.interval=60"]
    start(tmp_path / "whole", *options, "steps=60").run()
    start(tmp_path / "parts", *options, "steps=33").run()
    resume(tmp_path / "parts", "steps=60").run()
    assert rows(tmp_path / "whole/metrics.csv") == rows(tmp_path / "parts/metrics.csv")
    assert rows(tmp_path / "whole/metrics.csv")[0]["success"]


def test_evaluation_takes_the_tasks_in_turn():
    env = make_gym("Wind-v0", **WINDS)
    result = evaluate(env, Still(), episodes=5, seed=0, n_tasks=3)
    winds = [(task["wind_x"], task["wind_y"]) for task in result.tasks]
    assert winds == [tuple(WINDS["test_tasks"][i % 3]) for i in range(5)]
    without = evaluate(env, Still(), episodes=9, seed=0)  # the control: left to chance
    assert [t["wind_x"] for t in without.tasks] != [0.0, 0.02, 0.05] * 3


def test_several_environments_evaluate_as_one_does():
    make = functools.partial(make_gym, "Wind-v0", **WINDS)
    one = evaluate(make(), Still(), episodes=5, seed=0, n_tasks=3)
    two = evaluate(vectorize([make] * 2), Still(), episodes=5, seed=0, n_tasks=3)
    assert one == two


def test_command_evaluates_on_test_tasks_and_writes_them(tmp_path, capsys):
    run, file = tmp_path / "run", tmp_path / "tasks.csv"
    options = ["env.id=Wind-v0", "eval.kwargs.split=test", "env.kwargs.n_test=3"]
    start(run, *options, "steps=30", "replay.buffer_size=90").run()
    words = [f"run={run}", "episodes=3", f"output={file}"]
    assert main(["evaluate", *words]) == 0
    assert "wind_x" in capsys.readouterr().out
    with open(file, newline="") as stream:
        found = list(csv.DictReader(stream))
    facts = told(run)
    winds = [[float(row["wind_x"]), float(row["wind_y"])] for row in found]
    assert winds == facts["test_tasks"] != facts["train_tasks"][:3]


def test_stored_configuration_tells_horizon_and_mask(tmp_path):
    start(tmp_path / "run", "env.id=Pendulum-V-v0", "replay.buffer_size=900")
    assert told(tmp_path / "run") == {"horizon": 200, "kept": [2]}


def test_run_goes_on_with_the_environment_it_began_with_only(tmp_path):
    start(tmp_path / "run", "env.id=Wind-v0", "replay.buffer_size=90", "steps=20").run()
    file = tmp_path / "run/environment.yaml"
    resume(tmp_path / "run").run()  # the control
    file.write_text(file.read_text().replace("horizon: 75", "horizon: 80"))
    with pytest.raises(ConfigError, match=r"tells of itself, got another horizon;"):
        resume(tmp_path / "run")


def test_evaluation_of_another_kind_of_environment_is_refused(tmp_path):
    options = ["eval.kwargs.kept=[0,1]", "env.kwargs.kept=[2]"]
    with pytest.raises(ConfigError, match="whose observation_size is 1, got 2"):
        start(
            tmp_path / "run", *options, "env.id=Pendulum-P-v0", "replay.buffer_size=900"
        )


@pytest.mark.parametrize(
    ("options", "refused"),
    [
        ([], None),
        (["eval.kwargs.split=train"], None),  # on purpose, and named so
        (["eval.kwargs.task_seed=5"], None),  # other winds
        (["env.kwargs.split=test"], "20 of 20"),
        (["eval.kwargs.n_train=20"], "20 of 20"),
        (["eval.kwargs.test_tasks=[[0.05,0.05]]", *TRAINED], "1 of 1"),
    ],
)
def test_evaluated_test_tasks_are_not_trained_on(tmp_path, options, refused):
    run = [tmp_path / "run", "env.id=Wind-v0", "replay.buffer_size=90"]
    run += ["eval.kwargs.split=test", "env.kwargs.split=train", *SETS, *options]
    if refused is None:
        start(*run)
    else:
        with pytest.raises(ConfigError, match=f"not trained on, got {refused}"):
            start(*run)


def test_another_evaluated_task_set_is_recorded(tmp_path):
    options = ["env.id=Wind-v0", "env.kwargs.split=train", "replay.buffer_size=90"]
    options += [*SETS, "eval.kwargs.split=test", "steps=30"]
    start(tmp_path / "plain", *options)
    assert "evaluation" not in told(tmp_path / "plain")
    start(tmp_path / "other", *options, "eval.kwargs.task_seed=5").run()
    facts = told(tmp_path / "other")
    sizes = {"split": "test", "n_train": 40, "n_test": 20}
    played = make_gym("Wind-v0", task_seed=5, **sizes).unwrapped.facts
    assert facts["evaluation"]["test_tasks"] == played["test_tasks"]
    assert facts["test_tasks"] != played["test_tasks"]
    resume(tmp_path / "other", "steps=60").run()  # it compares them


def test_mistake_in_the_evaluations_arguments_is_told_as_such(tmp_path):
    with pytest.raises(ConfigError, match=r"eval\.kwargs: Wind-v0 cannot be made with"):
        start(tmp_path / "run", "env.id=Wind-v0", "eval.kwargs.splt=test")


@pytest.mark.parametrize("seed", ["null", "0.5", "-1"])
def test_set_of_tasks_needs_a_seed(tmp_path, seed):
    with pytest.raises(ConfigError, match="expected task_seed to be a whole number"):
        start(tmp_path / "run", "env.id=Wind-v0", f"env.kwargs.task_seed={seed}")


def test_file_that_cannot_be_written_is_told_before_the_evaluation(tmp_path, capsys):
    start(tmp_path / "run", "steps=30").run()
    for output in (tmp_path, tmp_path / "run/config.yaml/x.csv"):
        assert main(["evaluate", f"run={tmp_path / 'run'}", f"output={output}"]) == 2
        printed = capsys.readouterr()
        assert "expected a file that can be written" in printed.err
        assert "episode" not in printed.out


def test_run_of_an_older_version_is_still_evaluated(tmp_path, capsys):
    start(tmp_path / "run", "steps=30").run()
    file = tmp_path / "run/config.yaml"
    stored = OmegaConf.load(file)
    del stored.curriculum, stored.eval.kwargs
    OmegaConf.save(stored, file)
    assert main(["evaluate", f"run={tmp_path / 'run'}", "episodes=1"]) == 0
    stored.env.facs = {}  # a name that no version knows
    OmegaConf.save(stored, file)
    assert main(["evaluate", f"run={tmp_path / 'run'}", "episodes=1"]) == 2
    assert "env.facs: unknown key" in capsys.readouterr().err
