"""A saved and restored EpisodeSampler goes on as if nothing had happened."""

import copy
import io
import pickle

import pytest
import torch
from torchrl.data import (
    LazyMemmapStorage,
    LazyTensorStorage,
)

from resel_torchrl.training.checkpoint import buffer_state, load_buffer_state
from tests.replay.episodes import (
    make_buffer,
    make_episode,
)


def save_through_files(buffer, other, path):
    buffer.dumps(path)
    other.loads(path)


def save_through_state_dict(buffer, other, path):
    file = io.BytesIO()
    torch.save(buffer.state_dict(), file)
    file.seek(0)
    other.load_state_dict(torch.load(file, weights_only=False))


def save_through_checkpoint(buffer, other, path):
    load_buffer_state(other, copy.deepcopy(buffer_state(buffer)))


@pytest.mark.parametrize("storage", [LazyTensorStorage, LazyMemmapStorage])
@pytest.mark.parametrize(
    "save", [save_through_files, save_through_state_dict, save_through_checkpoint]
)
@pytest.mark.parametrize("written", [8, 40], ids=["part filled", "wrapped"])
def test_a_restored_buffer_goes_on_as_the_original(save, storage, written, tmp_path):
    """Also with writes not yet read, an episode in progress, and later writes."""
    buffer = make_buffer(100, 12, storage=storage)
    for number in range(written):
        buffer.extend(make_episode(number, 1 + number % 6))
        if number == written - 4:
            buffer.sample()
    unfinished = make_episode(99, 9)
    buffer.extend(unfinished[:5])
    other = make_buffer(100, 12, storage=storage, seed=7)
    save(buffer, other, tmp_path / "buffer")

    def go_on(buffer):
        batches = [buffer.sample()]
        buffer.extend(unfinished[5:].clone())
        for number in range(200, 230):
            batches.append(buffer.sample())
            buffer.extend(make_episode(number, 1 + number % 5))
        return torch.cat(batches)

    ours, theirs = go_on(buffer), go_on(other)
    assert (ours == theirs).all()
    assert 99 in ours["observation"][:, 0]


def test_loading_restores_the_draws_and_a_fresh_seed_does_not(tmp_path):
    buffer, other, control = (make_buffer(100, 12, seed=s) for s in (0, 1, 1))
    for number in range(15):
        for b in (buffer, control):
            b.extend(make_episode(number, 1 + number % 6))
    buffer.sample()
    save_through_files(buffer, other, tmp_path / "buffer")
    index = buffer.sample()["index"].tolist()
    assert other.sample()["index"].tolist() == index
    assert control.sample()["index"].tolist() != index


def test_a_pickled_or_copied_sampler_goes_on_as_the_original():
    buffer = make_buffer(100, 12)
    for number in range(15):
        buffer.extend(make_episode(number, 4))
    buffer.sample()
    twins = [copy.deepcopy(buffer.sampler), pickle.loads(pickle.dumps(buffer.sampler))]
    slots = [s.sample(buffer.storage, 12)[0].tolist() for s in (buffer.sampler, *twins)]
    assert slots[0] == slots[1] == slots[2]
