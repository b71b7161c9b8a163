"""row_layout gives shapes that hold every draw, and few of them."""

import itertools
import warnings

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from resel_torchrl.replay import first_fit_decreasing, pack_episodes, row_layout
from tests.replay.episodes import make_buffer, make_episode
from tests.replay.reference import places_first_fit


@settings(deadline=None, max_examples=100)
@given(
    sizes=st.lists(st.integers(1, 20), min_size=1, max_size=60),
    spare=st.integers(0, 30),
)
def test_first_fit_by_groups_is_first_fit_one_by_one(sizes, spare):
    capacity = max(sizes) + spare
    rows, offsets, count = first_fit_decreasing(np.array(sizes), capacity)
    expected, n_rows = places_first_fit([s - 1 for s in sizes], capacity, 0)
    assert list(zip(rows.tolist(), offsets.tolist(), strict=True)) == expected
    assert count == n_rows


@settings(deadline=None, max_examples=60)
@given(
    lengths=st.lists(st.integers(1, 40), min_size=1, max_size=60),
    spare=st.integers(0, 20),
    batch_size=st.integers(1, 300),
    gap=st.integers(0, 3),
    min_row_length=st.integers(1, 150),
    seed=st.integers(0, 1000),
)
def test_every_draw_fits(lengths, spare, batch_size, gap, min_row_length, seed):
    layout = row_layout(
        batch_size, max(lengths) + spare, gap=gap, min_row_length=min_row_length
    )
    buffer = make_buffer(4000, batch_size, seed=seed)
    buffer.extend(torch.cat([make_episode(i, n) for i, n in enumerate(lengths)]))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        batch = pack_episodes(buffer.sample(), *layout, gap=gap)
    assert batch.shape[0] in layout.row_counts
    assert batch.shape[1] == layout.row_length


@pytest.mark.parametrize("horizon", [1, 7, 30, 99, 200, 1000])
@pytest.mark.parametrize("gap", [0, 2])
def test_worst_draws_fit_and_take_the_last_row_count(horizon, gap):
    """B episodes is the most there can be: all short, or all as long as can be."""
    batch_size = 50
    layout = row_layout(batch_size, horizon, gap=gap)
    capacity = layout.row_length + gap
    for length in {1, horizon}:
        sizes = np.full(batch_size, length + 1 + gap)
        assert first_fit_decreasing(sizes, capacity)[2] <= layout.row_counts[-1]
    longest = np.full(batch_size, horizon + 1 + gap)
    assert first_fit_decreasing(longest, capacity)[2] == layout.row_counts[-1]


def test_draw_of_long_episodes_beyond_the_batch_size_plus_a_horizon():
    """All n episodes are kept, so B − 1 + horizon does not bound a draw."""
    horizon, batch_size = 100, 20
    layout = row_layout(batch_size, horizon)
    for seed in range(200):
        buffer = make_buffer(10_000, batch_size, seed=seed)
        for number in range(60):
            buffer.extend(make_episode(number, horizon if number % 12 == 0 else 1))
        batch = pack_episodes(buffer.sample(), *layout)
        if batch["valid"].sum() > batch_size - 1 + horizon:
            return
    pytest.fail("no draw was larger: choose lengths that vary more")


def test_full_length_episodes_waste_little():
    for batch_size, horizon, rows in [(1999, 1000, 2), (999, 1000, 1), (800, 200, 4)]:
        layout = row_layout(batch_size, horizon)
        assert layout.row_counts[0] == rows
        assert horizon + 1 <= layout.row_length <= 1.01 * (horizon + 1)


def test_short_horizons_share_a_row():
    layout = row_layout(640, 20, gap=1)
    assert layout.row_length == 5 * 21 + 4
    assert layout.row_counts[0] == 7


def test_row_counts_are_few_ascending_and_dense():
    for batch_size in (1, 128, 1999):
        counts = row_layout(batch_size, 1000).row_counts
        assert counts[-1] == batch_size
        assert len(counts) <= 30
        steps = itertools.pairwise(counts)
        assert all(low < high <= max(low + 1, 4 * low / 3) for low, high in steps)


@pytest.mark.parametrize("bad", [(0, 10, 0), (10, 0, 0), (10, 10, -1)])
def test_arguments_out_of_range_are_named(bad):
    with pytest.raises(ValueError, match="of at least 1 and gap"):
        row_layout(bad[0], bad[1], gap=bad[2])
