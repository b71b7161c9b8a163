"""The part of a context encoder that learns slowly."""

from __future__ import annotations

from torch import Tensor, nn

from resel_torchrl.modules.cores import SequenceCore
from resel_torchrl.modules.init import xavier_linear

__all__ = ["ContextTrunk"]


class ContextTrunk(nn.Module):
    """In-projection, sequence core and out-projection: what learns slowly.

    ``Linear -> ELU -> core -> ELU -> Linear``. All of its parameters, and no
    others, get the context-encoder-specific learning rate (arXiv 2405.15384,
    section 4).

    Args:
        input_size: size of the concatenated embeddings.
        core: the sequence core; its width is the hidden size.
        context_size: size of the context.

    Example:
        >>> import torch
        >>> from resel_torchrl.modules import ContextTrunk, make_core
        >>> trunk = ContextTrunk(6, make_core("gru", 8), context_size=4)
        >>> start = torch.tensor([[True, False, False]])
        >>> context, state = trunk(torch.zeros(1, 3, 6), start, None)
        >>> context.shape, state.shape
        (torch.Size([1, 3, 4]), torch.Size([1, 8]))
    """

    def __init__(self, input_size: int, core: SequenceCore, context_size: int) -> None:
        super().__init__()
        self.in_projection = xavier_linear(input_size, core.input_size)
        self.core = core
        self.out_projection = xavier_linear(core.output_size, context_size)

    def forward(
        self, embedding: Tensor, is_init: Tensor, state: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        """Unroll over time: ``[R, L, input_size]`` to ``[R, L, context_size]``."""
        dtype = self.out_projection.weight.dtype  # what autocast may leave
        x = nn.functional.elu_(self.in_projection(embedding)).to(dtype)
        y, state = self.core(x, is_init, state)
        return self.out_projection(nn.functional.elu(y)).to(dtype), state

    def step(
        self, embedding: Tensor, is_init: Tensor, state: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Advance one step: ``[B, input_size]`` to ``[B, context_size]``."""
        x = nn.functional.elu_(self.in_projection(embedding))
        y, state = self.core.step(x, is_init, state)
        return self.out_projection(nn.functional.elu(y)), state
