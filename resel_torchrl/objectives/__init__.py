"""Losses on packed batches of whole episodes."""

from resel_torchrl.objectives import functional
from resel_torchrl.objectives.packed import PackedBatch, read_packed
from resel_torchrl.objectives.resel import RESeLLoss

__all__ = ["PackedBatch", "RESeLLoss", "functional", "read_packed"]
