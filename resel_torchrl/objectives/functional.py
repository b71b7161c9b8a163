"""The maths of the losses as pure functions, in the order of one update.

Source: Luo et al., "Efficient Recurrent Off-Policy RL Requires a
Context-Encoder-Specific Learning Rate", https://arxiv.org/abs/2405.15384. It builds on
SAC (https://arxiv.org/abs/1812.05905), REDQ (https://arxiv.org/abs/2101.05982), SAC
for discrete actions (https://arxiv.org/abs/1910.07207) and TD3
(https://arxiv.org/abs/1802.09477).

Shapes: R rows of L steps, one observation each, so T = L - 1 transitions a row; n
critics, M of them in the minimum; ``*`` is nothing, or A discrete actions. Masks,
rewards, targets are ``[R, T]``; temperature, discount, bounds are scalars. The result's
shape stands behind the signature, those of the arguments behind the line that uses
them. No function reads a value on the host: all run unchanged in CUDA graphs.
"""

from __future__ import annotations

import torch
from torch import Tensor


def observed_rows(valid: Tensor) -> Tensor:  # bool [R, L, ...]
    """Steps that hold an observation: the transitions and the step after the last."""
    after = torch.cat([torch.zeros_like(valid[:, :1]), valid[:, :-1]], dim=1)
    return valid | after


def fill_outside(x: Tensor, rows: Tensor, value: float | bool = 0) -> Tensor:
    """``x`` ``[R, L, ...]``, constant where ``rows``, bool ``[R, L, 1]``, is false."""
    # A choice and no product: nan * 0 is nan, in the backward pass too.
    rows = rows.reshape(rows.shape[:2] + (1,) * (x.ndim - 2))
    return torch.where(rows, x, torch.full((), value, dtype=x.dtype, device=x.device))


def masked_mean(x: Tensor, mask: Tensor) -> Tensor:  # []
    """Mean of ``x`` where ``mask`` holds; zero if nowhere."""
    return torch.where(mask, x, 0.0).sum() / mask.sum().clamp_min(1)


def draw_subset(n_critics: int, size: int, device: torch.device | None) -> Tensor:
    """Indices ``[M]`` of M = ``size`` different critics of n (REDQ, Algorithm 1)."""
    return torch.randperm(n_critics, device=device)[:size]


def smoothed_action(action: Tensor, scale: float, limit: float) -> Tensor:  # [R, T, A]
    """``clip(a' + clip(N(0, scale), -limit, limit), -1, 1)`` (TD3, section 5.3)."""
    noise = (scale * torch.randn_like(action)).clamp(-limit, limit)
    return (action + noise).clamp(-1.0, 1.0)


def subset_minimum(values: Tensor, subset: Tensor) -> Tensor:  # [R, T, *]
    """``min_{j in M} Q'_j(e', o', a')`` (REDQ, Algorithm 1; TD3, section 4.2)."""
    return values.index_select(-1, subset).amin(-1)  # [R, T, *, n], [M]


def soft_value(values: Tensor, subset: Tensor, log_prob: Tensor, alpha: Tensor):
    """``min_{j in M} Q'_j(e', o', a') - alpha log pi(a')`` (REDQ, Algorithm 1)."""
    return subset_minimum(values, subset) - alpha * log_prob  # all [R, T, *]


def expectation(x: Tensor, probs: Tensor) -> Tensor:  # [R, T]
    """``sum_a pi(a) x(a)`` over discrete actions (discrete SAC, eq. 10 to 12)."""
    return (probs * x).sum(-1)  # both [R, T, A]


def masked_bounds(x: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:  # [], []
    """Smallest and largest ``x`` where ``mask`` holds; inf and -inf if nowhere."""
    low = torch.where(mask, x, torch.inf).amin()
    return low, torch.where(mask, x, -torch.inf).amax()


def initial_clamp_range(bootstrap: Tensor, low: Tensor, high: Tensor, mask: Tensor):
    """The stored ``low, high``; the batch's own before the first update, low > high."""
    own_low, own_high = masked_bounds(bootstrap, mask)
    unset = low > high
    return torch.where(unset, own_low, low), torch.where(unset, own_high, high)


def td_target(reward: Tensor, terminated: Tensor, bootstrap: Tensor, gamma: Tensor):
    """``y = r + gamma (1 - terminated) b`` (SAC, eq. 5, 6); a time limit bootstraps."""
    return reward + gamma * torch.where(terminated, 0.0, bootstrap)  # all [R, T]


def update_clamp_range(
    target: Tensor, low: Tensor, high: Tensor, mask: Tensor, decay: float = 0.999
) -> tuple[Tensor, Tensor]:
    """Widen the range to the targets, then shrink it to them (the released code)."""
    new_low, new_high = masked_bounds(target, mask)
    wide_low, wide_high = low.minimum(new_low), high.maximum(new_high)
    new_low = decay * wide_low + (1 - decay) * new_low
    new_high = decay * wide_high + (1 - decay) * new_high
    some = mask.any()
    return torch.where(some, new_low, low), torch.where(some, new_high, high)


def value_of_action(values: Tensor, action: Tensor) -> Tensor:  # [R, T, n]
    """``Q_j(e, o, a)`` of the one-hot ``a``; zero where it is zero."""
    return (values * action.unsqueeze(-1)).sum(-2)  # [R, T, A, n], [R, T, A]


def critic_loss(values: Tensor, target: Tensor) -> Tensor:  # [R, T]
    """``sum_j (Q_j(e, o, a) - y)^2`` (SAC, eq. 5, without its 1/2)."""
    return (values - target.unsqueeze(-1)).square().sum(-1)  # [R, T, n], [R, T]


def actor_loss(log_prob: Tensor, values: Tensor, alpha: Tensor) -> Tensor:  # [R, T, *]
    """``alpha log pi(a) - mean_j Q_j(e, o, a)`` (SAC, eq. 7; REDQ, Algorithm 1)."""
    return alpha * log_prob - values.mean(-1)  # [R, T, *], [R, T, *, n]


def deterministic_actor_loss(values: Tensor) -> Tensor:  # [R, T]
    """``-mean_j Q_j(e, o, mu(e, o))`` (TD3, Algorithm 1)."""
    return -values.mean(-1)  # [R, T, n]


def alpha_loss(log_alpha: Tensor, log_prob: Tensor, target_entropy: Tensor) -> Tensor:
    """``-log alpha (log pi(a) + H)`` (SAC, eq. 18, in log alpha)."""
    return -log_alpha * (log_prob + target_entropy)  # [], [R, T] without gradient
