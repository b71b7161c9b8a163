"""Replay of episodes, whole or in segments: samplers and packing of their batches."""

from resel_torchrl.replay.episode_index import EpisodeIndex
from resel_torchrl.replay.layout import RowLayout, first_fit_decreasing, row_layout
from resel_torchrl.replay.pack import pack_episodes, padding_share
from resel_torchrl.replay.sampler import EpisodeSampler
from resel_torchrl.replay.segment_sampler import SegmentSampler
from resel_torchrl.replay.storage_index import StorageIndex

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
