"""Configuration: schema, packaged YAML, checks, command line."""

from resel_torchrl.config.compose import (
    check_overrides,
    choices,
    compose,
    from_hydra,
    load_config,
    resume_config,
    to_dict,
    to_yaml,
)
from resel_torchrl.config.launch import evaluate_run, make_training, open_run
from resel_torchrl.config.schema import (
    AgentConfig,
    Config,
    EnvConfig,
    EvalConfig,
    LogConfig,
    OptimConfig,
    ReplayConfig,
    TrainConfig,
    config_keys,
    validate,
)
from resel_torchrl.errors import ConfigError

__all__ = [
    "AgentConfig",
    "Config",
    "ConfigError",
    "EnvConfig",
    "EvalConfig",
    "LogConfig",
    "OptimConfig",
    "ReplayConfig",
    "TrainConfig",
    "check_overrides",
    "choices",
    "compose",
    "config_keys",
    "evaluate_run",
    "from_hydra",
    "load_config",
    "make_training",
    "open_run",
    "resume_config",
    "to_dict",
    "to_yaml",
    "validate",
]
