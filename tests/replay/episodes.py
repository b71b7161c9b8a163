"""Episodes whose every value tells which episode and which step it belongs to."""

import warnings

import torch
from tensordict import TensorDict
from torchrl.data import LazyTensorStorage, TensorDictReplayBuffer

from resel_torchrl.replay import EpisodeSampler

NAN = float("nan")


def make_episode(number, length, *, end="truncated", with_is_init=True, size=2):
    """``end``: "terminated", "truncated", or None for an unfinished episode.

    ``observation[t] = (number, t)``, the next one ``(number, t + 1)``.
    """
    step = torch.arange(length + 1.0)
    observation = torch.stack([torch.full((length + 1,), float(number)), step], -1)
    observation = observation.repeat(1, size // 2)
    done = torch.zeros(length, 1, dtype=torch.bool)
    done[-1] = end is not None
    flags = {
        "done": done,
        "terminated": done if end == "terminated" else torch.zeros_like(done),
        "truncated": done if end == "truncated" else torch.zeros_like(done),
    }
    episode = TensorDict(
        {
            "observation": observation[:-1],
            "action": torch.full((length, 3), float(number)) + step[:-1, None] / 1000,
            "next": {
                "observation": observation[1:],
                "reward": 100 * number + step[:-1, None] + 0.5,
                **{key: flag.clone() for key, flag in flags.items()},
            },
        },
        [length],
    )
    if with_is_init:
        episode["is_init"] = torch.arange(length).unsqueeze(-1) == 0
    return episode


def make_buffer(capacity, batch_size, *, storage=LazyTensorStorage, seed=0, **kwargs):
    return TensorDictReplayBuffer(
        storage=storage(capacity),
        sampler=EpisodeSampler(seed=seed, **kwargs),
        batch_size=batch_size,
    )


def make_poisoned_buffer(capacity, with_is_init):
    """An empty buffer with NaN in every slot, and done flags that invite sampling."""
    buffer = make_buffer(capacity, 1)
    poison = make_episode(0, capacity, with_is_init=with_is_init)
    for key, column in poison.items(True, True):
        column.fill_(key == ("next", "done") if column.dtype == torch.bool else NAN)
    buffer.extend(poison)
    buffer.empty()
    return buffer


def sampled_episodes(batch):
    """Splits a sample by its start flags into (number, length) pairs, checking that
    each runs from its first step to its done flag."""
    starts = batch["is_init"].flatten().nonzero().flatten().tolist()
    assert starts[0] == 0
    episodes = []
    for start, stop in zip(starts, [*starts[1:], len(batch)], strict=True):
        piece = batch[start:stop]
        length = stop - start
        number = int(piece["observation"][0, 0])
        assert (piece["observation"][:, 0] == number).all()
        assert piece["observation"][:, 1].tolist() == list(range(length))
        assert piece["next", "observation"][:, 1].tolist() == list(range(1, length + 1))
        assert piece["next", "done"].flatten().tolist() == [False] * (length - 1) + [
            True
        ]
        episodes.append((number, length))
    return episodes


def all_stored(buffer):
    """Every whole episode of the buffer: more is asked for than there is."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return sampled_episodes(buffer.sample(10**6))


def still_stored(lengths, capacity):
    """The newest episodes whose lengths add up to at most the capacity."""
    total = sum(lengths)
    kept = []
    for number, length in enumerate(lengths):
        if total <= capacity:
            kept.append((number, length))
        total -= length
    return kept
