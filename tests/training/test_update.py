"""Updates: exact ratio, order, reward scale, and what is measured."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from resel_torchrl.errors import NonFiniteLossError, RunError
from resel_torchrl.training import Hook, UpdateSchedule
from resel_torchrl.training.logging import METRIC_COLUMNS
from resel_torchrl.training.update_metrics import check_gradients
from tests.training.runs import leaves, resume, rows, start

DISCRETE = "env.id=tests.training.envs:DiscreteWalk-v0"


@settings(max_examples=50, deadline=None)
@given(st.integers(1, 400), st.integers(1, 100), st.integers(1, 300))
def test_update_ratio_is_exact_at_every_step(hundredths, unit, steps):
    ratio = hundredths / unit
    schedule = UpdateSchedule(ratio)
    done = 0
    for step in range(1, steps + 1):
        done += schedule.due()
        assert done == step * schedule.ratio.numerator // schedule.ratio.denominator
    assert math.isclose(float(schedule.ratio), ratio, rel_tol=1e-4)


def test_a_tenth_ten_times_is_one():
    schedule = UpdateSchedule(0.1)
    assert [schedule.due() for _ in range(30)] == ([0] * 9 + [1]) * 3


@pytest.mark.parametrize("ratio", [0.4, 1, 2.5])
def test_run_makes_exactly_the_updates_due_after_the_random_phase(tmp_path, ratio):
    options = [f"train.updates_per_step={ratio}", "steps=60", "eval.interval=0"]
    learning_steps = 0

    class Watch(Hook):
        def on_step(self, trainer):
            nonlocal learning_steps
            learning_steps += trainer.learning
            assert not (trainer.learning and trainer.collector.in_random_phase)

    training = start(tmp_path / "run", *options, hooks=[Watch()])
    training.run()
    assert learning_steps > 20
    assert training.learner.updates == int(learning_steps * ratio)


def snapshot(module):
    return {name: value.clone() for name, value in module.state_dict().items()}


def changed(before, after):
    return {name for name in before if not torch.equal(before[name], after[name])}


def test_actor_moves_every_second_update_and_targets_every_one(tmp_path):
    training = start(tmp_path / "run", "steps=50", "eval.interval=0")
    training.run()
    learner = training.learner
    learner.updates = 0
    for actor_moves in (True, False, True):
        before = snapshot(learner.loss)
        learner.update()
        names = changed(before, snapshot(learner.loss))
        assert any(name.startswith("qvalue_network_params") for name in names)
        assert any(name.startswith("critic_encoder_params") for name in names)
        assert any(name.startswith("target_critic_encoder") for name in names)
        moved = any(name.startswith("actor_") for name in names)
        assert moved == actor_moves == ("log_alpha" in names)


def test_acting_uses_the_weights_that_learn(tmp_path):
    training = start(tmp_path / "run", "steps=40", "eval.interval=0")
    acting = training.collector.policy.encoder.state_dict()
    before = {name: value.clone() for name, value in acting.items()}
    training.run()
    assert changed(before, training.collector.policy.encoder.state_dict())


def test_reward_scale_reaches_the_losses_and_not_the_log(tmp_path):
    options = ["steps=40", "eval.interval=0"]
    plain = start(tmp_path / "a", *options, "train.reward_scale=1.0")
    scaled = start(tmp_path / "b", *options, "train.reward_scale=0.25")
    plain.run(), scaled.run()
    batches = [training.learner.batches.upcoming for training in (plain, scaled)]
    first = [batch["next", "reward"] for batch in batches]
    assert torch.equal(first[0] * 0.25, first[1])
    assert torch.equal(batches[0]["prev_reward"], batches[1]["prev_reward"])
    returns = [rows(tmp_path / n / "metrics.csv")[0]["return"] for n in "ab"]
    assert returns[0] == returns[1] != ""


def test_every_column_is_measured(tmp_path):
    start(tmp_path / "run", "steps=80").run()
    table = rows(tmp_path / "run/metrics.csv")
    assert [row["step"] for row in table] == ["20", "40", "60", "80"]
    with open(tmp_path / "run/metrics.csv") as stream:
        assert tuple(stream.readline().strip().split(",")) == METRIC_COLUMNS
    last = table[-1]
    assert all(math.isfinite(float(value)) for value in last.values())
    for name in last:
        if name.startswith(("grad_norm", "context")):
            assert float(last[name]) > 0, name
    assert 0 < float(last["padding_fraction"]) < 1
    # Before the first update there are no losses to show.
    assert table[0]["loss_qvalue"] == "" != table[0]["return"]


def test_change_of_context_is_that_of_one_step(tmp_path):
    """Ten times the rate, ten times the change, as AdamW's first steps are signs."""
    changes = []
    for name, rate in (("a", 1e-6), ("b", 1e-5)):
        options = [f"optim.lr_context_encoder={rate}", "steps=40", "eval.interval=0"]
        options += ["optim.lr_critic=1e-12", "optim.lr_actor=1e-12"]
        start(tmp_path / name, *options).run()
        changes.append(
            float(rows(tmp_path / name / "metrics.csv")[-1]["context_critic_change"])
        )
    assert changes[1] / changes[0] == pytest.approx(10, rel=0.1)


