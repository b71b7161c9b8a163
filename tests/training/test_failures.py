"""An environment that fails costs one episode, and nothing of the run's data."""

import numpy as np
import pytest

from resel_torchrl.errors import RunError
from tests.training import envs
from tests.training.runs import resume, rows, start

FAILING = "env.id=tests.training.envs:FailingWalk-v0"


@pytest.mark.parametrize("fail_at", [1, 47])
def test_nan_from_the_environment(tmp_path, monkeypatch, fail_at):
    monkeypatch.setattr(envs.FailingWalk, "steps", 0)
    monkeypatch.setattr(envs.FailingWalk, "fail_at", fail_at)
    training = start(tmp_path / "run", FAILING, "steps=80", "eval.interval=0")
    with pytest.raises(RunError, match=r"non-finite observation.*resume=") as error:
        training.run()
    assert f"at step {fail_at - 1}:" in str(error.value)
    (file,) = (tmp_path / "run/failures").iterdir()
    episode = np.load(file)
    in_buffer = len(training.learner.batches.replay_buffer)
    # Every good transition is either in the buffer (of 70) or in that file.
    assert in_buffer + len(episode["actions"]) == fail_at - 1
    assert len(episode["observations"]) == len(episode["actions"]) + 1
    again = resume(tmp_path / "run")
    assert again.collector.steps == fail_at - 1
    assert len(again.learner.batches.replay_buffer) == in_buffer
    again.run()
    assert rows(tmp_path / "run/metrics.csv")[-1]["step"] == "80"


def test_failure_in_evaluation_saves_the_run(tmp_path):
    training = start(tmp_path / "run", "steps=80", "eval.interval=35")

    def fail():
        raise FloatingPointError("a simulator has become unstable.")

    training.evaluation = fail
    with pytest.raises(RunError, match="evaluation at step 35 failed: a simulator"):
        training.run()
    assert resume(tmp_path / "run").collector.steps == 35
