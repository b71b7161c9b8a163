"""The scan on state-spaces' kernel, which forgets in blank rows only.

A stand-in without resets takes the kernel's place: the package needs a GPU.
"""

import sys
from dataclasses import replace
from functools import partial
from types import ModuleType

import pytest
import torch

from resel_torchrl.collect import flat_episode
from resel_torchrl.config import compose
from resel_torchrl.config.build import (
    agent_options,
    make_buffer,
    make_learner,
    memory_problems,
    resolve_algorithm,
)
from resel_torchrl.modules import make_agent
from resel_torchrl.modules.cores import MambaCore
from resel_torchrl.ops import selective_scan
from resel_torchrl.ops.selective_scan import BACKENDS, mamba_ssm
from tests.ops.triton_cases import naive_scan, scan_inputs, with_gradients

LENGTHS = (2, 4, 3, 9, 5)


def kernel_without_resets(
    u, delta, A, B, C, D, z=None, delta_softplus=False, return_last_state=False
):
    """``selective_scan_fn`` as mamba_ssm documents it: ``[batch, channels, time]``."""
    assert return_last_state
    is_init = torch.zeros(u.shape[0], u.shape[-1], dtype=torch.bool)
    state = u.new_zeros(u.shape[0], *A.shape)
    gate = None if z is None else z.mT
    y, last = naive_scan(
        *(u.mT, delta.mT, A, B.mT, C.mT, D, is_init, state, gate, delta_softplus)
    )
    return y.mT, last


@pytest.fixture(autouse=True)
def stand_in(monkeypatch):
    """The kernel's module, and a backend that takes it on a CPU."""
    module = ModuleType("mamba_ssm.ops.selective_scan_interface")
    module.selective_scan_fn = kernel_without_resets
    for name in ("mamba_ssm", "mamba_ssm.ops"):
        monkeypatch.setitem(sys.modules, name, ModuleType(name))
    monkeypatch.setitem(sys.modules, module.__name__, module)
    on_cpu = replace(BACKENDS["mamba_ssm"], device=None, package=None)
    monkeypatch.setitem(BACKENDS, "mamba_ssm", on_cpu)


def packed_flags(lengths, gap):
    """Start flags ``[1, L]`` of episodes with blank rows between them and behind."""
    flags = []
    for length in lengths:
        flags += [True, *[False] * (length - 1), *[True] * gap]
    return torch.tensor([flags])