def test_nan_loss_stops_names_the_term_and_keeps_the_data(tmp_path):
    class Poison(Hook):
        def on_update(self, trainer):
            if trainer.learner.updates == 12:
                next(trainer.learner.loss.qvalue_network.parameters()).data.fill_(
                    math.nan
                )

    training = start(tmp_path / "run", "steps=100", hooks=[Poison()])
    with pytest.raises(RunError, match=r"finite loss_qvalue, got nan at update 12"):
        training.run()
    checkpoints = sorted(p.name for p in (tmp_path / "run/checkpoints").iterdir())
    assert checkpoints == ["step_0000000030"]
    (failure,) = (tmp_path / "run/failures").iterdir()
    replay = torch.load(failure / "replay.pt", weights_only=True)
    assert replay["size"] == len(training.learner.batches.replay_buffer) > 0
    learner = torch.load(failure / "learner.pt", weights_only=True)["learner"]
    assert learner["updates"] == 12


def test_nan_that_no_update_looked_at_is_never_saved_as_a_checkpoint(tmp_path):
    """On a GPU updates do not wait for their losses; saving does."""

    def poison(learner, role):
        next(learner.loss.qvalue_network.parameters()).data.fill_(math.nan)

    options = ["steps=80", "log.interval=1000"]
    training = start(tmp_path / "run", *options, hooks=[BeforeStep(17, poison)])
    training.learner._sync_is_free = False
    with pytest.raises(RunError, match="finite loss_qvalue, got nan"):
        training.run()
    kept = sorted(path.name for path in (tmp_path / "run/checkpoints").iterdir())
    assert kept == ["step_0000000030", "step_0000000060"]
    assert training.learner.updates > 0


class BeforeStep(Hook):
    """Calls `poison(learner, role)` before the steps of the update `at`."""

    def __init__(self, at, poison):
        self.at, self.poison = at, poison

    def before_step(self, trainer, role, batch):
        if trainer.learner.updates == self.at:
            self.poison(trainer.learner, role)


def poison_actor_gradient(learner, role):
    if role == "actor":
        next(learner.loss.actor_network.parameters()).grad[0] = math.nan


def failure(training, match):
    """Runs into a failure of the learner; returns the state that it left."""
    folder = training.run_directory.path
    with pytest.raises(RunError, match=match) as error:
        training.run()
    assert "environment failed" not in str(error.value)
    (kept,) = (folder / "failures").iterdir()
    state = torch.load(kept / "learner.pt", weights_only=True)["learner"]
    for checkpoint in (folder / "checkpoints").iterdir():
        good = torch.load(checkpoint / "learner.pt", weights_only=True)
        for _, value in leaves(good["modules"]):
            assert value.isfinite().all()
    return state


def test_nan_gradient_is_noticed_before_its_step(tmp_path):
    hooks = [BeforeStep(20, poison_actor_gradient)]
    training = start(tmp_path / "run", "steps=100", hooks=hooks)
    state = failure(training, "finite gradient of actor, got nan at update 20")
    assert state["updates"] == 20
    names = [name for name in state["loss"] if name.startswith("actor_network")]
    assert names and all(state["loss"][name].isfinite().all() for name in names)
    assert resume(tmp_path / "run").collector.steps == 60


