"""Environments in processes: the same steps, and an end whatever happens."""

import functools
import os
import signal
import subprocess
import sys
import time

import numpy as np
import pytest

from resel_torchrl.envs import make_gym, vectorize
from tests.envs.test_vector import of_other_bounds
from tests.training.runs import assert_same_run, resume, start

WALK = functools.partial(make_gym, "tests.training.envs:Walk-v0")
ACTIONS = np.zeros((2, 1), np.float32)


@pytest.fixture
def together():
    made = vectorize([WALK] * 2, "async")
    made.reset(seed=[1, 2])
    yield made
    made.close()


def test_run_equals_the_one_in_one_process_bit_for_bit_resumed_or_not(tmp_path):
    options = "env.copies=2", "eval.interval=50"
    start(tmp_path / "sync", *options, "steps=100").run()
    folder = tmp_path / "async"
    start(folder, *options, "steps=74", "env.vectorization=async").run()
    training = resume(folder, "steps=100")
    processes = training.collector.env.processes
    training.run()
    assert not any(process.is_alive() for process in processes)
    # One setting apart, of which the checkpoint's content knows nothing.
    assert_same_run(folder, tmp_path / "sync")


def test_ctrl_c_and_sigterm_are_left_to_the_learner(together):
    for process in together.processes:
        os.kill(process.pid, signal.SIGINT)
        os.kill(process.pid, signal.SIGTERM)
    time.sleep(0.2)
    for _ in range(3):
        together.step(ACTIONS)


def test_death_of_a_process_is_told(together):
    together.processes[1].kill()
    with pytest.raises(RuntimeError, match=r"ended without a message.*-1 with statu"):
        for _ in range(2):
            together.step(ACTIONS)
    together.close()
    assert not any(process.is_alive() for process in together.processes)


def test_closing_does_not_wait_for_a_step(together):
    together.step_async(ACTIONS)
    together.close()
    assert not any(process.is_alive() for process in together.processes)


@pytest.mark.filterwarnings("ignore::UserWarning")  # Gymnasium shows the traceback
def test_error_of_an_environment_comes_with_its_message(together):
    with pytest.raises(FloatingPointError, match=r"non-finite action at step 1 \(see"):
        together.step(np.float32([[0.0], [np.nan]]))


def test_unequal_spaces_are_named():
    pendulum = functools.partial(make_gym, "Pendulum-V-v0")
    with pytest.raises(ValueError, match="equal observation and action spaces"):
        vectorize([pendulum, of_other_bounds], "async")


def test_program_ends_that_does_not_close_them(tmp_path):
    script = tmp_path / "script.py"
    script.write_text(
        "import functools\n"
        "from resel_torchrl.envs import make_gym, vectorize\n"
        "if __name__ == '__main__':\n"
        "    make = functools.partial(make_gym, 'Pendulum-V-v0')\n"
        "    kept = vectorize([make] * 2, 'async')\n"
        "    kept.reset(seed=[1, 2])\n"
        "    print(*[process.pid for process in kept.processes])\n"
    )
    done = subprocess.run(
        [sys.executable, script], capture_output=True, text=True, timeout=600
    )
    assert done.returncode == 0, done.stderr
    for pid in map(int, done.stdout.split()):
        with pytest.raises(ProcessLookupError):
            os.kill(pid, 0)
