"""EpisodeIndex against a list of every transition ever written."""

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from resel_torchrl.replay import EpisodeIndex


def whole_episodes(done, is_init, oldest):
    """Runs that begin after a done flag or at a start flag, and end in a done flag."""
    episodes, start = [], 0
    for t in range(len(done)):
        if is_init is not None and is_init[t]:
            start = t
        if done[t]:
            if start >= oldest:
                episodes.append((start, t - start + 1))
            start = t + 1
    return episodes


def longest_run(done, is_init, high):
    """Length of the longest episode before ``high``, the one in progress included."""
    if is_init is not None:
        is_init = np.append(is_init[:high], False)
    runs = whole_episodes(np.append(done[:high], True), is_init, 0)
    in_progress = runs[-1][1] - 1
    return max([in_progress, *(length for _, length in runs[:-1])])


@settings(deadline=None, max_examples=100)
@given(
    parts=st.lists(
        st.lists(st.sampled_from([(0, 0), (0, 0), (1, 0), (0, 1), (1, 1)]), max_size=9),
        min_size=5,
        max_size=30,
    ),
    capacity=st.integers(20, 60),
    with_is_init=st.booleans(),
)
def test_any_flags_in_any_pieces(parts, capacity, with_is_init):
    """Runs longer than the capacity are refused; until then nothing is missed."""
    flags = np.array([pair for part in parts for pair in part]).reshape(-1, 2) == 1
    done, is_init = flags[:, 0], flags[:, 1] if with_is_init else None
    index, high = EpisodeIndex(), 0
    for length in map(len, parts):
        low, high = high, high + length
        part = None if is_init is None else is_init[low:high]
        try:
            index.advance(done[low:high], part, capacity)
        except ValueError:
            assert index.position == low
            assert longest_run(done, is_init, high) > capacity
            return
        assert longest_run(done, is_init, high) <= capacity
        oldest = max(0, high - capacity)
        index.drop_before(oldest)
        expected = whole_episodes(
            done[:high], None if is_init is None else is_init[:high], oldest
        )
        found = list(zip(index.starts.tolist(), index.lengths.tolist(), strict=True))
        assert found == expected
        assert index.transitions == sum(length for _, length in expected)


def test_episode_in_progress_is_dropped_once_its_first_transition_is_gone():
    index = EpisodeIndex()
    index.advance(np.array([True, False, False]), None, capacity=5)
    index.drop_before(1)
    assert index.open_start == 1
    index.drop_before(2)
    index.advance(np.array([True, True]), None, capacity=5)
    assert (index.starts.tolist(), index.lengths.tolist()) == ([4], [1])
