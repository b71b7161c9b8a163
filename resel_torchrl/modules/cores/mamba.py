"""The paper's Mamba block, and the Mamba-1 mixer in it."""

import math
from typing import Literal

import torch
from torch import Tensor, nn

from resel_torchrl.modules.cores.base import SequenceCore, check_positive
from resel_torchrl.ops import (
    causal_conv,
    causal_conv_step,
    selective_scan,
    selective_scan_step,
)
from resel_torchrl.ops.causal_conv import BACKENDS as CONV_BACKENDS
from resel_torchrl.ops.selective_scan import BACKENDS

_DT_MIN, _DT_MAX = 1e-3, 1e-1


class MambaCore(SequenceCore):
    """The paper's block: pre-norm Mamba mixer and a position-wise feed-forward.

    ``x + Mixer(RMSNorm(x))``, then ``LayerNorm(x + W2 GELU(W1 x))``. Defaults are the
    paper's (arXiv 2405.15384, appendix), for a width of 256.

    Args:
        size: width of input and output.
        expand: channels of the mixer per input.
        d_state: states per channel.
        d_conv: taps of the causal convolution.
        dt_rank: rank of the step sizes' projection; ``"auto"`` for ``⌈size / 16⌉``.
        feedforward_size: inner width of the feed-forward; None for ``size``.
        norm_eps: added to both norms' variance.
        backend: as in :class:`MambaMixer`.

    Raises:
        ValueError: if a size is not a positive integer or the backend is unknown.
        ModuleNotFoundError: if the backend needs a package that is not installed.
        RuntimeError: with the backend ``"mamba_ssm"``, when called on rows that it
            cannot reset, see
            :func:`~resel_torchrl.ops.selective_scan.selective_scan`.

    Examples:
        >>> core = MambaCore(16, d_state=4)
        >>> is_init = torch.tensor([[True, False, False, True, False]])
        >>> y, state = core(torch.randn(1, 5, 16), is_init)
        >>> y.shape, state.shape
        (torch.Size([1, 5, 16]), torch.Size([1, 352]))
    """

    def __init__(
        self,
        size: int,
        expand: int = 2,
        d_state: int = 64,
        d_conv: int = 8,
        dt_rank: int | Literal["auto"] = "auto",
        feedforward_size: int | None = None,
        norm_eps: float = 1e-8,
        backend: str = "auto",
    ):
        mixer = MambaMixer(size, d_state, d_conv, expand, dt_rank, backend)
        super().__init__(size, state_size=mixer.state_size)
        self.device_type = BACKENDS.device_type(backend)
        self.blank_rows = BACKENDS.blank_rows(backend)
        inner = size if feedforward_size is None else feedforward_size
        check_positive(inner, "feedforward_size")
        self.norm = nn.RMSNorm(size, eps=norm_eps)
        self.mixer = mixer
        self.feedforward = nn.Sequential(
            nn.Linear(size, inner), nn.GELU(), nn.Linear(inner, size)
        )
        self.feedforward_norm = nn.LayerNorm(size, eps=norm_eps)

    def forward(
        self, x: Tensor, is_init: Tensor, state: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """See :meth:`SequenceCore.forward`."""
        state = self.check_sequence(x, is_init, state)
        mixed, state = self.mixer(self.norm(x), is_init, state)
        return self._feedforward(x + mixed), state

    def step(self, x: Tensor, is_init: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
        """See :meth:`SequenceCore.step`."""
        self.check_step(x, is_init, state)
        mixed, state = self.mixer.step(self.norm(x), is_init, state)
        return self._feedforward(x + mixed), state

    def _feedforward(self, x):
        return self.feedforward_norm(x + self.feedforward(x))


class MambaMixer(nn.Module):
    """Mamba-1 mixer with resets; a state dict of ``mamba_ssm``'s ``Mamba`` loads.

    Source: arXiv 2312.00752, section 3. Decay rates start S4D-real, ``A = -(1..N)``,
    the skip at one, the step sizes log-uniform in [1e-3, 1e-1]; all other parameters
    as PyTorch draws them.

    Args:
        size: width of input and output (``d_model``).
        d_state: states per channel, ``N``.
        d_conv: taps of the causal convolution, ``K``.
        expand: channels per input, ``D = expand · size``.
        dt_rank: rank of the step sizes' projection; ``"auto"`` for ``⌈size / 16⌉``.
        backend: implementation of the scan, as in
            :func:`~resel_torchrl.ops.selective_scan.selective_scan`, and of the
            convolution where it has one of that name.

    Attributes:
        state_size: ``D · (K - 1 + N)``: the convolution's past inputs ``[D, K - 1]``,
            then the state space model's state ``[D, N]``, both flattened.

    Raises:
        ValueError: if a size is not a positive integer or the backend is unknown.
        ModuleNotFoundError: if the backend needs a package that is not installed.

    Examples:
        >>> mixer = MambaMixer(16, d_state=4)
        >>> is_init = torch.zeros(2, 5, dtype=torch.bool)
        >>> y, state = mixer(torch.randn(2, 5, 16), is_init, torch.zeros(2, 352))
        >>> y.shape, mixer.state_size
        (torch.Size([2, 5, 16]), 352)
    """

    def __init__(
        self,
        size: int,
        d_state: int = 64,
        d_conv: int = 8,
        expand: int = 2,
        dt_rank: int | Literal["auto"] = "auto",
        backend: str = "auto",
    ):
        super().__init__()
        self.d_state = check_positive(d_state, "d_state")
        self.d_conv = check_positive(d_conv, "d_conv")
        self.d_inner = check_positive(expand, "expand") * check_positive(size, "size")
        if dt_rank == "auto":
            dt_rank = math.ceil(size / 16)
        self.dt_rank = check_positive(dt_rank, "dt_rank")
        self.backend = BACKENDS.check(backend)
        self.conv_backend = backend if backend in CONV_BACKENDS else "auto"
        self.state_size = self.d_inner * (d_conv - 1 + d_state)

        self.in_proj = nn.Linear(size, 2 * self.d_inner, bias=False)
        self.conv1d = nn.Conv1d(
            self.d_inner, self.d_inner, d_conv, groups=self.d_inner, padding=d_conv - 1
        )
        self.x_proj = nn.Linear(self.d_inner, dt_rank + 2 * d_state, bias=False)
        self.dt_proj = nn.Linear(dt_rank, self.d_inner)
        self.A_log = nn.Parameter(torch.empty(self.d_inner, d_state))
        self.D = nn.Parameter(torch.empty(self.d_inner))
        self.out_proj = nn.Linear(self.d_inner, size, bias=False)
        self._reset_own_parameters()

    @torch.no_grad()
    def _reset_own_parameters(self):
        rates = torch.arange(1, self.d_state + 1, dtype=self.A_log.dtype)
        self.A_log.copy_(rates.log().expand_as(self.A_log))
        self.D.fill_(1)
        nn.init.uniform_(self.dt_proj.weight, -(self.dt_rank**-0.5), self.dt_rank**-0.5)
        dt = torch.empty_like(self.dt_proj.bias)
        dt.uniform_(math.log(_DT_MIN), math.log(_DT_MAX)).exp_()
        self.dt_proj.bias.copy_(dt + torch.log(-torch.expm1(-dt)))  # softplus inverted

    def forward(
        self, x: Tensor, is_init: Tensor, state: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Run over rows of time ``[R, L, size]``, as :meth:`SequenceCore.forward`."""
        u, z = self.in_proj(x).chunk(2, -1)
        conv_state, ssm_state = self._split_state(state)
        weight, bias = self.conv1d.weight.squeeze(1), self.conv1d.bias
        u, conv_state = causal_conv(
            u, weight, bias, is_init, conv_state, silu=True, backend=self.conv_backend
        )
        y, ssm_state = selective_scan(
            u,
            *self._ssm_inputs(u),
            self.D,
            is_init,
            ssm_state,
            z,
            dt_softplus=True,
            backend=self.backend,
        )
        return self.out_proj(y), self._join_state(conv_state, ssm_state)

    def step(self, x: Tensor, is_init: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
        """Run one time step ``[B, size]``, as :meth:`SequenceCore.step`."""
        u, z = self.in_proj(x).chunk(2, -1)
        conv_state, ssm_state = self._split_state(state)
        weight, bias = self.conv1d.weight.squeeze(1), self.conv1d.bias
        u, conv_state = causal_conv_step(u, weight, bias, is_init, conv_state)
        u = nn.functional.silu(u)
        dt, A, B, C = self._ssm_inputs(u)
        dt = nn.functional.softplus(dt)
        y, ssm_state = selective_scan_step(
            u, dt, A, B, C, self.D, is_init, ssm_state, z
        )
        return self.out_proj(y), self._join_state(conv_state, ssm_state)

    def _ssm_inputs(self, u):
        sizes = [self.dt_rank, self.d_state, self.d_state]
        dt, B, C = self.x_proj(u).split(sizes, -1)
        return self.dt_proj(dt), -torch.exp(self.A_log), B, C

    def _split_state(self, state):
        past = self.d_inner * (self.d_conv - 1)
        conv, ssm = state.split([past, self.state_size - past], -1)
        rows = state.shape[0]
        return (
            conv.reshape(rows, self.d_inner, self.d_conv - 1),
            ssm.reshape(rows, self.d_inner, self.d_state),
        )

    def _join_state(self, conv_state, ssm_state):
        return torch.cat([conv_state.flatten(1), ssm_state.flatten(1)], -1)
