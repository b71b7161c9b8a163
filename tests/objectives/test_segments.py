"""Learning from segments: what stands before and behind one, and what is learned."""

import pytest
import torch
from torchrl.data import LazyTensorStorage, TensorDictReplayBuffer
from torchrl.modules import set_recurrent_mode

from resel_torchrl.replay import SegmentSampler, pack_episodes
from tests.objectives.episodes import (
    ALGORITHMS,
    CRITICS,
    flatten,
    is_discrete,
    make_episodes,
    make_loss,
    pack,
    targets,
    total,
)
from tests.objectives.test_isolation import poison

LENGTHS = [11, 4, 7]
SEGMENT = 4


def pack_segments(episodes, *, burn_in=0, row_length=SEGMENT + 1, with_leads=True):
    """Every segment of the episodes, one per row where they are all of full length."""
    flat = flatten(episodes)
    buffer = TensorDictReplayBuffer(
        storage=LazyTensorStorage(len(flat)),
        sampler=SegmentSampler(SEGMENT, burn_in=burn_in, seed=0),
        batch_size=len(flat),
    )
    buffer.extend(flat)
    sample = buffer.sample()
    if not with_leads:
        sample["is_init"][1:] |= sample["is_lead"][:-1]
        sample = sample[~sample["is_lead"].squeeze(-1)].exclude("is_lead")
    return pack_episodes(sample, row_length + burn_in)


def of_each_transition(loss, batch):
    """Target and context of the critic of each transition learned from, by its
    observation."""
    context = loss.encode("critic_encoder", loss.read(batch).rows)[:, :-1]
    values = torch.cat([targets(loss, batch).unsqueeze(-1), context.detach()], -1)
    mask = batch.get("learning_mask", batch["valid"])[:, :-1].squeeze(-1)
    keys = batch["observation"][:, :-1][mask]
    found = {
        tuple(key.tolist()): value
        for key, value in zip(keys, values[mask], strict=True)
    }
    assert len(found) == sum(LENGTHS)
    return found


def largest_difference(found, expected):
    """Of the targets, and of the contexts."""
    difference = torch.stack([(found[key] - expected[key]).abs() for key in expected])
    return difference[:, 0].max().item(), difference[:, 1:].max().item()


def fixed_loss(core):
    """Targets without noise: a deterministic actor, all critics in the minimum."""
    return make_loss(
        core,
        algorithm="td3_resel",
        target_noise=0.0,
        critic_subset_size=CRITICS,
        target_bound=False,
    )


def test_targets_and_contexts_are_those_of_the_whole_episodes():
    """Exact for a core that sees one step back: the value goes on behind a segment.

    Controls: with segment ends taken for terminals targets are wrong, and without the
    transition before a segment the contexts.
    """
    episodes, loss = make_episodes(LENGTHS), fixed_loss("one_step")
    expected = of_each_transition(loss, pack(episodes, max(LENGTHS) + 1))

    def difference(batch):
        return largest_difference(of_each_transition(loss, batch), expected)

    batch = pack_segments(episodes)
    assert max(difference(batch)) < 1e-12
    batch["next", "terminated"] |= batch["next", "done"]
    assert difference(batch)[0] > 1e-2
    assert difference(pack_segments(episodes, with_leads=False))[1] > 1e-3


@pytest.mark.parametrize("core", ["gru", "lstm", "mamba"])
def test_burn_in_from_the_episodes_start_gives_the_contexts_of_whole_episodes(core):
    """Targets too; without burn-in neither."""
    episodes, loss = make_episodes(LENGTHS), fixed_loss(core)
    expected = of_each_transition(loss, pack(episodes, max(LENGTHS) + 1))
    for burn_in, close in ((max(LENGTHS), True), (0, False)):
        found = of_each_transition(loss, pack_segments(episodes, burn_in=burn_in))
        differences = largest_difference(found, expected)
        assert max(differences) < 1e-10 if close else min(differences) > 1e-5


def first_contexts(encoder, batch):
    """The context at the first transition learned from in each row, ``[R, C]``."""
    with set_recurrent_mode(True):
        context = encoder(batch.select(*encoder.in_keys, strict=False))["context_actor"]
    mask = batch.get("learning_mask", batch["valid"]).squeeze(-1)
    return context[torch.arange(len(mask)), mask.int().argmax(1)]