def test_nan_parameters_are_no_failure_of_the_environment(tmp_path):
    """On a GPU no update looks, and NaN actions reach the environment first."""
    options = ["steps=100", "train.random_steps=5"]
    options += ["env.id=tests.training.envs:ShortPendulum-v0"]
    hooks = [BeforeStep(20, poison_actor_gradient)]
    options = [*options, "replay.buffer_size=900"]
    training = start(tmp_path / "run", *options, hooks=hooks)
    training.learner._sync_is_free = False
    state = failure(training, r"finite actor_network_params.*, got nan at update 2\d")
    assert state["updates"] > 20


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_targets_bounds_and_moments_are_looked_at_too(tmp_path, value):
    training = start(tmp_path / "run", "steps=60", "eval.interval=0")
    learner = training.learner
    learner.check()  # the bounds are still infinite, as nothing has met them
    training.run()
    learner.check()
    group = learner.optimizer.param_groups[0]
    moments = learner.optimizer.state[group["params"][0]]
    state = learner.loss.state_dict()
    target = next(name for name in state if name.startswith("target_"))
    for name, tensor in (
        ("bootstrap_low", state["bootstrap_low"]),
        ("bootstrap_high", state["bootstrap_high"]),
        (target, state[target]),
        (f"exp_avg_sq of {group['name']}", moments["exp_avg_sq"]),
    ):
        good = tensor.clone()
        tensor.view(-1)[-1] = value
        with pytest.raises(NonFiniteLossError, match=f"finite {name}.*got {value} at"):
            learner.check()
        tensor.copy_(good)
    learner.check()


def test_large_gradient_of_which_only_the_norm_overflows_is_no_failure(tmp_path):
    training = start(tmp_path / "run", "steps=50", "eval.interval=0")
    training.run()
    learner = training.learner
    for parameter in learner.loss.qvalue_network.parameters():
        parameter.grad = torch.full_like(parameter, 1e30)
    check_gradients(learner.optimizer.param_groups, 0)
    parameter.grad[..., -1] = -math.inf
    with pytest.raises(NonFiniteLossError, match="gradient of critic, got -inf"):
        check_gradients(learner.optimizer.param_groups, 0)


@pytest.mark.parametrize(
    "options",
    [[], ["core=mamba", "agent.core_kwargs.d_state=4"], [DISCRETE]],
    ids=["gru", "mamba", "discrete"],
)
def test_one_pass_of_the_policy_for_both_terms_changes_no_update(tmp_path, options):
    """To the bit; TD3's target has a policy of its own and nothing to spare."""
    once = start(tmp_path / "once", *options)
    once.run()
    twice = start(tmp_path / "twice", *options, "train.reuse_policy_context=false")
    twice.run()
    assert once.learner.updates == twice.learner.updates > 20
    expected, got = (dict(leaves(x.learner.state_dict())) for x in (twice, once))
    assert expected.keys() == got.keys()
    for name, value in expected.items():
        same = torch.equal(value, got[name]) if torch.is_tensor(value) else None
        assert same if same is not None else value == got[name], name
    td3 = start(tmp_path / "td3", "algorithm=td3_resel").learner
    contexts = [learner.policy_context for learner in (once.learner, twice.learner)]
    assert contexts[0] is not None and contexts[1] is None is td3.policy_context


def test_a_step_moves_its_own_side_whatever_the_backward_pass_leaves(tmp_path):
    """AdamW makes a step of a gradient of zeros, which a compiler may leave."""
    plain = start(tmp_path / "plain")
    plain.run()
    zeros = start(tmp_path / "zeros")
    loss, critic_loss = zeros.learner.loss, zeros.learner.critic_loss

    def with_zeros(*arguments):
        terms = critic_loss(*arguments)
        others = [loss.log_alpha, *loss.actor_network.parameters()]
        terms["loss_qvalue"] = terms["loss_qvalue"] + 0 * sum(p.sum() for p in others)
        return terms

    zeros.learner.critic_loss = with_zeros
    zeros.run()
    expected, got = (dict(leaves(x.learner.state_dict())) for x in (plain, zeros))
    assert all(
        torch.equal(value, got[name]) if torch.is_tensor(value) else value == got[name]
        for name, value in expected.items()
    )
