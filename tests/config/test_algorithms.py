"""The algorithm: chosen by the task's actions, its own values, what does not fit."""

import pytest

from resel_torchrl.config import compose, load_config, open_run, to_dict
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
        ([DISCRETE, "discrete_resel.fixed_alpha=false"], DiscreteRESeLLoss, 0.2, True),
        ([WALK, "resel.fixed_alpha=true"], RESeLLoss, 1.0, False),
        ([WALK, "algorithm=td3_resel"], TD3RESeLLoss, None, False),
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
    overrides = ["task=cartpole_p", f"run_dir={tmp_path}/run"]
    run, config = open_run(compose(overrides))
    assert load_config(run.config) == config
    assert (config.algorithm, config.resel) == ("discrete_resel", None)
    assert "resel" not in to_dict(config)
    assert config.discrete_resel.alpha_init == 0.2
    assert resolve_algorithm(config, discrete=True) == config


def test_a_task_takes_another_algorithm_with_its_own_values(tmp_path):
    overrides = ["task=pendulum_v", f"run_dir={tmp_path}/run"]
    assert compose(overrides).resel.alpha_init == 0.1  # the task's
    run, config = open_run(
        compose([*overrides, "algorithm=td3_resel", "td3_resel.target_noise=0.3"])
    )
    assert load_config(run.config) == config
    td3 = config.td3_resel
    assert td3.exploration_noise == 0.1
    assert (td3.target_noise, td3.target_noise_clip) == (0.3, 0.12)
    assert config.resel is None
    assert resolve_algorithm(config, discrete=False) == config


def test_values_reach_the_loss_and_the_actor(tmp_path):
    options = ["td3_resel.target_noise=0.3", "td3_resel.target_noise_clip=0.5"]
    options += ["td3_resel.exploration_noise=0.7", "train.gamma=0.5"]
    training = start(tmp_path / "a", WALK, "algorithm=td3_resel", *options)
    loss, actor = training.learner.loss, training.learner.loss.actor_network
    assert (loss.target_noise, loss.target_noise_clip) == (0.3, 0.5)
    assert actor.exploration_noise == 0.7
    assert loss.value_estimator.gamma == 0.5
    options = ["alpha_init=0.3", "target_entropy=0.25", "fixed_alpha=false"]
    options += ["probability_floor=0.002"]
    options = [f"discrete_resel.{option}" for option in options]
    learner = start(tmp_path / "b", DISCRETE, *options).learner
    assert learner.loss.actor_network.network.probability_floor == 0.002
    loss = learner.loss
    assert loss.log_alpha.exp().item() == pytest.approx(0.3)
    assert loss.target_entropy == 0.25


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (
            ["task=cartpole_p", "algorithm=resel"],
            "expected one for discrete actions, which CartPole-P-v0 has, got resel.*"
            "choose algorithm=discrete_resel",
        ),
        (
            ["task=pendulum_v", "algorithm=discrete_resel"],
            "expected one for continuous actions.*got discrete_resel",
        ),
        (
            ["task=pendulum_v", "td3_resel.target_noise=0.1"],
            "td3_resel.target_noise: expected no value of td3_resel with "
            "algorithm=auto, got one; leave it out, or choose algorithm=td3_resel",
        ),
        (
            ["task=pendulum_v", "algorithm=td3_resel", "resel.alpha_init=0.1"],
            "resel.alpha_init: expected no value of resel with algorithm=td3_resel",
        ),
        (
            ["task=cartpole_p", "discrete_resel.target_entropy=0.1"],
            "resel.target_entropy: expected auto, as a fixed temperature aims at none",
        ),
        (
            ["task=pendulum_v", "algorithm=sac"],
            "algorithm=sac: no such algorithm. Known: auto, discrete_resel, resel, td3",
        ),
        (
            ["task=pendulum_v", "resel.fixed_alpha=0.2"],
            "resel.fixed_alpha: expected true or false, got 0.2",
        ),
        (
            ["task=pendulum_v", "resel.probability_floor=0.1"],
            "resel.probability_floor: unknown key. Nearest: discrete_resel.probabil",
        ),
        (
            ["task=cartpole_p", "discrete_resel.probability_floor=0"],
            "probability_floor: expected a number from 1e-6 to 1, got 0",
        ),
        (
            ["algorithm=td3_resel", "td3_resel.exploration_noise=-1"],
            "td3_resel.exploration_noise: expected a number of 0 or more, got -1",
        ),
        (
            ["task=pendulum_v", "agent.algorithm=td3_resel"],
            "agent.algorithm: renamed; write algorithm=td3_resel",
        ),
        (
            ["task=pendulum_v", "train.alpha_init=0.2"],
            "train.alpha_init: renamed; write resel.alpha_init=0.2 or discrete_resel",
        ),
    ],
)
def test_what_does_not_fit_is_refused(tmp_path, overrides, message):
    with pytest.raises(ConfigError, match=message):
        open_run(compose([*overrides, f"run_dir={tmp_path}/run"]))
    assert not (tmp_path / "run").exists()
