"""A resumed run equals one that was never stopped, bit for bit."""

import itertools
import json
import os
import random
import secrets
import shutil
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from resel_torchrl.errors import ConfigError, RunError
from resel_torchrl.modules.cores import CORES
from resel_torchrl.training import load_policy
from tests.training import envs
from tests.training.runs import assert_same_run, resume, rows, start, tiny

KILLED = "env.id=tests.training.envs:KilledWalk-v0"
ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("runs") / "uninterrupted"
    start(folder, KILLED).run()
    return folder


def command(folder: Path, *overrides: str, kill_at: int, kill_signal: str = "KILL"):
    """A tiny run in a process of its own that sends itself a signal."""
    return subprocess.run(
        [sys.executable, "-m", "resel_torchrl", "train", *tiny(folder, *overrides)],
        env={**os.environ, "KILL_AT": str(kill_at), "KILL_SIGNAL": kill_signal},
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.mark.parametrize(("first", "last"), [(2, 24), (60, 118)])
def test_run_killed_and_resumed_equals_uninterrupted(
    tmp_path, uninterrupted, first, last
):
    # In the random phase, before any checkpoint; and past several of them.
    seed = secrets.randbelow(2**32)
    kill_at = random.Random(seed).randint(first, last)
    print(f"seed {seed}: killed at step {kill_at}")
    killed = command(tmp_path / "run", KILLED, kill_at=kill_at)
    assert killed.returncode == -signal.SIGKILL
    assert len(rows(tmp_path / "run/metrics.csv")) < len(
        rows(uninterrupted / "metrics.csv")
    )
    resume(tmp_path / "run").run()
    assert_same_run(tmp_path / "run", uninterrupted)


@pytest.mark.parametrize("stop_at", [31, 97])
def test_stopped_and_resumed_at_a_higher_number_of_steps(
    tmp_path, uninterrupted, stop_at
):
    start(tmp_path / "run", KILLED, f"steps={stop_at}").run()
    resume(tmp_path / "run", "steps=130").run()
    assert_same_run(tmp_path / "run", uninterrupted)


@pytest.mark.parametrize("setting", ["seed=1", "train.tau=0.006"])
def test_control_another_setting_gives_another_run(tmp_path, uninterrupted, setting):
    start(tmp_path / "run", KILLED, setting).run()
    with pytest.raises(AssertionError):
        assert_same_run(tmp_path / "run", uninterrupted)


@pytest.mark.parametrize("core", CORES)
def test_every_core_resumes(tmp_path, core):
    options = [f"core={core}", "env.id=tests.training.envs:Walk-v0"]
    if core == "mamba":
        options += ["agent.core_kwargs.d_state=4", "agent.core_kwargs.d_conv=3"]
    elif core == "transformer":
        options += ["agent.core_kwargs.n_heads=2", "agent.core_kwargs.max_length=30"]
    options += ["train.updates_per_step=1.5", "agent.reward_input=true"]
    start(tmp_path / "whole", *options, "steps=70").run()
    start(tmp_path / "parts", *options, "steps=50").run()
    resume(tmp_path / "parts", "steps=70").run()
    assert_same_run(tmp_path / "parts", tmp_path / "whole")


@pytest.mark.parametrize("algorithm", ["discrete_resel", "td3_resel"])
def test_every_algorithm_resumes(tmp_path, algorithm):
    name = "DiscreteWalk" if algorithm == "discrete_resel" else "Walk"
    options = [f"env.id=tests.training.envs:{name}-v0", "train.updates_per_step=1.5"]
    options += [f"algorithm={algorithm}", "agent.reward_input=true"]
    start(tmp_path / "whole", *options, "steps=70").run()
    # In the random phase and after it.
    for step in (17, 50):
        start(tmp_path / f"{step}", *options, f"steps={step}").run()
        resume(tmp_path / f"{step}", "steps=70").run()
        assert_same_run(tmp_path / f"{step}", tmp_path / "whole")


def test_ctrl_c_saves_and_says_how_to_go_on(tmp_path, uninterrupted):
    stopped = command(tmp_path / "run", KILLED, kill_at=101, kill_signal="INT")
    assert stopped.returncode == 130, stopped.stderr
    assert f"resume={tmp_path / 'run'}" in stopped.stderr + stopped.stdout
    assert "Traceback" not in stopped.stderr
    training = resume(tmp_path / "run")
    # Nothing done before Ctrl-C is done again; evaluation steps count in the signal.
    assert 60 < training.collector.steps <= 101
    assert training.collector.steps % 30 != 0
    training.run()
    assert_same_run(tmp_path / "run", uninterrupted)


def test_checkpoint_cut_short_falls_back_on_the_older_one(
    tmp_path, uninterrupted, caplog
):
    start(tmp_path / "run", KILLED, "steps=97").run()
    newest, older = sorted((tmp_path / "run/checkpoints").iterdir())[::-1]
    file = newest / "replay.pt"
    file.write_bytes(file.read_bytes()[:-10])
    caplog.set_level("WARNING", "torchrl")
    training = resume(tmp_path / "run", "steps=130")
    message = caplog.messages[-1]
    assert "replay.pt is cut short" in message and older.name in message
    assert training.collector.steps == 90
    training.run()
    assert_same_run(tmp_path / "run", uninterrupted)


def test_checkpoint_with_a_flipped_byte_is_noticed(tmp_path, caplog):
    start(tmp_path / "run", "steps=40").run()
    for checkpoint in (tmp_path / "run/checkpoints").iterdir():
        data = bytearray((checkpoint / "learner.pt").read_bytes())
        data[len(data) // 2] ^= 1
        (checkpoint / "learner.pt").write_bytes(data)
    caplog.set_level("WARNING", "torchrl")
    with pytest.raises(RunError, match=r"learner.pt is damaged.*start a new run"):
        resume(tmp_path / "run")
    assert "checksum" in caplog.text
    with pytest.raises(RunError, match=r"learner.pt is damaged.*load another.*30\)"):
        load_policy(tmp_path / "run", checkpoint=40)


@pytest.mark.parametrize("text", ["{}", "[]", "{", '{"format": 1, "files": {"a": {}}}'])
def test_damaged_manifest_is_noticed(tmp_path, text):
    start(tmp_path / "run", "steps=30").run()
    (checkpoint,) = (tmp_path / "run/checkpoints").iterdir()
    (checkpoint / "manifest.json").write_text(text)
    for load in (resume, load_policy):
        with pytest.raises(RunError, match=r"is damaged: .*manifest.*start a new run"):
            load(tmp_path / "run")


@pytest.mark.parametrize(
    ("module", "name", "call"),
    [
        pytest.param(torch, "save", 0, id="before the first byte"),
        pytest.param(torch, "save", 1, id="in the second part"),
        pytest.param(os, "replace", 0, id="before the renaming"),
    ],
)
def test_writing_that_dies_leaves_the_older_checkpoint(
    tmp_path, monkeypatch, module, name, call
):
    start(tmp_path / "run", "steps=30").run()
    training = resume(tmp_path / "run", "steps=60")
    calls, whole = itertools.count(), getattr(module, name)

    def die(*args, **kwargs):
        if next(calls) < call:
            return whole(*args, **kwargs)
        if name == "save":
            args[1].write(b"half of a part")
        raise OSError("no space left on device")

    monkeypatch.setattr(module, name, die)
    with pytest.raises(OSError, match="no space"):
        training.run()
    monkeypatch.undo()
    assert [p.name for p in (tmp_path / "run/checkpoints").glob("step_*")] == [
        "step_0000000030"
    ]
    training = resume(tmp_path / "run", "steps=60")
    assert training.collector.steps == 30
    training.run()
    start(tmp_path / "whole", "steps=60").run()
    assert_same_run(tmp_path / "run", tmp_path / "whole")


def test_checkpoint_of_another_configuration_is_refused(tmp_path):
    start(tmp_path / "run", "steps=30").run()
    shutil.copytree(tmp_path / "run", tmp_path / "other")
    config = (tmp_path / "other/config.yaml").read_text()
    (tmp_path / "other/config.yaml").write_text(
        config.replace("tau: 0.005", "tau: 0.5")
    )
    with pytest.raises(RunError, match=r"train.tau: expected 0.5, got 0.005"):
        resume(tmp_path / "other")
    resume(tmp_path / "run")


def test_resume_takes_steps_eval_and_log_only(tmp_path):
    start(tmp_path / "run", "steps=30").run()
    with pytest.raises(ConfigError) as error:
        resume(tmp_path / "run", "train.tau=0.1", "seed=3", "steps=50")
    assert len(error.value.problems) == 2
    assert "train.tau: a resumed run keeps" in str(error.value)
    training = resume(tmp_path / "run", "steps=50", "eval.episodes=1", "log.interval=5")
    training.run()
    assert rows(tmp_path / "run/eval.csv")[-1]["episodes"] == "1"
    assert [r["step"] for r in rows(tmp_path / "run/metrics.csv")] == [
        *("20", "35", "40", "45", "50"),
    ]


def test_what_a_resumed_run_is_given_is_stored(tmp_path):
    start(tmp_path / "run", "steps=30").run()
    resume(tmp_path / "run", "steps=50")
    training = resume(tmp_path / "run")
    assert training.steps == 50
    training.run()
    assert training.collector.steps == 50
    before = (tmp_path / "run/config.yaml").read_text()
    with pytest.raises(RunError, match="at least 50"):
        resume(tmp_path / "run", "steps=40")  # the control: what cannot be is not
    assert (tmp_path / "run/config.yaml").read_text() == before


def test_fewer_steps_than_made_are_refused(tmp_path):
    start(tmp_path / "run", "steps=40").run()
    with pytest.raises(RunError, match="expected steps of at least 40"):
        resume(tmp_path / "run", "steps=20")


def test_existing_run_directory_is_not_written_over(tmp_path):
    start(tmp_path / "run", "steps=30").run()
    before = (tmp_path / "run/metrics.csv").read_bytes()
    with pytest.raises(RunError, match=r"resume=.*run_dir=PATH"):
        start(tmp_path / "run", "steps=30")
    assert (tmp_path / "run/metrics.csv").read_bytes() == before


def test_resuming_what_is_no_run(tmp_path):
    with pytest.raises(RunError, match="expected a run directory"):
        resume(tmp_path)
    with pytest.raises(RunError, match="expected a run directory"):
        load_policy(tmp_path)


def test_rows_that_are_gone_are_noticed(tmp_path):
    start(tmp_path / "run", "steps=40").run()
    (tmp_path / "run/metrics.csv").write_text("step\n")
    with pytest.raises(RunError, match=r"bytes in .*metrics\.csv"):
        resume(tmp_path / "run")


def test_stored_configuration_is_the_resolved_one(tmp_path):
    start(tmp_path / "run", "steps=30")
    text = (tmp_path / "run/config.yaml").read_text()
    assert "${" not in text
    assert "lr_context_encoder: 0.0003" in text


def test_two_processes_do_not_work_on_one_run(tmp_path):
    start(tmp_path / "run", "steps=30").run()
    lock = tmp_path / "run/lock.json"
    assert not lock.exists()
    with subprocess.Popen(["sleep", "600"]) as other:
        holder = {"host": socket.gethostname(), "pid": other.pid}
        lock.write_text(json.dumps(holder))
        before = (tmp_path / "run/metrics.csv").read_bytes()
        with pytest.raises(RunError, match=f"process {other.pid} on .*lock.json"):
            resume(tmp_path / "run", "steps=50")
        assert (tmp_path / "run/metrics.csv").read_bytes() == before
        load_policy(tmp_path / "run")  # reading is free
        other.kill()
    # The lock of a dead process, and one cut short, are nobody's.
    resume(tmp_path / "run", "steps=50").run()
    lock.write_text("{")
    resume(tmp_path / "run", "steps=60").run()
    assert not lock.exists()


def test_changed_simulator_is_noticed_on_resume(tmp_path, monkeypatch):
    start(tmp_path / "run", "steps=97", "eval.interval=0").run()
    resume(tmp_path / "run")
    observe = envs.Walk._observation
    monkeypatch.setattr(envs.Walk, "_observation", lambda self: observe(self) * 1.5)
    with pytest.raises(RunError, match=r"repeat itself.*not the one of the stored run"):
        resume(tmp_path / "run")
