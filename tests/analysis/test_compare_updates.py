"""Two configurations whose updates take turns."""

import itertools
import sys

import pytest

from recipes.benchmark.suites import compare_updates
from resel_torchrl.config import compose
from tests.analysis.test_benchmark import SMALL
from tests.recipes.test_commands import recipe
from tests.training.threads import as_thread  # noqa: F401

module = sys.modules["recipes.benchmark.suites"]


def small(*overrides):
    return compose(["task=pendulum_v", "core=gru", *SMALL, *overrides])


def test_ratio_is_of_neighbours_in_time(monkeypatch):
    """The machine gets ten times as slow meanwhile; the second stays twice as fast."""
    updates, now = [], itertools.count()

    def seconds_of(call, repetitions, device, *, warm_up):
        assert (repetitions, device, warm_up) == (1, "cpu", 0)
        before = [learner.updates for learner in learners]
        call()
        [made] = [
            (who, learner.updates - old)
            for who, (learner, old) in enumerate(zip(learners, before, strict=True))
            if learner.updates > old
        ]
        updates.append(made)
        each = 0.05 * (1 + next(now)) / (1 + made[0])
        return [made[1] * each]

    learners = []
    make = module.synthetic_learner

    def synthetic_learner(config):
        learners.append(make(config)[0])
        return learners[-1], None

    monkeypatch.setattr(module, "seconds_of", seconds_of)
    monkeypatch.setattr(module, "synthetic_learner", synthetic_learner)
    config, other = small(), small("train.tau=0.1", "train.policy_delay=3")
    first, second, ratio = compare_updates(config, other, repetitions=4)
    assert [who for who, _ in updates[3:]] == [0, 1] * 4
    count = updates[3][1]
    assert count % 6 == 0  # of both delays
    assert all(made == count for _, made in updates[3:])
    assert 1.5 < ratio.median < 2 and ratio.p90 < 2
    assert ratio.unit == "×" and first.unit == second.unit == "updates/s"
    assert first.case == "pendulum_v, gru"
    assert ratio.case == second.case
    assert second.case == "pendulum_v, gru, train.policy_delay=3, train.tau=0.1"


def test_a_repetition_at_least():
    with pytest.raises(ValueError, match="repetitions: expected 1 or more, got 0"):
        compare_updates(small(), small(), repetitions=0)


@pytest.mark.usefixtures("as_thread")
def test_recipe_compares_what_is_named_after_with(capsys):
    own = ["task=pendulum_v", "core=gru", *SMALL, "repetitions=1"]
    changed = "train.reuse_policy_context=false agent.n_critics=3"
    assert recipe("benchmark", "compare", *own, f"with={changed}") == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split(" | ")[1] for line in lines if line.startswith("| compare")] == [
        "pendulum_v, gru",
        *["pendulum_v, gru, agent.n_critics=3, train.reuse_policy_context=false"] * 2,
    ]
