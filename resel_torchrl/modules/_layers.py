"""What encoders, actors and critics share: a linear map and a check of sizes."""

from __future__ import annotations

from torch import Tensor, nn


def xavier_linear(in_features: int, out_features: int) -> nn.Linear:
    """Return a linear map with Xavier-uniform weight and zero bias.

    RESeL (arXiv 2405.15384, released code) draws the encoder's two linear maps, the
    policy's observation map and every head layer this way; pre-encoders and the
    critic's input maps keep PyTorch's default.
    """
    layer = nn.Linear(in_features, out_features)
    nn.init.xavier_uniform_(layer.weight)
    nn.init.zeros_(layer.bias)
    return layer


def check_size(owner: nn.Module, name: str, value: Tensor, size: int) -> None:
    """Raise ValueError unless the last dimension of ``value`` has ``size``."""
    if value.shape[-1:] != (size,):
        raise ValueError(
            f"{type(owner).__name__}: expected {name} of shape [*B, {size}], got "
            f"{list(value.shape)}. Correct {name}_size, or the data."
        )
