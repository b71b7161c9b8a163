"""Weights that one process reads while another writes them."""

import threading

import pytest
import torch
from torch import nn

from resel_torchrl.collect import SharedWeights, policy_weights


def filled(value: float) -> list[nn.Module]:
    layers = [nn.Linear(3, 4), nn.Linear(200, 200)]
    for layer in layers:
        fill(layer, value)
    return layers


@torch.no_grad()
def fill(layer: nn.Module, value: float) -> None:
    for parameter in layer.parameters():
        parameter.fill_(value)


def values(layers) -> set[float]:
    return {x for m in layers for p in m.parameters() for x in p.unique().tolist()}


def test_a_torn_read_is_not_used(monkeypatch):
    """The learner publishes while the reader is between two modules."""
    sources = filled(0.0)
    weights = SharedWeights(sources, every=1)
    reader = weights.reader()
    for layer in sources:
        fill(layer, 1.0)
    weights.updated()
    seen = []
    copy_second = reader.modules[1].load_state_dict

    def publish_between(state):
        if not seen:
            for layer in sources:
                fill(layer, 2.0)
            weights.updated()
        copy_second(state)
        seen.append(values(reader.modules))

    monkeypatch.setattr(reader.modules[1], "load_state_dict", publish_between)
    assert reader.load() == 0
    assert values(reader.modules) == {2.0}
    assert seen == [{1.0, 2.0}, {2.0}]  # the control: the first copy was torn


def while_publishing(monkeypatch, weights, call):
    """Lets `call` run when one of the two modules is written and the other is not."""
    write = weights.copies[1].load_state_dict

    def interrupted(state):
        call()
        write(state)

    monkeypatch.setattr(weights.copies[1], "load_state_dict", interrupted)


def test_a_write_under_way_is_waited_for(monkeypatch):
    sources = filled(0.0)
    weights = SharedWeights(sources, every=1)
    reader = weights.reader()
    fill(sources[0], 1.0), fill(sources[1], 1.0)
    waits = []

    class WaitError(Exception):
        pass

    def wait(_):
        waits.append(values(reader.modules))
        raise WaitError

    def read():
        with pytest.raises(WaitError):
            reader.load()

    monkeypatch.setattr(policy_weights.time, "sleep", wait)
    while_publishing(monkeypatch, weights, read)
    weights.updated()
    assert waits == [{0.0}]
    assert reader.load() == 0
    assert values(reader.modules) == {1.0}


def test_a_learner_that_died_while_writing_does_not_hold_the_reader(monkeypatch):
    weights = SharedWeights(filled(0.0), every=1)

    def die():
        raise KeyboardInterrupt

    while_publishing(monkeypatch, weights, die)
    with pytest.raises(KeyboardInterrupt):
        weights.updated()
    monkeypatch.setattr(policy_weights.time, "sleep", lambda _: None)
    with pytest.raises(TimeoutError, match="learning process has died"):
        weights.reader().load()


@pytest.mark.parametrize("every", [1, 3])
def test_whole_and_fresh_whatever_the_writer_does(every):
    sources = filled(0.0)
    weights = SharedWeights(sources, every=every)
    reader = weights.reader()
    done, came = threading.Event(), threading.Condition()
    versions = set()

    def learn():
        for update in range(1, 1501):
            for layer in sources:
                fill(layer, float(update))
            weights.updated()
            if update % 150 == 0:  # the reader is not left behind altogether
                with came:
                    came.wait_for(lambda u=update: u in versions, timeout=600)
        done.set()

    thread = threading.Thread(target=learn, daemon=True)
    thread.start()
    while not done.is_set():
        assert 0 <= reader.load() <= every
        (value,) = values(reader.modules)
        assert value % every == 0
        with came:
            versions.add(value)
            came.notify()
    thread.join()
    reader.load()
    assert values(reader.modules) == {1500.0}
    assert len(versions) >= 10


def test_copies_are_the_readers_and_the_learners_own():
    sources = filled(1.0)
    weights = SharedWeights(sources, every=1)
    reader = weights.reader()
    for layer in reader.modules:
        fill(layer, 5.0)
    assert values(weights.copies) == values(sources) == {1.0}
    assert all(p.is_shared() for m in weights.copies for p in m.parameters())
    assert not any(p.is_shared() for m in sources for p in m.parameters())


def test_resuming_publishes_what_was_loaded():
    sources = filled(1.0)
    weights = SharedWeights(sources, every=100)
    reader = weights.reader()
    fill(sources[0], 2.0), fill(sources[1], 2.0)
    weights.updated()
    assert reader.load() == 1
    weights.load_state_dict({"age": 7})
    assert (weights.age, reader.load()) == (7, 0)
    assert values(reader.modules) == {2.0}
