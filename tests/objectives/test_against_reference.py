"""Loss values and every gradient equal those of the step-by-step reference."""

import pytest
import torch
from torchrl.objectives import SoftUpdate

from tests.objectives.episodes import (
    ACTION,
    ALGORITHMS,
    CRITICS,
    LOSSES,
    is_discrete,
    locate,
    make_episodes,
    make_modules,
    pack,
    total,
)
from tests.objectives.reference import DiscreteReference, Reference, TD3Reference

# Algorithm, core, and whether the previous reward is an input of the encoders.
CORES = {
    "resel": ("gru", "lstm", "mamba", "memoryless", "one_step"),
    "discrete_resel": ("gru", "mamba"),
    "td3_resel": ("gru", "mamba"),
}
AGENTS = [
    *((name, core, False) for name in ALGORITHMS for core in CORES[name]),
    pytest.param("resel", "gru", True, id="resel-gru-reward"),
]
# Lengths of the episodes of each consecutive update, and the rows' length.
MIXES = [
    pytest.param([[5, 1, 7, 2], [3, 3, 1], [9, 1, 1, 1]], 11, id="several-rows"),
    pytest.param([[1], [1, 1], [2, 1]], 7, id="shortest"),
]
CRITIC = {"qvalue_network", "critic_encoder"}
ACTOR = {"actor_network", "actor_encoder"}
GAMMA, TAU, STEP = 0.9, 0.3, 0.02
SOFT = {"target_entropy": 6.0, "alpha_init": 2.6}
# Reference, options of both, options of the loss alone.
CASES = {
    "resel": (Reference, SOFT, {}),
    "discrete_resel": (DiscreteReference, SOFT, {"fixed_alpha": False}),
    "td3_resel": (
        TD3Reference,
        {},
        {"target_noise": TD3Reference.NOISE, "target_noise_clip": TD3Reference.CLIP},
    ),
}


def draws(seed, batch, positions, episodes, *, critic, algorithm):
    """Replay the random numbers of one loss call, cut into one piece per episode.

    The loss draws one normal number per action and column of transitions, [R, L - 1, A]
    in one call, then (critic term only) the subset. With discrete actions it draws the
    subset alone, and TD3's policy term draws nothing, which the generator shows. A
    different order or shape of draws makes the comparison fail.
    """
    torch.manual_seed(seed)
    rows, length = batch.shape
    noise = torch.full((rows, length - 1, ACTION), torch.nan)
    if algorithm == "resel" or (algorithm == "td3_resel" and critic):
        noise.normal_()
    subset = torch.randperm(CRITICS)[:2].tolist() if critic else None
    pieces = [
        noise[row, column : column + len(episode)]
        for (row, column), episode in zip(positions, episodes, strict=True)
    ]
    torch.manual_seed(seed)
    return pieces, subset


def assert_same_gradients(modules, reference, trained):
    for name, module in modules.items():
        expected = dict(reference.modules[name].named_parameters())
        for key, parameter in module.named_parameters():
            if name in trained:
                assert parameter.grad is not None, f"{name}.{key} got no gradient"
                torch.testing.assert_close(
                    parameter.grad,
                    expected[key].grad,
                    rtol=1e-8,
                    atol=1e-10,
                    msg=lambda text, where=f"{name}.{key}": f"{where}: {text}",
                )
            else:
                assert parameter.grad is None, f"{name}.{key} got a gradient"


@torch.no_grad()
def descend(modules, trained):
    """One gradient step of the trained modules; no gradient is left in any module."""
    for name, module in modules.items():
        for parameter in module.parameters():
            if name in trained:
                parameter -= STEP * parameter.grad
            parameter.grad = None


@pytest.mark.parametrize("target_bound", [True, False], ids=["bound", "no-bound"])
@pytest.mark.parametrize(("lengths", "row_length"), MIXES)
@pytest.mark.parametrize(("algorithm", "core", "reward"), AGENTS)
def test_update_equals_reference(
    algorithm, core, reward, lengths, row_length, target_bound
):
    modules = make_modules(core, reward=reward, algorithm=algorithm)
    assert ("prev_reward" in modules["actor_encoder"].input_keys) == reward
    make_reference, options, loss_options = CASES[algorithm]
    options = {"target_bound": target_bound, **options}
    reference = make_reference(modules, gamma=GAMMA, **options)
    loss = LOSSES[algorithm](**modules, **options, **loss_options)
    loss.make_value_estimator(gamma=GAMMA)
    updater = SoftUpdate(loss, tau=TAU)
    clamped = []

    for update, update_lengths in enumerate(lengths):
        episodes = make_episodes(
            update_lengths,
            seed=update,
            scale=1 + 2 * update,
            discrete=is_discrete(algorithm),
        )
        batch = pack(episodes, row_length)
        positions = locate(batch, episodes)

        call = (batch, positions, episodes)
        noise, subset = draws(10 + update, *call, critic=True, algorithm=algorithm)
        terms = loss.critic_loss(batch)
        expected, share = reference.critic_loss(episodes, noise, subset)
        torch.testing.assert_close(terms["loss_qvalue"], expected, rtol=1e-9, atol=0)
        torch.testing.assert_close(terms["clamped_fraction"].item(), share)
        clamped.append(share)
        terms["loss_qvalue"].backward()
        expected.backward()
        assert_same_gradients(modules, reference, CRITIC)
        descend(modules, CRITIC)
        descend(reference.modules, CRITIC)
        updater.step()
        reference.polyak(TAU)

        noise, _ = draws(20 + update, *call, critic=False, algorithm=algorithm)
        terms = loss.policy_loss(batch)
        expected_actor, expected_alpha = reference.policy_losses(episodes, noise)
        torch.testing.assert_close(
            terms["loss_actor"], expected_actor, rtol=1e-9, atol=1e-12
        )
        total(terms).backward()
        (expected_actor + expected_alpha).backward()
        assert_same_gradients(modules, reference, ACTOR)
        descend(modules, ACTOR)
        descend(reference.modules, ACTOR)
        if algorithm != "td3_resel":
            torch.testing.assert_close(
                terms["loss_alpha"], expected_alpha, rtol=1e-9, atol=1e-12
            )
            torch.testing.assert_close(loss.log_alpha.grad, reference.log_alpha.grad)
            for log_alpha in (loss.log_alpha, reference.log_alpha):
                log_alpha.data -= STEP * log_alpha.grad
                log_alpha.grad = None

        if target_bound:
            torch.testing.assert_close(loss.bootstrap_low.item(), reference.low)
            torch.testing.assert_close(loss.bootstrap_high.item(), reference.high)

    assert clamped[0] == 0
    assert any(clamped) == target_bound  # the bound has had something to do
    # The temperature's ceiling has been met, so the clamp has had something to do too.
    assert reference.log_alpha.item() > 1.0 or algorithm == "td3_resel"
