"""The configuration: the paper's values, and every mistake at once."""

import itertools
import re
from importlib import resources

import pytest
import yaml

from resel_torchrl.config import (
    check_overrides,
    choices,
    compose,
    config_keys,
    load_config,
    resume_config,
    to_dict,
    to_yaml,
    validate,
)
from resel_torchrl.envs import task_names
from resel_torchrl.errors import ConfigError
from resel_torchrl.modules.cores import CORES

# LR_CE, policy, critic, batch: arXiv 2405.15384, appendix, classic POMDPs.
PAPER = {
    "ant_p": (1e-5, 3e-4, 1e-3, 1999),
    "ant_v": (1e-5, 5e-4, 5e-4, 128),
    "halfcheetah_p": (1e-5, 3e-4, 1e-3, 1999),
    "halfcheetah_v": (1e-5, 3e-4, 1e-3, 1999),
    "hopper_p": (1e-5, 3e-4, 1e-3, 1999),
    "hopper_v": (1e-5, 3e-4, 1e-3, 1999),
    "walker_p": (5e-6, 3e-4, 1e-3, 1999),
    "walker_v": (1e-5, 3e-4, 1e-3, 1999),
}
# The same for the MuJoCo robots (appendix, MDP tasks), and the target entropy.
MUJOCO = {
    f"{robot}_{part}_mujoco": (*rates, 1999, entropy)
    for robot, rates, entropy in (
        ("ant", (2e-6, 6e-5, 2e-4), "auto"),
        ("halfcheetah", (1e-5, 3e-4, 1e-3), "auto"),
        ("hopper", (2e-6, 6e-5, 2e-4), 0.0),
        ("humanoid", (2e-6, 6e-5, 2e-4), "auto"),
        ("walker2d", (2e-6, 6e-5, 2e-4), "auto"),
    )
    for part in "pv"
}
#: Sections of which a configuration holds what its algorithm reads.
ALGORITHMS = {"resel", "discrete_resel", "td3_resel"}
FILES = [
    entry
    for group in (".", "task", "task/family", "core", "size", "algorithm")
    for entry in (resources.files("resel_torchrl.config") / group).iterdir()
    if entry.name.endswith(".yaml")
]


@pytest.mark.parametrize("task", PAPER)
def test_classic_tasks_have_the_papers_values(task):
    config = compose([f"task={task}"])
    optim = config.optim
    assert (
        *(optim.lr_context_encoder, optim.lr_actor, optim.lr_critic),
        config.replay.batch_size,
    ) == PAPER[task]
    assert config.task == task
    assert config.env.id.lower() == task.replace("_", "blt-") + "-v0"
    assert optim.lr_alpha == 1e-4
    assert config.steps == 1_500_000
    agent = config.agent
    assert (agent.core, agent.n_critics, agent.head_sizes) == ("mamba", 8, [256, 256])
    assert (agent.embedding_size, agent.hidden_size, agent.context_size) == (
        *(128, 256, 128),
    )
    assert agent.core_kwargs["d_state"] == 64
    assert agent.core_kwargs["d_conv"] == 8
    assert not agent.reward_input
    train = config.train
    assert (train.gamma, train.tau, train.policy_delay) == (0.99, 0.005, 2)
    assert (train.critic_subset_size, train.random_steps) == (2, 5000)
    assert (train.updates_per_step, train.reward_scale) == (1.0, 1.0)
    assert config.resel.target_entropy == "auto"
    assert config.replay.buffer_size == 1_000_000
    assert (config.eval.interval, config.eval.episodes) == (1000, 5)


@pytest.mark.parametrize("task", MUJOCO)
def test_mujoco_tasks_have_the_papers_values_and_a_name_of_their_own(task):
    config = compose([f"task={task}"])
    optim = config.optim
    assert (
        *(optim.lr_context_encoder, optim.lr_actor, optim.lr_critic),
        *(config.replay.batch_size, config.resel.target_entropy),
    ) == MUJOCO[task]
    assert optim.lr_alpha == 1e-4
    assert config.run_dir == f"runs/{task}/mamba-seed0"
    assert config.env.id.lower() == task.replace("_mujoco", "-v5").replace("_", "-")
    assert config.steps == 5_000_000


