"""The index follows its storage, and says so when it cannot."""

import pytest
import torch
from tensordict import TensorDict
from torchrl.data import (
    LazyTensorStorage,
    ListStorage,
    ReplayBuffer,
    TensorDictReplayBuffer,
)

from resel_torchrl.replay import EpisodeSampler
from tests.replay.episodes import (
    all_stored,
    make_buffer,
    make_episode,
    still_stored,
)


def test_an_emptied_buffer_forgets_its_episodes():
    buffer = make_buffer(20, 1)
    for number in range(6):
        buffer.extend(make_episode(number, 5))
    buffer.sample()
    buffer.empty()
    assert not buffer.can_sample()
    with pytest.raises(RuntimeError, match="empty buffer"):
        buffer.sample()
    buffer.extend(make_episode(9, 4))
    assert buffer.can_sample()
    assert all_stored(buffer) == [(9, 4)]


def test_nothing_to_sample_is_explained():
    buffer = make_buffer(8, 1)
    with pytest.raises(RuntimeError, match="empty buffer: extend it first"):
        buffer.sample()
    buffer.extend(make_episode(0, 3, end=None))
    with pytest.raises(RuntimeError, match="3 transitions of unfinished episodes"):
        buffer.sample()


@pytest.mark.parametrize("lengths", [[9], [3, 9], [5, 20]])
def test_one_write_longer_than_the_storage_is_refused(lengths):
    buffer = make_buffer(8, 1)
    for number, length in enumerate(lengths[:-1]):
        buffer.extend(make_episode(number, length))
    with pytest.raises(ValueError, match=f"storage of 8 .* got {lengths[-1]} at once"):
        buffer.extend(make_episode(9, lengths[-1]))


@pytest.mark.parametrize("finished", [True, False])
def test_episode_longer_than_the_storage_in_parts_is_refused(finished):
    buffer = make_buffer(8, 1)
    whole = make_episode(0, 11, end="truncated" if finished else None)
    buffer.extend(whole[:6])
    with pytest.raises(RuntimeError, match="unfinished"):
        buffer.sample()
    buffer.extend(whole[6:])
    for _ in range(2):
        with pytest.raises(ValueError, match="at least 11: make the storage"):
            buffer.sample()


def test_full_storage_without_a_whole_episode_is_explained():
    buffer = make_buffer(8, 1)
    whole = make_episode(0, 20)
    for part in whole.split(5):
        buffer.extend(part)
    with pytest.raises(RuntimeError, match="full storage of 8"):
        buffer.sample()


def test_batch_size_must_be_positive():
    buffer = make_buffer(8, 1)
    buffer.extend(make_episode(0, 3))
    with pytest.raises(ValueError, match="at least 1, got 0"):
        buffer.sampler.sample(buffer.storage, 0)


def test_index_is_read_anew_after_an_edit_in_place():
    buffer = make_buffer(20, 1)
    for number in range(2):
        buffer.extend(make_episode(number, 4))
    assert all_stored(buffer) == [(0, 4), (1, 4)]
    rows = buffer[4:8]
    rows["next", "done"] = torch.zeros(4, 1, dtype=torch.bool)
    buffer[4:8] = rows
    assert all_stored(buffer) == [(0, 4)]


@pytest.mark.parametrize("capacity", [50, 10])
def test_sampler_attached_late_finds_what_is_stored(capacity):
    buffer = TensorDictReplayBuffer(storage=LazyTensorStorage(capacity), batch_size=1)
    for number in range(4):
        buffer.extend(make_episode(number, 4))
    buffer.set_sampler(EpisodeSampler(seed=0))
    expected = still_stored([4] * 4, capacity)
    assert all_stored(buffer) == expected
    late = EpisodeSampler(seed=0)
    buffer.set_sampler(late)
    buffer.extend(make_episode(4, 4))
    assert all_stored(buffer) == still_stored([4] * 5, capacity)


def test_what_is_written_past_the_sampler_is_found():
    buffer = make_buffer(10, 1)
    for number in range(3):
        buffer.extend(make_episode(number, 4))
    assert all_stored(buffer) == [(1, 4), (2, 4)]
    buffer.writer.extend(make_episode(3, 3))
    assert all_stored(buffer) == [(2, 4), (3, 3)]


def test_flags_of_a_write_are_read_once(monkeypatch):
    """The stock sampler reads the whole column at every sample."""
    buffer = make_buffer(1000, 20)
    read = []
    get = LazyTensorStorage.get

    def count(self, index):
        read.append(index)
        return get(self, index)

    for number in range(50):
        buffer.extend(make_episode(number, 6))
    buffer.sample()
    monkeypatch.setattr(LazyTensorStorage, "get", count)
    for number in range(3):
        buffer.sample()
        buffer.extend(make_episode(number, 4))
        buffer.sample()
    flags = [index for index in read if isinstance(index, slice)]
    assert flags == [slice(300 + 4 * i, 304 + 4 * i) for i in range(3)]
    assert len(read) == len(flags) + 6


def test_unsupported_buffers_are_named():
    episode = make_episode(0, 4)
    buffer = ReplayBuffer(storage=ListStorage(10), sampler=EpisodeSampler())
    buffer.extend(list(episode))
    with pytest.raises(RuntimeError, match=r"tensor storage.*ListStorage"):
        buffer.sample(2)
    buffer = TensorDictReplayBuffer(
        storage=LazyTensorStorage(10, ndim=2), sampler=EpisodeSampler(), batch_size=2
    )
    with pytest.raises(RuntimeError, match="one dimension"):
        buffer.extend(TensorDict({"a": torch.zeros(2, 2)}, [2, 2]))
    sampler = EpisodeSampler()
    sampler.extend(torch.arange(4))
    with pytest.raises(RuntimeError, match="round-robin"):
        sampler.extend(torch.tensor([7, 8]))
