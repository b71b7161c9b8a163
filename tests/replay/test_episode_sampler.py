"""EpisodeSampler draws whole episodes, exactly those that the storage holds."""

import math
import warnings

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torchrl.data import (
    LazyTensorStorage,
    ReplayBuffer,
    SliceSampler,
    TensorDictReplayBuffer,
)

from resel_torchrl.replay import EpisodeSampler
from tests.replay.episodes import (
    all_stored,
    make_buffer,
    make_episode,
    make_poisoned_buffer,
    sampled_episodes,
    still_stored,
)


@settings(deadline=None, max_examples=60)
@given(
    lengths=st.lists(st.integers(1, 12), min_size=1, max_size=30),
    capacity=st.integers(12, 40),
    look=st.integers(1, 8),
    with_is_init=st.booleans(),
)
def test_ring_holds_exactly_the_newest_whole_episodes(
    lengths, capacity, look, with_is_init
):
    buffer = make_poisoned_buffer(capacity, with_is_init)
    for number, length in enumerate(lengths):
        buffer.extend(make_episode(number, length, with_is_init=with_is_init))
        if number % look == 0 or not with_is_init:
            expected = still_stored(lengths[: number + 1], capacity)
            assert all_stored(buffer) == expected


def test_oldest_of_many_unread_episodes_is_drawn_only_if_its_start_is_stored():
    """Its first transition may follow any part of an episode that was overwritten."""
    for with_is_init, oldest in ((True, 2), (False, 3)):
        buffer = make_buffer(12, 1)
        for number in range(5):
            buffer.extend(make_episode(number, 4, with_is_init=with_is_init))
        assert all_stored(buffer) == [(n, 4) for n in range(oldest, 5)]


def test_wrapped_episode_is_sampled_whole_and_half_overwritten_one_never():
    buffer = make_buffer(10, 1)
    for number in range(3):  # slots 0-3, 4-7, and 8-9 with 0-1
        buffer.extend(make_episode(number, 4))
    drawn = {sampled_episodes(buffer.sample())[0] for _ in range(50)}
    assert drawn == {(1, 4), (2, 4)}


def test_stock_sampler_drops_short_episodes_and_cuts_long_ones():
    buffers = [
        make_buffer(100, 8),
        TensorDictReplayBuffer(
            storage=LazyTensorStorage(100),
            sampler=SliceSampler(slice_len=4, end_key=("next", "done")),
            batch_size=8,
        ),
    ]
    torch.manual_seed(0)
    drawn = [set(), set()]
    for seen, buffer in zip(drawn, buffers, strict=True):
        for number, length in enumerate((3, 9, 4)):
            buffer.extend(make_episode(number, length))
        for _ in range(100):
            batch = buffer.sample()
            seen.update(
                zip(
                    batch["observation"][:, 0].int().tolist(),
                    batch["index"].flatten().tolist(),
                    strict=True,
                )
            )
    assert {number for number, _ in drawn[0]} == {0, 1, 2}
    assert {number for number, _ in drawn[1]} == {1, 2}
    with pytest.raises(AssertionError):
        sampled_episodes(buffers[1].sample())


def test_unfinished_episode_is_drawn_only_once_its_done_flag_arrives():
    buffer = make_buffer(100, 1)
    buffer.extend(make_episode(0, 3))
    whole = make_episode(1, 7)
    buffer.extend(whole[:4])
    assert all_stored(buffer) == [(0, 3)]
    buffer.extend(whole[4:])
    assert all_stored(buffer) == [(0, 3), (1, 7)]


def test_one_extend_may_hold_several_episodes_and_a_part_of_another():
    buffer = make_buffer(100, 1)
    last = make_episode(2, 5)
    buffer.extend(torch.cat([make_episode(0, 2), make_episode(1, 4), last[:3]]))
    assert all_stored(buffer) == [(0, 2), (1, 4)]
    buffer.extend(torch.cat([last[3:], make_episode(3, 1)]))
    assert all_stored(buffer) == [(0, 2), (1, 4), (2, 5), (3, 1)]


def test_step_by_step_add_equals_extend():
    buffer = make_buffer(7, 1)
    for number in range(3):
        for transition in make_episode(number, 3):
            buffer.add(transition)
        assert all_stored(buffer) == [
            (n, 3) for n in range(max(0, number - 1), number + 1)
        ]


@settings(deadline=None, max_examples=60)
@given(
    lengths=st.lists(st.integers(1, 30), min_size=1, max_size=40),
    batch_size=st.integers(1, 200),
    seed=st.integers(0, 2**31),
)
def test_a_draw_is_the_fewest_episodes_that_reach_the_batch_size(
    lengths, batch_size, seed
):
    """n = ceil(B / mean length), and more only while the sum is below B."""
    buffer = make_buffer(2000, batch_size, seed=seed)
    buffer.extend(torch.cat([make_episode(i, n) for i, n in enumerate(lengths)]))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        drawn = sampled_episodes(buffer.sample())
    assert len(set(drawn)) == len(drawn)
    assert all(lengths[number] == length for number, length in drawn)
    assert buffer.sampler.last_lengths.tolist() == [length for _, length in drawn]
    if sum(lengths) < batch_size:
        assert len(drawn) == len(lengths)
    else:
        n = math.ceil(batch_size * len(lengths) / sum(lengths))
        total = sum(length for _, length in drawn)
        assert len(drawn) >= n
        assert total >= batch_size
        assert len(drawn) == n or total - drawn[-1][1] < batch_size


