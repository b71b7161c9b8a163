"""Losses on packed batches of whole episodes."""

from resel_torchrl.objectives import functional
from resel_torchrl.objectives.discrete_resel import DiscreteRESeLLoss
from resel_torchrl.objectives.episode_loss import EpisodeLoss
from resel_torchrl.objectives.make_loss import make_loss
from resel_torchrl.objectives.packed import PackedBatch, read_packed
from resel_torchrl.objectives.resel import RESeLLoss
from resel_torchrl.objectives.td3_resel import TD3RESeLLoss

__all__ = [
    "DiscreteRESeLLoss",
    "EpisodeLoss",
    "PackedBatch",
    "RESeLLoss",
    "TD3RESeLLoss",
    "functional",
    "make_loss",
    "read_packed",
]
