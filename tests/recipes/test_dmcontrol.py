"""The recipe of DeepMind Control, as a user types it, and what it says without it."""

import sys

import pytest

from resel_torchrl.cli import main
from resel_torchrl.config import load_config
from tests.recipes.family import recipe, short_run
from tests.training.runs import rows


def block(monkeypatch):
    """As if dm_control were not installed."""
    for name in [m for m in sys.modules if m.split(".")[0] == "dm_control"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "dm_control", None)


def test_recipe_trains_and_evaluates_its_own_task_by_default(
    tmp_path, monkeypatch, capsys
):
    pytest.importorskip("dm_control")
    folder = tmp_path / "run"
    # Episodes last 1,000 steps: the first update comes after one.
    options = ["steps=1020", "train.random_steps=10"]
    options += ["log.interval=510", "eval.interval=510"]
    assert recipe("dmcontrol", *short_run(folder, *options)) == 0
    config = load_config(folder / "config.yaml")
    assert (config.task, config.env.id) == ("dmc_cheetah_run", "DMC-CheetahRun-v0")
    metrics = rows(folder / "metrics.csv")
    assert metrics[-1]["step"] == "1020"
    assert (metrics[-1]["episodes"], metrics[-1]["updates"]) == ("1", "1")
    evaluations = rows(folder / "eval.csv")
    assert [row["step"] for row in evaluations] == ["510", "1020"]
    assert all(0 <= float(row["mean"]) <= 1000 for row in evaluations)
    # Where it is not installed, neither evaluating nor going on ends in a traceback.
    block(monkeypatch)
    for command in (["evaluate", f"run={folder}"], ["train", f"resume={folder}"]):
        capsys.readouterr()
        assert main(command) == 2
        error = capsys.readouterr().err
        assert error.endswith('pip install "resel_torchrl[dmc]"\n')


@pytest.mark.parametrize(
    "arguments",
    [
        ["task=dmc_cheetah_run"],
        ["task=pendulum_v", "env.id=DMC-DogFetch-v0"],
    ],
)
def test_without_dm_control_one_sentence_names_the_extra(
    tmp_path, monkeypatch, capsys, arguments
):
    block(monkeypatch)
    folder = tmp_path / "run"
    assert main(["train", *arguments, f"run_dir={folder}"]) == 2
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 2 and lines[0] == "1 mistake in the configuration:"
    assert "needs the package 'dm_control', which is not installed" in lines[1]
    assert lines[1].endswith('pip install "resel_torchrl[dmc]"')
    assert not folder.exists()


@pytest.mark.parametrize(
    ("argument", "near"),
    [
        ("task=dmc_cheeta_run", "Nearest: dmc_cheetah_run"),
        ("task=cheetah_run", "dmc_cheetah_run"),
        ("task=quadruped_escape", "Nearest: dmc_quadruped_escape"),
        ("task=hopper_mpd", "Nearest: hopper_mdp"),
        ("env.id=DMC-CheetaRun-v0", "Nearest: DMC-CheetahRun-v0"),
        ("env.id=DMC-CheetahRun", "Nearest: DMC-CheetahRun-v0"),
    ],
)
def test_unknown_tasks_list_the_nearest_names(capsys, argument, near):
    assert main(["train", argument]) == 2
    assert near in capsys.readouterr().err