def compare(lengths, gap, dtype=torch.float64, tolerance=1e-10, **options):
    """Both scans, where a step or a gradient of one is seen."""
    is_init = packed_flags(lengths, gap)
    blank = is_init & is_init.roll(-1, 1)  # the first column has a flag
    inputs = scan_inputs(1, is_init.shape[1], 3, 5, dtype, **options)
    softplus = options.get("softplus", True)
    state = inputs.pop("state").detach()
    results = []
    for function in (mamba_ssm.selective_scan_mamba_ssm, naive_scan):

        def run(function=function, **arguments):
            y, last = function(**arguments, state=state)
            return y, last.detach()

        seen = (~blank).unsqueeze(-1)
        got = with_gradients(run, inputs, is_init, seen, dt_softplus=softplus)
        got["y"] = got["y"] * seen
        del got["last"]
        results.append(got)
    torch.testing.assert_close(*results, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("lengths", [LENGTHS, (2, 2, 2), (7,), (30, 2)])
@pytest.mark.parametrize("gap", [1, 3])
@pytest.mark.parametrize("gated", [False, True])
@pytest.mark.parametrize("softplus", [False, True])
def test_equals_the_specification_on_packed_episodes(lengths, gap, gated, softplus):
    compare(lengths, gap, gated=gated, softplus=softplus)


def test_equals_the_specification_in_float32():
    compare(LENGTHS, 1, torch.float32, 1e-5)


def test_without_forgetting_one_episode_leaks_into_the_next(monkeypatch):
    monkeypatch.setattr(mamba_ssm, "_FORGETTING", 1.0)
    with pytest.raises(AssertionError, match="not close"):
        compare(LENGTHS, 1)


def test_slow_decay_is_forgotten_too():
    inputs = scan_inputs(1, 7, 3, 5)
    with torch.no_grad():
        inputs["A"].mul_(1e-9)
    is_init = packed_flags((3, 3), 1)[:, :7]
    run = mamba_ssm.selective_scan_mamba_ssm
    y = run(**inputs, is_init=is_init, dt_softplus=True)[0]
    alone = {
        k: v[:, 4:] if k in ("x", "dt", "B", "C", "z") else v for k, v in inputs.items()
    }
    first = naive_scan(**alone, is_init=is_init[:, 4:], dt_softplus=True)[0]
    torch.testing.assert_close(y[:, 4:], first, rtol=1e-10, atol=1e-10)


def test_nan_in_a_blank_row_stays_there():
    inputs = scan_inputs(1, 7, 3, 5)
    with torch.no_grad():
        inputs["x"][:, 3] = inputs["dt"][:, 3] = torch.nan
    is_init = packed_flags((3, 3), 1)[:, :7]
    run = partial(
        mamba_ssm.selective_scan_mamba_ssm, state=inputs.pop("state").detach()
    )
    results = with_gradients(run, inputs, is_init, dt_softplus=True)
    for tensor in results.values():
        assert tensor.isfinite().all()


@pytest.mark.parametrize(
    ("is_init", "start", "message"),
    [
        ([True, False, True, False], 0.0, "gap=1"),
        ([False, False, True, True], 1.0, "state of zeros"),
    ],
)
def test_what_the_kernel_cannot_do_is_refused(is_init, start, message):
    inputs = scan_inputs(1, 4, 3, 5)
    inputs["state"] = torch.full_like(inputs["state"], start)
    with pytest.raises(RuntimeError, match=message):
        selective_scan(**inputs, is_init=torch.tensor([is_init]), backend="mamba_ssm")


def test_auto_does_not_take_it():
    on_cpu = replace(BACKENDS["mamba_ssm"], device="cpu")
    assert not on_cpu.suits(torch.zeros(1))
    assert replace(on_cpu, blank_rows=0).suits(torch.zeros(1))


def learn(backend):
    """Parameters after three updates on short episodes, several to a row."""
    config = compose(
        [
            "task=pendulum_v",
            "core=mamba",
            f"agent.core_kwargs.backend={backend}",
            "agent.hidden_size=16",
            "agent.core_kwargs.d_state=4",
            "replay.batch_size=64",
        ]
    )
    config = resolve_algorithm(config, discrete=False)
    torch.manual_seed(0)
    agent, buffer = make_agent(1, 1, **agent_options(config)), make_buffer(config)
    draw = torch.Generator().manual_seed(1)
    for length in (3, 9, 20, 6, 12, 18):
        numbers = torch.rand(length + 1, 3, generator=draw).numpy()
        buffer.extend(
            flat_episode(
                *(numbers[:, :1], numbers[1:, 1:2], numbers[1:, 2]),
                terminated=True,
                truncated=False,
            )
        )
    learner = make_learner(config, agent, buffer, horizon=20)
    assert learner.batches.pack.keywords["gap"] == agent.actor_encoder.core.blank_rows
    for _ in range(3):
        learner.update()
    return dict(learner.loss.state_dict())


def test_training_packs_with_the_gap_and_learns_the_same(monkeypatch):
    assert MambaCore(16, backend="mamba_ssm").blank_rows == 1
    assert MambaCore(16, backend="naive").blank_rows == 0
    # The same layout for both: the losses draw an action for each place in it.
    monkeypatch.setitem(BACKENDS, "naive", replace(BACKENDS["naive"], blank_rows=1))
    wanted = learn("naive")
    torch.testing.assert_close(learn("mamba_ssm"), wanted, rtol=1e-4, atol=1e-5)
    monkeypatch.setattr(mamba_ssm, "_FORGETTING", 1e-3)
    with pytest.raises(AssertionError, match="not close"):
        torch.testing.assert_close(learn("mamba_ssm"), wanted, rtol=1e-4, atol=1e-5)


def test_stored_memories_are_refused():
    stored = ["replay.segment_length=64", "replay.start_state=stored"]
    core = ["core=mamba", "agent.core_kwargs.backend=mamba_ssm", "agent.hidden_size=16"]
    config = compose(["task=pendulum_v", *core, *stored])
    assert "expected zero with agent.core_kwargs.backend=mamba_ssm" in str(
        memory_problems(config)
    )
    config.agent.core_kwargs["backend"] = "naive"
    assert memory_problems(config) == []


def test_the_missing_package_is_named_with_the_command_that_builds_it(monkeypatch):
    absent = replace(BACKENDS["mamba_ssm"], package="mamba_ssm_absent")
    monkeypatch.setitem(BACKENDS, "mamba_ssm", absent)
    command = r"pip install 'resel_torchrl\[mamba-ssm\]' --no-build-isolation, or"
    with pytest.raises(ModuleNotFoundError, match=command):
        MambaCore(8, backend="mamba_ssm")
