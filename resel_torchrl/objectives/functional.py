"""The update of RESeL as pure functions on plain tensors, in the order of one update.

Source: Luo et al., "Efficient Recurrent Off-Policy RL Requires a
Context-Encoder-Specific Learning Rate", 2024, `arXiv 2405.15384
<https://arxiv.org/abs/2405.15384>`_. Its losses are those of soft actor-critic (SAC,
`arXiv 1812.05905 <https://arxiv.org/abs/1812.05905>`_) with the ensemble target of
REDQ (`arXiv 2101.05982 <https://arxiv.org/abs/2101.05982>`_) on contexts of whole
episodes. Discrete actions and the form of TD3 use the same functions and a few more.

Shapes: a batch has ``R`` rows of ``L`` observations, so ``T = L - 1`` columns of
transitions; ``n`` critics; ``[R, T]`` is one number per transition, and ``*`` stands
for nothing or for the number of discrete actions. No function looks at a value on the
host, so all of them run unchanged under CUDA graphs.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

import torch
from torch import Tensor

Rows = TypeVar("Rows")


def observed_rows(valid: Tensor) -> Tensor:
    """The rows that hold an observation: transitions and the row after the last one.

    Args:
        valid: bool ``[R, L, ...]``, true where a row holds a transition.

    Returns:
        Bool of the same shape. An episode of T transitions has T + 1 true rows.

    Examples:
        >>> observed_rows(torch.tensor([[True, True, False, False, False]]))
        tensor([[ True,  True,  True, False, False]])
    """
    after = torch.cat([torch.zeros_like(valid[:, :1]), valid[:, :-1]], dim=1)
    return valid | after


def fill_outside(x: Tensor, rows: Tensor, value: float | bool = 0) -> Tensor:
    """Replace what stands outside ``rows`` by a constant, gradients included.

    A choice and no product: ``nan * 0`` is ``nan``, in the backward pass too.

    Args:
        x: ``[R, L, *feature]``.
        rows: bool ``[R, L, 1]``.
        value: what to put where ``rows`` is false.

    Returns:
        Tensor of ``x``'s shape and dtype.

    Examples:
        >>> x = torch.tensor([[[1.0], [torch.nan]]])
        >>> fill_outside(x, torch.tensor([[[True], [False]]])).squeeze(-1)
        tensor([[1., 0.]])
    """
    rows = rows.reshape(rows.shape[:2] + (1,) * (x.ndim - 2))
    return torch.where(rows, x, torch.full((), value, dtype=x.dtype, device=x.device))


def masked_mean(x: Tensor, mask: Tensor) -> Tensor:
    """Mean of ``x`` where ``mask`` holds; zero where it holds nowhere.

    Args:
        x: ``[R, T]``. What stands outside the mask may be anything, NaN too.
        mask: bool ``[R, T]``.

    Returns:
        Scalar.

    Examples:
        >>> x = torch.tensor([[1.0, 3.0, torch.nan]])
        >>> masked_mean(x, torch.tensor([[True, True, False]]))
        tensor(2.)
    """
    return torch.where(mask, x, 0.0).sum() / mask.sum().clamp_min(1)


def unroll(encode: Callable[[Rows], Tensor], rows: Rows) -> tuple[Tensor, Tensor]:
    """Contexts of every transition and of its successor from ONE pass over the rows.

    Row t + 1 continues row t, so the context after a transition is the next column
    (Section 4 of the paper: whole trajectories, hidden state from zero at the first
    step).

    Args:
        encode: maps rows ``[R, L]`` to contexts ``[R, L, C]``; it forgets at each
            start flag.
        rows: what the encoder reads.

    Returns:
        ``e_t`` and ``e_{t+1}``, each ``[R, L - 1, C]``.

    Examples:
        >>> now, following = unroll(lambda rows: rows.cumsum(1), torch.ones(1, 3, 1))
        >>> now.flatten().tolist(), following.flatten().tolist()
        ([1.0, 2.0], [2.0, 3.0])
    """
    context = encode(rows)
    return context[:, :-1], context[:, 1:]


def draw_subset(n_critics: int, size: int, device: torch.device | None) -> Tensor:
    """Draw M different critics of n, on the device (REDQ, Algorithm 1).

    Args:
        n_critics: n.
        size: M, at most n.
        device: where the draw is made.

    Returns:
        Indices ``[M]``.

    Examples:
        >>> draw_subset(8, 2, None).shape
        torch.Size([2])
    """
    return torch.randperm(n_critics, device=device)[:size]


# One update, from here to the end of the file, top to bottom.


def smoothed_action(action: Tensor, scale: float, limit: float) -> Tensor:
    """``clip(a + clip(noise, -limit, limit), -1, 1)``, ``noise ~ N(0, scale)``.

    Target policy smoothing of TD3 (`arXiv 1802.09477
    <https://arxiv.org/abs/1802.09477>`_, section 5.3): similar actions get similar
    targets.

    Args:
        action: ``[R, T, A]``, each entry in [-1, 1].
        scale: standard deviation of the noise.
        limit: its largest magnitude.

    Returns:
        ``[R, T, A]``.

    Examples:
        >>> action = smoothed_action(torch.tensor([[[0.95, 0.0]]]), 100.0, 0.1)
        >>> bool((action <= 1).all() and (action.abs()[..., 1] <= 0.1).all())
        True
    """
    noise = (scale * torch.randn_like(action)).clamp(-limit, limit)
    return (action + noise).clamp(-1.0, 1.0)


def subset_minimum(values: Tensor, subset: Tensor) -> Tensor:
    """``min_{j in M} Q'_j`` (REDQ, Algorithm 1; with two critics TD3, section 4.2).

    Args:
        values: target critics at the next step, ``[R, T, *, n]``.
        subset: indices of the members compared, ``[M]``; one draw for the batch.

    Returns:
        ``[R, T, *]``.

    Examples:
        >>> subset_minimum(torch.tensor([[[1.0, 2.0, 3.0]]]), torch.tensor([1, 2]))
        tensor([[2.]])
    """
    return values.index_select(-1, subset).amin(-1)


def soft_value(values: Tensor, subset: Tensor, log_prob: Tensor, alpha: Tensor):
    """``min_{j in M} Q'_j(e', o', a') - alpha log pi(a')`` (REDQ, Algorithm 1).

    Args:
        values: target critics at the next step, ``[R, T, *, n]``.
        subset: indices of the members compared, ``[M]``; one draw for the batch.
        log_prob: of the next action, ``[R, T, *]``.
        alpha: temperature, scalar.

    Returns:
        The bootstrap, ``[R, T, *]``; of each action, where ``*`` is their number.

    Examples:
        >>> values = torch.tensor([[[1.0, 2.0, 3.0]]])
        >>> soft_value(values, torch.tensor([1, 2]), torch.ones(1, 1), 0.5)
        tensor([[1.5000]])
    """
    return subset_minimum(values, subset) - alpha * log_prob


def expectation(x: Tensor, probs: Tensor) -> Tensor:
    """``sum_a pi(a) x(a)``: what discrete actions have in place of a sample.

    Source: SAC for discrete actions (`arXiv 1910.07207
    <https://arxiv.org/abs/1910.07207>`_, eq. 10 to 12).

    Args:
        x: a quantity of every action, ``[R, T, A]``.
        probs: their probabilities, ``[R, T, A]``.

    Returns:
        ``[R, T]``.

    Examples:
        >>> expectation(torch.tensor([[[1.0, 3.0]]]), torch.tensor([[[0.5, 0.5]]]))
        tensor([[2.]])
    """
    return (probs * x).sum(-1)


def masked_bounds(x: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
    """Smallest and largest ``x`` where ``mask`` holds; +inf and -inf if nowhere.

    Args:
        x: ``[R, T]``.
        mask: bool ``[R, T]``.

    Returns:
        Two scalars.

    Examples:
        >>> mask = torch.tensor([[True, True, False]])
        >>> masked_bounds(torch.tensor([[1.0, 3.0, 9.0]]), mask)
        (tensor(1.), tensor(3.))
    """
    low = torch.where(mask, x, torch.inf).amin()
    return low, torch.where(mask, x, -torch.inf).amax()


def starting_bounds(bootstrap: Tensor, low: Tensor, high: Tensor, mask: Tensor):
    """The kept bounds or, while none are kept (``low > high``), the batch's own.

    Args:
        bootstrap: ``[R, T]``.
        low: kept lower bound, +inf before the first update.
        high: kept upper bound, -inf before the first update.
        mask: bool ``[R, T]``.

    Returns:
        The two scalars that this update clamps the bootstrap to.

    Examples:
        >>> inf, mask = torch.tensor(torch.inf), torch.tensor([[True, True]])
        >>> starting_bounds(torch.tensor([[1.0, 3.0]]), inf, -inf, mask)
        (tensor(1.), tensor(3.))
    """
    own_low, own_high = masked_bounds(bootstrap, mask)
    none_kept = low > high
    return torch.where(none_kept, own_low, low), torch.where(none_kept, own_high, high)


def td_target(reward: Tensor, terminated: Tensor, bootstrap: Tensor, gamma: Tensor):
    """``y = r + gamma (1 - terminated) bootstrap`` (SAC, eq. 5 and 6).

    A time limit is no terminal: a truncated transition bootstraps.

    Args:
        reward: ``[R, T]``.
        terminated: bool ``[R, T]``.
        bootstrap: ``[R, T]``.
        gamma: discount, scalar.

    Returns:
        ``[R, T]``.

    Examples:
        >>> ended = torch.tensor([[False, True]])
        >>> td_target(torch.ones(1, 2), ended, torch.full((1, 2), 10.0), 0.5)
        tensor([[6., 1.]])
    """
    return reward + gamma * torch.where(terminated, 0.0, bootstrap)


def moved_bounds(
    target: Tensor, low: Tensor, high: Tensor, mask: Tensor, decay: float = 0.999
) -> tuple[Tensor, Tensor]:
    """Widen the bounds to this batch's targets, then shrink them a little to them.

    ``low <- min(low, b)`` and then ``low <- decay low + (1 - decay) b``, with ``b`` the
    smallest target of a transition; ``high`` alike. Not in the paper: a stabiliser of
    its released code.

    Args:
        target: ``[R, T]``.
        low: lower bound that clamped this update's bootstrap.
        high: upper bound that did.
        mask: bool ``[R, T]``; a batch without a transition moves nothing.
        decay: 1 keeps the widest bounds ever seen.

    Returns:
        The two scalars to keep.

    Examples:
        >>> target, mask = torch.tensor([[-2.0, 1.0]]), torch.tensor([[True, True]])
        >>> moved_bounds(target, torch.tensor(0.0), torch.tensor(9.0), mask, 0.5)
        (tensor(-2.), tensor(5.))
    """
    new_low, new_high = masked_bounds(target, mask)
    some = mask.any()
    return (
        torch.where(some, decay * low.minimum(new_low) + (1 - decay) * new_low, low),
        torch.where(
            some, decay * high.maximum(new_high) + (1 - decay) * new_high, high
        ),
    )


def value_of_action(values: Tensor, action: Tensor) -> Tensor:
    """``Q_j(e, o, a)`` out of the values of all discrete actions.

    Args:
        values: ``[R, T, A, n]``.
        action: the one taken, one-hot, ``[R, T, A]``.

    Returns:
        ``[R, T, n]``; zero where no action is marked.

    Examples:
        >>> values = torch.tensor([[[[1.0], [3.0]]]])
        >>> value_of_action(values, torch.tensor([[[0.0, 1.0]]]))
        tensor([[[3.]]])
    """
    return (values * action.unsqueeze(-1)).sum(-2)


def critic_loss(values: Tensor, target: Tensor) -> Tensor:
    """``sum_j (Q_j(e, o, a) - y)^2`` of each transition (SAC, eq. 5, without its 1/2).

    Args:
        values: ``[R, T, n]``.
        target: ``[R, T]``, without gradient.

    Returns:
        ``[R, T]``.

    Examples:
        >>> critic_loss(torch.tensor([[[1.0, 3.0]]]), torch.zeros(1, 1))
        tensor([[10.]])
    """
    return (values - target.unsqueeze(-1)).square().sum(-1)


def actor_loss(log_prob: Tensor, values: Tensor, alpha: Tensor) -> Tensor:
    """``alpha log pi(a) - mean_j Q_j(e, o, a)`` of each transition (SAC, eq. 7).

    Args:
        log_prob: of the action drawn now, ``[R, T, *]``.
        values: of that action under all critics (REDQ, Algorithm 1),
            ``[R, T, *, n]``.
        alpha: temperature before its own step, scalar, without gradient.

    Returns:
        ``[R, T, *]``; of each action, where ``*`` is their number.

    Examples:
        >>> actor_loss(torch.ones(1, 1), torch.tensor([[[1.0, 3.0]]]), 0.5)
        tensor([[-1.5000]])
    """
    return alpha * log_prob - values.mean(-1)


def deterministic_actor_loss(values: Tensor) -> Tensor:
    """``-mean_j Q_j(e, o, mu(e, o))`` of each transition (TD3, its policy gradient).

    Args:
        values: of the deterministic action under all critics, ``[R, T, n]``.

    Returns:
        ``[R, T]``.

    Examples:
        >>> deterministic_actor_loss(torch.tensor([[[1.0, 3.0]]]))
        tensor([[-2.]])
    """
    return -values.mean(-1)


def alpha_loss(log_alpha: Tensor, log_prob: Tensor, target_entropy: Tensor) -> Tensor:
    """``-log alpha (log pi(a) + H)`` of each transition (SAC, eq. 18, in log alpha).

    Args:
        log_alpha: scalar.
        log_prob: ``[R, T]``, without gradient.
        target_entropy: H, scalar.

    Returns:
        ``[R, T]``.

    Examples:
        >>> alpha_loss(torch.tensor(2.0), torch.ones(1, 1), -3.0)
        tensor([[4.]])
    """
    return -log_alpha * (log_prob + target_entropy)
