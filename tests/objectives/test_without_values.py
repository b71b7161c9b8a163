"""Losses on PyTorch's meta device, whose tensors have no values.

A look at a value, for which the host would wait for a GPU, fails there, and a tensor on
the CPU is noticed, which would be copied, or stay as it was in a CUDA graph. Triton's
operations take part with the shapes they declare.
"""

import dataclasses
import importlib

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from resel_torchrl.modules import CORES
from resel_torchrl.objectives import functional
from resel_torchrl.ops import _backends
from tests.objectives.episodes import (
    ALGORITHMS,
    LENGTHS,
    LOSSES,
    ROW_LENGTH,
    is_discrete,
    make_episodes,
    make_modules,
    pack,
    total,
)

pytestmark = pytest.mark.filterwarnings("ignore:No target network updater")
TRITON = ("selective_scan", "causal_conv", "gru")


@pytest.fixture(autouse=True)
def float32(float64_on_one_thread):
    torch.set_default_dtype(torch.float32)


def on_meta(algorithm, core):
    """A loss, and a batch for it."""
    modules = make_modules(core, algorithm=algorithm)
    for module in modules.values():
        module.to("meta")
    loss = LOSSES[algorithm](**modules).to("meta")  # as in training: made, then moved
    episodes = make_episodes(LENGTHS, discrete=is_discrete(algorithm))
    return loss, pack(episodes, ROW_LENGTH).to("meta")


class NothingOnTheCPU(TorchDispatchMode):
    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        out = function(*args, **(kwargs or {}))
        for leaf in tree_leaves((args, kwargs, out)):
            if isinstance(leaf, torch.Tensor) and leaf.device.type == "cpu":
                raise RuntimeError(f"a tensor on the CPU in {function}")
        return out


def make_all_terms(loss, batch):
    """As in an update with both terms, and in one with the critic's alone."""
    with NothingOnTheCPU():
        context = ()
        if hasattr(loss, "policy_context"):
            context = (loss.policy_context(batch),)
        terms = loss.critic_loss(batch, *(c.detach() for c in context))
        terms["loss_qvalue"].backward()
        total(loss.policy_loss(batch, *context)).backward()
        loss.critic_loss(batch)["loss_qvalue"].backward()


@pytest.mark.parametrize("algorithm", ALGORITHMS)
@pytest.mark.parametrize("core", CORES)
def test_nothing_looks_at_a_value_or_is_left_on_the_cpu(core, algorithm):
    loss, batch = on_meta(algorithm, core)
    make_all_terms(loss, batch)
    grads = [parameter.grad for parameter in loss.parameters()]
    assert {grad.device.type for grad in grads if grad is not None} == {"meta"}


@pytest.mark.parametrize("algorithm", ALGORITHMS)
@pytest.mark.parametrize("core", ["mamba", "gru"])
def test_nor_does_what_goes_through_triton(core, algorithm, monkeypatch):
    pytest.importorskip("triton")
    chosen = []
    for name in TRITON:
        module = importlib.import_module(f"resel_torchrl.ops.{name}")
        stand_in = dataclasses.replace(module.BACKENDS["triton"], device="meta")
        monkeypatch.setitem(module.BACKENDS, "triton", stand_in)
    monkeypatch.setattr(
        "resel_torchrl.ops._triton._interpreted", lambda: True
    )  # lets tensors pass that are on no CUDA device
    load = _backends.load
    monkeypatch.setattr(
        _backends, "load", lambda backend: chosen.append(backend) or load(backend)
    )
    make_all_terms(*on_meta(algorithm, core))
    assert {backend.device for backend in chosen} == {"meta"}


def test_the_control_a_look_or_a_tensor_elsewhere_is_noticed(monkeypatch):
    loss, batch = on_meta("resel", "gru")
    target = functional.td_target

    def with_a_look(reward, *others):
        return target(reward, *others) if reward.any() else reward

    with monkeypatch.context() as patch, pytest.raises(RuntimeError) as error:
        patch.setattr(functional, "td_target", with_a_look)
        make_all_terms(loss, batch)
    assert "meta tensors" in str(error.value)
    monkeypatch.setattr(functional, "draw_subset", lambda *_: torch.arange(2))
    with pytest.raises(RuntimeError, match="on the CPU in aten"):
        make_all_terms(loss, batch)
