"""Every function of the maths on numbers that can be worked out by hand."""

import math

import pytest
import torch

from resel_torchrl.objectives import functional

INF, NAN = torch.inf, torch.nan


@pytest.fixture(autouse=True)
def float32(float64_on_one_thread):
    torch.set_default_dtype(torch.float32)


def test_an_episode_of_t_transitions_has_t_plus_1_observed_steps():
    valid = torch.tensor([[True, True, False, False, False]])
    assert functional.observed_rows(valid).tolist() == [
        [True, True, True, False, False]
    ]


def test_nan_outside_is_replaced_and_has_no_gradient():
    """Control: the gradient of a product with the mask is NaN."""
    x = torch.tensor([[[0.0], [1.0]]], requires_grad=True)
    inside = torch.tensor([[[False], [True]]])
    functional.fill_outside(x.rsqrt(), inside, value=5).sum().backward()
    assert functional.fill_outside(x, inside, value=5).flatten().tolist() == [5, 1]
    assert x.grad[0, 1].item() == -0.5
    (poisoned,) = torch.autograd.grad((x.rsqrt() * inside).sum(), x)
    assert poisoned[0, 0].isnan()


def test_flags_and_features_are_filled_too():
    inside = torch.tensor([[[True], [False]]])
    flags = torch.tensor([[[False], [False]]])
    assert functional.fill_outside(flags, inside, True).flatten().tolist() == [0, 1]
    images = torch.ones(1, 2, 3, 4)
    assert functional.fill_outside(images, inside).sum() == 12


def test_masked_mean_leaves_out_what_is_outside_and_is_zero_for_nothing():
    x = torch.tensor([[1.0, 3.0, NAN]])
    assert functional.masked_mean(x, torch.tensor([[True, True, False]])) == 2
    assert functional.masked_mean(x, torch.zeros(1, 3, dtype=torch.bool)) == 0


def test_a_subset_holds_different_critics_and_any_of_them():
    draws = [functional.draw_subset(8, 2, None).tolist() for _ in range(200)]
    assert all(len(set(draw)) == 2 for draw in draws)
    assert {member for draw in draws for member in draw} == set(range(8))


def test_noise_of_the_target_policy_is_clipped_and_so_is_the_action():
    action = torch.tensor([0.95, 0.0]).expand(50, 1, 2)
    moved = functional.smoothed_action(action, scale=100.0, limit=0.1)
    assert moved[..., 1].abs().max() == pytest.approx(0.1)
    assert moved[..., 0].max() == 1 and moved[..., 0].min() == pytest.approx(0.85)
    assert torch.equal(functional.smoothed_action(action, 0.0, 0.1), action)


def test_minimum_and_soft_value_are_over_the_subset():
    values, subset = torch.tensor([[[1.0, 2.0, 3.0]]]), torch.tensor([2, 1])
    assert functional.subset_minimum(values, subset).tolist() == [[2.0]]
    log_prob, alpha = torch.ones(1, 1), torch.tensor(0.5)
    assert functional.soft_value(values, subset, log_prob, alpha).tolist() == [[1.5]]


def test_of_discrete_actions_the_minimum_is_taken_for_each():
    values = torch.tensor([[[[1.0, 5.0], [4.0, 2.0]]]])  # [R, T, A, n]
    minimum = functional.subset_minimum(values, torch.tensor([0, 1]))
    assert minimum.tolist() == [[[1.0, 2.0]]]
    probs = torch.tensor([[[0.25, 0.75]]])
    assert functional.expectation(minimum, probs).tolist() == [[1.75]]


def test_clamp_range_is_the_batchs_own_before_the_first_update():
    bootstrap = torch.tensor([[1.0, 3.0, 9.0]])
    mask = torch.tensor([[True, True, False]])
    unset = torch.tensor(INF), torch.tensor(-INF)
    assert functional.initial_clamp_range(bootstrap, *unset, mask) == (1, 3)
    stored = torch.tensor(-5.0), torch.tensor(2.0)
    assert functional.initial_clamp_range(bootstrap, *stored, mask) == stored


def test_clamp_range_widens_and_then_shrinks_to_the_targets():
    target, mask = (
        torch.tensor([[-2.0, 1.0, 99.0]]),
        torch.tensor([[True, True, False]]),
    )
    stored = torch.tensor(0.0), torch.tensor(9.0)
    assert functional.update_clamp_range(target, *stored, mask, 0.5) == (-2, 5)
    assert functional.update_clamp_range(target, *stored, mask, 1.0) == (-2, 9)


def test_a_batch_without_a_transition_leaves_the_clamp_range():
    nothing = torch.zeros(1, 2, dtype=torch.bool)
    for stored in ((0.0, 9.0), (INF, -INF)):
        bounds = tuple(map(torch.tensor, stored))
        got = functional.update_clamp_range(torch.ones(1, 2), *bounds, nothing)
        assert got == stored
    assert functional.masked_bounds(torch.ones(1, 2), nothing) == (INF, -INF)


def test_target_bootstraps_unless_terminated():
    ended = torch.tensor([[False, True]])
    bootstrap, gamma = torch.full((1, 2), 10.0), torch.tensor(0.5)
    target = functional.td_target(torch.ones(1, 2), ended, bootstrap, gamma)
    assert target.tolist() == [[6.0, 1.0]]
    bootstrap[0, 1] = NAN  # not read
    assert functional.td_target(torch.ones(1, 2), ended, bootstrap, gamma)[0, 1] == 1


def test_value_of_a_one_hot_action():
    values = torch.tensor([[[[1.0, 2.0], [3.0, 4.0]]]])  # [R, T, A, n]
    one_hot = torch.tensor([[[0.0, 1.0]]])
    assert functional.value_of_action(values, one_hot).tolist() == [[[3.0, 4.0]]]
    assert not functional.value_of_action(values, 0 * one_hot).any()


def test_losses_of_a_transition():
    values = torch.tensor([[[1.0, 3.0]]])
    assert functional.critic_loss(values, torch.zeros(1, 1)).tolist() == [[10.0]]
    log_prob, alpha = torch.ones(1, 1), torch.tensor(0.5)
    assert functional.actor_loss(log_prob, values, alpha).tolist() == [[-1.5]]
    assert functional.deterministic_actor_loss(values).tolist() == [[-2.0]]


def test_temperature_rises_where_entropy_is_below_its_target():
    log_alpha = torch.tensor(math.log(0.2), requires_grad=True)
    target = torch.tensor(1.0)
    for entropy, sign in ((0.5, -1), (1.5, 1)):
        term = functional.alpha_loss(log_alpha, torch.tensor([[-entropy]]), target)
        (gradient,) = torch.autograd.grad(term.sum(), log_alpha)
        assert gradient.sign() == sign
    term = functional.alpha_loss(torch.tensor(2.0), torch.ones(1, 1), -3 * target)
    assert term.tolist() == [[4.0]]
