"""The types of a configuration and what its values may be.

Values live in the packaged YAML, types and limits here; the classes of the library
take plain arguments and see neither.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, Any, Literal


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
Noise = Annotated[
    float | Literal["auto"],
    Limit("auto or a number of 0 or more", lambda value: value == "auto" or value >= 0),
]
Floor = Annotated[
    float | Literal["auto"],
    Limit(
        "auto or a number from 1e-6 to 1",
        lambda value: value == "auto" or 1e-6 <= value <= 1,
    ),
]
Temperature = Annotated[
    float | Literal["auto"],
    Limit(
        "auto or a number above 0 and at most e = 2.718",
        lambda value: value == "auto" or 0 < value <= math.e,
    ),
]
OptionalLength = Annotated[
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
    """The environment: `id` is any Gymnasium id, or `module:id` for one's own.

    `facts` is left empty: a run writes there what the environment told of itself, see
    :attr:`resel_torchrl.envs.TaskInfo.facts`.

    >>> from resel_torchrl.config import compose
    >>> compose(["task=pendulum_v", "env.copies=4"]).env
    EnvConfig(id='Pendulum-V-v0', kwargs={}, horizon=None, copies=4, \
vectorization='sync', facts={})
    """

    id: str
    kwargs: dict
    horizon: OptionalLength
    copies: PositiveInt
    vectorization: Literal["sync", "async"]
    facts: dict


@dataclass
class AgentConfig:
    """The networks; the sequence core is chosen on the command line by `core=`.

    >>> from resel_torchrl.config import compose
    >>> agent = compose(["task=pendulum_v", "core=gru", "agent.hidden_size=32"]).agent
    >>> isinstance(agent, AgentConfig), agent.core, agent.hidden_size
    (True, 'gru', 32)
    """

    algorithm: Literal["auto", "resel", "discrete_resel", "td3_resel"]
    core: str
    core_kwargs: dict
    reward_input: bool
    embedding_size: PositiveInt
    hidden_size: PositiveInt
    context_size: PositiveInt
    head_sizes: Sizes
    n_critics: PositiveInt
    exploration_noise: Noise
    probability_floor: Floor


@dataclass
class OptimConfig:
    """The learning rates of AdamW, one per group of parameters, and how they fall.

    >>> from resel_torchrl.config import compose
    >>> compose(["task=hopper_v"]).optim
    OptimConfig(lr_context_encoder=1e-05, lr_actor=0.0003, lr_critic=0.001, \
lr_alpha=0.0001, decay_steps=None, decay_to=0.0)
    """

    lr_context_encoder: PositiveFloat
    lr_actor: PositiveFloat
    lr_critic: PositiveFloat
    lr_alpha: PositiveFloat
    decay_steps: list[int] | None
    decay_to: Annotated[
        float, Limit("a number from 0 to 1", lambda value: 0 <= value <= 1)
    ]


@dataclass
class ReplayConfig:
    """The replay buffer and its batches, sizes in transitions.

    >>> from resel_torchrl.config import compose
    >>> compose(["task=hopper_v"]).replay
    ReplayConfig(buffer_size=1000000, batch_size=1999, segment_length=None, burn_in=0, \
start_state='zero')
    """

    buffer_size: PositiveInt
    batch_size: PositiveInt
    segment_length: OptionalLength
    burn_in: NaturalInt
    start_state: Literal["zero", "stored"]


@dataclass
class TrainConfig:
    """The update rule.

    >>> from resel_torchrl.config import compose
    >>> train = compose(["task=pendulum_p", "train.target_bound=false"]).train
    >>> isinstance(train, TrainConfig), train.target_entropy, train.target_bound
    (True, 'auto', False)
    """

    random_steps: NaturalInt
    random_start_steps: NaturalInt
    updates_per_step: PositiveFloat
    gamma: Discount
    tau: Share
    critic_subset_size: PositiveInt
    policy_delay: PositiveInt
    target_entropy: float | Literal["auto"]
    target_bound: bool
    alpha_init: Temperature
    fixed_alpha: bool | Literal["auto"]
    target_noise: Noise
    target_noise_clip: Noise
    reward_scale: PositiveFloat
    acting: Literal["auto", "eager", "fused"]
    policy_sync: PositiveInt
    collection: Literal["sync", "process"]
    collect_ahead: PositiveInt
    reuse_policy_context: bool
    autocast: bool
    compile: bool
    parallel_passes: bool
    cudagraph: bool
    matmul_precision: Literal["highest", "high", "medium"]


@dataclass
class EvalConfig:
    """The evaluation: `interval` in environment steps, 0 for none.

    >>> from resel_torchrl.config import compose
    >>> compose(["task=hopper_v", "eval.episodes=10"]).eval
    EvalConfig(interval=1000, episodes=10, seed=12345, kwargs={})
    """

    interval: NaturalInt
    episodes: PositiveInt
    seed: NaturalInt
    kwargs: dict


@dataclass
class CurriculumConfig:
    """The curriculum, :class:`resel_torchrl.training.Curriculum`; `option` null: none.

    >>> from resel_torchrl.config import compose
    >>> compose(["task=pendulum_v"]).curriculum.option is None
    True
    """

    option: str | None
    values: list[int | float]
    at_steps: list[int] | None
    measure: str
    level: float
    window: PositiveInt


@dataclass
class LogConfig:
    """The records: intervals in environment steps.

    >>> from resel_torchrl.config import compose
    >>> log = compose(["task=pendulum_v", "log.loggers=[tensorboard]"]).log
    >>> isinstance(log, LogConfig), log.loggers
    (True, ['tensorboard'])
    """

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
    curriculum: CurriculumConfig
    agent: AgentConfig
    optim: OptimConfig
    replay: ReplayConfig
    train: TrainConfig
    eval: EvalConfig
    log: LogConfig
