"""SegmentSampler draws each stored transition in one segment, all equally often."""

import copy
import math
import pickle
import warnings

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torchrl.data import LazyTensorStorage, SliceSampler, TensorDictReplayBuffer

from resel_torchrl.replay import EpisodeSampler, SegmentSampler, pack_episodes
from resel_torchrl.training.checkpoint import buffer_state, load_buffer_state
from tests.replay.episodes import make_episode, still_stored


def make_buffer(capacity, batch_size, sampler, episodes=()):
    buffer = TensorDictReplayBuffer(
        storage=LazyTensorStorage(capacity), sampler=sampler, batch_size=batch_size
    )
    for number, length in enumerate(episodes):
        buffer.extend(make_episode(number, length))
    return buffer


def sampled_segments(batch, lengths, segment_length, burn_in=0):
    """(episode, first step, length) of each segment of a sample, checked row by row."""
    starts = batch["is_init"].flatten().nonzero().flatten().tolist()
    assert starts[0] == 0
    segments = []
    for start, stop in zip(starts, [*starts[1:], len(batch)], strict=True):
        piece = batch[start:stop]
        numbers, steps = piece["observation"][:, :2].int().unbind(-1)
        number = int(numbers[0])
        assert (numbers == number).all()
        assert steps.tolist() == list(range(int(steps[0]), int(steps[0]) + len(steps)))
        lead = piece["is_lead"].flatten()
        mask = ~lead
        if burn_in:
            mask = piece["learning_mask"].flatten()
        begin, length = int(steps[mask][0]), int(mask.sum())
        assert begin % segment_length == 0
        assert length == min(segment_length, lengths[number] - begin)
        assert mask[-length:].all()
        before = min(begin, burn_in)
        assert lead.tolist() == [True] * (begin > before) + [False] * (before + length)
        segments.append((number, begin, length))
    return segments


def all_segments(lengths, segment_length):
    return [
        (number, begin, min(segment_length, length - begin))
        for number, length in lengths
        for begin in range(0, length, segment_length)
    ]


@settings(deadline=None, max_examples=60)
@given(
    lengths=st.lists(st.integers(1, 12), min_size=1, max_size=25),
    capacity=st.integers(13, 40),
    segment_length=st.integers(1, 13),
    burn_in=st.integers(0, 6),
)
def test_the_segments_are_the_stored_episodes_cut_up(
    lengths, capacity, segment_length, burn_in
):
    """Around the ring too: each transition of a whole episode lies in one segment."""
    sampler = SegmentSampler(segment_length, burn_in=burn_in, seed=0)
    buffer = make_buffer(capacity, 1, sampler, lengths)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        batch = buffer.sample(10**6)
    stored = still_stored(lengths, capacity)
    segments = sampled_segments(batch, lengths, segment_length, burn_in)
    assert segments == all_segments(stored, segment_length)
    assert ("learning_mask" in batch) == (burn_in > 0)
    slices = batch["is_init"].flatten().nonzero().flatten().tolist()
    ends = [*slices[1:], len(batch)]
    assert sampler.last_lengths.tolist() == [
        end - start for start, end in zip(slices, ends, strict=True)
    ]


@settings(deadline=None, max_examples=60)
@given(
    lengths=st.lists(st.integers(1, 30), min_size=1, max_size=30),
    segment_length=st.integers(1, 30),
    burn_in=st.integers(0, 9),
    batch_size=st.integers(1, 200),
    seed=st.integers(0, 2**31),
)
def test_a_draw_is_the_fewest_segments_that_reach_the_batch_size(
    lengths, segment_length, burn_in, batch_size, seed
):
    """Distinct segments until their own transitions, not the burn-in, reach B."""
    sampler = SegmentSampler(segment_length, burn_in=burn_in, seed=seed)
    buffer = make_buffer(1000, batch_size, sampler, lengths)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        drawn = sampled_segments(buffer.sample(), lengths, segment_length, burn_in)
    assert len(set(drawn)) == len(drawn)
    total = sum(length for *_, length in drawn)
    stored = all_segments(list(enumerate(lengths)), segment_length)
    if sum(lengths) < batch_size:
        assert sorted(drawn) == stored
    else:
        n = math.ceil(batch_size * len(stored) / sum(lengths))
        assert len(drawn) >= n and total >= batch_size
        assert len(drawn) == n or total - drawn[-1][2] < batch_size


