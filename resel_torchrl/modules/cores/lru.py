"""Linear Recurrent Unit core."""

import math

import torch
from torch import Tensor, nn

from resel_torchrl.modules.cores.base import SequenceCore, check_positive
from resel_torchrl.modules.cores.transformer import FeedForward
from resel_torchrl.ops import linear_scan, linear_scan_step


class LRUCore(SequenceCore):
    """Linear Recurrent Unit with resets, and a position-wise feed-forward.

    With ``u = LayerNorm(x)`` and N complex states, of which each has a decay of its own
    that is constant in time,

        h_t = λ ⊙ h_{t-1} + γ ⊙ (B u_t),    y_t = x_t + Re(C h_t) + D ⊙ u_t,
        λ = exp(-exp(nu_log) + i exp(theta_log)),

    so that ``|λ| < 1`` whatever is learned; then ``y + W2 GELU(W1 LayerNorm(y))``.
    Source: arXiv 2303.06349, section 3 and appendix A. As there, λ starts uniform on
    the ring ``r_min ≤ |λ| ≤ r_max`` with phases up to ``max_phase``, γ at
    ``√(1 - |λ|²)``, and B, C and D are normal with variances ``1 / (2 size)``,
    ``1 / N`` and 1. The ring from 0.9 to 0.999 is the paper's for long sequences.

    The state holds the real parts of h, then its imaginary parts.

    Args:
        size: width of input and output.
        d_state: complex states, N; None for ``size``.
        r_min: smallest initial ``|λ|``.
        r_max: largest initial ``|λ|``.
        max_phase: largest initial angle of λ, in radians.
        feedforward_size: inner width of the feed-forward; None for ``size``.
        norm_eps: added to both norms' variance.

    Raises:
        ValueError: if a size is not a positive integer, or not
            ``0 <= r_min < r_max < 1`` or ``0 < max_phase <= 2 π``.

    Examples:
        >>> core = LRUCore(16, d_state=8)
        >>> is_init = torch.tensor([[True, False, False, True, False]])
        >>> y, state = core(torch.randn(1, 5, 16), is_init)
        >>> y.shape, state.shape
        (torch.Size([1, 5, 16]), torch.Size([1, 16]))
        >>> bool((core.decay().abs() >= 0.9).all())
        True
    """

    def __init__(
        self,
        size: int,
        d_state: int | None = None,
        r_min: float = 0.9,
        r_max: float = 0.999,
        max_phase: float = 2 * math.pi,
        feedforward_size: int | None = None,
        norm_eps: float = 1e-5,
    ):
        states = check_positive(size, "size") if d_state is None else d_state
        super().__init__(size, state_size=2 * check_positive(states, "d_state"))
        if not 0 <= r_min < r_max < 1:
            raise ValueError(
                f"Expected 0 <= r_min < r_max < 1, got r_min={r_min!r} and "
                f"r_max={r_max!r}. The paper's ring is r_min=0.9, r_max=0.999."
            )
        if not 0 < max_phase <= 2 * math.pi + 1e-6:
            raise ValueError(
                f"Expected 0 < max_phase <= 2 π, got {max_phase!r}. A full turn is "
                "6.2832."
            )
        self.norm = nn.LayerNorm(size, eps=norm_eps)
        self.nu_log = nn.Parameter(torch.empty(states))
        self.theta_log = nn.Parameter(torch.empty(states))
        self.gamma_log = nn.Parameter(torch.empty(states))
        self.B = nn.Parameter(torch.empty(2, states, size))  # real, imaginary
        self.C = nn.Parameter(torch.empty(2, size, states))
        self.D = nn.Parameter(torch.empty(size))
        inner = size if feedforward_size is None else feedforward_size
        self.feedforward = FeedForward(size, inner, norm_eps)
        self._reset_own_parameters(r_min, r_max, max_phase)

    @torch.no_grad()
    def _reset_own_parameters(self, r_min, r_max, max_phase):
        # Uniform on the ring's area: |λ|² is uniform. 1 - rand() is never zero.
        squared = torch.empty_like(self.nu_log).uniform_(r_min**2, r_max**2)
        self.nu_log.copy_((-0.5 * squared.clamp(min=1e-12).log()).log())
        self.theta_log.copy_((max_phase * (1 - torch.rand_like(self.theta_log))).log())
        self.gamma_log.copy_(0.5 * torch.log1p(-squared))
        nn.init.normal_(self.B, std=(2 * self.input_size) ** -0.5)
        nn.init.normal_(self.C, std=(self.state_size // 2) ** -0.5)
        nn.init.normal_(self.D)

    def decay(self) -> Tensor:
        """The eigenvalues λ of the recurrence, complex ``[N]``."""
        return torch.polar(torch.exp(-self.nu_log.exp()), self.theta_log.exp())

    def forward(
        self, x: Tensor, is_init: Tensor, state: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """See :meth:`SequenceCore.forward`."""
        state = self.check_sequence(x, is_init, state)
        u = self.norm(x)
        h, last = linear_scan(self.decay(), self._input(u), is_init, _complex(state))
        return self._output(x, u, h), _real(last)

    def step(self, x: Tensor, is_init: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
        """See :meth:`SequenceCore.step`."""
        self.check_step(x, is_init, state)
        u = self.norm(x)
        h = linear_scan_step(self.decay(), self._input(u), is_init, _complex(state))
        return self._output(x, u, h), _real(h)

    def _input(self, u):
        """γ ⊙ (B u), complex [*, N]."""
        weight = self.B * self.gamma_log.exp().unsqueeze(-1)
        product = nn.functional.linear(u, weight.flatten(0, 1))
        return _complex(product.to(u.dtype))  # lower, under autocast

    def _output(self, x, u, h):
        real, imaginary = self.C
        product = nn.functional.linear(_real(h), torch.cat([real, -imaginary], -1))
        return self.feedforward(torch.addcmul(x + product, self.D, u))


def _complex(pairs: Tensor) -> Tensor:
    """``[*, 2 N]``, real parts first, to complex ``[*, N]``."""
    return torch.complex(*pairs.chunk(2, -1))


def _real(numbers: Tensor) -> Tensor:
    """Complex ``[*, N]`` to ``[*, 2 N]``, real parts first."""
    return torch.cat([numbers.real, numbers.imag], -1)