@pytest.mark.parametrize(("batch_size", "episodes"), [(999, 1), (1000, 1), (1999, 2)])
def test_batch_sizes_of_the_paper_draw_one_and_two_episodes(batch_size, episodes):
    buffer = make_buffer(10_000, batch_size)
    for number in range(10):
        buffer.extend(make_episode(number, 1000))
    assert len(sampled_episodes(buffer.sample())) == episodes


def test_batch_larger_than_the_buffer_returns_all_once_and_warns_once():
    buffer = make_buffer(100, 50)
    for number in range(3):
        buffer.extend(make_episode(number, 5))
    with pytest.warns(UserWarning, match="15 transitions.*50 were asked"):
        assert sampled_episodes(buffer.sample()) == [(0, 5), (1, 5), (2, 5)]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert len(buffer.sample()) == 15


@pytest.mark.parametrize(("count", "batch_size"), [(8, 9), (400, 60)])
def test_every_episode_is_equally_likely(count, batch_size):
    """Chi-square over episodes of one length stays below its 99.9 % quantile.

    400 episodes are drawn by rejection, 8 by permutation.
    """
    buffer = make_buffer(5000, batch_size)
    for number in range(count):
        buffer.extend(make_episode(number, 3))
    counts = torch.zeros(count)
    for _ in range(2000 if count == 8 else 1000):
        slots, _ = buffer.sampler.sample(buffer.storage, batch_size)
        counts[slots[::3] // 3] += 1
    expected = counts.mean()
    chi_square = ((counts - expected) ** 2 / expected).sum().item()
    freedom = count - 1
    assert chi_square < freedom + 3.1 * math.sqrt(2 * freedom) + 6


def test_long_episodes_are_drawn_as_often_as_short_ones():
    """Uniform over episodes, not transitions: the first of a draw tells."""
    buffer = make_buffer(2000, 1)
    for number in range(10):
        buffer.extend(make_episode(number, 1 if number % 2 else 99))
    first_is_long = [
        int(buffer.sampler.sample(buffer.storage, 1)[0][0]) % 100 == 0
        for _ in range(2000)
    ]
    assert 0.45 < sum(first_is_long) / 2000 < 0.55


def test_draws_depend_on_the_seed_and_not_on_the_global_generator():
    def draws(seed, global_seed):
        torch.manual_seed(global_seed)
        buffer = make_buffer(2000, 20, seed=seed)
        for number in range(300):
            buffer.extend(make_episode(number, 1 + number % 7))
        state = torch.get_rng_state()
        out = [buffer.sample()["index"].tolist() for _ in range(5)]
        assert torch.equal(torch.get_rng_state(), state)
        return out

    assert draws(0, 1) == draws(0, 2)
    assert draws(0, 1) != draws(3, 1)


def test_generator_of_the_buffer_takes_precedence():
    def draws(seed):
        buffer = ReplayBuffer(
            storage=LazyTensorStorage(500),
            sampler=EpisodeSampler(seed=5),
            batch_size=20,
            generator=torch.Generator().manual_seed(seed),
        )
        for number in range(100):
            buffer.extend(make_episode(number, 4))
        return buffer.sample()["observation"].tolist()

    assert draws(0) == draws(0) != draws(1)


def test_stored_flags_are_returned_as_they_are():
    buffer = make_buffer(100, 30)
    ends = ["terminated", "truncated"] * 3
    for number, end in enumerate(ends):
        buffer.extend(make_episode(number, 5, end=end))
    batch = buffer.sample()
    expected = torch.cat([make_episode(n, 5, end=e) for n, e in enumerate(ends)])
    for key in ("done", "terminated", "truncated"):
        assert torch.equal(batch["next", key], expected["next", key])
    assert torch.equal(batch["is_init"], expected["is_init"])


def test_start_flags_are_written_where_none_are_stored():
    buffer = make_buffer(100, 10)
    for number in range(4):
        buffer.extend(make_episode(number, 5, with_is_init=False))
    assert "is_init" not in buffer.storage[:]
    assert buffer.sample()["is_init"].flatten().tolist() == [True, *[False] * 4] * 2


def test_flags_may_have_other_keys():
    buffer = make_buffer(100, 1, done_key=("next", "truncated"), init_key="start")
    buffer.extend(make_episode(0, 5))
    batch = buffer.sample()
    assert batch["start"].flatten().tolist() == [True, *[False] * 4]
    missing = make_buffer(100, 1, done_key=("next", "finished"))
    missing.extend(make_episode(0, 5))
    with pytest.raises(KeyError, match="finished"):
        missing.sample()
