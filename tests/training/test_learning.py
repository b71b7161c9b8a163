"""Whole runs that take minutes: memory solves what the control cannot."""

import pytest

from resel_torchrl.config import compose, make_training, open_run
from tests.training.runs import rows


def last_return(folder, *overrides) -> float:
    run, config = open_run(
        compose([*overrides, f"run_dir={folder}", "log.console=false"])
    )
    make_training(config, run).run()
    return float(rows(run.eval)[-1]["mean"])


@pytest.mark.slow
def test_discrete_actions_with_memory_balance_the_pole(tmp_path):
    """Position and angle alone do not tell which way the pole is falling."""
    assert last_return(tmp_path / "a", "task=cartpole_p") >= 190
    assert last_return(tmp_path / "b", "task=cartpole_p", "core=memoryless") < 100


@pytest.mark.slow
def test_the_td3_form_swings_the_pendulum_up(tmp_path):
    """The memoryless controls of RESeLLoss end below -1,300."""
    options = ["task=pendulum_v", "algorithm=td3_resel"]
    options += ["steps=16_000", "train.updates_per_step=1", "eval.interval=1000"]
    assert last_return(tmp_path / "run", *options) > -350
