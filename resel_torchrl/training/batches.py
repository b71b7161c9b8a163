"""The batches that a learner learns from."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from tensordict import TensorDict
from torch import Tensor
from torchrl.data import ReplayBuffer

from resel_torchrl.replay import padding_share

__all__ = ["PackedBatches"]

REWARD = ("next", "reward")


class PackedBatches:
    """Draws packed batches from a replay buffer, one ahead of its use.

    Args:
        replay_buffer: Whole episodes.
        pack: From a flat sample to a packed batch ``[R, L]``, see
            :func:`~resel_torchrl.replay.pack_episodes`.
        batch_size: Transitions of a batch at least.
        reward_scale: Factor of the rewards that the losses see.
        device: Where the batches go.

    Attributes:
        upcoming: Batch of the next update; None before the first :meth:`draw`.
        padding_fraction: Its share of steps without a transition.

    >>> import functools
    >>> from torchrl.data import LazyTensorStorage, TensorDictReplayBuffer
    >>> from resel_torchrl.collect import flat_episode
    >>> from resel_torchrl.replay import EpisodeSampler, pack_episodes
    >>> buffer = TensorDictReplayBuffer(
    ...     storage=LazyTensorStorage(100), sampler=EpisodeSampler(seed=0)
    ... )
    >>> values = torch.ones(6, 1).numpy()
    >>> _ = buffer.extend(flat_episode(values, values[:5], values[:5, 0], False, True))
    >>> pack = functools.partial(pack_episodes, row_length=6)
    >>> batches = PackedBatches(buffer, pack, batch_size=5, reward_scale=0.1)
    >>> batches.draw()["next", "reward"].flatten()
    tensor([0.1000, 0.1000, 0.1000, 0.1000, 0.1000, 0.0000])
    """

    def __init__(
        self,
        replay_buffer: ReplayBuffer,
        pack: Callable[[TensorDict], TensorDict],
        *,
        batch_size: int,
        reward_scale: float = 1.0,
        device: torch.device | str = "cpu",
    ) -> None:
        self.replay_buffer = replay_buffer
        self.pack = pack
        self.batch_size = batch_size
        self.reward_scale = reward_scale
        self.device = torch.device(device)
        self.upcoming: TensorDict | None = None
        self.padding_fraction: Tensor | None = None

    def sample(self) -> TensorDict:
        """Return a packed batch on the buffer's device, which is not kept."""
        packed = self.pack(self.replay_buffer.sample(self.batch_size))
        if self.reward_scale != 1.0:
            packed.set(REWARD, packed.get(REWARD) * self.reward_scale)
        return packed

    def draw(self) -> TensorDict:
        """Draw the upcoming batch in place of the one before; return it."""
        packed = self.sample()
        self.padding_fraction = padding_share(packed)
        if self.device.type != "cpu":
            packed = _moved(packed, self.device)
        self.upcoming = packed
        return packed

    def state_dict(self) -> dict[str, Any] | None:
        """Return the upcoming batch, if there is one; the buffer is saved apart."""
        if self.upcoming is None:
            return None
        return {
            "entries": dict(_moved(self.upcoming, "cpu").flatten_keys(".").items()),
            "shape": list(self.upcoming.batch_size),
            "padding": self.padding_fraction,
        }

    def load_state_dict(self, state: dict[str, Any] | None) -> None:
        """Take the upcoming batch back."""
        self.upcoming = None
        if state is not None:
            batch = TensorDict(state["entries"], state["shape"])
            self.upcoming = _moved(batch.unflatten_keys("."), self.device)
            self.padding_fraction = state["padding"]


def _moved(batch: TensorDict, device: torch.device | str) -> TensorDict:
    """A batch on a device; an entry that stores one column for all keeps doing so."""
    device = torch.device(device)

    def move(value: Tensor) -> Tensor:
        stored = value if value.stride(1) else value[:, :1]
        if value.device.type == "cpu" and device.type == "cuda":
            # From other memory the host would wait until the GPU has caught up.
            stored = stored.contiguous().pin_memory()
        return stored.to(device, non_blocking=True).expand_as(value)

    return batch.apply(move, device=device)
