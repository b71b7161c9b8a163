"""Replay of episodes, whole or in segments: samplers and packing of their batches."""

from resel_torchrl.replay.episode_index import EpisodeIndex, StorageIndex
from resel_torchrl.replay.pack import (
    RowLayout,
    first_fit_decreasing,
    pack_episodes,
    padding_share,
    row_layout,
)
from resel_torchrl.replay.sampler import EpisodeSampler
from resel_torchrl.replay.segment_sampler import SegmentSampler

__all__ = [
    "EpisodeIndex",
    "EpisodeSampler",
    "RowLayout",
    "SegmentSampler",
    "StorageIndex",
    "first_fit_decreasing",
    "pack_episodes",
    "padding_share",
    "row_layout",
]
