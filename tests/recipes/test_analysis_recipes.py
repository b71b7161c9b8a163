"""The recipes `plot` and `output_variation` on runs that the command line trained."""

import csv

import pytest
import torch

from resel_torchrl.analysis import read_results, run_output_variation
from resel_torchrl.cli import main
from resel_torchrl.errors import RunError
from tests.recipes.test_commands import recipe
from tests.training.runs import tiny

pytest.importorskip("matplotlib")
pytest.importorskip("pandas")


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """Two seeds of a tiny recurrent agent, trained."""
    folder = tmp_path_factory.mktemp("runs")
    for seed in (0, 1):
        assert main(["train", *tiny(folder / f"gru-seed{seed}", f"seed={seed}")]) == 0
    return folder


def contents(folder):
    return {
        path: (path.read_bytes(), path.stat().st_mtime_ns)
        for path in folder.rglob("*")
        if path.is_file() and path.parent.name != "plots"
    }


def test_plot_recipe_takes_a_list(runs, tmp_path):
    first, second = (runs / f"gru-seed{seed}" for seed in (0, 1))
    output = tmp_path / "returns.png"
    assert recipe("plot", f"runs=[{first},{second}]", f"output={output}") == 0
    assert output.read_bytes().startswith(b"\x89PNG")
    results = read_results(output.with_suffix(".csv"))
    with open(second / "eval.csv", newline="") as stream:
        expected = [(int(r["step"]), float(r["mean"])) for r in csv.DictReader(stream)]
    of_one = results[results.seed == 1]
    assert list(zip(of_one.step, of_one["return"], strict=True)) == expected
    task = "pendulum_v on tests.training.envs:Walk-v0"  # not the task's own environment
    assert set(zip(results.task, results.agent, strict=True)) == {(task, "gru")}


def test_output_variation_recipe_draws_and_leaves_the_run_alone(runs, tmp_path, capsys):
    run = runs / "gru-seed0"
    before = contents(run)
    arguments = [
        f"run={run}",
        "pairs=[[1e-5,1e-3],[1e-3,1e-3],[0,0]]",
        "episodes=6",
        f"output={tmp_path}/variation.png",
    ]
    assert recipe("output_variation", *arguments) == 0
    assert (tmp_path / "variation.png").read_bytes().startswith(b"\x89PNG")
    assert len(capsys.readouterr().out.splitlines()) == 5
    with open(tmp_path / "variation.csv", newline="") as stream:
        rows = list(csv.DictReader(stream))
    means = {}
    for row in rows:
        pair = row["lr_context_encoder"], row["lr_other"]
        means.setdefault(pair, []).append(float(row["variation"]))
    assert len(means) == 3
    assert max(means["0.0", "0.0"]) == 0
    assert sum(means["0.001", "0.001"]) > sum(means["1e-05", "0.001"]) > 0
    assert int(rows[0]["episodes"]) == 6
    assert contents(run) == before


def test_the_default_pairs_are_the_runs_own_and_it_repeats_itself(runs):
    run = runs / "gru-seed1"
    generator = torch.get_rng_state()
    first, again = (run_output_variation(run, episodes=3) for _ in range(2))
    assert torch.equal(generator, torch.get_rng_state())
    assert list(
        first.groupby(["lr_context_encoder", "lr_other"], sort=False).groups
    ) == [
        (3e-4, 1e-3),
        (1e-5, 1e-3),
        (1e-3, 1e-3),
        (3e-4, 3e-4),
    ]
    assert (first.variation > 0).all()
    assert first.equals(again)


def test_a_policy_that_takes_the_reward(tmp_path):
    folder = tmp_path / "run"
    assert main(["train", *tiny(folder, "agent.reward_input=true", "steps=60")]) == 0
    assert (run_output_variation(folder, episodes=3).variation > 0).all()


def test_mistakes_end_in_a_sentence(runs, tmp_path, capsys):
    run = runs / "gru-seed0"
    for arguments, message in (
        ([f"run={run}", "pairs=1e-5"], "pairs: expected [[1e-5,3e-4]"),
        ([f"run={run}", "pair=[[1,1]]"], "Nearest: pairs"),
        ([f"run={tmp_path}"], "expected a run directory"),
        ([f"run={run}", "pairs=[[-1,1]]"], "expected pairs"),
    ):
        assert recipe("output_variation", *arguments) == 2
        assert message in capsys.readouterr().err


def test_a_run_that_has_not_learned_is_refused(tmp_path):
    folder = tmp_path / "run"
    assert main(["train", *tiny(folder, "steps=20", "train.random_steps=100")]) == 0
    with pytest.raises(RunError, match="expected a run that has made updates"):
        run_output_variation(folder)
    with pytest.raises(ValueError, match="episodes: expected 1 or more, got 0"):
        run_output_variation(folder, episodes=0)
