"""Normal distribution squashed by tanh, exact in the tails."""

from __future__ import annotations

import math
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.distributions import Distribution, constraints

__all__ = ["TanhNormal"]

_LOG_2 = math.log(2.0)
_LOG_SQRT_2PI = 0.5 * math.log(2.0 * math.pi)


class TanhNormal(Distribution):
    """Distribution of ``tanh(u)`` with ``u ~ Normal(loc, scale)``, on (-1, 1)^A.

    TorchRL's distribution of the same name clips actions to ``1 - 1e-6``, which
    changes gradients beyond ``|u| = 7``, and reads tensor values back to the host
    whenever one is built. Here nothing is clipped when sampling, and a sample is
    scored at the very ``u`` it came from: by :meth:`rsample_and_log_prob`, and by
    :meth:`log_prob` when it is given the tensor that this object sampled last.
    Any other action is inverted by ``atanh``; one that rounded to -1 or 1 is scored at
    the largest representable magnitude below 1.

    Args:
        loc: mean before tanh, ``[*B, A]``.
        scale: standard deviation before tanh, positive, ``[*B, A]``.

    Example:
        >>> import torch
        >>> from resel_torchrl.modules import TanhNormal
        >>> dist = TanhNormal(torch.tensor([12.0]), torch.tensor([0.1]))
        >>> action, log_prob = dist.rsample_and_log_prob()
        >>> torch.equal(dist.log_prob(action), log_prob)
        True
    """

    arg_constraints: ClassVar = {
        "loc": constraints.real,
        "scale": constraints.positive,
    }
    has_rsample = True

    def __init__(self, loc: Tensor, scale: Tensor) -> None:
        self.loc = loc
        self.scale = scale
        self._last: tuple[Tensor, Tensor, Tensor | None] | None = None
        super().__init__(loc.shape[:-1], loc.shape[-1:], validate_args=False)

    @property
    def support(self) -> constraints.Constraint:
        """The open cube (-1, 1)^A."""
        return constraints.independent(constraints.interval(-1.0, 1.0), 1)

    @property
    def deterministic_sample(self) -> Tensor:
        """``tanh(loc)``, the action used for evaluation, ``[*B, A]``."""
        return self.loc.tanh()

    @property
    def median(self) -> Tensor:
        """``tanh(loc)``: tanh is monotone, so it maps the median, ``[*B, A]``."""
        return self.loc.tanh()

    def rsample(self, sample_shape: torch.Size | tuple[int, ...] = ()) -> Tensor:
        """Draw reparameterised actions, ``[*sample_shape, *B, A]``."""
        noise = torch.randn(
            self._extended_shape(torch.Size(sample_shape)),
            dtype=self.loc.dtype,
            device=self.loc.device,
        )
        pre_tanh = self.loc + self.scale * noise
        action = pre_tanh.tanh()
        # (u - loc) / scale is the noise, but loses its digits where scale is small.
        # Where the gradient stops at the sample it must be taken from that quotient.
        stops = not action.requires_grad and (
            self.loc.requires_grad or self.scale.requires_grad
        )
        self._last = (action, pre_tanh, None if stops else noise)
        return action

    def sample(self, sample_shape: torch.Size | tuple[int, ...] = ()) -> Tensor:
        """Draw actions without gradient, ``[*sample_shape, *B, A]``."""
        with torch.no_grad():
            return self.rsample(sample_shape)

    def rsample_and_log_prob(
        self, sample_shape: torch.Size | tuple[int, ...] = ()
    ) -> tuple[Tensor, Tensor]:
        """Draw reparameterised actions ``[*sample_shape, *B, A]`` and score them."""
        action = self.rsample(sample_shape)
        return action, self.log_prob(action)

    def sample_and_log_prob(
        self, sample_shape: torch.Size | tuple[int, ...] = ()
    ) -> tuple[Tensor, Tensor]:
        """As :meth:`rsample_and_log_prob`, with the score function's gradient."""
        action = self.sample(sample_shape)
        return action, self.log_prob(action)

    def log_prob(self, value: Tensor) -> Tensor:
        """Return the log density of actions ``[..., A]``, summed over A, ``[...]``."""
        noise = None
        if self._last is not None and self._last[0] is value:
            _, pre_tanh, noise = self._last
        else:
            limit = 1.0 - 0.5 * torch.finfo(value.dtype).eps
            pre_tanh = value.clamp(-limit, limit).atanh()
        if noise is None:
            noise = (pre_tanh - self.loc) / self.scale
        normal = -0.5 * noise.square() - self.scale.log() - _LOG_SQRT_2PI
        return (normal - _tanh_log_det(pre_tanh)).sum(-1)


def _tanh_log_det(pre_tanh: Tensor) -> Tensor:
    """Return ``log(1 - tanh(u)^2)`` without cancellation for any ``u``.

    ``1 - tanh(u)^2 = 4 / (e^u + e^-u)^2``; written in ``|u|`` every exponential
    decays, so neither tail overflows or loses digits.
    """
    magnitude = pre_tanh.abs()
    return 2.0 * (_LOG_2 - magnitude - nn.functional.softplus(-2.0 * magnitude))
