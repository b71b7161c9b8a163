"""Two configurations whose updates take turns."""

from types import SimpleNamespace

import pytest

from recipes.benchmark import measurement, update
from recipes.benchmark.update import compare_updates
from resel_torchrl.config import compose
from tests.benchmark.test_benchmark import SMALL
from tests.recipes.test_commands import recipe
from tests.training.threads import as_thread  # noqa: F401


def small(*overrides):
    return compose(["task=pendulum_v", "core=gru", *SMALL, *overrides])


def test_ratio_is_of_neighbours_in_time(monkeypatch):
    """The machine gets ten times as slow meanwhile; the second stays twice as fast."""
    learners, updates, before = [], [], []
    now = 0.0

    def clock():
        """Ten times as slow at the end; read before and after each timed call."""
        nonlocal now, before
        made = [learner.updates for learner in learners]
        if before:
            [turn] = [
                (who, n) for who, n in enumerate(map(int.__sub__, made, before)) if n
            ]
            updates.append(turn)
            now += 0.05 * len(updates) / (1 + turn[0]) * turn[1]
        before = [] if before else made
        return now

    make = update.synthetic_learner

    def synthetic_learner(config):
        learners.append(make(config)[0])
        return learners[-1], None

    monkeypatch.setattr(measurement, "time", SimpleNamespace(perf_counter=clock))
    monkeypatch.setattr(update, "synthetic_learner", synthetic_learner)
    config, other = small(), small("train.tau=0.1", "train.policy_delay=3")
    first, second, ratio = compare_updates(config, other, repetitions=4)
    assert [who for who, _ in updates[1:]] == [0, 1] * 4
    count = updates[1][1]
    assert count % 6 == 0  # of both delays
    assert all(made == count for _, made in updates[1:])
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
