"""The change of actions after one gradient step."""

import copy

import numpy as np
import pytest
import torch

from resel_torchrl.analysis import (
    deterministic_actions,
    output_variation,
    plot_output_variation,
    read_results,
)
from resel_torchrl.optim import parameter_groups
from tests.analysis.agents import random_agent, random_episodes

pytest.importorskip("pandas")
COMMON, SEPARATE = (1e-3, 1e-3), (1e-5, 1e-3)


def measure(agent, loss, batch, pairs, **options):
    """The rows of each pair."""
    torch.manual_seed(7)  # the loss draws actions
    table = output_variation(
        loss, agent.actor_encoder, agent.actor, batch, pairs, **options
    )
    groups = table.groupby(["lr_context_encoder", "lr_other"], sort=False)
    assert list(groups.groups) == pairs
    return [rows.reset_index(drop=True) for _, rows in groups]


def slow_gates(agent):
    """Long memory: update gates near 1, so the state's contraction is near 1 too."""
    width = agent.actor_encoder.core.output_size
    with torch.no_grad():
        agent.actor_encoder.core.bias_ih_l0[width : 2 * width] = 3.0


def test_a_recurrent_agent_amplifies_a_step_and_a_memoryless_one_does_not():
    batch = random_episodes([120] * 16, 121)

    def growth(variation):
        """Late change over the change at the first step."""
        assert (variation.episodes == 16).all()
        return variation.variation[60:].mean() / variation.variation[0]

    agent, loss = random_agent("gru")
    slow_gates(agent)
    common, separate, encoder_only = measure(
        agent, loss, batch, [COMMON, SEPARATE, (1e-3, 0.0)]
    )
    assert growth(common) > 3
    assert growth(encoder_only) > 10
    assert growth(separate) < 1.5
    assert common.variation[60:].mean() > 3 * separate.variation[60:].mean()

    agent, loss = random_agent("memoryless")
    for variation in measure(agent, loss, batch, [COMMON, (1e-3, 0.0)]):
        assert 0.8 < growth(variation) < 1.25


def test_nothing_is_left_changed_bit_for_bit():
    agent, loss = random_agent("gru")
    batch = random_episodes([9, 5, 12], 13)
    loss(batch)["loss_qvalue"].backward()  # gradients of the user's own
    state = copy.deepcopy(loss.state_dict())
    modules = agent.modules().values()
    gradients = [
        None if p.grad is None else p.grad.clone()
        for module in modules
        for p in module.parameters()
    ]
    entries = batch.clone()
    moved, nothing = measure(agent, loss, batch, [(1e-2, 1e-1), (0.0, 0.0)])
    assert (moved.variation > 0).all()
    assert (nothing.variation == 0).all()
    after = loss.state_dict()
    assert state.keys() == after.keys()
    assert all(torch.equal(state[key], after[key]) for key in state)
    for before, p in zip(
        gradients, (p for m in modules for p in m.parameters()), strict=True
    ):
        assert (before is None) == (p.grad is None)
        assert before is None or torch.equal(before, p.grad)
    assert (batch == entries).all()


