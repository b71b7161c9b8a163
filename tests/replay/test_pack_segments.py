"""pack_episodes on segments: each is a piece of the packed episode it was cut from."""

import warnings

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torchrl.data import LazyTensorStorage, TensorDictReplayBuffer

from resel_torchrl.replay import SegmentSampler, pack_episodes, row_layout
from tests.replay.episodes import NAN, make_episode

ENDS = ["terminated", "truncated"]


def sample(lengths, segment_length, burn_in, batch_size, seed=0):
    sampler = SegmentSampler(segment_length, burn_in=burn_in, seed=seed)
    buffer = TensorDictReplayBuffer(
        storage=LazyTensorStorage(1000), sampler=sampler, batch_size=batch_size
    )
    for number, length in enumerate(lengths):
        buffer.extend(make_episode(number + 1, length, end=ENDS[number % 2]))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return buffer.sample(), sampler.last_lengths


def expected_piece(number, length, first, stop, begin):
    """Rows of a segment, cut out of its whole packed episode; ``begin`` is learned."""
    episode = make_episode(number, length, end=ENDS[(number - 1) % 2])
    piece = pack_episodes(episode, length + 1)[0, first : stop + 1].clone()
    piece["is_init"][0] = True
    piece["next", "done"][-2] = True
    for key in ("valid", "action", ("next", "reward"), ("next", "terminated")):
        piece[key][-1] = 0
    piece["next", "done"][-1] = False
    step = torch.arange(first, stop + 1).unsqueeze(-1)
    piece["learning_mask"] = (step >= begin) & (step < stop)
    return piece


@settings(deadline=None, max_examples=40)
@given(
    lengths=st.lists(st.integers(1, 15), min_size=1, max_size=12),
    segment_length=st.integers(1, 15),
    burn_in=st.integers(1, 6),
    gap=st.integers(0, 2),
    known=st.booleans(),
)
def test_packed_segment_equals_a_piece_of_the_packed_episode(
    lengths, segment_length, burn_in, gap, known
):
    """Previous inputs at the first row included, where the episode has them."""
    flat, slices = sample(lengths, segment_length, burn_in, 10**6)
    batch = pack_episodes(
        flat,
        segment_length + burn_in + 9,
        gap=gap,
        lengths=slices if known else None,
    )
    placed = torch.zeros(batch.shape, dtype=torch.bool)
    for number, length in enumerate(lengths, 1):
        for begin in range(0, length, segment_length):
            first = max(0, begin - burn_in)
            stop = min(begin + segment_length, length)
            expected = expected_piece(number, length, first, stop, begin)
            size = stop - first + 1
            own = batch["learning_mask"].squeeze(-1)
            here = (batch["observation"][..., :2] == torch.tensor([number, begin])).all(
                -1
            )
            ((row, column),) = (here & own).nonzero().tolist()
            column -= begin - first
            found = batch[row, column : column + size]
            assert set(found.keys(True, True)) == set(expected.keys(True, True))
            for key, value in expected.items(True, True):
                assert torch.equal(found[key], value), key
            assert not placed[row, column : column + size].any()
            placed[row, column : column + size] = True
    for key, value in batch.items(True, True):
        assert (value[~placed] == (key == "is_init")).all(), key


def test_without_the_leading_transitions_previous_inputs_would_be_zero():
    flat, _ = sample([12], 4, 0, 100)
    first = pack_episodes(flat, 13)
    starts = (first["is_init"] & first["valid"]).squeeze(-1)
    assert first["prev_observation"][starts][:, 1].tolist() == [0, 3, 7]
    assert first["prev_reward"][starts].flatten().tolist() == [0, 103.5, 107.5]
    lead = flat["is_lead"].squeeze(-1)
    flat["is_init"][1:] |= flat["is_lead"][:-1]
    control = pack_episodes(flat[~lead].exclude("is_lead"), 13)
    assert not control["prev_observation"][starts].any()
    assert torch.equal(control["observation"], first["observation"])


def test_a_segments_end_is_no_terminal_and_the_episodes_is():
    flat, _ = sample([10], 4, 2, 100)
    batch = pack_episodes(flat, 7)
    ends = batch["observation"][batch["next", "done"].squeeze(-1)][:, 1]
    assert sorted(ends.tolist()) == [3, 7, 9]
    terminal = batch["observation"][batch["next", "terminated"].squeeze(-1)][:, 1]
    assert terminal.tolist() == [9]


def test_poisoned_entries_never_reach_the_batch():
    """Of a leading transition only observation, action and reward are read."""
    flat, _ = sample([12, 7], 4, 2, 100)
    clean = pack_episodes(flat, 7)
    ends = torch.cat([flat["is_init"][1:], torch.ones(1, 1, dtype=torch.bool)])
    flat["next", "observation"][~ends.squeeze(-1)] = NAN
    flat["other"] = torch.full((len(flat), 1), NAN)
    batch = pack_episodes(flat, 7)
    assert (batch == clean).all()
    lead = flat["is_lead"].squeeze(-1)
    for key in ("observation", "action", ("next", "reward")):
        control = flat.clone()
        control[key][lead] = NAN
        bad = pack_episodes(control, 7)
        names = [name for name in bad.keys(True, True) if bad[name].isnan().any()]
        assert names == [f"prev_{key if isinstance(key, str) else key[1]}"]


@settings(deadline=None, max_examples=40)
@given(
    lengths=st.lists(st.integers(1, 40), min_size=1, max_size=20),
    segment_length=st.integers(1, 40),
    burn_in=st.integers(0, 60),
    batch_size=st.integers(1, 300),
    seed=st.integers(0, 1000),
)
def test_every_draw_fits_the_row_layout(
    lengths, segment_length, burn_in, batch_size, seed
):
    layout = row_layout(batch_size, min(segment_length + burn_in, 40))
    flat, _ = sample(lengths, segment_length, burn_in, batch_size, seed)
    batch = pack_episodes(flat, **layout._asdict())
    assert batch.shape[0] in layout.row_counts


@pytest.mark.parametrize("at", [[1], [0, 1], [3], [0, 2]])
def test_misplaced_leading_transitions_are_an_error(at):
    """In the middle of a slice, and on a slice of one."""
    flat = torch.cat([make_episode(1, 3), make_episode(2, 1)])
    flat["is_lead"] = torch.zeros(4, 1, dtype=torch.bool)
    pack_episodes(flat, 8)
    flat["is_lead"][at] = True
    with pytest.raises(ValueError, match="leading transition only as the first"):
        pack_episodes(flat, 8)
