"""Segments that start from the stored memory of the acting encoder."""

import pytest
import torch
from torchrl.data import LazyTensorStorage, TensorDictReplayBuffer

from resel_torchrl.objectives import RESeLLoss
from resel_torchrl.replay import SegmentSampler, pack_episodes
from tests.objectives.episodes import (
    ALGORITHMS,
    flatten,
    is_discrete,
    make_episodes,
    make_loss,
    make_modules,
    pack,
    total,
)
from tests.objectives.test_isolation import poison

# Most tests build no target updater; TorchRL reminds of it.
pytestmark = pytest.mark.filterwarnings("ignore:No target network updater")

LENGTHS = [11, 4, 7]
SEGMENT = 4
KEY = "context_actor_state"


@torch.no_grad()
def memories(encoder, episode):
    """The memory before each step of an episode, ``[T, state_size]``."""
    rows = pack([episode], len(episode) + 1)
    inputs = [rows[key][0] for key in encoder.input_keys]
    state, found = torch.zeros(1, encoder.state_size), []
    for t in range(len(episode)):
        found.append(state[0])
        first = torch.tensor([t == 0])
        _, state = encoder.encode_step([x[t : t + 1] for x in inputs], first, state)
    return torch.stack(found)


def pack_stored(loss, episodes, *, burn_in=0, state_key=KEY, **options):
    """Every segment of the episodes in a row of its own, with its memory."""
    parts = []
    for episode in episodes:
        part = flatten([episode])
        part[KEY] = memories(loss.actor_encoder, episode)
        parts.append(part)
    flat = torch.cat(parts)
    buffer = TensorDictReplayBuffer(
        storage=LazyTensorStorage(len(flat)),
        sampler=SegmentSampler(SEGMENT, burn_in=burn_in, seed=0),
        batch_size=len(flat),
    )
    buffer.extend(flat)
    length = SEGMENT + burn_in + 1
    return pack_episodes(buffer.sample(), length, state_key=state_key, **options)


def contexts(loss, batch, side):
    """Context of each transition learned from and the next, by its observation."""
    context = loss.encode(f"{side}_encoder", loss.read(batch).rows)
    both = torch.cat([context[:, :-1], context[:, 1:]], -1).detach()
    mask = batch.get("learning_mask", batch["valid"])[:, :-1].squeeze(-1)
    keys = batch["observation"][:, :-1][mask]
    found = {
        tuple(key.tolist()): value for key, value in zip(keys, both[mask], strict=True)
    }
    assert len(found) == sum(LENGTHS)
    return found


def difference(found, expected):
    return max((found[key] - expected[key]).abs().max().item() for key in expected)


@pytest.mark.parametrize("burn_in", [0, 2])
@pytest.mark.parametrize("core", ["gru", "lstm", "mamba", "lru", "transformer"])
def test_contexts_of_the_actor_are_those_of_whole_episodes(core, burn_in):
    """Control: from zero they are not, and those of the critic start from zero."""
    episodes, loss = make_episodes(LENGTHS), make_loss(core)
    whole = pack(episodes, max(LENGTHS) + 1)
    stored = pack_stored(loss, episodes, burn_in=burn_in)
    from_zero = pack_stored(loss, episodes, burn_in=burn_in, state_key=None)
    expected = contexts(loss, whole, "actor")
    assert difference(contexts(loss, stored, "actor"), expected) < 1e-10
    assert difference(contexts(loss, from_zero, "actor"), expected) > 1e-4
    critic = contexts(loss, stored, "critic")
    assert difference(critic, contexts(loss, from_zero, "critic")) < 1e-10
    assert difference(critic, contexts(loss, whole, "critic")) > 1e-5


def test_after_an_update_the_memory_is_a_stale_one():
    """It is what the old weights remembered, read by the new ones."""
    episodes, loss = make_episodes(LENGTHS), make_loss("gru")
    stored = pack_stored(loss, episodes)
    encoder = loss.actor_encoder
    for parameter in encoder.parameters():
        parameter.data += 0.1 * torch.randn_like(parameter)
    found = contexts(loss, stored, "actor")
    whole = contexts(loss, pack(episodes, max(LENGTHS) + 1), "actor")
    assert difference(found, whole) > 1e-3
    fresh = contexts(loss, pack_stored(loss, episodes), "actor")
    assert difference(fresh, whole) < 1e-10
    inputs = [stored[key][:, 0] for key in encoder.input_keys]
    first, _ = encoder.encode_step(
        inputs, stored["is_init"][:, 0, 0], stored[KEY][:, 0]
    )
    for row, context in zip(stored, first.detach(), strict=True):
        size = len(context)
        key = tuple(row["observation"][0].tolist())
        torch.testing.assert_close(found[key][:size], context)


