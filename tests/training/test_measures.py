"""What is measured beside the return, and evaluation on given tasks."""

import csv
import functools

import numpy as np
import pytest

from resel_torchrl.config import ConfigError, load_config, main
from resel_torchrl.envs import make_gym, vectorize
from resel_torchrl.training import evaluate, evaluate_vector
from tests.training.runs import resume, rows, start

MAZE = ["env.id=TMaze-Passive-v0", "env.kwargs.length=4", "eval.interval=25"]
WINDS = {
    "split": "test",
    "train_tasks": [[0.01, 0.0]],
    "test_tasks": [[0.0, 0.01], [0.02, 0.03], [0.05, 0.06]],
}


class Still:
    """Does nothing."""

    def __call__(self, observation, reward=None, first=False, *, deterministic=None):
        return np.zeros((*np.shape(observation)[:-1], 2), np.float32)


@pytest.mark.parametrize("copies", [1, 2])
def test_success_stands_in_both_files(tmp_path, copies):
    options = [*MAZE, f"env.copies={copies}", "steps=100"]
    start(tmp_path / "run", *options).run()
    log, evals = (rows(tmp_path / f"run/{name}.csv") for name in ("metrics", "eval"))
    for row in evals:
        # The reward of success is 1, a whole one below all others.
        successes = [float(value) > 0 for value in row["returns"].split()]
        assert float(row["success"]) == np.mean(successes)
    assert all(0 <= float(row["success"]) <= 1 for row in log if row["return"])


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
    two = evaluate_vector(vectorize([make] * 2), Still(), episodes=5, seed=0, n_tasks=3)
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
    facts = load_config(run / "config.yaml").env.facts
    winds = [[float(row["wind_x"]), float(row["wind_y"])] for row in found]
    assert winds == facts["test_tasks"] != facts["train_tasks"][:3]


def test_stored_configuration_tells_horizon_and_mask(tmp_path):
    start(tmp_path / "run", "env.id=Pendulum-V-v0", "replay.buffer_size=900")
    config = load_config(tmp_path / "run/config.yaml")
    assert config.env.facts == {"horizon": 200, "kept": [2]}


def test_run_goes_on_with_the_environment_it_began_with_only(tmp_path):
    start(tmp_path / "run", "env.id=Wind-v0", "replay.buffer_size=90", "steps=20").run()
    file = tmp_path / "run/config.yaml"
    resume(tmp_path / "run").run()  # the control
    file.write_text(file.read_text().replace("horizon: 75", "horizon: 80"))
    with pytest.raises(ConfigError, match=r"env\.facts: expected what Wind-v0 tells"):
        resume(tmp_path / "run")


def test_evaluation_of_another_kind_of_environment_is_refused(tmp_path):
    options = ["eval.kwargs.kept=[0,1]", "env.kwargs.kept=[2]"]
    with pytest.raises(ConfigError, match="whose observation_size is 1, got 2"):
        start(
            tmp_path / "run", *options, "env.id=Pendulum-P-v0", "replay.buffer_size=900"
        )
