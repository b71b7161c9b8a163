"""Runs the tests of the Triton kernels under Triton's interpreter, without a GPU."""

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from resel_torchrl.ops import _triton
from tests.ops.triton_cases import CONV, SCAN, conv_inputs, scan_inputs

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


def _scan(**changed):
    is_init = torch.zeros(1, 3, dtype=torch.bool)
    arguments = scan_inputs(1, 3, 2, 4, torch.float32) | {"is_init": is_init} | changed
    return SCAN.selective_scan_triton(**arguments)


def test_a_wrong_shape_is_an_error_and_not_a_read_past_the_end():
    with pytest.raises(ValueError, match=r"expected B of shape \(1, 3, 4\), got"):
        _scan(B=torch.zeros(1, 2, 4))


def test_types_are_not_mixed_silently():
    with pytest.raises(TypeError, match="expected float32 throughout"):
        _scan(B=torch.zeros(1, 3, 4, dtype=torch.bfloat16))
    with pytest.raises(TypeError, match="expected a boolean is_init"):
        _scan(is_init=torch.zeros(1, 3))


@pytest.mark.skipif(_triton._interpreted(), reason="the interpreter takes CPU tensors")
def test_tensors_on_a_cpu_are_told_where_to_go():
    with pytest.raises(ValueError, match=r"one CUDA device, got .*'x': 'cpu'"):
        _scan()
    inputs = conv_inputs(1, 3, 2, 4, torch.float32)
    with pytest.raises(ValueError, match="causal_conv_triton: expected all tensors"):
        CONV.causal_conv_triton(**inputs, is_init=torch.zeros(1, 3, dtype=torch.bool))


def test_missing_triton_is_named(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    _triton.import_kernels.cache_clear()
    with pytest.raises(ModuleNotFoundError, match=r"pip install .*\[cuda\]"):
        _triton.import_kernels("no_kernels")


@pytest.mark.parametrize("rows", [1, 2, 8, 64])
@pytest.mark.parametrize("channels", [1, 24, 512])
@pytest.mark.parametrize("states", [3, 16, 64, 1000])
def test_plans_fit_the_kernels(rows, channels, states):
    """Powers of two, whole blocks of steps, and no cut where the chip is full."""
    plan = SCAN.launch_plan(rows, 1000, channels, states)
    for way in plan:
        for power in (way.channels, way.warps, way.batch):
            assert power & (power - 1) == 0
        assert way.chunk % SCAN._STEPS == 0 and way.chunk >= 64
        assert SCAN._STEPS % way.batch == 0
    if rows * channels * states >= 64 * 512 * 64:
        assert plan.forward.chunk == plan.backward.chunk == 1000
