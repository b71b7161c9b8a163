"""The recipe of the fully observed robots, as a user types it."""

import pytest
import yaml

from resel_torchrl.config import load_config
from resel_torchrl.config.build import make_run_env
from tests.recipes.family import recipe, short_run
from tests.training.runs import rows

pytest.importorskip("mujoco")


def test_recipe_trains_evaluates_and_resumes(tmp_path):
    folder = tmp_path / "run"
    # The Hopper falls, so that episodes are stored and learnt from.
    assert recipe("mdp", *short_run(folder, "task=hopper_mdp")) == 0
    metrics = rows(folder / "metrics.csv")
    assert [row["step"] for row in metrics] == ["250", "500"]
    assert int(metrics[-1]["updates"]) > 10
    assert float(metrics[-1]["loss_qvalue"]) > 0
    evaluations = rows(folder / "eval.csv")
    assert [row["step"] for row in evaluations] == ["250", "500"]
    assert all(float(row["mean"]) > 0 for row in evaluations)
    # A run that is resumed is named by its directory: no task is added.
    assert recipe("mdp", f"resume={folder}", "steps=510", "log.interval=10") == 0
    assert rows(folder / "metrics.csv")[-1]["step"] == "510"


def test_recipe_trains_its_own_task_where_none_is_named(tmp_path):
    options = ["steps=20", "eval.interval=0", "log.interval=20"]
    assert recipe("mdp", *short_run(tmp_path / "run", *options)) == 0
    config = yaml.safe_load((tmp_path / "run/config.yaml").read_text())
    assert (config["task"], config["env"]["id"]) == (
        "halfcheetah_mdp",
        "HalfCheetah-v5",
    )


WITHOUT_FORCES = ["include_cfrc_ext_in_observation=false", "contact_cost_weight=0"]


@pytest.mark.parametrize(
    ("environment", "size"),
    [
        (["env.id=Ant-v4"], 27),
        (["env.id=Ant-v4", "env.kwargs.use_contact_forces=true"], 111),
        ([f"env.kwargs.{option}" for option in WITHOUT_FORCES], 27),
        ([], 105),  # the control
    ],
)
def test_other_versions_of_the_ant(tmp_path, environment, size):
    options = ["task=ant_mdp", "steps=20", "eval.interval=0", "log.interval=20"]
    assert recipe("mdp", *short_run(tmp_path / "run", *options, *environment)) == 0
    env = make_run_env(load_config(tmp_path / "run/config.yaml"))
    assert env.observation_space.shape == (size,)