def test_burn_in_changes_the_first_context_and_without_it_the_memory_is_fresh():
    (episode,) = make_episodes([12])
    encoder = make_loss("gru").actor_encoder
    plain = pack_segments([episode])
    assert plain.shape == (3, SEGMENT + 1)
    first = first_contexts(encoder, plain)
    inputs = [plain[key][:, 0] for key in encoder.input_keys]
    start = torch.ones(3, dtype=torch.bool)
    noise = torch.randn(3, encoder.state_size)
    fresh, _ = encoder.encode_step(inputs, start, noise)
    torch.testing.assert_close(first, fresh)
    begins = plain["observation"][:, 0, 0]
    burnt = pack_segments([episode], burn_in=2)
    own = burnt["learning_mask"].squeeze(-1)
    columns = own.int().argmax(1)
    order = burnt["observation"][torch.arange(3), columns, 0]
    same = [begins.tolist().index(value) for value in order.tolist()]
    moved = (first_contexts(encoder, burnt) - first[same]).norm(dim=-1)
    at_start = columns == 0
    assert at_start.sum() == 1
    assert (moved[at_start] < 1e-12).all() and (moved[~at_start] > 1e-3).all()


def terms_and_gradients(loss, batch):
    torch.manual_seed(0)
    loss.zero_grad()
    terms = loss(batch)
    total(terms).backward()
    values = {name: p.grad.clone() for name, p in loss.named_parameters()}
    bounds = {"low": loss.bootstrap_low.clone(), "high": loss.bootstrap_high.clone()}
    return {**terms.detach().to_dict(), **values, **bounds}


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_burn_in_rows_carry_no_loss_and_are_seen(algorithm):
    """What a burn-in transition says of itself is without effect; what it shows is not.

    Control: with ``loss_mask_key = None`` the loss learns from them.
    """
    discrete = is_discrete(algorithm)
    batch = pack_segments(make_episodes(LENGTHS, discrete=discrete), burn_in=3)
    burn_in = batch["valid"] & ~batch["learning_mask"]
    assert burn_in.any()
    changed = batch.clone()
    changed["action"] = torch.where(burn_in, batch["action"].flip(-1), batch["action"])
    changed["next", "reward"] += burn_in * 50.0
    changed["next", "terminated"] ^= burn_in
    seen = batch.clone()
    seen["observation"] = batch["observation"] + burn_in * 0.5

    def compare(other, mask_key="auto"):
        losses = [make_loss(algorithm=algorithm) for _ in range(2)]
        for loss in losses:
            loss.loss_mask_key = mask_key
        pairs = zip(losses, (batch, other), strict=True)
        ours, theirs = (terms_and_gradients(loss, b) for loss, b in pairs)
        return [name for name in ours if not torch.equal(ours[name], theirs[name])]

    for key in ("auto", "learning_mask"):
        assert compare(changed, key) == []
    assert {"loss_qvalue", "high"} <= set(compare(changed, None))
    assert {"loss_qvalue", "loss_actor"} <= set(compare(seen))


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_nan_in_padding_changes_neither_loss_nor_gradient(algorithm):
    episodes = make_episodes(LENGTHS, discrete=is_discrete(algorithm))
    batch = pack_segments(episodes, burn_in=3, row_length=2 * SEGMENT)
    bad = poison(batch)
    assert bad["observation"].isnan().any() and bad["prev_action"].isnan().any()
    clean, found = (
        terms_and_gradients(make_loss(algorithm=algorithm), b) for b in (batch, bad)
    )
    for name, value in found.items():
        assert value.isfinite().all(), name
        assert torch.equal(value, clean[name]), name


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_means_are_over_the_transitions_of_the_segments(algorithm):
    """With the whole history as burn-in, the mean norm is that of whole episodes."""
    episodes = make_episodes(LENGTHS, discrete=is_discrete(algorithm))
    whole = pack(episodes, max(LENGTHS) + 1)
    batch = pack_segments(episodes, burn_in=max(LENGTHS))
    assert batch["learning_mask"].sum() == whole["valid"].sum() < batch["valid"].sum()
    loss = make_loss(algorithm=algorithm)
    for terms, key in (
        (loss.critic_loss, "context_critic_norm"),
        (loss.policy_loss, "context_actor_norm"),
    ):
        expected = terms(whole)[key]
        torch.testing.assert_close(terms(batch)[key], expected)
        loss.loss_mask_key = None
        assert (terms(batch)[key] - expected).abs() > 1e-6
        loss.loss_mask_key = "auto"
