"""Initialisation of linear maps."""

from __future__ import annotations

from torch import nn

__all__ = ["xavier_linear"]


def xavier_linear(in_features: int, out_features: int) -> nn.Linear:
    """Return a linear map with Xavier-uniform weight and zero bias.

    RESeL (arXiv 2405.15384, released code) draws the encoder's two linear maps,
    the policy's observation map and every head layer this way; pre-encoders and
    the critic's input maps keep PyTorch's default.

    Args:
        in_features: size of the input's last dimension.
        out_features: size of the output's last dimension.

    Returns:
        The initialised ``nn.Linear``.

    Example:
        >>> from resel_torchrl.modules.init import xavier_linear
        >>> layer = xavier_linear(4, 2)
        >>> bool(layer.weight.abs().max() <= 1.0), layer.bias.tolist()
        (True, [0.0, 0.0])
    """
    layer = nn.Linear(in_features, out_features)
    nn.init.xavier_uniform_(layer.weight)
    nn.init.zeros_(layer.bias)
    return layer
