"""What a user types: recipes and `python -m resel_torchrl`."""

import runpy
import sys
from pathlib import Path

import pytest

from resel_torchrl.cli import main
from tests.training.runs import rows, tiny

RECIPES = Path(__file__).parents[2] / "recipes"


def recipe(name: str, *arguments: str) -> int:
    """Runs a recipe as a script, in this process."""
    before, sys.argv = sys.argv, [name, *arguments]
    try:
        script = RECIPES / f"{name}.py"
        if script.exists():
            runpy.run_path(str(script), run_name="__main__")
        else:
            runpy.run_module(f"recipes.{name}", run_name="__main__")
    except SystemExit as stop:
        return stop.code
    finally:
        sys.argv = before
    raise AssertionError("a recipe ends by sys.exit")


def test_recipe_and_module_do_the_same(tmp_path, capsys):
    overrides = ["steps=60", "seed=3"]
    assert recipe("classic_pomdp", *tiny(tmp_path / "a", *overrides)) == 0
    assert main(["train", *tiny(tmp_path / "b", *overrides)]) == 0
    assert rows(tmp_path / "a/metrics.csv") == rows(tmp_path / "b/metrics.csv")
    assert rows(tmp_path / "a/metrics.csv")[-1]["seed"] == "3"
    capsys.readouterr()
    for command in (
        lambda *words: recipe("evaluate", *words),
        lambda *words: main(["evaluate", *words]),
    ):
        assert command(f"run={tmp_path / 'a'}", "episodes=3", "checkpoint=60") == 0
        lines = capsys.readouterr().out.splitlines()
        assert len(lines) == 4
        assert lines[-1].endswith("(s.e.) over 3 episodes")


def test_resume_on_the_command_line(tmp_path, capsys):
    folder = tmp_path / "run"
    assert main(["train", *tiny(folder, "steps=40")]) == 0
    assert main(["train", *tiny(folder, "steps=40")]) == 1
    assert f"resume={folder}" in capsys.readouterr().err
    assert recipe("classic_pomdp", f"resume={folder}", "steps=80") == 0
    assert [row["step"] for row in rows(folder / "metrics.csv")] == [
        *("20", "40", "60", "80"),
    ]
    assert main(["train", f"resume={folder}", "optim.lr_actor=1"]) == 2
    assert "optim.lr_actor: a resumed run keeps" in capsys.readouterr().err


def test_multirun_over_seeds_and_tasks(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    overrides = [o for o in tiny(tmp_path) if not o.startswith(("task=", "run_dir="))]
    sweep = ["task=pendulum_v,pendulum_p", "seed=0,1", "steps=40"]
    assert main(["train", "--multirun", *overrides, *sweep]) == 0
    found = sorted(str(p.parent) for p in Path("runs").rglob("metrics.csv"))
    assert found == [
        f"runs/{task}/gru-seed{seed}"
        for task in ("pendulum_p", "pendulum_v")
        for seed in (0, 1)
    ]


def test_multirun_tells_of_a_job_that_cannot_start_and_runs_the_others(
    tmp_path, monkeypatch, capsys
):
    monkeypatch.chdir(tmp_path)
    Path("runs/pendulum_v/gru-seed0").mkdir(parents=True)
    Path("runs/pendulum_v/gru-seed0/notes.txt").write_text("taken")
    overrides = [o for o in tiny(tmp_path) if not o.startswith("run_dir=")]
    command = ["train", "--multirun", *overrides, "seed=0,1", "steps=40"]
    assert main(command) == 1
    found = capsys.readouterr().err
    assert "expected a run directory that does not exist yet" in found
    assert "Traceback" not in found
    assert Path("runs/pendulum_v/gru-seed1/metrics.csv").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["train", "task=pendulm_v"], "Nearest: pendulum_v"),
        (["train", "optim.lr_context_encoder=0"], "expected a number above 0, got 0"),
        (["trian"], "Nearest: train"),
        (["evaluate"], "run: missing"),
        (["evaluate", "run=x", "episode=3"], "Nearest: episodes"),
        (["evaluate", "run=x", "episodes=few"], "expected a whole number"),
        (["evaluate", "run=x", "episodes=0"], "of 1 or more, got '0'"),
        (["evaluate", "run=x", "seed=-1"], "of 0 or more, got '-1'"),
        (["train", "resume=no/such/run", "stpes=9"], "Nearest: steps"),
        (["train", "seed=0,1"], "add --multirun"),
        (["train", "env.horizon=50"], "expected at least 200, the time limit"),
        (["train", "env.kwargs.dims=[0,1]"], "Pendulum-V-v0 cannot be made"),
        (["train", "device=cuda:99"], "expected a GPU that PyTorch sees"),
        (["evaluate", "run=no/such/run"], "expected a run directory"),
        (["train", "resume=no/such/run"], "expected a run directory"),
        (["plot"], "runs: missing"),
        (
            ["train", "algorithm=td3_resel", "env.id=CartPole-P-v0"],
            "expected one for discrete actions, which CartPole-P-v0 has, got td3_resel",
        ),
        (
            [
                "train",
                "task=pendulum_v",
                "replay.buffer_size=150",
                "replay.batch_size=9",
            ],
            "room for an episode of 200 steps, got 150",
        ),
    ],
)
def test_mistakes_end_in_a_sentence_not_a_traceback(
    tmp_path, monkeypatch, capsys, arguments, message
):
    monkeypatch.chdir(tmp_path)
    assert main(arguments) in (1, 2)
    text = capsys.readouterr().err
    assert message in text
    assert "Traceback" not in text
    assert not list(tmp_path.rglob("config.yaml"))


