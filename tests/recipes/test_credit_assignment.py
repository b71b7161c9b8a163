"""The recipe of credit assignment, as a user types it."""

import math

import pytest
import yaml

from resel_torchrl.config import compose
from resel_torchrl.envs import task_info
from tests.recipes.family import recipe, short_run
from tests.training.runs import rows, start

TASKS = {
    "tmaze_passive": "TMaze-Passive-v0",
    "tmaze_active": "TMaze-Active-v0",
    "key_to_door_60": "KeyToDoor-60-v0",
    "key_to_door_120": "KeyToDoor-120-v0",
    "key_to_door_250": "KeyToDoor-250-v0",
    "key_to_door_500": "KeyToDoor-500-v0",
    "delayed_catch": "DelayedCatch-v0",
}


def test_recipe_trains_its_own_task_and_measures_the_success(tmp_path):
    folder = tmp_path / "run"
    assert recipe("credit_assignment", *short_run(folder, "eval.episodes=4")) == 0
    metrics = rows(folder / "metrics.csv")
    assert [row["step"] for row in metrics] == ["250", "500"]
    assert int(metrics[-1]["updates"]) > 10
    assert float(metrics[-1]["loss_qvalue"]) >= 0
    assert 4 <= float(metrics[-1]["length"]) <= 8  # the corridor may have grown
    for row in rows(folder / "eval.csv"):
        returns = [float(value) for value in row["returns"].split()]
        reached = sum(value > 0 for value in returns) / len(returns)
        assert float(row["success"]) >= reached  # 1 at the end, less what came before
    config = yaml.safe_load((folder / "config.yaml").read_text())
    assert config["task"] == "tmaze_active"
    assert (config["algorithm"], config["discrete_resel"]["alpha_init"]) == (
        "discrete_resel",
        0.05,
    )


@pytest.mark.parametrize(
    ("task", "kwarg", "horizon", "measures"),
    [
        ("key_to_door_60", "frames=20", 45, ("success", "apples")),
        ("tmaze_passive", "length=9", 10, ("success",)),
        ("delayed_catch", "runs=3", 20, ("caught",)),
    ],
)
def test_every_task_runs_and_logs_its_measures(
    tmp_path, task, kwarg, horizon, measures
):
    folder = tmp_path / "run"
    whole = [f"env.kwargs.{kwarg}", "curriculum.option=null"]
    short = short_run(folder, f"task={task}", *whole, "steps=300")
    assert recipe("credit_assignment", *short) == 0
    evaluations = rows(folder / "eval.csv")
    assert set(measures) <= evaluations[-1].keys()
    assert float(rows(folder / "metrics.csv")[-1]["length"]) == horizon


def test_the_clock_of_the_task_is_a_terminal_in_the_stored_episodes(tmp_path):
    training = start(tmp_path / "run", "env.id=TMaze-Active-v0", "steps=60")
    training.run()
    stored = training.learner.batches.replay_buffer[:]
    assert int(stored["next", "terminated"].sum()) == 60 // 23
    assert not stored["next", "truncated"].any()


@pytest.mark.parametrize("task", TASKS)
def test_values_fit_the_task(task):
    config = compose([f"task={task}"])
    assert config.env.id == TASKS[task] and config.task == task
    info = task_info(config.env.id, **config.env.kwargs)
    # A batch holds several whole episodes, the buffer many, and the discount leaves
    # half or more of a reward at the end to the first step.
    assert 4 <= config.replay.batch_size / info.horizon <= 32
    assert config.replay.buffer_size > 500 * info.horizon
    assert config.train.gamma**info.horizon > 0.5
    # The steps that decide on the success pay less by the entropy of uniform actions
    # than by the success: all steps, or those in the rooms of key and door.
    entropy = config.discrete_resel.alpha_init * math.log(info.action_size)
    steps = 25 if task.startswith("key") else info.horizon
    success = {"tmaze": 1, "key": 5, "delayed": 10}[task.split("_")[0]]
    assert entropy * steps < config.train.reward_scale * success
    assert 0.2 * math.log(info.action_size) * steps > success / 2  # 0.2 is too much
