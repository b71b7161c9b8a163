"""Optimizer parameter groups with a context-encoder-specific learning rate."""

from resel_torchrl.optim.parameter_groups import parameter_groups

__all__ = ["parameter_groups"]