def test_hydras_own_options(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main(["train", "--cfg", "job", "-p", "optim", "task=ant_v"]) == 0
    assert "lr_critic: 0.0005" in capsys.readouterr().out
    (tmp_path / "own/task").mkdir(parents=True)
    mine = "# @package _global_\ntask: mine\nsteps: 7\nenv:\n  id: Pendulum-P-v0\n"
    (tmp_path / "own/task/mine.yaml").write_text(mine)
    words = ["--config-dir", str(tmp_path / "own"), "--cfg", "job"]
    assert main(["train", *words, "task=mine"]) == 0
    assert "steps: 7" in capsys.readouterr().out
    assert main(["train", "--cfg", "job", "task=mine"]) == 2  # the control
    assert not (tmp_path / "runs").exists()


def test_storages_of_replay_buffers_keep_quiet(tmp_path, capfd):
    assert main(["train", *tiny(tmp_path / "run", "steps=40")]) == 0
    text = "".join(capfd.readouterr())
    assert "Initialized" not in text


def test_horizon_longer_than_the_time_limit_is_taken(tmp_path):
    options = ["env.horizon=30", "steps=40", "eval.interval=0"]
    assert main(["train", *tiny(tmp_path / "run", *options)]) == 0


def test_help_names_every_command(capsys):
    assert main([]) == 0
    text = capsys.readouterr().out
    assert all(word in text for word in ("train", "evaluate", "plot", "resume="))


def test_plot_of_two_runs(tmp_path, capsys):
    pytest.importorskip("matplotlib")
    for seed in (0, 1):
        folder = tmp_path / f"gru-seed{seed}"
        assert main(["train", *tiny(folder, f"seed={seed}", "steps=80")]) == 0
    output = tmp_path / "curve.png"
    assert main(["plot", f"runs={tmp_path}/gru-*", f"output={output}"]) == 0
    assert output.stat().st_size > 1000
    assert f"wrote {output}" in capsys.readouterr().out
    assert main(["plot", f"runs={tmp_path}/gru-*", f"output={tmp_path}/a.txt"]) == 2
    assert "Traceback" not in capsys.readouterr().err


def test_progress_line(tmp_path, capsys):
    assert main(["train", *tiny(tmp_path / "run", "log.console=true")]) == 0
    text = capsys.readouterr().err
    assert "left]" in text and "steps/s" in text


def test_tensorboard_beside_the_csv(tmp_path):
    pytest.importorskip("tensorboard")
    options = ["steps=40", "log.loggers=[tensorboard]"]
    assert main(["train", *tiny(tmp_path / "run", *options)]) == 0
    assert list((tmp_path / "run").rglob("events.out.tfevents*"))
    assert len(rows(tmp_path / "run/metrics.csv")) == 2
