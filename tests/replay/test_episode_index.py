"""EpisodeIndex against a list of every transition ever written."""

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from resel_torchrl.replay import EpisodeIndex


def whole_episodes(done, oldest):
    """Runs that begin after a done flag and end in one."""
    episodes, start = [], 0
    for t in range(len(done)):
        if done[t]:
            if start >= oldest:
                episodes.append((start, t - start + 1))
            start = t + 1
    return episodes


def longest_run(done, high):
    """Length of the longest episode before ``high``, the one in progress included."""
    runs = whole_episodes(np.append(done[:high], True), 0)
    in_progress = runs[-1][1] - 1
    return max([in_progress, *(length for _, length in runs[:-1])])


@settings(deadline=None, max_examples=100)
@given(
    parts=st.lists(
        st.lists(st.sampled_from([0, 0, 0, 1]), max_size=9), min_size=5, max_size=30
    ),
    capacity=st.integers(20, 60),
    with_is_init=st.booleans(),
    wrong=st.integers(0, 400),
)
def test_index_finds_the_whole_episodes_of_any_flags_in_any_pieces(
    parts, capacity, with_is_init, wrong
):
    """Runs longer than the capacity are refused, and a start flag that is not where an
    episode begins; until then nothing is missed."""
    done = np.array([flag for part in parts for flag in part]) == 1
    is_init = np.append(True, done[:-1])[: len(done)]
    if wrong < len(done):
        is_init[wrong] ^= True
    index, high = EpisodeIndex(), 0
    for length in map(len, parts):
        low, high = high, high + length
        part = is_init[low:high] if with_is_init else None
        known = index.open_start >= 0
        try:
            index.advance(done[low:high], part, capacity)
        except ValueError as error:
            assert index.position == low
            if "start" in str(error):
                assert with_is_init and low <= wrong < high
                assert known or wrong > low
            else:
                assert longest_run(done, high) > capacity
            return
        assert longest_run(done, high) <= capacity
        assert not with_is_init or not low <= wrong < high or not known
        oldest = max(0, high - capacity)
        index.drop_before(oldest)
        expected = whole_episodes(done[:high], oldest)
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