def test_every_task_and_core_is_known_by_one_name():
    assert choices("core") == sorted(CORES)
    for task in choices("task"):
        config = compose([f"task={task}"])
        assert config.task == task
        # The fully observed robots are Gymnasium's own.
        assert config.env.id in task_names() or task.endswith("_mdp")
    for core in choices("core"):
        for task in ("pendulum_v", "ant_v"):
            config = compose([f"core={core}", f"task={task}"])
            assert config.agent.core == core
            assert config.run_dir == f"runs/{task}/{core}-seed0"


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.name)
def test_every_value_has_a_comment_above_it(file):
    lines = file.read_text().splitlines()
    for above, line in itertools.pairwise(lines):
        value = re.match(r"\s*(\w+):\s*\S", line)
        if value and not line.lstrip().startswith(("-", "dir:", "subdir:", "chdir:")):
            assert above.lstrip().startswith("#"), line


def test_values_are_in_yaml_and_not_in_the_schema():
    text = "".join(file.read_text() for file in FILES)
    names = {key.split(".")[-1] for key in config_keys()}
    assert all(f"{name}:" in text for name in names - {"core", "core_kwargs"})
    config = compose()
    for part in (config, config.env, config.agent, config.train, config.log):
        fields = type(part).model_fields
        assert all(fields[name].is_required() for name in fields.keys() - ALGORITHMS)


def test_a_size_sets_networks_and_batch():
    for task, core in (("hopper_v", "gru"), ("dmc_dog_run", "gru"), ("ant_v", "gru")):
        agent = compose([f"task={task}", "size=small"]).agent
        assert (agent.core, agent.hidden_size, agent.n_critics) == (core, 64, 4)
        assert (agent.embedding_size, agent.context_size) == (64, 64)
        assert agent.head_sizes == [128, 128]
    assert compose(["task=hopper_v", "size=small"]).replay.batch_size == 999
    assert compose(["task=ant_v", "size=small"]).replay.batch_size == 128  # the task's
    config = compose(["task=hopper_v", "size=small", "core=lstm"])
    assert (config.agent.core, config.agent.hidden_size) == ("lstm", 64)
    light = compose(["task=pendulum_p", "size=paper"]).agent
    assert (light.core, light.hidden_size) == ("lstm", 256)


def test_all_mistakes_at_once_with_the_nearest_names():
    with pytest.raises(ConfigError) as error:
        compose(
            [
                "task=pendulum_v",
                "core=mambo",
                "optim.lr_contxt_encoder=1e-5",
                "optim.lr_actor=0",
                "lr_critic=1",
                "replay.batch_size=many",
                "train.gamma=1.5",
                "oops",
            ]
        )
    text = str(error.value)
    assert len(error.value.problems) == 7, text
    for expected in (
        "core=mambo: no such core. Nearest: mamba",
        "lr_contxt_encoder: unknown key. Nearest: optim.lr_context_encoder",
        "lr_critic: unknown key. Nearest: optim.lr_critic",
        "optim.lr_actor: expected a number above 0, got 0; write optim.lr_actor=VALUE",
        "replay.batch_size: expected a whole number, got 'many'",
        "train.gamma: expected a number from 0 to 1, got 1.5",
        "oops: expected NAME=VALUE",
    ):
        assert expected in text


