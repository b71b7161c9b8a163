"""Configuration: dataclass schema, packaged YAML, checks, command line."""

from resel_torchrl.config.commands import main
from resel_torchrl.config.composition import (
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
from resel_torchrl.config.names import nearest
from resel_torchrl.config.schema import (
    AgentConfig,
    Config,
    EnvConfig,
    EvalConfig,
    LogConfig,
    OptimConfig,
    ReplayConfig,
    TrainConfig,
)
from resel_torchrl.config.train_command import train_command, with_default_task
from resel_torchrl.config.validation import (
    ConfigError,
    config_keys,
    validate,
)

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
    "main",
    "make_training",
    "nearest",
    "open_run",
    "resume_config",
    "to_dict",
    "to_yaml",
    "train_command",
    "validate",
    "with_default_task",
]
