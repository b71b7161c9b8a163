"""The fused step against the encoder's and the head's own."""

import numpy as np
import pytest
import torch

from resel_torchrl.modules import (
    CategoricalActor,
    ContextEncoder,
    DeterministicActor,
    FusedStep,
    TanhNormalActor,
    context_inputs,
)

pytest.importorskip("numba")

CORES = ["gru", "lstm", "mamba", "memoryless", "one_step"]
ACTORS = [TanhNormalActor, CategoricalActor, DeterministicActor]


def _networks(core, actor=TanhNormalActor, size=33, **core_kwargs):
    """Odd sizes, and parameters away from the zeros and ones that they start at."""
    torch.manual_seed(0)
    encoder = ContextEncoder(
        context_inputs(5, 3, reward=True),
        core,
        embedding_size=7,
        hidden_size=size,
        context_size=9,
        core_kwargs=core_kwargs,
    )
    head = actor(5, 3, 9, embedding_size=6, hidden_sizes=(11, 13)).network
    with torch.no_grad():
        for parameter in (*encoder.parameters(), *head.parameters()):
            parameter.add_(0.1 * torch.randn_like(parameter))
    return encoder, head


def _episode(encoder, length, seed=1):
    generator = torch.Generator().manual_seed(seed)
    return [
        [torch.randn(1, *shape, generator=generator) for shape in encoder.input_shapes]
        for _ in range(length)
    ]


@torch.no_grad()
def _eager(encoder, head, episode, state):
    outputs, no_start = [], torch.tensor([False])
    for inputs in episode:
        context, state = encoder.encode_step(inputs, no_start, state)
        outputs.append(head.outputs(inputs[0], context))
    return torch.cat(outputs), state


def _fused(step, episode, state):
    state = state[0].numpy().copy()
    outputs = [
        step([x[0].numpy() for x in inputs], inputs[0][0].numpy(), state).copy()
        for inputs in episode
    ]
    return torch.from_numpy(np.stack(outputs)), torch.from_numpy(state).unsqueeze(0)


@pytest.mark.parametrize("core", CORES)
@pytest.mark.parametrize("actor", ACTORS)
def test_equals_the_modules(core, actor):
    encoder, head = _networks(core, actor)
    episode = _episode(encoder, 50)
    state = torch.randn(1, encoder.state_size)
    got = _fused(FusedStep(encoder, head), episode, state)
    wanted = _eager(encoder, head, episode, state)
    torch.testing.assert_close(got, wanted, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    "options",
    [{"d_conv": 1, "d_state": 3}, {"feedforward_size": 90}, {"dt_rank": 20}],
    ids=str,
)
def test_equals_the_mamba_core_of_other_sizes(options):
    encoder, head = _networks("mamba", **options)
    episode, state = _episode(encoder, 10), torch.randn(1, encoder.state_size)
    got = _fused(FusedStep(encoder, head), episode, state)
    torch.testing.assert_close(
        got, _eager(encoder, head, episode, state), rtol=1e-5, atol=1e-5
    )


@pytest.mark.parametrize("core", CORES)
def test_sees_parameters_that_an_optimizer_changes(core):
    encoder, head = _networks(core)
    episode, state = _episode(encoder, 3), torch.zeros(1, encoder.state_size)
    step = FusedStep(encoder, head)
    before, _ = _fused(step, episode, state)
    with torch.no_grad():
        for parameter in (*encoder.parameters(), *head.parameters()):
            parameter.mul_(1.1)
    after, _ = _fused(step, episode, state)
    assert not torch.allclose(before, after, atol=1e-3)
    wanted, _ = _eager(encoder, head, episode, state)
    torch.testing.assert_close(after, wanted, rtol=1e-5, atol=1e-5)


def test_needs_a_new_look_at_parameters_that_are_replaced():
    encoder, head = _networks("gru")
    episode, state = _episode(encoder, 3), torch.zeros(1, encoder.state_size)
    step = FusedStep(encoder, head)
    encoder.trunk.in_projection.weight = torch.nn.Parameter(
        2 * encoder.trunk.in_projection.weight.detach()
    )
    wanted, _ = _eager(encoder, head, episode, state)
    assert not torch.allclose(_fused(step, episode, state)[0], wanted, atol=1e-3)
    step.bind()
    torch.testing.assert_close(_fused(step, episode, state)[0], wanted)


def test_what_cannot_be_fused_says_why(monkeypatch):
    encoder, head = _networks("gru")
    assert FusedStep.obstacle(encoder, head) == ""
    with pytest.raises(ValueError, match=r"float32 .* got torch.float64 on cpu"):
        FusedStep(encoder.double(), head)
    own = ContextEncoder(
        {"observation": (2, 2)},
        "gru",
        embedding_size=4,
        pre_encoders={"observation": torch.nn.Flatten()},
    )
    with pytest.raises(ValueError, match="Linear pre-encoders with a bias"):
        FusedStep(own, head)
    layer = torch.nn.Linear(5, 8, bias=False)
    options = {"embedding_size": 8, "hidden_size": 8}
    own = ContextEncoder(
        {"observation": 5}, "gru", pre_encoders={"observation": layer}, **options
    )
    with pytest.raises(ValueError, match="Linear pre-encoders with a bias"):
        FusedStep(own, head)

    class Other(type(encoder.core)):
        pass

    other = ContextEncoder({"observation": 5}, Other(8), hidden_size=8)
    with pytest.raises(ValueError, match=r"core out of GRUCore.*got Other"):
        FusedStep(other, head)
    monkeypatch.setattr(
        "resel_torchrl.modules.fused_step.is_usable", lambda name: False
    )
    with pytest.raises(ValueError, match=r"package numba.*pip install.*\[cpu\]"):
        FusedStep(encoder, head)