def test_every_transition_is_equally_likely_and_random_starts_are_not():
    """The stock sampler, which draws starting positions, is the control."""
    lengths = [4, 8, 12, 40, 16]
    storage = make_buffer(80, 4, EpisodeSampler(seed=0), lengths).storage
    segments = SegmentSampler(4, seed=0)
    segments.extend(torch.arange(80))
    counts = torch.zeros(20)
    for _ in range(4000):
        slots, flags = segments.sample(storage, 4)
        own = slots[~flags["is_lead"].flatten()]
        assert len(own) == 4
        counts[own[0] // 4] += 1
    # 99.9 % quantile with 19 degrees of freedom.
    assert ((counts - 200) ** 2 / 200).sum() < 43.8
    stock = SliceSampler(slice_len=4, end_key=("next", "done"))
    torch.manual_seed(0)
    counts = torch.zeros(80)
    for _ in range(1000):
        slots, _ = stock.sample(storage, 4)
        counts[slots[0]] += 1
    assert counts[24] < counts[24:64].mean() / 2  # the start of the episode of 40


@pytest.mark.parametrize("burn_in", [0, 5])
def test_segments_of_whole_episodes_are_the_draws_of_the_episode_sampler(burn_in):
    """Packed batches too, entry by entry; with shorter segments they differ."""
    lengths = [1 + 7 * i % 10 for i in range(200)]

    def batches(sampler):
        buffer = make_buffer(3000, 60, sampler, lengths)
        return [pack_episodes(buffer.sample(), 21) for _ in range(5)]

    whole = batches(EpisodeSampler(seed=3))
    segments = batches(SegmentSampler(10, burn_in=burn_in, seed=3))
    for a, b in zip(whole, segments, strict=True):
        if burn_in:
            assert torch.equal(b.pop("learning_mask"), a["valid"])
        assert set(a.keys(True, True)) == set(b.keys(True, True))
        assert a.shape == b.shape and (a == b).all()
    short = batches(SegmentSampler(9, burn_in=burn_in, seed=3))
    assert not all(
        a.shape == b.shape and torch.equal(a["observation"], b["observation"])
        for a, b in zip(whole, short, strict=True)
    )


def test_draws_depend_on_the_seed_and_not_on_the_global_generator():
    def draws(seed, global_seed):
        torch.manual_seed(global_seed)
        sampler = SegmentSampler(3, burn_in=2, seed=seed)
        buffer = make_buffer(1000, 20, sampler, [1 + n % 7 for n in range(100)])
        return [buffer.sample()["index"].tolist() for _ in range(5)]

    assert draws(0, 1) == draws(0, 2)
    assert draws(0, 1) != draws(3, 1)


@pytest.mark.parametrize("save", ["files", "checkpoint", "pickle"])
def test_a_restored_sampler_goes_on_as_the_original(save, tmp_path):
    def fresh(seed):
        return make_buffer(60, 12, SegmentSampler(4, burn_in=2, seed=seed))

    buffer, other = fresh(0), fresh(1)
    for number in range(20):  # around the ring; the last ones are not yet read
        buffer.extend(make_episode(number, 1 + number % 9))
        if number == 15:
            buffer.sample()
    if save == "files":
        buffer.dumps(tmp_path)
        other.loads(tmp_path)
    elif save == "checkpoint":
        load_buffer_state(other, copy.deepcopy(buffer_state(buffer)))
    else:
        other = copy.deepcopy(buffer)
        other.set_sampler(pickle.loads(pickle.dumps(buffer.sampler)))

    def go_on(buffer):
        batches = []
        for number in range(30, 40):
            batches.append(buffer.sample())
            buffer.extend(make_episode(number, 1 + number % 6))
        return torch.cat(batches)

    ours, theirs = go_on(buffer), go_on(other)
    assert (ours == theirs).all()
    with pytest.raises(FileNotFoundError):
        EpisodeSampler().loads(tmp_path)


def test_batch_larger_than_the_buffer_returns_each_segment_once_and_warns():
    buffer = make_buffer(100, 50, SegmentSampler(4, seed=0), [5, 5])
    with pytest.warns(UserWarning, match="10 transitions.*each segment is returned"):
        batch = buffer.sample()
    assert sampled_segments(batch, [5, 5], 4) == all_segments([(0, 5), (1, 5)], 4)


def test_flags_may_have_other_keys():
    sampler = SegmentSampler(
        2, burn_in=1, seed=0, lead_key="before", mask_key=("masks", "own")
    )
    batch = make_buffer(100, 5, sampler, [5]).sample()
    assert batch["observation"][:, 1].tolist() == [0, 1, 0, 1, 2, 3, 2, 3, 4]
    assert batch["before"].flatten().int().tolist() == [0, 0, 1, 0, 0, 0, 1, 0, 0]
    assert batch["masks", "own"].sum() == 5
    packed = pack_episodes(batch, 6, lead_key="before", mask_key=("masks", "own"))
    assert packed["masks", "own"].sum() == 5


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"segment_length": 0}, "segment_length of at least 1.*got segment_length=0"),
        ({"segment_length": 5, "burn_in": -1}, "burn_in of at least 0.*burn_in=-1"),
        (
            {"segment_length": 201, "horizon": 200},
            "episodes of at most 200 transitions, got segment_length=201: lower it",
        ),
    ],
)
def test_bad_lengths_are_named(options, message):
    with pytest.raises(ValueError, match=message):
        SegmentSampler(**options)


def test_segment_longer_than_the_storage_is_an_error():
    SegmentSampler(200, horizon=200)
    buffer = make_buffer(20, 4, SegmentSampler(21), [5])
    with pytest.raises(ValueError, match=r"a storage of 20 transitions.*=21"):
        buffer.sample()
    assert make_buffer(20, 4, SegmentSampler(20), [5]).sample().shape == (5,)


def test_nothing_to_draw_from_is_an_error():
    buffer = make_buffer(20, 4, SegmentSampler(3))
    with pytest.raises(RuntimeError, match="at least one whole episode"):
        buffer.sample()
    buffer.extend(make_episode(0, 4, end=None))
    with pytest.raises(RuntimeError, match="unfinished episodes"):
        buffer.sample()


def test_repr_tells_the_lengths():
    buffer = make_buffer(20, 4, SegmentSampler(3, burn_in=2), [7])
    buffer.sample()
    assert "transitions=7" in repr(buffer.sampler)
    assert "segment_length=3, burn_in=2)" in repr(buffer.sampler)
