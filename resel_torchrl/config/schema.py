"""The types of a configuration and what its values may be.

Values live in the packaged YAML, types and limits here; the classes of the library
take plain arguments and see neither.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, Any, Literal

__all__ = [
    "AgentConfig",
    "Config",
    "EnvConfig",
    "EvalConfig",
    "Limit",
    "LogConfig",
    "OptimConfig",
    "ReplayConfig",
    "TrainConfig",
]


@dataclass(frozen=True)
class Limit:
    """What a value must be beside its type, in words and as a test."""

    expected: str
    holds: Callable[[Any], bool]


_above_zero = Limit("a number above 0", lambda value: value > 0)
_not_negative = Limit("a number of 0 or more", lambda value: value >= 0)
PositiveInt = Annotated[int, _above_zero]
PositiveFloat = Annotated[float, _above_zero]
NaturalInt = Annotated[int, _not_negative]
Discount = Annotated[
    float, Limit("a number from 0 to 1", lambda value: 0 <= value <= 1)
]
Share = Annotated[
    float, Limit("a number above 0 and at most 1", lambda value: 0 < value <= 1)
]
Horizon = Annotated[
    int | None,
    Limit("null or a number above 0", lambda value: value is None or value > 0),
]
Sizes = Annotated[
    list[int],
    Limit(
        "one or more sizes above 0",
        lambda sizes: len(sizes) > 0 and all(size > 0 for size in sizes),
    ),
]
LoggerNames = Annotated[
    list[str],
    Limit(
        "a list out of tensorboard, wandb",
        lambda names: set(names) <= {"tensorboard", "wandb"},
    ),
]


@dataclass
class EnvConfig:
    """The environment: `id` is any Gymnasium id, or `module:id` for one's own."""

    id: str
    kwargs: dict
    horizon: Horizon


@dataclass
class AgentConfig:
    """The networks; the sequence core is chosen on the command line by `core=`."""

    core: str
    core_kwargs: dict
    reward_input: bool
    embedding_size: PositiveInt
    hidden_size: PositiveInt
    context_size: PositiveInt
    head_sizes: Sizes
    n_critics: PositiveInt


@dataclass
class OptimConfig:
    """The learning rates of AdamW, one per group of parameters."""

    lr_context_encoder: PositiveFloat
    lr_actor: PositiveFloat
    lr_critic: PositiveFloat
    lr_alpha: PositiveFloat


@dataclass
class ReplayConfig:
    """The replay buffer and the size of a batch."""

    buffer_size: PositiveInt
    batch_size: PositiveInt


@dataclass
class TrainConfig:
    """The update rule."""

    random_steps: NaturalInt
    updates_per_step: PositiveFloat
    gamma: Discount
    tau: Share
    critic_subset_size: PositiveInt
    policy_delay: PositiveInt
    target_entropy: float | Literal["auto"]
    target_bound: bool
    alpha_init: PositiveFloat
    reward_scale: PositiveFloat
    policy_sync: PositiveInt


@dataclass
class EvalConfig:
    """The evaluation: `interval` in environment steps, 0 for none."""

    interval: NaturalInt
    episodes: PositiveInt
    seed: NaturalInt


@dataclass
class LogConfig:
    """The records: intervals in environment steps."""

    console: bool
    interval: PositiveInt
    loggers: LoggerNames
    project: str
    checkpoint_interval: PositiveInt
    checkpoints_kept: PositiveInt


@dataclass
class Config:
    """One run, whole.

    Build one with :func:`resel_torchrl.config.compose`, or from a stored mapping with
    :func:`resel_torchrl.config.validate`.

    >>> from resel_torchrl.config import compose
    >>> config = compose(["task=hopper_v"])
    >>> config.env.id, config.optim.lr_context_encoder, config.replay.batch_size
    ('HopperBLT-V-v0', 1e-05, 1999)
    """

    task: str
    seed: NaturalInt
    steps: PositiveInt
    run_dir: str
    resume: str | None
    device: str
    threads: PositiveInt
    env: EnvConfig
    agent: AgentConfig
    optim: OptimConfig
    replay: ReplayConfig
    train: TrainConfig
    eval: EvalConfig
    log: LogConfig
