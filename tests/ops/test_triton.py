"""Runs the tests of the Triton kernels under Triton's interpreter, without a GPU."""

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from resel_torchrl.ops import _triton
from tests.ops.triton_cases import CONV, GRU, SCAN, conv_inputs, gru_inputs, scan_inputs

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


def test_a_wrong_shape_of_the_gru_is_an_error_too():
    inputs, is_init = gru_inputs(2, 3, 4), torch.zeros(2, 3, dtype=torch.bool)
    wrong = torch.zeros(4, 12, dtype=torch.float64)
    with pytest.raises(ValueError, match=r"expected weight_hh of shape \(12, 4\), got"):
        GRU.gru_scan_triton(**inputs | {"weight_hh": wrong}, is_init=is_init)


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
    inputs = gru_inputs(1, 3, 2, torch.float32)
    with pytest.raises(ValueError, match="gru_scan_triton: expected all tensors"):
        GRU.gru_scan_triton(**inputs, is_init=torch.zeros(1, 3, dtype=torch.bool))


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


@pytest.mark.parametrize("processors", [1, 14, 108, 132])
@pytest.mark.parametrize("words", [1, 2])
@pytest.mark.parametrize("units", [1, 37, 64, 128, 256, 499, 512, 1024, 2048])
def test_gru_plans_fit_the_gpu(units, words, processors):
    """All programs at once, their weights in registers, every row and unit in one."""
    for rows in (1, 2, 3, 16, 64, 1000):
        plan = GRU.launch_plan(rows, units, processors, words)
        if plan is None:
            continue
        threads, width = 32 * plan.warps, GRU._width(units)
        assert plan.programs * plan.groups <= processors
        assert (plan.programs - 1) * plan.units < units <= plan.programs * plan.units
        assert plan.groups <= rows
        assert 3 * plan.units * width * words <= 96 * threads
        assert width >= threads  # no two threads wait for the same number


@pytest.mark.parametrize(("processors", "widest"), [(132, 1024), (108, 864), (14, 256)])
def test_the_widest_gru_that_fits(processors, widest):
    assert GRU.launch_plan(16, widest, processors)
    assert GRU.launch_plan(1, widest + 1, processors) is None


def test_the_paper_s_gru_spreads_over_the_gpu():
    """A row has programs of its own while there are multiprocessors; then they turn."""
    plans = {rows: GRU.launch_plan(rows, 256) for rows in (1, 2, 8, 16, 17)}
    assert [plan.units for plan in plans.values()] == [8, 8, 16, 32, 32]
    assert [plan.groups for plan in plans.values()] == [1, 2, 8, 16, 9]
