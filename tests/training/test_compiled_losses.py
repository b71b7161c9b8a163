"""Losses under torch.compile: the updates are those made without."""

import pytest
import torch

from resel_torchrl.analysis.synthetic import synthetic_learner
from resel_torchrl.config import compose

SMALL = [
    "task=pendulum_v",
    "agent.embedding_size=4",
    "agent.hidden_size=8",
    "agent.context_size=4",
    "agent.head_sizes=[8]",
    "replay.batch_size=400",
]
TERMS = "critic_loss", "policy_loss"


def learner_after_one_update(*overrides):
    learner, _ = synthetic_learner(compose([*SMALL, *overrides]))
    torch.manual_seed(0)
    learner.update()
    return learner


@pytest.fixture(autouse=True)
def fresh_compiler():
    torch._dynamo.reset()
    yield
    torch._dynamo.reset()


def test_compiled_updates_are_those_made_without():
    """The backend cuts forward from backward pass as the default one does."""
    plain, compiled = (learner_after_one_update("core=mamba") for _ in range(2))
    before = plain.loss.log_alpha.clone()
    for name in TERMS:
        term = torch.compile(
            getattr(compiled.loss, name), backend="aot_eager_decomp_partition"
        )
        setattr(compiled.loss, name, term)
    for learner in (plain, compiled):
        torch.manual_seed(1)
        for _ in range(3):
            learner.update()
    found, wanted = compiled.loss.state_dict(), plain.loss.state_dict()
    assert found.keys() == wanted.keys() and plain.loss.log_alpha != before
    for key, value in wanted.items():
        torch.testing.assert_close(found[key], value, rtol=1e-4, atol=1e-5)
