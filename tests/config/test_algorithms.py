"""The algorithm: chosen by the task's actions, its own values, what does not fit."""

import pytest

from resel_torchrl.config import compose, load_config, open_run
from resel_torchrl.config.build import resolve_algorithm
from resel_torchrl.errors import ConfigError
from resel_torchrl.objectives import DiscreteRESeLLoss, RESeLLoss, TD3RESeLLoss
from tests.training.runs import start

WALK = "env.id=tests.training.envs:Walk-v0"
DISCRETE = "env.id=tests.training.envs:DiscreteWalk-v0"


@pytest.mark.parametrize(
    ("overrides", "kind", "alpha", "tuned"),
    [
        ([WALK], RESeLLoss, 1.0, True),
        ([DISCRETE], DiscreteRESeLLoss, 0.2, False),
        ([DISCRETE, "train.fixed_alpha=false"], DiscreteRESeLLoss, 0.2, True),
        ([WALK, "train.fixed_alpha=true"], RESeLLoss, 1.0, False),
        ([WALK, "agent.algorithm=td3_resel"], TD3RESeLLoss, None, False),
    ],
)
def test_loss_and_groups_follow_the_algorithm(tmp_path, overrides, kind, alpha, tuned):
    learner = start(tmp_path / "run", *overrides).learner
    assert type(learner.loss) is kind
    if alpha is not None:
        assert learner.loss._alpha.item() == pytest.approx(alpha)
    assert ("alpha" in learner.groups) == tuned
    names = {"context_encoder_actor", "context_encoder_critic", "actor", "critic"}
    assert names <= learner.groups.keys()


def test_what_auto_became_is_in_the_runs_config(tmp_path):
    overrides = ["task=pendulum_v", f"run_dir={tmp_path}/run"]
    overrides += ["train.alpha_init=auto", "train.target_entropy=auto"]
    run, config = open_run(
        compose([*overrides, "agent.algorithm=td3_resel", "train.target_noise=0.3"])
    )
    assert load_config(run.config) == config
    assert config.agent.exploration_noise == 0.1
    assert (config.train.target_noise, config.train.target_noise_clip) == (0.3, 0.12)
    assert (config.train.alpha_init, config.train.fixed_alpha) == ("auto", "auto")
    assert resolve_algorithm(config, discrete=False) == config


def test_values_reach_the_loss_and_the_actor(tmp_path):
    options = ["train.target_noise=0.3", "train.target_noise_clip=0.5"]
    options += ["agent.exploration_noise=0.7", "train.gamma=0.5"]
    training = start(tmp_path / "a", WALK, "agent.algorithm=td3_resel", *options)
    loss, actor = training.learner.loss, training.learner.loss.actor_network
    assert (loss.target_noise, loss.target_noise_clip) == (0.3, 0.5)
    assert actor.exploration_noise == 0.7
    assert loss.value_estimator.gamma == 0.5
    options = ["train.alpha_init=0.3", "train.target_entropy=0.25"]
    options += ["train.fixed_alpha=false", "agent.probability_floor=0.002"]
    learner = start(tmp_path / "b", DISCRETE, *options).learner
    assert learner.loss.actor_network.network.probability_floor == 0.002
    loss = learner.loss
    assert loss.log_alpha.exp().item() == pytest.approx(0.3)
    assert loss.target_entropy == 0.25


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (
            ["task=cartpole_p", "agent.algorithm=resel"],
            "expected one for discrete actions, which CartPole-P-v0 has, got resel.*"
            "choose agent.algorithm=discrete_resel",
        ),
        (
            ["task=pendulum_v", "agent.algorithm=discrete_resel"],
            "expected one for continuous actions.*got discrete_resel",
        ),
        (
            ["task=pendulum_v", "train.target_noise=0.1"],
            "train.target_noise: expected auto, as resel has no such value, got 0.1; "
            "write train.target_noise=auto, or choose agent.algorithm=td3_resel",
        ),
        (
            ["task=pendulum_v", "agent.algorithm=td3_resel", "train.alpha_init=0.1"],
            "train.alpha_init: expected auto, as td3_resel has no such value",
        ),
        (
            ["task=hopper_v_mujoco", "agent.algorithm=td3_resel"],
            "train.target_entropy: expected auto, as td3_resel has no such value",
        ),
        (
            ["task=cartpole_p", "train.target_entropy=0.1"],
            "train.target_entropy: expected auto, as a fixed temperature aims at none",
        ),
        (
            ["task=pendulum_v", "agent.algorithm=sac"],
            "agent.algorithm: expected auto or resel or discrete_resel or td3_resel, "
            "got 'sac'",
        ),
        (
            ["task=pendulum_v", "train.fixed_alpha=0.2"],
            "train.fixed_alpha: expected true or false or auto, got 0.2",
        ),
        (
            ["task=pendulum_v", "agent.probability_floor=0.1"],
            "agent.probability_floor: expected auto, as resel has no such value",
        ),
        (
            ["task=cartpole_p", "agent.probability_floor=0"],
            "agent.probability_floor: expected auto or a number from 1e-6 to 1, got 0",
        ),
        (
            ["task=pendulum_v", "agent.exploration_noise=-1"],
            "agent.exploration_noise: expected auto or a number of 0 or more, got -1",
        ),
    ],
)
def test_what_does_not_fit_is_refused(tmp_path, overrides, message):
    with pytest.raises(ConfigError, match=message):
        open_run(compose([*overrides, f"run_dir={tmp_path}/run"]))
    assert not (tmp_path / "run").exists()
