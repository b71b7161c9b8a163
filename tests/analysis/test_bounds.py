"""Proposition 1: the bound is attained, holds, and needs its constants."""

import pytest
import torch

from resel_torchrl.analysis import amplification_bound, mean_amplification_bound


@pytest.mark.parametrize("K_h", [0.0, 0.3, 0.99])
def test_a_linear_recurrence_attains_the_bound_at_every_step(K_h):
    epsilon, K_y = 0.02, 1.7
    x = torch.randn(301, dtype=torch.float64)
    h = moved_h = torch.zeros((), dtype=torch.float64)
    changes = []
    for x_t in x:
        y, moved_y = K_y * h + x_t, K_y * moved_h + x_t + epsilon
        h, moved_h = K_h * h + x_t, K_h * moved_h + x_t + epsilon
        changes.append((moved_y - y).abs())
    changes = torch.stack(changes)
    bound = amplification_bound(epsilon, K_h, K_y, torch.arange(301))
    torch.testing.assert_close(changes, bound, rtol=1e-10, atol=0)
    alone = amplification_bound(epsilon, K_h, K_y, 300)
    assert alone == pytest.approx(bound[300].item(), rel=1e-12)
    mean = mean_amplification_bound(epsilon, K_h, K_y, 301)
    assert mean == pytest.approx(changes.mean().item(), rel=1e-10)


def simulated_changes(K_h, K_y, epsilon, steps, seed):
    """Change of the output of a random tanh recurrence, `[steps]`.

    The update rotates and shifts the one-step map by at most epsilon.
    """
    generator = torch.Generator().manual_seed(seed)

    def orthogonal():
        random = torch.randn(4, 4, generator=generator, dtype=torch.float64)
        return torch.linalg.qr(random).Q

    W, V = K_h * orthogonal(), K_y * orthogonal()
    shift_h, shift_y = (
        epsilon * torch.nn.functional.normalize(orthogonal()[0], dim=0)
        for _ in range(2)
    )
    h = moved_h = torch.zeros(4, dtype=torch.float64)
    changes = []
    for _ in range(steps):
        x = 0.1 * torch.randn(4, generator=generator, dtype=torch.float64)
        y, moved_y = torch.tanh(V @ h + x), torch.tanh(V @ moved_h + x) + shift_y
        h, moved_h = torch.tanh(W @ h + x), torch.tanh(W @ moved_h + x) + shift_h
        changes.append((moved_y - y).norm())
    return torch.stack(changes)


@pytest.mark.parametrize("seed", range(5))
def test_a_nonlinear_recurrence_stays_within_the_bound(seed):
    K_h, K_y, epsilon, steps = 0.95, 0.8, 1e-4, 200
    changes = simulated_changes(K_h, K_y, epsilon, steps, seed)
    bound = amplification_bound(epsilon, K_h, K_y, torch.arange(steps))
    assert (changes <= bound * (1 + 1e-9)).all()
    assert changes.mean() <= mean_amplification_bound(epsilon, K_h, K_y, steps)
    # Control: without its memory's share the same recurrence breaks the bound.
    memoryless = amplification_bound(epsilon, 0.0, K_y, torch.arange(steps))
    assert (changes > memoryless).any()


def test_arguments_out_of_range_are_named():
    with pytest.raises(ValueError, match=r"K_h: expected a contraction.*got 1\.0"):
        amplification_bound(0.1, 1.0, 1.0, 3)
    with pytest.raises(ValueError, match=r"epsilon: .* K_y: "):
        mean_amplification_bound(-1.0, 0.5, -1.0, 3)
    with pytest.raises(ValueError, match="t: expected steps of 0 or more"):
        amplification_bound(0.1, 0.5, 1.0, -1)
    with pytest.raises(ValueError, match="T: expected 1 step or more"):
        mean_amplification_bound(0.1, 0.5, 1.0, 0)
