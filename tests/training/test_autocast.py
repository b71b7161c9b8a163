"""`train.autocast`: products in bfloat16, everything that adds up in float32."""

import pytest
import torch

from recipes.benchmark.synthetic import synthetic_learner
from resel_torchrl.config import compose
from resel_torchrl.modules import (
    CORES,
    CategoricalActor,
    DiscreteEnsembleCritic,
    EnsembleCritic,
    TanhNormalActor,
)
from tests.training.runs import leaves, resume, start
from tests.training.test_update import DISCRETE

SMALL = ["task=pendulum_p", "agent.hidden_size=16", "replay.batch_size=400"]


def terms_and_gradients(*options):
    """Of one batch, by a learner's own functions."""
    learner = synthetic_learner(compose([*SMALL, *options]))[0]
    batch = learner.batches.draw()
    torch.manual_seed(0)
    critic = learner.critic_loss(batch)
    critic["loss_qvalue"].backward()
    policy = learner.policy_loss(batch)
    policy["loss_actor"].backward()
    gradients = {
        name: parameter.grad
        for name, parameter in learner.loss.named_parameters()
        if parameter.grad is not None
    }
    return {**critic.detach(), **policy.detach()}, gradients


@pytest.mark.parametrize("core", CORES)
@pytest.mark.parametrize("algorithm", ["resel", "td3_resel"])
def test_losses_are_those_of_float32_to_some_digits(core, algorithm):
    options = f"core={core}", f"algorithm={algorithm}"
    exact, gradients = terms_and_gradients(*options)
    terms, rounded = terms_and_gradients(*options, "train.autocast=true")
    assert exact.keys() == terms.keys()
    for name, value in terms.items():
        assert value.dtype == torch.float32, name
        torch.testing.assert_close(value, exact[name], rtol=0.03, atol=0.03)
    assert not torch.equal(terms["loss_qvalue"], exact["loss_qvalue"])
    assert gradients.keys() == rounded.keys()
    for name, gradient in gradients.items():
        assert rounded[name].dtype == torch.float32
        if gradient.norm() > 1e-6:
            cosine = torch.cosine_similarity(
                gradient.flatten(), rounded[name].flatten(), 0
            )
            assert cosine > 0.99, name


@pytest.mark.parametrize("actions", [None, 3])
def test_outputs_of_the_heads_have_all_of_their_digits(actions):
    """Rounded to bfloat16, values near 200 would be whole numbers."""
    sizes = {"context_size": 4, "embedding_size": 4, "hidden_sizes": (8,)}
    observation, context = torch.randn(50, 3), torch.randn(50, 4)
    if actions is None:
        critic, actor = EnsembleCritic(3, 2, **sizes), TanhNormalActor(3, 2, **sizes)
        inputs = observation, torch.randn(50, 2), context
    else:
        critic = DiscreteEnsembleCritic(3, actions, **sizes)
        actor = CategoricalActor(3, actions, **sizes)
        inputs = observation, context
    with torch.autocast("cpu", torch.bfloat16):
        outputs = critic.values(*inputs), actor.network.outputs(observation, context)
    for output in outputs:
        assert output.dtype == torch.float32
        rounded = output == output.bfloat16()
        assert rounded.float().mean() < 0.5


@pytest.mark.parametrize(
    "options",
    [["core=mamba", "agent.core_kwargs.d_state=4"], [DISCRETE]],
    ids=["mamba", "discrete"],
)
def test_a_run_goes_on_to_the_bit(tmp_path, options):
    options = [*options, "train.autocast=true"]
    whole = start(tmp_path / "whole", *options)
    whole.run()
    start(tmp_path / "parts", *options, "steps=60").run()
    parts = resume(tmp_path / "parts", "steps=130")
    parts.run()
    expected, got = (dict(leaves(x.learner.state_dict())) for x in (whole, parts))
    for name, value in expected.items():
        if torch.is_tensor(value):
            assert torch.equal(value, got[name]), name
    assert all(p.dtype == torch.float32 for p in parts.learner.loss.parameters())
