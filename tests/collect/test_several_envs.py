"""Runs with several environments: exact ratio and intervals, resuming, mistakes."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from resel_torchrl.collect import RecurrentPolicy
from resel_torchrl.config import compose
from resel_torchrl.errors import ConfigError, RunError
from resel_torchrl.training import load_policy
from tests.training import envs
from tests.training.runs import TINY, assert_same_run, resume, rows, start, tiny

ROOT = Path(__file__).parents[2]
THREE = "env.copies=3"
FAILING = "env.id=tests.training.envs:FailingWalk-v0"


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("runs") / "uninterrupted"
    start(folder, THREE, "steps=132").run()
    return folder


def command(*arguments: str) -> subprocess.CompletedProcess:
    return subprocess.run(
        [sys.executable, "-m", "resel_torchrl", "train", *arguments],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )


def test_command_with_three_environments_stopped_and_resumed(tmp_path, uninterrupted):
    folder = tmp_path / "run"
    first = command(*tiny(folder, THREE, "steps=75"))
    assert first.returncode == 0, first.stderr
    second = command(f"resume={folder}", "steps=132")
    assert second.returncode == 0, second.stderr
    assert_same_run(folder, uninterrupted)


@pytest.mark.parametrize("stop_at", [3, 27, 36, 90, 111])
def test_resumed_run_equals_one_that_was_never_stopped(
    tmp_path, uninterrupted, stop_at
):
    start(tmp_path / "run", THREE, f"steps={stop_at}").run()
    resume(tmp_path / "run", "steps=132").run()
    assert_same_run(tmp_path / "run", uninterrupted)


@pytest.mark.parametrize("setting", ["env.copies=2", "seed=1"])
def test_control_another_setting_gives_another_run(tmp_path, uninterrupted, setting):
    start(tmp_path / "run", THREE, "steps=132", setting).run()
    with pytest.raises(AssertionError):
        assert_same_run(tmp_path / "run", uninterrupted)


def test_ratio_is_exact_and_intervals_fire_once_each(tmp_path):
    training = start(
        tmp_path / "run",
        *("env.copies=4", "steps=132", "train.updates_per_step=0.3"),
        *("log.interval=10", "eval.interval=1", "log.checkpoint_interval=33"),
    )
    assert training.collector.num_envs == 4
    made, step = [], training.collector.step

    def count():
        made.append((training.collector.in_random_phase, training.learner.updates))
        return step()

    training.collector.step = count
    saved = []
    training.checkpoints.save, save = (
        lambda step, *a, **k: (saved.append(step), save(step, *a, **k)),
        training.checkpoints.save,
    )
    training.run()
    updates = [updates for _, updates in made] + [training.learner.updates]
    begun = next(k for k, (at_random, _) in enumerate(made) if not at_random)
    expected = [0] * (begun + 1) + [
        4 * n * 3 // 10 for n in range(1, len(updates) - begun)
    ]
    assert updates == expected and updates[-1] > 15
    table = [int(row["step"]) for row in rows(tmp_path / "run/metrics.csv")]
    assert table == [12, 20, 32, 40, 52, 60, 72, 80, 92, 100, 112, 120, 132]
    assert [int(row["step"]) for row in rows(tmp_path / "run/eval.csv")] == [
        *range(4, 133, 4)
    ]
    assert saved == [36, 68, 100, 132]


def test_nan_of_one_costs_the_episodes_under_way_and_nothing_else(
    tmp_path, monkeypatch
):
    monkeypatch.setattr(envs.FailingWalk, "steps", 0)
    monkeypatch.setattr(envs.FailingWalk, "fail_at", 83)
    options = FAILING, THREE, "steps=132", "eval.interval=0", "replay.buffer_size=140"
    training = start(tmp_path / "run", *options)
    with pytest.raises(RunError, match=r"failed at step 81.*non-finite observation"):
        training.run()
    (file,) = (tmp_path / "run/failures").iterdir()
    episode = np.load(file)
    in_buffer = len(training.learner.batches.replay_buffer)
    assert in_buffer + episode["length"].sum() == 81
    assert len(episode["seed"]) == 3
    assert episode["observations"].shape[1] == episode["length"].max() + 1
    assert not episode["rewards"][episode["length"].argmin()][
        episode["length"].min() :
    ].any()
    again = resume(tmp_path / "run")
    assert again.collector.steps == 81
    assert len(again.learner.batches.replay_buffer) == in_buffer
    again.run()
    assert rows(tmp_path / "run/metrics.csv")[-1]["step"] == "120"
    assert again.collector.steps == 132


def test_changed_simulator_is_noticed_on_resume(tmp_path, monkeypatch):
    start(tmp_path / "run", THREE, "steps=96", "eval.interval=0").run()
    resume(tmp_path / "run")
    observe = envs.Walk._observation
    monkeypatch.setattr(envs.Walk, "_observation", lambda self: observe(self) * 1.5)
    with pytest.raises(RunError, match=r"repeat itself.*not the one of the stored run"):
        resume(tmp_path / "run")


def test_policy_of_such_a_run_acts_in_one_environment(uninterrupted):
    policy = load_policy(uninterrupted)
    assert isinstance(policy, RecurrentPolicy) and policy.mode == "eager"
    assert policy(np.zeros(2, "f4")).shape == (1,)


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["env.copies=0"], r"env.copies: expected a number above 0, got 0"),
        (["env.vectorization=fork"], r"env.vectorization: expected sync or async"),
        ([THREE], r"steps: expected a multiple of env.copies = 3.*steps=129 or ste"),
        (["env.copies=200"], r"got 130; write steps=200\."),
        (["env.copies=2", "train.collection=process"], r"train.collection: expected s"),
        (["env.copies=2", "train.acting=fused"], r"train.acting: expected auto or eag"),
    ],
)
def test_mistakes_are_told_before_anything_runs(overrides, message):
    with pytest.raises(ConfigError, match=message):
        compose([*TINY, *overrides])


def test_buffer_too_small_for_an_episode_of_each_is_refused(tmp_path):
    with pytest.raises(ConfigError, match=r"of 12 steps of each of 10 env.*got 70"):
        start(tmp_path / "run", "env.copies=10")
    start(tmp_path / "run", "env.copies=5")


def test_resuming_at_no_multiple_is_refused(tmp_path):
    start(tmp_path / "run", THREE, "steps=30").run()
    with pytest.raises(ConfigError, match=r"multiple of env.copies = 3.*got 50"):
        resume(tmp_path / "run", "steps=50")


def test_acting_is_resolved_to_eager(tmp_path):
    training = start(tmp_path / "run", THREE, "steps=30")
    assert training.collector.policy.mode == "eager"
    assert "acting: eager" in (tmp_path / "run/config.yaml").read_text()