@pytest.mark.parametrize("algorithm", ["resel", "discrete_resel", "td3_resel"])
@pytest.mark.parametrize("trained", [False, True])
def test_it_is_the_step_that_training_would_make(trained, algorithm):
    """Against the optimizer itself, run in place on the agent's own parameters."""
    agent, loss = random_agent("gru", algorithm=algorithm)
    discrete = algorithm == "discrete_resel"
    batch = random_episodes([9, 5, 12], 13, discrete=discrete)
    groups = parameter_groups(
        loss, lr_context_encoder=1e-4, lr_actor=1e-2, lr_critic=1e-3, lr_alpha=1e-3
    )
    optimizer = torch.optim.AdamW(groups)

    def policy_step():
        optimizer.zero_grad()
        loss.policy_loss(batch)["loss_actor"].backward()
        optimizer.step()

    for _ in range(3 * trained):
        policy_step()
    state = optimizer.state_dict()
    stored = copy.deepcopy(state)
    pair = (1e-4, 1e-2)
    (measured,) = measure(agent, loss, batch, [pair], optimizer_state=state)
    (fresh,) = measure(agent, loss, batch, [pair])
    assert state["state"].keys() == stored["state"].keys()
    for place, moments in stored["state"].items():
        assert all(torch.equal(moments[k], state["state"][place][k]) for k in moments)

    before = deterministic_actions(agent.actor_encoder, agent.actor, batch)
    torch.manual_seed(7)
    policy_step()
    after = deterministic_actions(agent.actor_encoder, agent.actor, batch)
    change = (after - before).norm(dim=-1)
    by_episode = [
        change[row, start : start + length] for row, start, length in episodes_of(batch)
    ]
    for t, value in enumerate(measured.variation):
        at_t = torch.stack([e[t] for e in by_episode if len(e) > t])
        assert len(at_t) == measured.episodes[t]
        assert value == pytest.approx(at_t.mean().item(), rel=2e-3, abs=2e-6)
    # Control: the moments matter once there are any.
    same = np.allclose(fresh.variation, measured.variation, rtol=1e-2)
    assert same is not trained


def episodes_of(batch):
    """Row, first column and length of each episode."""
    valid, is_init = batch["valid"][..., 0], batch["is_init"][..., 0]
    for row, start in (valid & is_init).nonzero().tolist():
        length = 0
        while valid[row, start + length]:
            length += 1
        yield row, start, length


def test_packing_and_padding_do_not_show():
    agent, loss = random_agent("gru")
    batch = random_episodes([9, 5, 12], 30)
    (together,) = measure(agent, loss, batch, [COMMON])
    assert list(together.episodes) == [3] * 5 + [2] * 4 + [1] * 3
    poisoned = batch.clone()
    observed = batch["valid"].clone()
    observed[:, 1:] |= batch["valid"][:, :-1]
    for key in ("observation", "prev_observation", "prev_action"):
        poisoned[key][~observed.squeeze(-1)] = float("nan")
    (of_poisoned,) = measure(agent, loss, batch, [COMMON], rollouts=poisoned)
    assert together.equals(of_poisoned)
    total = np.zeros(12)
    for row, start, length in episodes_of(batch):
        alone = batch[row : row + 1, start : start + length + 1]
        (variation,) = measure(agent, loss, batch, [COMMON], rollouts=alone)
        total[:length] += variation.variation
    np.testing.assert_allclose(together.variation, total / together.episodes)


def test_bad_input_is_named():
    agent, loss = random_agent("gru")
    other, _ = random_agent("gru")
    batch = random_episodes([4], 5)
    for pair in ((-1e-3, 1e-3), (1e-3, float("nan")), (1e-3,)):
        with pytest.raises(ValueError, match="expected pairs"):
            measure(agent, loss, batch, [pair])
    with pytest.raises(ValueError, match="networks that the loss was built on"):
        measure(other, loss, batch, [COMMON])
    state = torch.optim.AdamW(agent.actor.parameters()).state_dict()
    with pytest.raises(ValueError, match="context_encoder_actor', got 0"):
        measure(agent, loss, batch, [COMMON], optimizer_state=state)


def test_the_csv_gives_every_number_back(tmp_path):
    agent, loss = random_agent("gru")
    batch = random_episodes([4, 7], 20)
    torch.manual_seed(7)
    networks = agent.actor_encoder, agent.actor
    variations = output_variation(loss, *networks, batch, [COMMON, SEPARATE])
    pytest.importorskip("matplotlib")
    plot_output_variation(variations, tmp_path / "new" / "a.png")
    again = read_results(tmp_path / "new" / "a.csv", tuple(variations), {})
    assert again.equals(variations)
    (tmp_path / "b.csv").write_text("step,return\n")
    with pytest.raises(ValueError, match="expected the columns lr_context_encoder"):
        read_results(tmp_path / "b.csv", tuple(variations))