@pytest.mark.parametrize("rate", [0, -1e-5, ".nan", ".inf", "fast", "true"])
def test_learning_rate_of_the_encoder_must_be_above_zero(rate):
    with pytest.raises(ConfigError, match=r"optim.lr_context_encoder: expected a num"):
        compose([f"optim.lr_context_encoder={rate}"])


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("task=pendulm", r"no such task. Nearest: pendulum_"),
        ("task=t_maze", r"no such task. Nearest: tmaze_active, tmaze_passive\."),
        ("curriculum.at_steps=4000", r"write curriculum.at_steps=\[4000\]"),
        ("curriculum.values=0.5", r"write curriculum.values=\[0.5\]"),
        ("env.id=Pendulm-V-v0", r"no environment of the name.*Nearest: Pendulum-V-v0"),
        ("agent.core_kwargs.d_stat=3", r"'mamba' has no such option. Nearest: d_state"),
        ("agent.head_sizes=[]", r"one or more sizes above 0, got \[\]"),
        ("agent.head_sizes=[3.5]", r"a list of a whole number, got \[3.5\]"),
        ("train.critic_subset_size=9", r"at most agent.n_critics = 8, got 9"),
        ("replay.buffer_size=10", r"batch_size: expected at most replay.buffer_size"),
        (
            "agent.core_kwargs.d_conv=0",
            r"hidden_size=256: Expected d_conv to be",
        ),
        ("device=tpu", r"expected cpu, cuda or cuda:NUMBER, got 'tpu'"),
        ("device=mps", r"expected cpu, cuda or cuda:NUMBER, got 'mps'"),
        ("log.loggers=[neptune]", r"a list out of tensorboard, wandb"),
        ("resel.target_entropy=low", r"a number or auto, got 'low'"),
        ("seed=1.5", r"seed: expected a whole number, got 1.5"),
        ("train.target_bound=1", r"expected true or false, got 1"),
        ("log.loggers=wandb", r"got 'wandb'; write log.loggers=\[wandb\]"),
        ("steps=1e6", r"got 1000000.0; write steps=1_000_000\."),
        ("device=cuda:x", r"expected cpu, cuda or cuda:NUMBER, got 'cuda:x'"),
        ("env.id=zzz", r"'zzz'\. resel_torchrl\.envs\.task_names\(\) lists .* One of"),
    ],
)
def test_mistake_says_expected_got_and_what_to_do(override, message):
    with pytest.raises(ConfigError, match=message):
        compose(["task=walker_v", "core=mamba", override])


def test_missing_and_surplus_keys_of_a_stored_configuration():
    values = to_dict(compose())
    del values["train"]["tau"]
    values["optim"]["lr"] = 1
    with pytest.raises(ConfigError) as error:
        validate(values)
    assert len(error.value.problems) == 2
    assert "train.tau: missing" in str(error.value)
    assert "optim.lr: unknown key. Nearest: optim.lr_" in str(error.value)
    values["train"] = 3
    with pytest.raises(ConfigError, match="train: expected a group of values, got 3"):
        validate(values)


def test_sweep_names_are_checked_before_any_job():
    check_overrides(["task=walker_v,hopper_v", "seed=0,1,2"])
    with pytest.raises(ConfigError, match="no such task"):
        check_overrides(["task=walker_v,hoper_v", "seed=0,1"])


def test_core_chosen_without_its_options_is_one_mistake():
    with pytest.raises(ConfigError) as error:
        compose(["task=hopper_v", "core=mamba", "agent.core=gru"])
    (problem,) = error.value.problems
    assert "Choose it with core=gru" in problem


def test_several_values_need_multirun():
    check_overrides(["seed=0,1"])
    with pytest.raises(ConfigError, match=r"seed=0,1: several.*add --multirun"):
        check_overrides(["seed=0,1", "log.loggers=[tensorboard,wandb]"], multirun=False)


def test_names_are_checked_beside_resume_too():
    with pytest.raises(ConfigError, match=r"stpes: unknown key. Nearest: steps"):
        check_overrides(["resume=runs/x", "stpes=100"])
    check_overrides(["resume=runs/x", "steps=100"])
    with pytest.raises(ConfigError, match=r"stpes: unknown key"):
        resume_config(compose(), ["resume=runs/x", "stpes=100"])


def test_stored_configuration_comes_back_the_same(tmp_path):
    config = compose(["task=ant_v", "seed=7", "resel.target_entropy=-1.5"])
    file = tmp_path / "config.yaml"
    file.write_text(to_yaml(config))
    assert load_config(file) == config
    assert yaml.safe_load(file.read_text())["env"]["id"] == "AntBLT-V-v0"
    file.write_text("{")
    with pytest.raises(ConfigError, match="expected YAML"):
        load_config(file)
