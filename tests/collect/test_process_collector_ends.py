"""How a collecting process ends: with its learner, by a failure, by a signal."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from resel_torchrl.errors import RunError
from tests.collect.test_process_collector import PROCESS, watch
from tests.training import envs
from tests.training.runs import resume, rows, start, tiny
from tests.training.threads import ThreadProcess, as_thread  # noqa: F401

FAILING = "env.id=tests.training.envs:FailingWalk-v0"
KILLED = "env.id=tests.training.envs:KilledWalk-v0"
ORPHAN = "env.id=tests.training.envs:OrphanedWalk-v0"
ROOT = Path(__file__).parents[2]


def runs(pid: int) -> bool:
    """Whether there is such a process; a zombie counts."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def one_failure(folder: Path) -> dict[str, np.ndarray]:
    (file,) = (folder / "failures").iterdir()
    return dict(np.load(file))


@pytest.mark.parametrize("fail_at", [1, 47])
@pytest.mark.usefixtures("as_thread")
def test_failure_of_the_environment_is_that_of_the_same_process(
    tmp_path, monkeypatch, fail_at
):
    """The same message, the same episode kept, the same counters."""
    options = [FAILING, "steps=80", "eval.interval=0", "train.random_steps=1000"]
    kept, messages = [], []
    for mode in ("sync", "process"):
        folder = tmp_path / mode
        monkeypatch.setattr(envs.FailingWalk, "steps", 0)
        monkeypatch.setattr(envs.FailingWalk, "fail_at", fail_at)
        training = start(folder, *options, f"train.collection={mode}")
        with pytest.raises(RunError, match=r"non-finite observation") as error:
            training.run()
        messages.append(str(error.value).replace(str(folder), ""))
        kept.append(one_failure(folder))
        again = resume(folder)
        assert again.collector.counters()[:2] == training.collector.counters()[:2]
        again.run()
        assert rows(folder / "metrics.csv")[-1]["step"] == "80"
        kept[-1]["stored"] = again.learner.batches.replay_buffer[:]["action"].numpy()
    assert messages[0] == messages[1]
    assert kept[0].keys() == kept[1].keys()
    for key, value in kept[0].items():
        assert np.array_equal(value, kept[1][key], equal_nan=True), key


@pytest.mark.usefixtures("as_thread")
def test_checkpoint_between_a_failure_and_its_step(tmp_path, monkeypatch):
    """The failure is known, the steps before it are not counted yet."""
    monkeypatch.setattr(envs.FailingWalk, "steps", 0)
    monkeypatch.setattr(envs.FailingWalk, "fail_at", 36)
    options = [FAILING, "steps=80", "log.checkpoint_interval=32"]
    training = start(tmp_path / "run", *PROCESS, *options)

    def look():
        if training.collector.steps == 31:
            while envs.FailingWalk.steps < 36:
                time.sleep(0.01)
            # As if killed right after this checkpoint.
            monkeypatch.setattr(training, "_environment_failed", die)

    def die(error):
        raise error

    watch(training, look)
    with pytest.raises(RuntimeError, match="non-finite observation"):
        training.run()
    again = resume(tmp_path / "run")
    assert again.collector.steps == 32
    again.run()
    assert rows(tmp_path / "run/metrics.csv")[-1]["step"] == "80"


def test_killed_process_is_an_error_and_the_run_is_saved(tmp_path, request):
    training = start(tmp_path / "run", *PROCESS, "steps=90")
    pids = []

    def look():
        if training.collector.steps == 44:
            pids.append(training.collector.pid)
            os.kill(pids[0], signal.SIGKILL)

    watch(training, look)
    with pytest.raises(RunError, match=r"by SIGKILL.*run is saved.*resume=") as error:
        training.run()
    assert not runs(pids[0])
    counters = training.collector.counters()
    assert 44 <= counters.steps <= 54
    assert f"at step {counters.steps}:" in str(error.value)
    episode = one_failure(tmp_path / "run")
    in_buffer = len(training.learner.batches.replay_buffer)
    assert in_buffer == 70 or in_buffer + len(episode["actions"]) == counters.steps
    assert np.isfinite(episode["observations"]).all()
    request.getfixturevalue("as_thread")
    again = resume(tmp_path / "run")
    assert again.collector.counters() == counters
    again.run()
    assert again.learner.updates > training.learner.updates
    assert rows(tmp_path / "run/metrics.csv")[-1]["step"] == "80"


@pytest.mark.parametrize("name", ["SIGINT", "SIGTERM"])
def test_signal_to_both_saves_and_ends_both(tmp_path, name):
    """As a terminal or a cluster sends it: to every process of the run."""
    training = start(tmp_path / "run", *PROCESS, "steps=5000")
    number, pids = getattr(signal, name), []

    def look():
        if training.collector.steps == 44:
            pids.append(training.collector.pid)
            for pid in (*pids, os.getpid()):
                os.kill(pid, number)

    watch(training, look)
    with pytest.raises(KeyboardInterrupt):
        training.run()
    assert not runs(pids[0])
    assert (tmp_path / "run/checkpoints/step_0000000044").is_dir()
    assert not list((tmp_path / "run").glob("failures"))


def test_process_ends_with_a_learner_that_is_killed(tmp_path):
    """An orphan would hold the pipe of its output open: this would not return."""
    command = [sys.executable, "-m", "resel_torchrl", "train"]
    done = subprocess.run(
        [*command, *tiny(tmp_path / "run", *PROCESS, ORPHAN)],
        cwd=ROOT,
        capture_output=True,
        check=False,
        timeout=600,
    )
    assert done.returncode == -signal.SIGKILL, done.stderr
    assert b"outlived its learner" in done.stdout


@pytest.mark.usefixtures("as_thread")
def test_process_that_cannot_be_started(tmp_path, monkeypatch):
    """As in a script that starts one while it is itself being imported by one."""
    training = start(tmp_path / "run", *PROCESS)
    monkeypatch.setattr(ThreadProcess, "start", _no_process)
    with pytest.raises(RunError, match=r"at step 0: no process here\."):
        training.run()


def _no_process(_):
    raise RuntimeError("no process here")


@pytest.mark.usefixtures("as_thread")
def test_environment_that_cannot_be_made_there(tmp_path):
    training = start(tmp_path / "run", *PROCESS)
    training.collector.make_env = _no_env
    with pytest.raises(RunError, match=r"at step 0: no simulator here\."):
        training.run()


def _no_env():
    raise ModuleNotFoundError("no simulator here")
