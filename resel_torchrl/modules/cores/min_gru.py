"""Gated linear recurrence of the minGRU kind."""

import torch
from torch import Tensor, nn

from resel_torchrl.modules.cores.base import SequenceCore, check_positive
from resel_torchrl.modules.cores.transformer import FeedForward
from resel_torchrl.ops import linear_scan, linear_scan_step


class MinGRUCore(SequenceCore):
    """Gated linear recurrence with resets, and a position-wise feed-forward.

    With ``u = LayerNorm(x)``,

        h_t = (1 - z_t) ⊙ h_{t-1} + z_t ⊙ g(W_h u_t + b_h),    z_t = σ(W_z u_t + b_z),

    where ``g(v)`` is ``v + 1/2`` for ``v >= 0`` and ``σ(v)`` below; gates depend on the
    input alone, so the recurrence is linear. Then ``y = x + W_o h + b_o`` and
    ``y + W2 GELU(W1 LayerNorm(y))``. Source: arXiv 2410.01201, section 3.1 and appendix
    B. Parameters start as PyTorch draws them, but for ``b_z``, which starts at
    ``gate_bias``: an untrained core forgets ``σ(gate_bias)`` of h at a step. The state
    is h.

    Args:
        size: width of input and output.
        expand: width of h, in multiples of ``size``.
        gate_bias: initial ``b_z``; the lower, the longer the memory. -2 is a memory of
            eight steps, 0 one of two.
        feedforward_size: inner width of the feed-forward; None for ``size``.
        norm_eps: added to both norms' variance.

    Raises:
        ValueError: if a size is not a positive integer.

    Examples:
        >>> core = MinGRUCore(16, expand=2)
        >>> is_init = torch.tensor([[True, False, False, True, False]])
        >>> y, state = core(torch.randn(1, 5, 16), is_init)
        >>> y.shape, state.shape
        (torch.Size([1, 5, 16]), torch.Size([1, 32]))
    """

    def __init__(
        self,
        size: int,
        expand: int = 1,
        gate_bias: float = -2.0,
        feedforward_size: int | None = None,
        norm_eps: float = 1e-5,
    ):
        width = check_positive(size, "size") * check_positive(expand, "expand")
        super().__init__(size, state_size=width)
        self.norm = nn.LayerNorm(size, eps=norm_eps)
        self.in_proj = nn.Linear(size, 2 * width)  # z, then what g is taken of
        self.out_proj = nn.Linear(width, size)
        nn.init.constant_(self.in_proj.bias[:width], gate_bias)
        inner = size if feedforward_size is None else feedforward_size
        self.feedforward = FeedForward(size, inner, norm_eps)

    def forward(
        self, x: Tensor, is_init: Tensor, state: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """See :meth:`SequenceCore.forward`."""
        state = self.check_sequence(x, is_init, state)
        h, last = linear_scan(*self._gates(x), is_init, state)
        return self.feedforward(x + self.out_proj(h)), last

    def step(self, x: Tensor, is_init: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
        """See :meth:`SequenceCore.step`."""
        self.check_step(x, is_init, state)
        h = linear_scan_step(*self._gates(x), is_init, state)
        return self.feedforward(x + self.out_proj(h)), h

    def _gates(self, x):
        """Decays 1 - z and inputs z ⊙ g."""
        gate, candidate = self.in_proj(self.norm(x)).to(x.dtype).chunk(2, -1)
        positive = torch.where(candidate >= 0, candidate + 0.5, candidate.sigmoid())
        return torch.sigmoid(-gate), torch.sigmoid(gate) * positive
