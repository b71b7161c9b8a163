"""The first thing a newcomer runs: train, compare with the shipped controls, draw."""

import csv
import importlib.util
from pathlib import Path

import pytest

from resel_torchrl.errors import ConfigError

RECIPES = Path(__file__).parents[2] / "recipes"


def load(name):
    spec = importlib.util.spec_from_file_location(name, RECIPES / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


SHORT = (
    "steps=600",
    "train.random_steps=200",
    "train.updates_per_step=0.02",
    "eval.interval=200",
    "eval.episodes=2",
    "log.console=false",
)


def test_quickstart_trains_compares_draws_and_goes_on(tmp_path, capsys):
    quickstart = load("quickstart")
    run = tmp_path / "elsewhere"
    quickstart.main([*SHORT, f"run_dir={run}"])
    first = capsys.readouterr().out
    assert "random policy" in first
    assert "memoryless control" in first
    assert "recurrent agent (lstm)" in first
    assert (run / "plots" / "quickstart.png").stat().st_size > 10_000
    with open(run / "plots" / "quickstart.csv", newline="") as stream:
        agents = {row["agent"] for row in csv.DictReader(stream)}
    assert agents == {"lstm", "memoryless", "one_step"}

    # Finished: nothing is trained again, the table is the same.
    quickstart.main([f"run_dir={run}"])
    assert capsys.readouterr().out.splitlines()[-2:] == first.splitlines()[-2:]


@pytest.mark.parametrize("part", ["random_return", "read_results", "plot_curves"])
def test_quickstart_fails_before_the_training_if_it_fails(part, tmp_path, monkeypatch):
    quickstart = load("quickstart")

    def broken(*arguments):
        raise OSError("no such thing here")

    monkeypatch.setattr(quickstart, part, broken)
    with pytest.raises(OSError, match="no such thing"):
        quickstart.main([*SHORT, f"run_dir={tmp_path}/run"])
    assert not list((tmp_path / "run" / "checkpoints").iterdir())


def test_quickstart_refuses_a_task_that_its_controls_are_not_of(tmp_path):
    with pytest.raises(ConfigError, match="controls are of pendulum_v"):
        load("quickstart").main(["task=cartpole_p", f"run_dir={tmp_path}/run"])
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("core", ["lstm", "memoryless"])
def test_plain_loop_updates_and_evaluates(core, monkeypatch, capsys):
    plain_loop = load("plain_loop")
    monkeypatch.setattr(plain_loop, "RANDOM_EPISODES", 4)
    value = plain_loop.main(core, seed=0, steps=1000)
    assert -2000 < value < 0
    assert "step   1000" in capsys.readouterr().out


@pytest.mark.slow
def test_memory_solves_what_the_control_cannot():
    plain_loop = load("plain_loop")
    assert plain_loop.main("lstm", seed=0, steps=16_000) > -350
    assert plain_loop.main("memoryless", seed=0, steps=16_000) < -900
