"""Interquartile means and their bootstrap intervals, computed independently."""

import itertools
import math

import numpy as np
import pytest

from resel_torchrl.analysis import aggregate, interquartile_mean

pd = pytest.importorskip("pandas")


def table(scores):
    """Rows from `{(task, seed): [values at steps 10, 20, ...]}` of one agent."""
    return pd.DataFrame(
        [
            {
                "agent": "gru",
                "task": task,
                "seed": seed,
                "step": 10 * i,
                "return": value,
            }
            for (task, seed), values in scores.items()
            for i, value in enumerate(values, 1)
        ]
    )


@pytest.mark.parametrize("count", [1, 2, 3, 4, 5, 7, 8, 30])
def test_it_is_the_trimmed_mean_of_scipy(count):
    stats = pytest.importorskip("scipy.stats")
    scores = np.random.default_rng(count).normal(size=(6, count, 2))
    ours = interquartile_mean(scores, axis=1)
    np.testing.assert_allclose(ours, stats.trim_mean(scores, 0.25, axis=1), rtol=1e-13)


def test_by_hand():
    assert interquartile_mean([100.0, 1, 2, 3, -100, 4, 5, 6]) == 3.5  # of 2, 3, 4, 5
    assert interquartile_mean([0.0, 6, 3]) == 3
    scores = {("a", i): [value] for i, value in enumerate([1.0, 2, 4, 90])}
    scores |= {("b", i): [value] for i, value in enumerate([-70.0, 3, 5, 6])}
    (row,) = aggregate(table(scores)).to_dict("records")
    assert (row["step"], row["iqm"], row["runs"]) == (10, 3.5, 8)  # of 2, 3, 4, 5
    by_task = aggregate(table(scores), ["task", "agent"])
    assert list(by_task) == ["task", "agent", "step", "iqm", "low", "high", "runs"]
    assert list(zip(by_task.task, by_task.iqm, strict=True)) == [("a", 3), ("b", 4)]


def test_the_interval_is_that_of_all_resamples():
    """Three runs have 27 resamples, each as probable: their quantiles are exact."""
    values = [1.0, 3.0, 8.0]
    means = [np.mean(draw) for draw in itertools.product(values, repeat=3)]
    rows = table({("a", i): [value] for i, value in enumerate(values)})
    (row,) = aggregate(rows, confidence=0.9, resamples=20_000).to_dict("records")
    assert row["iqm"] == pytest.approx(4)
    low, high = np.quantile(means, (0.05, 0.95), method="inverted_cdf")
    assert (row["low"], row["high"]) == pytest.approx((low, high))


def test_runs_are_resampled_within_their_task():
    """Between the tasks lies a world; within each, nothing: so there is no interval."""
    rows = table(
        {(task, i): [at] for task, at in (("a", 0), ("b", 100)) for i in (0, 1)}
    )
    (row,) = aggregate(rows).to_dict("records")
    assert row["iqm"] == row["low"] == row["high"] == 50
    # Control: as runs of a single task they have one.
    mixed = rows.assign(task="a", seed=range(4))
    assert aggregate(mixed).low[0] < 50


def test_the_curve_ends_with_the_shortest_run_and_repeats_itself():
    rows = table({("a", 0): [1.0, 2], ("a", 1): [3.0], ("a", 2): [8.0, 0, 5]})
    (row,) = aggregate(rows).to_dict("records")
    assert (row["step"], row["iqm"], row["runs"]) == (10, 4, 3)
    assert 1 <= row["low"] < 4 < row["high"] <= 8
    assert aggregate(rows).equals(aggregate(rows.sample(frac=1, random_state=0)))
    alone = aggregate(rows[rows.seed == 0])
    assert list(alone.iqm) == [1, 2] and all(map(math.isnan, alone.low))


def test_two_values_at_a_step_are_refused():
    rows = table({("a", 0): [1.0]})
    with pytest.raises(ValueError, match="agent gru, task a, seed 0, step 10, got two"):
        aggregate(pd.concat([rows, rows]))
