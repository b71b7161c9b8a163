"""pack_episodes with stored hidden states: one segment a row, started from its own."""

import warnings

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torchrl.data import LazyTensorStorage, TensorDictReplayBuffer

from resel_torchrl.replay import SegmentSampler, pack_episodes, row_layout
from tests.replay.episodes import NAN, make_episode

KEY, SIZE = ("state", "actor"), 5


def sample(lengths, segment_length, burn_in, batch_size=10**6, seed=0):
    """The hidden state before step t of episode n is (n, t, 0, 0, 0)."""
    sampler = SegmentSampler(segment_length, burn_in=burn_in, seed=seed)
    buffer = TensorDictReplayBuffer(
        storage=LazyTensorStorage(1000), sampler=sampler, batch_size=batch_size
    )
    for number, length in enumerate(lengths, 1):
        episode = make_episode(number, length)
        episode[KEY] = torch.zeros(length, SIZE)
        episode[KEY][:, :2] = episode["observation"]
        buffer.extend(episode)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return buffer.sample(), sampler.last_lengths


@settings(deadline=None, max_examples=40)
@given(
    lengths=st.lists(st.integers(1, 15), min_size=1, max_size=9),
    segment_length=st.integers(1, 15),
    burn_in=st.integers(0, 6),
    known=st.booleans(),
)
def test_packed_batch_equals_segments_packed_one_at_a_time(
    lengths, segment_length, burn_in, known
):
    """But for the start flag of a segment inside of its episode, and the state."""
    flat, slices = sample(lengths, segment_length, burn_in)
    row_length = segment_length + burn_in + 1
    batch = pack_episodes(
        flat, row_length, lengths=slices if known else None, state_key=KEY
    )
    assert batch.shape == (len(slices), row_length)
    begin = 0
    for row, length in zip(batch, slices.tolist(), strict=True):
        piece = flat[begin : begin + length]
        begin += length
        (expected,) = pack_episodes(piece.exclude(KEY), row_length)
        step = expected["observation"][0, 1]
        expected["is_init"][0] = step == 0
        state = torch.zeros(row_length, SIZE)
        state[:, :2] = expected["observation"][0]
        expected[KEY] = state
        assert set(row.keys(True, True)) == set(expected.keys(True, True))
        for key, value in expected.items(True, True):
            assert torch.equal(row[key], value), key


def test_hidden_state_of_a_row_takes_the_storage_of_one_step():
    flat, _ = sample([9, 4], 3, 1)
    state = pack_episodes(flat, 50, state_key=KEY)[KEY]
    assert state.shape == (5, 50, SIZE)
    assert state.untyped_storage().nbytes() == 5 * SIZE * 4


def test_spare_rows_hold_nothing():
    """Start flags and zeros, as padding does everywhere."""
    flat, _ = sample([9, 4], 3, 1)
    batch = pack_episodes(flat, 7, (3, 8), state_key=KEY)
    assert batch.shape == (8, 7)
    for key, value in batch[5:].items(True, True):
        assert (value == (key == "is_init")).all(), key
    assert batch["is_init"][:5, 0].sum() == 2  # the control: two begin their episodes


def test_hidden_states_inside_of_a_segment_are_not_read():
    flat, _ = sample([12, 7], 4, 2)
    clean = pack_episodes(flat, 7, state_key=KEY)
    inner = ~(flat["is_lead"] | flat["is_init"])
    after_lead = torch.zeros_like(inner)
    after_lead[1:] = flat["is_lead"][:-1]
    flat[KEY][(inner & ~after_lead).squeeze(-1)] = NAN
    flat[KEY][flat["is_lead"].squeeze(-1)] = NAN
    assert (pack_episodes(flat, 7, state_key=KEY) == clean).all()
    flat[KEY][after_lead.squeeze(-1)] = NAN
    assert pack_episodes(flat, 7, state_key=KEY)[KEY].isnan().any()


@settings(deadline=None, max_examples=40)
@given(
    lengths=st.lists(st.integers(1, 40), min_size=1, max_size=20),
    segment_length=st.integers(1, 40),
    burn_in=st.integers(0, 60),
    batch_size=st.integers(1, 300),
)
def test_every_draw_fits_the_row_layout(lengths, segment_length, burn_in, batch_size):
    longest = min(segment_length + burn_in, 40)
    layout = row_layout(batch_size, longest, min_row_length=1)
    flat, _ = sample(lengths, segment_length, burn_in, batch_size)
    batch = pack_episodes(flat, **layout._asdict(), state_key=KEY)
    assert batch.shape[0] in layout.row_counts
    assert longest < batch.shape[1] <= 1.01 * (longest + 1)


def test_what_is_missing_is_named():
    flat, _ = sample([9], 3, 1)
    with pytest.raises(
        KeyError, match=r"'is_lead' beside the hidden state.*SegmentSampler"
    ):
        pack_episodes(flat.exclude("is_lead"), 5, state_key=KEY)
    with pytest.raises(KeyError, match=r"'nothing' in the batch"):
        pack_episodes(flat, 5, state_key="nothing")
    with pytest.raises(ValueError, match="which take 3 rows"):
        pack_episodes(flat, 5, 2, state_key=KEY)
