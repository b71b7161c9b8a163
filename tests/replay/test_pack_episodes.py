"""pack_episodes lays every transition where the packed batch wants it."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torchrl.data import LazyTensorStorage, SliceSampler, TensorDictReplayBuffer

from resel_torchrl.replay import EpisodeSampler, pack_episodes, padding_share
from tests.replay.episodes import NAN, make_buffer, make_episode
from tests.replay.reference import pack_one_by_one, places_first_fit

KEYS = {
    "observation",
    "prev_observation",
    "action",
    "prev_action",
    "prev_reward",
    ("next", "reward"),
    ("next", "done"),
    ("next", "terminated"),
    "is_init",
    "valid",
}


def flags(batch, key="valid"):
    return batch[key].squeeze(-1).int().tolist()


@settings(deadline=None, max_examples=60)
@given(
    lengths=st.lists(st.integers(1, 15), min_size=1, max_size=25),
    slack=st.integers(0, 20),
    gap=st.integers(0, 3),
    ends=st.lists(st.sampled_from(["terminated", "truncated"]), min_size=25),
    with_is_init=st.booleans(),
)
def test_packed_batch_equals_the_layout_written_out(
    lengths, slack, gap, ends, with_is_init
):
    episodes = [
        make_episode(i + 1, n, end=end, with_is_init=with_is_init)
        for i, (n, end) in enumerate(zip(lengths, ends, strict=False))
    ]
    row_length = max(lengths) + 1 + slack
    places, n_rows = places_first_fit(lengths, row_length, gap)
    expected = pack_one_by_one(episodes, places, n_rows, row_length)
    batch = pack_episodes(torch.cat(episodes), row_length, gap=gap)
    assert batch.batch_size == (n_rows, row_length)
    assert set(batch.keys(True, True)) == KEYS == set(expected)
    for key, value in expected.items():
        assert batch[key].dtype == value.dtype
        assert torch.equal(batch[key], value), key
    assert not batch["valid"][:, -1].any()
    assert batch["valid"].sum() == sum(lengths)


def test_the_oracle_itself_places_episodes_apart():
    places, n_rows = places_first_fit([2, 4, 1], row_length=6, gap=1)
    assert (places, n_rows) == ([(1, 0), (0, 0), (1, 4)], 2)


def test_poisoned_entries_never_reach_the_batch():
    """Only the last next observation of an episode is read, nothing unlisted is."""
    flat = torch.cat([make_episode(1, 4), make_episode(2, 2)])
    ends = flat["next", "done"].squeeze(-1)
    clean = pack_episodes(flat, 8, 2)
    flat["next", "observation"][~ends] = NAN
    flat["context_actor"] = torch.full((6, 3), NAN)
    batch = pack_episodes(flat, 8, 2)
    assert (batch == clean).all()
    assert all(value.isfinite().all() for value in batch.values(True, True))
    control = flat.clone()
    control["next", "observation"][ends] = NAN
    assert pack_episodes(control, 8, 2)["observation"].isnan().any()


def test_no_entry_is_left_unwritten():
    """With padding that torch.empty fills with NaN, none appears."""
    torch.use_deterministic_algorithms(True)  # torch.empty then returns NaN
    try:
        assert torch.empty(3).isnan().all()
        batch = pack_episodes(make_episode(1, 3), 50, 3, gap=2)
    finally:
        torch.use_deterministic_algorithms(False)
    padding = torch.ones(3, 50, dtype=torch.bool)
    padding[0, :4] = False
    for key in KEYS - {"is_init"}:
        assert not batch[key][padding].any(), key
    assert batch["is_init"][padding].all()


def test_smallest_allowed_row_count_is_used():
    flat = torch.cat([make_episode(i, 4) for i in range(5)])
    assert pack_episodes(flat, 10).shape == (3, 10)
    assert pack_episodes(flat, 10, 3).shape == (3, 10)
    assert pack_episodes(flat, 10, 7).shape == (7, 10)
    assert pack_episodes(flat, 10, [8, 4, 2]).shape == (4, 10)
    with pytest.raises(ValueError, match="fits in 2 rows of 10, got 5 episodes of 20"):
        pack_episodes(flat, 10, (1, 2))


def test_longest_episode_fits_exactly_and_one_more_step_does_not():
    batch = pack_episodes(make_episode(1, 9), 10, 1)
    assert flags(batch) == [[1] * 9 + [0]]
    with pytest.raises(
        ValueError,
        match="episode of 10 transitions met, row_length = 10: raise the horizon to at "
        "least 10",
    ):
        pack_episodes(make_episode(1, 10), 10)


def test_gap_leaves_blank_steps_between_episodes_only():
    flat = torch.cat([make_episode(1, 2), make_episode(2, 2)])
    batch = pack_episodes(flat, 8, gap=2)
    assert flags(batch) == [[1, 1, 0, 0, 0, 1, 1, 0]]
    assert flags(batch, "is_init") == [[1, 0, 0, 1, 1, 1, 0, 0]]
    assert pack_episodes(flat, 8, gap=3).shape == (2, 8)
    with pytest.raises(ValueError, match="gap of at least 0"):
        pack_episodes(flat, 8, gap=-1)


def test_cut_slices_are_packed_as_truncated_episodes():
    buffer = TensorDictReplayBuffer(
        storage=LazyTensorStorage(100),
        sampler=SliceSampler(slice_len=3, end_key=("next", "done")),
        batch_size=6,
    )
    buffer.extend(make_episode(1, 50, end="terminated"))
    torch.manual_seed(0)
    flat = buffer.sample()
    batch = pack_episodes(flat, 4, 2)
    first = flat["observation"].view(2, 3, 2)
    assert torch.equal(batch["observation"][:, :3], first)
    assert torch.equal(batch["observation"][:, 3], first[:, -1] + torch.tensor([0, 1]))
    assert flags(batch, ("next", "done")) == [[0, 0, 1, 0]] * 2
    assert not batch["next", "terminated"].any()
    assert not batch["prev_observation"][:, 0].any()


@pytest.mark.parametrize("with_is_init", [True, False])
def test_unfinished_slice_at_the_end_is_truncated_there(with_is_init):
    parts = [make_episode(i, 3, end=None, with_is_init=with_is_init) for i in (1, 2)]
    batch = pack_episodes(parts[0], 4)
    assert flags(batch, ("next", "done")) == [[0, 0, 1, 0]]
    # A start flag shows where the first part was cut; without, they are one episode.
    batch = pack_episodes(torch.cat(parts), 8)
    expected = [0, 0, 1, 0, 0, 0, 1, 0] if with_is_init else [0, 0, 0, 0, 0, 1, 0, 0]
    assert flags(batch, ("next", "done")) == [expected]


def test_contradicting_start_flags_are_refused():
    flat = torch.cat([make_episode(1, 3), make_episode(2, 3)])
    flat["is_init"][3] = False
    with pytest.raises(ValueError, match="none at 3, which follows a done flag"):
        pack_episodes(flat, 8)
    flat["is_init"][0] = False
    with pytest.raises(ValueError, match="none at 0"):
        pack_episodes(flat, 8)


def test_lengths_known_beforehand_give_the_same_batch():
    buffer = make_buffer(200, 60)
    for number in range(30):
        buffer.extend(make_episode(number, 1 + number % 7))
    flat = buffer.sample()
    batch = pack_episodes(flat, 10, lengths=buffer.sampler.last_lengths)
    assert (batch == pack_episodes(flat, 10)).all()
    with pytest.raises(ValueError, match="add up to the"):
        pack_episodes(flat, 10, lengths=np.array([1, 2]))
    with pytest.raises(ValueError, match="positive lengths"):
        pack_episodes(flat[:3], 10, lengths=[4, -1])


def test_entries_may_have_other_keys_shapes_and_types():
    flat = make_episode(1, 4)
    pixels = torch.arange(4 * 12, dtype=torch.uint8).view(4, 3, 2, 2)
    flat["agent", "pixels"] = pixels
    flat["next", "agent", "pixels"] = pixels + 1
    flat["act"] = torch.nn.functional.one_hot(torch.tensor([0, 2, 1, 1]))
    flat["next", "agent", "gain"] = torch.arange(4, dtype=torch.float64)
    flat["next", "over"] = flat["next", "done"].squeeze(-1)
    flat["next", "dead"] = flat["next", "over"]
    flat["start"] = flat["is_init"].squeeze(-1)
    batch = pack_episodes(
        flat,
        6,
        observation_keys=["observation", ("agent", "pixels")],
        action_key="act",
        reward_key=("agent", "gain"),
        done_key="over",
        terminated_key="dead",
        is_init_key="start",
        valid_key="mask",
    )
    assert set(batch.keys(True, True)) == {
        "observation",
        "prev_observation",
        ("agent", "pixels"),
        ("agent", "prev_pixels"),
        "act",
        "prev_act",
        ("next", "agent", "gain"),
        ("agent", "prev_gain"),
        ("next", "over"),
        ("next", "dead"),
        "start",
        "mask",
    }
    assert batch["agent", "pixels"].dtype == torch.uint8
    assert torch.equal(batch["agent", "pixels"][0, :4], pixels)
    assert torch.equal(batch["agent", "pixels"][0, 4], pixels[3] + 1)
    assert torch.equal(batch["agent", "prev_pixels"][0, 1:5], pixels)
    assert torch.equal(batch["prev_act"][0, 1:5], flat["act"])
    assert batch["next", "agent", "gain"].tolist() == [[[0], [1], [2], [3], [0], [0]]]
    assert batch["start"].shape == batch["next", "over"].shape == (1, 6, 1)


def test_wrong_input_is_named():
    flat = make_episode(1, 4)
    with pytest.raises(ValueError, match=r"\[N\] with N > 0, got \[1, 6\]"):
        pack_episodes(pack_episodes(flat, 6), 6)
    with pytest.raises(ValueError, match=r"got \[0\]"):
        pack_episodes(flat[:0], 6)
    with pytest.raises(
        KeyError, match=r"'act' in the batch of transitions, got .*actio"
    ):
        pack_episodes(flat, 6, action_key="act")


def test_share_of_padding_counts_the_last_steps_too():
    batch = pack_episodes(make_episode(1, 3), 5, 2)
    assert padding_share(batch).item() == pytest.approx(0.7)
    assert padding_share(batch.rename_key_("valid", "mask"), "mask").ndim == 0


@pytest.mark.gpu
def test_on_cuda_equals_cpu():
    def draw(device):
        buffer = TensorDictReplayBuffer(
            storage=LazyTensorStorage(50, device=device),
            sampler=EpisodeSampler(seed=0),
            batch_size=20,
        )
        for number in range(25):
            buffer.extend(make_episode(number, 1 + number % 7))
        flat = buffer.sample()
        lengths = buffer.sampler.last_lengths
        return pack_episodes(flat, 10), pack_episodes(flat, 10, lengths=lengths)

    expected, _ = draw("cpu")
    for batch in draw("cuda"):
        assert batch.device.type == "cuda"
        assert (batch.cpu() == expected).all()
