"""Runs the tests of the Triton kernels under Triton's interpreter, without a GPU."""

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import pytest

INTERPRETED = Path(__file__).parent / "interpreted"

pytestmark = pytest.mark.skipif(
    importlib.util.find_spec("triton") is None, reason="needs triton"
)


@pytest.mark.parametrize("name", sorted(p.name for p in INTERPRETED.glob("test_*.py")))
def test_kernels_match_their_specification(name):
    """In a process of its own, since the interpreter is chosen at Triton's import."""
    command = [sys.executable, "-m", "pytest", INTERPRETED / name, "-p", "no:xdist"]
    result = subprocess.run(
        command,
        cwd=INTERPRETED.parents[2],
        env={**os.environ, "TRITON_INTERPRET": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 0, result.stdout + result.stderr


def test_the_interpreted_tests_are_not_collected_without_it():
    command = [sys.executable, "-m", "pytest", INTERPRETED, "--collect-only"]
    environment = {**os.environ, "TRITON_INTERPRET": "0"}
    result = subprocess.run(
        command,
        cwd=INTERPRETED.parents[2],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == pytest.ExitCode.NO_TESTS_COLLECTED, result.stdout
