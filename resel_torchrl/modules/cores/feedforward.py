"""The position-wise part of the pre-norm cores."""

from torch import Tensor, nn

from resel_torchrl.modules.cores.base import check_positive


class FeedForward(nn.Module):
    """Pre-norm feed-forward with a residual: ``x + W2 GELU(W1 LayerNorm(x))``.

    Args:
        size: width of input and output.
        inner_size: width in between.
        norm_eps: added to the norm's variance.

    Raises:
        ValueError: if a size is not a positive integer.

    Examples:
        >>> import torch
        >>> FeedForward(4, 8)(torch.zeros(2, 3, 4)).shape
        torch.Size([2, 3, 4])
    """

    def __init__(self, size: int, inner_size: int, norm_eps: float = 1e-5):
        super().__init__()
        check_positive(inner_size, "feedforward_size")
        self.norm = nn.LayerNorm(size, eps=norm_eps)
        self.layers = nn.Sequential(
            nn.Linear(size, inner_size), nn.GELU(), nn.Linear(inner_size, size)
        )

    def forward(self, x: Tensor) -> Tensor:
        """Maps ``[*, size]`` to ``[*, size]``."""
        return x + self.layers(self.norm(x))
