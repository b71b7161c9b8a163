"""Learning rates that fall between two environment steps."""

import pytest
import torch

from resel_torchrl.config import compose
from resel_torchrl.errors import ConfigError
from resel_torchrl.training import LearningRateDecay
from tests.training.runs import assert_same_run, leaves, resume, start
from tests.training.tape import record

DECAY = "optim.decay_steps=[40,80]"


def networks(training):
    """A copy of all parameters that the optimizer steps."""
    groups = training.learner.optimizer.param_groups
    return [p.detach().clone() for group in groups for p in group["params"]]


def change(before, after):
    pairs = zip(before, after, strict=True)
    return max((b - a).abs().max().item() for b, a in pairs)


@pytest.mark.parametrize(
    ("options", "moves"),
    [
        ([DECAY], False),
        ([DECAY, "optim.decay_to=0.1"], True),
        ([], True),
        (["optim.decay_steps=[40,89]"], True),
    ],
)
def test_networks_stand_still_after_a_decay_to_nothing(tmp_path, options, moves):
    first = start(tmp_path / "run", *options, "steps=80")
    first.run()
    before = networks(first)
    rest = resume(tmp_path / "run", "steps=90")
    assert change(before, networks(rest)) == 0
    rest.run()
    assert rest.learner.updates > first.learner.updates
    assert (change(before, networks(rest)) > 0) == moves


def test_each_rate_falls_by_the_same_share(tmp_path):
    training = start(tmp_path / "run", DECAY, "optim.decay_to=0.2", "steps=60")
    given = [group["lr"] for group in training.learner.optimizer.param_groups]
    assert len(set(given)) > 1
    training.run()
    rates = [group["lr"] for group in training.learner.optimizer.param_groups]
    # Half of the way from 40 to 80, half of the way from 1 to 0.2.
    assert rates == pytest.approx([0.6 * rate for rate in given])


def test_rates_are_those_given_before_the_decay(tmp_path):
    start(tmp_path / "without", "steps=40").run()
    start(tmp_path / "with", DECAY, "steps=40").run()
    assert_same_run(tmp_path / "with", tmp_path / "without")


def test_resumed_run_decays_as_one_that_never_stopped(tmp_path):
    start(tmp_path / "whole", DECAY, "steps=90").run()
    start(tmp_path / "parts", DECAY, "steps=61").run()
    resume(tmp_path / "parts", "steps=90").run()
    assert_same_run(tmp_path / "parts", tmp_path / "whole")


@pytest.mark.parametrize("steps", ["[100]", "[-1,5]", "[5,5]", "[9,5]", "[1,2,3]"])
def test_wrong_steps_are_refused(steps):
    with pytest.raises(ConfigError, match=r"optim\.decay_steps: expected a first step"):
        compose(["task=pendulum_v", f"optim.decay_steps={steps}"])


def test_share_outside_its_range_is_refused():
    with pytest.raises(ConfigError, match=r"optim\.decay_to: expected a number from 0"):
        compose(["task=pendulum_v", "optim.decay_to=1.5"])
    with pytest.raises(ValueError, match=r"share from 0 to 1, got 1\.5"):
        LearningRateDecay(0, 1, to=1.5)
    with pytest.raises(ValueError, match=r"later last one, got \[3, 3\]"):
        LearningRateDecay(3, 3)


def test_rates_fall_in_replayed_updates_too(tmp_path):
    """The control: a rate that is replaced, where its value should be, is not read."""
    options = ["optim.decay_steps=[40,120]", "steps=120", "eval.interval=0"]
    eager = start(tmp_path / "eager", *options)
    eager.run()
    states = []
    for name in ("replayed", "control"):
        training = start(tmp_path / name, *options)
        (recorder,) = record(training.learner)
        if name == "control":
            for group in training.learner.optimizer.param_groups:
                group["lr"] = float(group["lr"])
        training.run()
        assert recorder.replayed > 20
        states.append(dict(leaves(training.learner.loss.state_dict())))
    expected = dict(leaves(eager.learner.loss.state_dict()))
    replayed, control = (
        all(torch.equal(value, state[name]) for name, value in expected.items())
        for state in states
    )
    assert replayed and not control
