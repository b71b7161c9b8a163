"""The recipe of meta-RL, as a user types it."""

import pytest
import yaml

from resel_torchrl.config import compose, load_config
from resel_torchrl.config.build import make_run_env
from tests.recipes.family import recipe, short_run
from tests.training.runs import rows

TASKS = ("ant_dir", "cheetah_dir", "halfcheetah_vel", "wind")


def test_recipe_trains_its_own_task_on_training_tasks_and_evaluates_on_test_tasks(
    tmp_path,
):
    folder = tmp_path / "run"
    assert recipe("meta_rl", *short_run(folder, "eval.episodes=3")) == 0
    metrics = rows(folder / "metrics.csv")
    assert [row["step"] for row in metrics] == ["250", "500"]
    assert int(metrics[-1]["updates"]) > 10
    assert float(metrics[-1]["loss_qvalue"]) >= 0
    assert [row["step"] for row in rows(folder / "eval.csv")] == ["250", "500"]
    config = yaml.safe_load((folder / "config.yaml").read_text())
    assert (config["task"], config["agent"]["reward_input"]) == ("wind_light", True)
    facts = yaml.safe_load((folder / "environment.yaml").read_text())
    assert len(facts["train_tasks"]) == 40
    assert config["eval"]["kwargs"] == {"split": "test"}


def test_returns_of_the_inner_episodes_are_in_the_evaluations(tmp_path):
    pytest.importorskip("mujoco")
    folder = tmp_path / "run"
    short = ["task=cheetah_dir", "env.kwargs.inner_steps=50"]
    assert recipe("meta_rl", *short_run(folder, *short, "eval.episodes=2")) == 0
    for row in rows(folder / "eval.csv"):
        parts = [float(row[name]) for name in ("return_1", "return_2")]
        assert sum(parts) == pytest.approx(float(row["mean"]))
        adaptation = parts[1] - parts[0]
        assert float(row["adaptation"]) == pytest.approx(adaptation)
    assert make_run_env(load_config(folder / "config.yaml")).horizon == 100


@pytest.mark.parametrize("task", TASKS)
def test_tasks_have_the_papers_values(task):
    config = compose([f"task={task}"])
    optim, train = config.optim, config.train
    rates = optim.lr_context_encoder, optim.lr_actor, optim.lr_critic, optim.lr_alpha
    assert rates == (2e-6, 6e-5, 2e-4, 1e-4)
    assert (config.replay.batch_size, config.steps) == (999, 5_000_000)
    assert (train.random_steps, train.updates_per_step) == (5000, 1)
    assert config.agent.reward_input and config.agent.core == "mamba"
    names = {config.env.id.lower().removesuffix("-v0"), task.replace("_", "")}
    assert len(names) == 1
    tested = config.eval.kwargs == {"split": "test"}
    assert tested == (config.env.kwargs.get("split") == "train")
