"""Passes on side streams: the same terms, each begun and waited for in time."""

import contextlib
import copy
import pickle

import pytest
import torch

from resel_torchrl.config import compose
from resel_torchrl.errors import ConfigError
from resel_torchrl.objectives.episode_loss import SideStreams
from tests.objectives.episodes import (
    LOSSES,
    is_discrete,
    make_episodes,
    make_loss,
    pack,
)

GPU = torch.device("cuda", 1)


class FakeStream:
    """Runs at once; remembers what waited for what, in order."""

    def __init__(self, log, device, name=None):
        assert device == GPU
        self.log, self.name = log, name or f"side {id(self)}"

    def wait_stream(self, other):
        self.log.append(("waits", self.name, other.name))


@pytest.fixture
def streams(monkeypatch):
    """CUDA's streams without CUDA; gives the log and the present stream."""
    log = []
    current = [FakeStream(log, GPU, "main")]

    @contextlib.contextmanager
    def use(stream):
        current.append(stream)
        yield
        current.pop()

    monkeypatch.setattr(torch.cuda, "Stream", lambda device: FakeStream(log, device))
    monkeypatch.setattr(
        torch.cuda, "current_stream", lambda device: current[-1 if device == GPU else 9]
    )
    monkeypatch.setattr(torch.cuda, "stream", use)
    return log, current


def batch_for(algorithm):
    return pack(make_episodes([4, 3], discrete=is_discrete(algorithm)), 9)


def terms_and_gradients(loss, batch, term):
    torch.manual_seed(0)
    terms = getattr(loss, term)(batch)
    parameters = [p for p in loss.parameters() if p.requires_grad]
    total = sum(value for key, value in terms.items() if key.startswith("loss_"))
    gradients = torch.autograd.grad(total, parameters, allow_unused=True)
    return [*terms.values(), *(g for g in gradients if g is not None)]


@pytest.mark.parametrize("algorithm", LOSSES)
@pytest.mark.parametrize(
    ("term", "on_main"),
    [("critic_loss", "critic_encoder"), ("policy_loss", "actor_encoder")],
)
def test_what_needs_no_gradient_runs_beside(streams, algorithm, term, on_main):
    log, current = streams
    loss, batch = make_loss(algorithm=algorithm), batch_for(algorithm)
    expected = terms_and_gradients(copy.deepcopy(loss), batch, term)
    encode = loss.encode

    def watched(name, rows, params=None):
        log.append(("encodes", current[-1].name, name))
        return encode(name, rows, params)

    loss.encode = watched
    loss._side_streams = SideStreams(GPU)
    got = terms_and_gradients(loss, batch, term)
    assert len(got) == len(expected)
    assert all(map(torch.equal, got, expected))

    passes = [entry for entry in log if entry[0] == "encodes"]
    assert ("encodes", "main", on_main) == passes[-1]
    sides = [stream for _, stream, _ in passes[:-1]]
    assert len(set(sides)) == len(sides) == (2 if term == "critic_loss" else 1)
    for stream in sides:
        begun, done = ("waits", stream, "main"), ("waits", "main", stream)
        encodes = [entry[:2] for entry in log].index(("encodes", stream))
        assert log.index(begun) < encodes < log.index(passes[-1]) < log.index(done)


def test_a_context_that_is_known_starts_nothing(streams):
    log, _ = streams
    loss, batch = make_loss(), batch_for("resel")
    loss._side_streams = SideStreams(GPU)
    loss.critic_loss(batch, loss.policy_context(batch).detach())
    (_, side, main), joined = log
    assert main == "main" != side
    assert joined == ("waits", "main", side)


def test_a_copy_has_streams_of_its_own(streams):
    side = SideStreams(GPU)
    side.start(lambda: None)()
    for other in (copy.deepcopy(side), pickle.loads(pickle.dumps(side))):
        assert (other.count, other.device) == (2, GPU)
        assert other._streams == []


@pytest.mark.parametrize("algorithm", LOSSES)
def test_another_device_is_refused(algorithm):
    loss = make_loss(algorithm=algorithm)
    loss.parallel_passes = False
    with pytest.raises(ValueError, match="expected a loss on a CUDA device, got cpu"):
        loss.parallel_passes = True
    assert loss.parallel_passes is False


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ([], "parallel_passes: expected false with device=cpu"),
        (["device=cuda", "train.compile=true"], "expected false with train.compile"),
    ],
)
def test_what_it_does_not_go_with_is_refused(options, message):
    with pytest.raises(ConfigError, match=message):
        compose(["task=pendulum_v", "train.parallel_passes=true", *options])
