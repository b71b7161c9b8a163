"""The recipe of hidden dynamics, through its command line."""

import pytest
import yaml

from tests.recipes.family import recipe, short_run
from tests.training.runs import rows

pytest.importorskip("gymnasium.envs.mujoco")


def test_recipe_trains_on_one_split_and_is_evaluated_on_the_other(tmp_path):
    folder = tmp_path / "run"
    options = ["task=hopper_gravity", "env.kwargs.n_test=3", "eval.episodes=6"]
    assert recipe("gravity", *short_run(folder, *options)) == 0
    metrics, evaluations = rows(folder / "metrics.csv"), rows(folder / "eval.csv")
    assert [row["step"] for row in metrics] == ["250", "500"]
    assert int(metrics[-1]["updates"]) > 10
    assert [(row["step"], row["episodes"]) for row in evaluations] == [
        ("250", "6"),
        ("500", "6"),
    ]
    # The record of the run holds the set of tasks.
    facts = yaml.safe_load((folder / "environment.yaml").read_text())
    assert facts["split"] == "train" and facts["multipliers"] == ["gravity"]
    assert (len(facts["train_tasks"]), len(facts["test_tasks"])) == (40, 3)


def test_it_resumes(tmp_path):
    folder = tmp_path / "run"
    assert recipe("gravity", *short_run(folder, "task=walker2d_mass")) == 0
    assert recipe("gravity", f"resume={folder}", "steps=510", "log.interval=10") == 0
    assert rows(folder / "metrics.csv")[-1]["step"] == "510"


def test_without_a_task_it_is_a_task_of_hidden_gravity(capsys):
    assert recipe("gravity", "--cfg", "job") == 0
    assert "id: HalfCheetah-Gravity-v5" in capsys.readouterr().out


def test_mistakes_end_in_a_sentence(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    for arguments, message in (
        (["task=hopper_gravty"], "Nearest: hopper_gravity"),
        (["env.kwargs.split=tset"], "expected split train or test, got 'tset'"),
        (["env.kwargs.n_trian=9"], "n_trian"),
        (["env.kwargs.log_range=0"], "expected a log_range above 0"),
        (
            ["env.kwargs.train_tasks=[0.5]", "env.kwargs.test_tasks=[0.5]"],
            "not trained on, but [0.5] is among",
        ),
    ):
        assert recipe("gravity", *arguments) == 2
        text = capsys.readouterr().err
        assert message in text
        assert "Traceback" not in text
    assert not (tmp_path / "runs").exists()
