"""A run directory of an older version: evaluated, and refused in one sentence."""

import tarfile
from pathlib import Path

import pytest

from resel_torchrl.cli import main
from resel_torchrl.config import compose, evaluate_run, load_config
from resel_torchrl.training import load_policy
from tests.training.runs import rows

FIXTURES = Path(__file__).parents[1] / "fixtures"


@pytest.fixture
def old(tmp_path):
    """400 steps of pendulum_v from before algorithms had sections of their own."""
    with tarfile.open(FIXTURES / "run_before_algorithm_groups.tar.gz") as archive:
        archive.extractall(tmp_path)
    return tmp_path / "old"


def test_its_configuration_is_read_in_the_names_of_today(old):
    config = load_config(old / "config.yaml")
    assert (config.algorithm, config.td3_resel) == ("resel", None)
    expected = compose(["task=pendulum_v"]).resel
    assert config.resel == expected and expected.alpha_init == 0.1
    assert (config.agent.core, config.agent.hidden_size) == ("gru", 4)


def test_it_acts_as_it_did(old):
    evaluation = evaluate_run(old, episodes=1)
    stored = float(rows(old / "eval.csv")[-1]["mean"])
    assert evaluation.mean == pytest.approx(stored, abs=1e-2)
    assert load_policy(old).observation_size == 1


def test_it_is_not_resumed(old, capsys):
    assert main(["train", f"resume={old}", "steps=500"]) == 1
    told = capsys.readouterr().err
    assert "is of an older version" in told and "Traceback" not in told