def test_a_state_key_that_both_encoders_have_reaches_the_actors_alone():
    modules = make_modules("gru")
    modules["critic_encoder"].load_state_dict(modules["actor_encoder"].state_dict())
    modules["critic_encoder"].in_keys[-1] = KEY
    modules["critic_encoder"].state_key = KEY
    loss, episodes = RESeLLoss(**modules), make_episodes(LENGTHS)
    rows = loss.read(pack_stored(make_loss("gru"), episodes)).rows
    actor = loss.encode("actor_encoder", rows)
    critic = loss.encode("critic_encoder", rows)
    from_zero = loss.encode("actor_encoder", rows.exclude(KEY))
    assert torch.equal(critic, from_zero) and not torch.equal(actor, from_zero)


def terms_and_gradients(loss, batch):
    torch.manual_seed(0)
    loss.zero_grad()
    terms = loss(batch)
    total(terms).backward()
    values = {name: p.grad.clone() for name, p in loss.named_parameters()}
    bounds = {"low": loss.bootstrap_low.clone(), "high": loss.bootstrap_high.clone()}
    return {**terms.detach().to_dict(), **values, **bounds}


def stored_batch(algorithm, *, burn_in=2, **options):
    episodes = make_episodes(LENGTHS, discrete=is_discrete(algorithm))
    loss = make_loss(algorithm=algorithm)
    return loss, pack_stored(loss, episodes, burn_in=burn_in, **options)


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_nan_where_no_memory_is_read_changes_neither_loss_nor_gradient(algorithm):
    """In padding, at later columns, and at the first step of an episode."""
    loss, batch = stored_batch(algorithm, row_counts=9)
    bad = poison(batch)
    bad[KEY][:, 1:] = torch.nan
    starts = bad["is_init"][:, 0, 0] | ~bad["valid"][:, 0, 0]
    assert 0 < starts.sum() < len(starts)
    bad[KEY][starts] = torch.nan
    padding = ~bad["valid"][:, 0, 0]
    assert not loss.read(bad).rows[KEY][padding].any()  # no network sees it
    clean = terms_and_gradients(loss, batch)
    found = terms_and_gradients(make_loss(algorithm=algorithm), bad)
    for name, value in found.items():
        assert value.isfinite().all(), name
        assert torch.equal(value, clean[name]), name
    bad[KEY][~starts] = torch.nan  # the control: there it is read
    control = terms_and_gradients(make_loss(algorithm=algorithm), bad)
    assert control["loss_actor"].isnan()


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_every_loss_learns_from_the_memories(algorithm):
    loss, batch = stored_batch(algorithm)
    found = terms_and_gradients(loss, batch)
    other = terms_and_gradients(make_loss(algorithm=algorithm), batch.exclude(KEY))
    for name in ("loss_qvalue", "loss_actor"):
        assert found[name].isfinite() and not torch.equal(found[name], other[name])
    for name, value in found.items():
        assert value.isfinite().all(), name


def test_rows_do_not_leak_into_each_other():
    """Another memory in one row moves the contexts of that row alone."""
    loss, batch = stored_batch("resel")
    before = loss.encode("actor_encoder", loss.read(batch).rows)
    inner = ~batch["is_init"][:, 0, 0] & batch["valid"][:, 0, 0]
    row = int(inner.nonzero()[0])
    other = batch.clone()
    other[KEY][row] += 1.0
    after = loss.encode("actor_encoder", loss.read(other).rows)
    moved = (after != before).flatten(1).any(-1)
    assert moved.nonzero().flatten().tolist() == [row]
    start = int(batch["is_init"][:, 0, 0].nonzero()[0])
    other[KEY][start] += 1.0  # an episode's start does without
    again = loss.encode("actor_encoder", loss.read(other).rows)
    assert torch.equal(again, after)


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_encoder_passes_are_those_without_memories(algorithm):
    loss, batch = stored_batch(algorithm)
    passes = {"actor_encoder": 0, "critic_encoder": 0}
    for name in passes:

        def count(*_, name=name):
            passes[name] += 1

        getattr(loss, name).register_forward_hook(count)
    loss.critic_loss(batch)
    assert passes == {"actor_encoder": 1, "critic_encoder": 2}
    loss.policy_loss(batch)
    assert passes == {"actor_encoder": 2, "critic_encoder": 3}


def test_a_memory_of_the_wrong_shape_is_an_error():
    loss, batch = stored_batch("resel")
    batch[KEY] = batch[KEY][..., 0]
    with pytest.raises(ValueError, match=rf"Expected '{KEY}' of shape \[R, L, ...\]"):
        loss(batch)
    batch[KEY] = torch.zeros(*batch.shape, 2)
    with pytest.raises(ValueError, match=rf"expected '{KEY}' of shape"):
        loss(batch)
