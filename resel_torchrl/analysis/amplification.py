"""How far one update of a recurrent map can move its output (Proposition 1)."""

from __future__ import annotations

from typing import TypeVar

import torch
from torch import Tensor

__all__ = [
    "amplification_bound",
    "mean_amplification_bound",
]

Steps = TypeVar("Steps", int, Tensor)


def amplification_bound(
    epsilon: float, K_h: float, K_y: float, t: Steps
) -> float | Tensor:
    """Largest change of a recurrent output at step `t` after one update.

    A map takes an input and its hidden state to an output and the next hidden state,
    `(y, h') = f(x, h)`. `h'` is `K_h`-Lipschitz in `h` with `K_h < 1`, `y` is
    `K_y`-Lipschitz in `h`, and the update moves neither by more than `epsilon` at any
    `(x, h)`. From equal states and on equal inputs (arXiv 2405.15384, Proposition 1)::

        |y_t - y'_t|  <=  epsilon + K_y epsilon (1 - K_h^t) / (1 - K_h)

    At `t = 0` that is `epsilon`, as for a map without memory; it grows towards
    `epsilon (1 + K_y / (1 - K_h))`. A linear recurrence whose update adds `epsilon` to
    both outputs attains it at every step.

    Args:
        epsilon: Largest change of the one-step map, 0 or more.
        K_h: Lipschitz constant of the hidden state in the hidden state, in [0, 1).
        K_y: Lipschitz constant of the output in the hidden state, 0 or more.
        t: Rollout step, 0 at the first, or an integer tensor of steps of any shape.

    Returns:
        The bound, in units of the output; a float64 tensor of `t`'s shape if `t` is
        one.

    Raises:
        ValueError: If an argument is out of range.

    >>> round(amplification_bound(0.1, 0.5, 2.0, 0), 12)
    0.1
    >>> bound = amplification_bound(1.0, 0.5, 2.0, torch.tensor([0, 1, 2, 1000]))
    >>> bound.round(decimals=9).tolist()
    [1.0, 3.0, 4.0, 5.0]
    """
    _check_constants(epsilon, K_h, K_y)
    steps = t.double() if isinstance(t, Tensor) else torch.tensor(float(t)).double()
    if (steps < 0).any():
        raise ValueError(f"t: expected steps of 0 or more, got {t}; count from 0.")
    bound = epsilon + K_y * epsilon * (1 - K_h**steps) / (1 - K_h)
    return bound if isinstance(t, Tensor) else bound.item()


def mean_amplification_bound(epsilon: float, K_h: float, K_y: float, T: int) -> float:
    """Mean of :func:`amplification_bound` over the steps 0 to `T - 1`.

    In closed form (arXiv 2405.15384, Proposition 1)::

        epsilon + K_y epsilon / (1 - K_h) * [1 - (1 - K_h^T) / (T (1 - K_h))]

    Args:
        epsilon: As there.
        K_h: As there.
        K_y: As there.
        T: Number of steps, 1 or more.

    Returns:
        The mean, in units of the output.

    Raises:
        ValueError: If an argument is out of range.

    >>> round(mean_amplification_bound(0.1, 0.5, 2.0, 1), 12)
    0.1
    >>> round(mean_amplification_bound(0.1, 0.5, 2.0, 2), 12)  # of 0.1 and 0.3
    0.2
    """
    _check_constants(epsilon, K_h, K_y)
    if T < 1:
        raise ValueError(f"T: expected 1 step or more, got {T}; give the length.")
    transient = (1 - K_h**T) / (T * (1 - K_h))
    return epsilon + K_y * epsilon / (1 - K_h) * (1 - transient)


def _check_constants(epsilon: float, K_h: float, K_y: float) -> None:
    faults = [
        f"{name}: expected {expected}, got {value}."
        for name, value, holds, expected in (
            ("epsilon", epsilon, epsilon >= 0, "a number of 0 or more"),
            ("K_h", K_h, 0 <= K_h < 1, "a contraction, in [0, 1)"),
            ("K_y", K_y, K_y >= 0, "a number of 0 or more"),
        )
        if not holds
    ]
    if faults:
        raise ValueError(" ".join(faults) + " The proposition holds there only.")
