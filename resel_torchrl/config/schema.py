"""What a configuration holds: types and limits of its values, and rules between them.

Values live in the packaged YAML; the classes of the library take plain arguments and
see neither. A rule that a constructor has (of a core, a curriculum, a schedule) is not
repeated here, see :func:`resel_torchrl.config.build.constructor_problems`.
"""

from __future__ import annotations

import math
import re
import types
from collections.abc import Iterator, Mapping
from typing import Annotated, Any, Literal, TypeVar, Union, get_args, get_origin

import gymnasium
from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    ValidationError,
    model_validator,
)
from pydantic.fields import FieldInfo
from pydantic_core import ErrorDetails

from resel_torchrl._nearest import suggestion
from resel_torchrl.envs import task_names
from resel_torchrl.errors import ConfigError
from resel_torchrl.modules.cores import CORES

__all__ = [
    "ALGORITHMS",
    "ALGORITHM_SECTIONS",
    "AgentConfig",
    "Config",
    "EnvConfig",
    "EvalConfig",
    "LogConfig",
    "OptimConfig",
    "ReplayConfig",
    "TrainConfig",
    "config_keys",
    "validate",
]

T = TypeVar("T")


def _known_core(name: str) -> str:
    if name not in CORES:
        hint = suggestion(name, CORES)
        raise ValueError(f"unknown core {name!r}. {hint} Choose it with core=NAME.")
    return name


def _known_environment(env_id: str) -> str:
    known = {*task_names(), *gymnasium.registry}
    if ":" in env_id or env_id in known:
        return env_id
    hint = suggestion(env_id, known)
    if hint.startswith("Known"):  # nothing near, and too many to list
        hint = "resel_torchrl.envs.task_names() lists those of this package."
    raise ValueError(
        f"no environment of the name {env_id!r}. {hint} One of your own is written "
        "module:id."
    )


# The description says what a value must be beside its type.
PositiveInt = Annotated[int, Field(gt=0, description="a number above 0")]
PositiveFloat = Annotated[float, Field(gt=0, description="a number above 0")]
NaturalInt = Annotated[int, Field(ge=0, description="a number of 0 or more")]
Noise = Annotated[float, Field(ge=0, description="a number of 0 or more")]
Fraction = Annotated[float, Field(ge=0, le=1, description="a number from 0 to 1")]
Share = Annotated[
    float, Field(gt=0, le=1, description="a number above 0 and at most 1")
]
Temperature = Annotated[
    float,
    Field(gt=0, le=math.e, description="a number above 0 and at most e = 2.718"),
]
Floor = Annotated[float, Field(ge=1e-6, le=1, description="a number from 1e-6 to 1")]
OptionalLength = Annotated[
    PositiveInt | None, Field(description="null or a number above 0")
]
Sizes = Annotated[
    list[PositiveInt], Field(min_length=1, description="one or more sizes above 0")
]
FirstAndLast = Annotated[
    Annotated[list[int], Field(min_length=2, max_length=2)] | None,
    Field(description="a first step of 0 or more and a later last one"),
]
LoggerNames = Annotated[
    list[Literal["tensorboard", "wandb"]],
    Field(description="a list out of tensorboard, wandb"),
]
Device = Annotated[
    str, Field(pattern=r"^(cpu|cuda(:\d+)?)$", description="cpu, cuda or cuda:NUMBER")
]


class Section(BaseModel):
    """A group of values, none of which has a default here."""

    model_config = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False)

    def rules(self) -> Iterator[str]:
        """Sentences on values that do not go together, each beginning with its key."""
        yield from ()

    @model_validator(mode="after")
    def _check_rules(self: T) -> T:
        broken = list(self.rules())
        if broken:
            raise ValueError("\n".join(broken))
        return self


class EnvConfig(Section):
    """The environment: `id` is any Gymnasium id, or `module:id` for one's own.

    >>> from resel_torchrl.config import compose
    >>> compose(["task=pendulum_v", "env.copies=4"]).env
    EnvConfig(id='Pendulum-V-v0', kwargs={}, horizon=None, copies=4, \
vectorization='sync')
    """

    id: Annotated[str, AfterValidator(_known_environment)]
    kwargs: dict[str, Any]
    horizon: OptionalLength
    copies: PositiveInt
    vectorization: Literal["sync", "async"]


class CurriculumConfig(Section):
    """A :class:`resel_torchrl.collect.Curriculum`; with `option` null there is none."""

    option: str | None
    values: list[int | float]
    at_steps: list[int] | None
    measure: str
    level: float
    window: PositiveInt


class AgentConfig(Section):
    """The networks; the sequence core is chosen on the command line by `core=`.

    >>> from resel_torchrl.config import compose
    >>> agent = compose(["task=pendulum_v", "core=gru", "agent.hidden_size=32"]).agent
    >>> isinstance(agent, AgentConfig), agent.core, agent.hidden_size
    (True, 'gru', 32)
    """

    core: Annotated[str, AfterValidator(_known_core)]
    core_kwargs: dict[str, Any]
    reward_input: bool
    embedding_size: PositiveInt
    hidden_size: PositiveInt
    context_size: PositiveInt
    head_sizes: Sizes
    n_critics: PositiveInt


class ReselConfig(Section):
    """What `algorithm=resel` adds: the temperature."""

    alpha_init: Temperature
    fixed_alpha: bool
    target_entropy: float | Literal["auto"]


class DiscreteReselConfig(ReselConfig):
    """What `algorithm=discrete_resel` adds: also the floor under the probabilities."""

    probability_floor: Floor


class TD3ReselConfig(Section):
    """What `algorithm=td3_resel` adds: noise of acting and of the target policy."""

    exploration_noise: Noise
    target_noise: Noise
    target_noise_clip: Noise


class OptimConfig(Section):
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
    decay_steps: FirstAndLast
    decay_to: Fraction


class ReplayConfig(Section):
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

    def rules(self) -> Iterator[str]:
        """A batch fits into the buffer; whole episodes have no burn-in or state."""
        room, batch = self.buffer_size, self.batch_size
        if batch > room:
            yield (
                f"replay.batch_size: expected at most replay.buffer_size = {room}, got "
                f"{batch}; lower it or raise replay.buffer_size."
            )
        if self.segment_length is not None:
            return
        if self.burn_in:
            yield (
                "replay.burn_in: expected 0 with whole episodes, which start from "
                f"their first step, got {self.burn_in}; set replay.segment_length, or "
                "leave it out."
            )
        if self.start_state == "stored":
            yield (
                "replay.start_state: expected zero with whole episodes, which start "
                "with an empty hidden state, got stored; set replay.segment_length, or "
                "leave it out."
            )


class TrainConfig(Section):
    """The update rule.

    >>> from resel_torchrl.config import compose
    >>> train = compose(["task=pendulum_p", "train.target_bound=false"]).train
    >>> isinstance(train, TrainConfig), train.gamma, train.target_bound
    (True, 0.99, False)
    """

    random_steps: NaturalInt
    random_start_steps: NaturalInt
    updates_per_step: PositiveFloat
    gamma: Fraction
    tau: Share
    critic_subset_size: PositiveInt
    policy_delay: PositiveInt
    target_bound: bool
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


class EvalConfig(Section):
    """The evaluation: `interval` in environment steps, 0 for none.

    >>> from resel_torchrl.config import compose
    >>> compose(["task=hopper_v", "eval.episodes=10"]).eval
    EvalConfig(interval=1000, episodes=10, seed=12345, kwargs={})
    """

    interval: NaturalInt
    episodes: PositiveInt
    seed: NaturalInt
    kwargs: dict[str, Any]


class LogConfig(Section):
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


#: The sections that an algorithm reads; `auto` decides when the actions are known.
ALGORITHMS = {
    "auto": ("resel", "discrete_resel"),
    "resel": ("resel",),
    "discrete_resel": ("discrete_resel",),
    "td3_resel": ("td3_resel",),
}


class Config(Section):
    """One run, whole.

    Build one with :func:`resel_torchrl.config.compose`, or from a stored mapping with
    :func:`resel_torchrl.config.validate`. Of `resel`, `discrete_resel` and `td3_resel`
    only what `algorithm` reads is there.

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
    device: Device
    threads: PositiveInt
    algorithm: Literal["auto", "resel", "discrete_resel", "td3_resel"]
    env: EnvConfig
    curriculum: CurriculumConfig
    agent: AgentConfig
    resel: ReselConfig | None = None
    discrete_resel: DiscreteReselConfig | None = None
    td3_resel: TD3ReselConfig | None = None
    optim: OptimConfig
    replay: ReplayConfig
    train: TrainConfig
    eval: EvalConfig
    log: LogConfig

    @model_validator(mode="before")
    @classmethod
    def _leave_out_other_algorithms(cls, values: Any) -> Any:
        """A task may hold values for an algorithm that is not the chosen one."""
        chosen = values.get("algorithm") if isinstance(values, Mapping) else None
        if chosen not in ALGORITHMS:
            return values
        others = ALGORITHM_SECTIONS - set(ALGORITHMS[chosen])
        kept = {key: value for key, value in values.items() if key not in others}
        return {**{name: {} for name in ALGORITHMS[chosen]}, **kept}

    def rules(self) -> Iterator[str]:
        """What algorithm, ensemble, several environments and device allow."""
        train, copies = self.train, self.env.copies
        for name in ("resel", "discrete_resel"):
            section = getattr(self, name)
            target = "auto" if section is None else section.target_entropy
            if target != "auto" and section.fixed_alpha:
                yield (
                    f"{name}.target_entropy: expected auto, as a fixed temperature "
                    f"aims at none, got {target}; write {name}.target_entropy=auto, or "
                    f"{name}.fixed_alpha=false."
                )
        if train.critic_subset_size > self.agent.n_critics:
            yield (
                "train.critic_subset_size: expected at most agent.n_critics = "
                f"{self.agent.n_critics}, got {train.critic_subset_size}; lower it or "
                "raise agent.n_critics."
            )
        if copies > 1:
            yield from self._rules_of_several_environments()
        if self.device == "cpu" and train.cudagraph:
            yield (
                "train.cudagraph: expected false with device=cpu, which has no CUDA "
                "graphs, got true; leave it out, or write device=cuda."
            )
        if train.parallel_passes and self.device == "cpu":
            yield (
                "train.parallel_passes: expected false with device=cpu, whose threads "
                "work on one pass, got true; leave it out, or write device=cuda."
            )
        if train.parallel_passes and train.compile:
            yield (
                "train.parallel_passes: expected false with train.compile=true, which "
                "makes one stream of each term, got true; leave one of them out."
            )

    def _rules_of_several_environments(self) -> Iterator[str]:
        copies, steps = self.env.copies, self.steps
        if rest := steps % copies:
            fewer = steps - rest
            near = [f"steps={n}" for n in (fewer, fewer + copies) if n > 0]
            yield (
                f"steps: expected a multiple of env.copies = {copies}, which are "
                f"stepped together, got {steps}; write {' or '.join(near)}."
            )
        if self.train.collection == "process":
            yield (
                "train.collection: expected sync, as a collecting process steps one "
                f"environment, got process with env.copies = {copies}; leave it out "
                "(env.vectorization=async steps each copy in a process), or write "
                "env.copies=1."
            )
        if self.train.acting == "fused":
            yield (
                "train.acting: expected auto or eager, as fused kernels act in one "
                f"environment, got fused with env.copies = {copies}; write "
                "train.acting=auto, or env.copies=1."
            )


ALGORITHM_SECTIONS = set().union(*ALGORITHMS.values())


def _section(annotation: Any) -> type[Section] | None:
    """The section that a field holds, if it is one."""
    options = get_args(annotation) or (annotation,)
    classes = [option for option in options if isinstance(option, type)]
    return next((kind for kind in classes if issubclass(kind, Section)), None)


def config_keys(schema: type[Section] = Config, prefix: str = "") -> list[str]:
    """The dotted name of every value in the schema.

    >>> "optim.lr_context_encoder" in config_keys()
    True
    """
    keys = []
    for name, field in schema.model_fields.items():
        section = _section(field.annotation)
        if section is None:
            keys.append(prefix + name)
        else:
            keys += config_keys(section, f"{prefix}{name}.")
    return keys


def validate(values: Mapping[str, Any]) -> Config:
    """Turns a plain mapping into a :class:`Config`.

    Args:
        values: Nested mapping with the names of the schema, as YAML gives it.

    Returns:
        The configuration, of checked types.

    Raises:
        ConfigError: Listing every unknown or missing name, wrong type and value out of
            its limits; where there is none, every broken rule between values.

    >>> from resel_torchrl.config import compose, to_dict
    >>> values = to_dict(compose(["task=pendulum_v"]))
    >>> values["optim"]["lr_context_encoder"] = 0.0
    >>> values["agent"]["core"] = "gruu"
    >>> try:
    ...     validate(values)
    ... except ConfigError as error:
    ...     print(len(error.problems), error.problems[0])
    2 agent.core: unknown core 'gruu'. Nearest: gru. Choose it with core=NAME.
    """
    try:
        return Config.model_validate(values)
    except ValidationError as error:
        found = {text for one in error.errors() for text in _sentences(one, values)}
        raise ConfigError(sorted(found)) from None


def _sentences(error: ErrorDetails, values: Any) -> list[str]:
    """An error of pydantic in this package's words, with what to type."""
    field: FieldInfo | None = None
    section: type[Section] | None = Config
    names, value = [], values
    for name in error["loc"]:
        if section is None:
            break  # in a value: an element of a list, a member of a union
        names.append(str(name))
        field = section.model_fields.get(name)
        section = None if field is None else _section(field.annotation)
        value = value.get(name) if isinstance(value, Mapping) else None
    key, kind = ".".join(names), error["type"]
    if kind == "value_error":  # a rule names its keys itself
        texts = str(error["ctx"]["error"]).splitlines()
        return texts if section else [f"{key}: {text}" for text in texts]
    if kind == "extra_forbidden":
        return [f"{key}: unknown key. {suggestion(key, config_keys())}"]
    words = _describe(field.annotation)
    if kind == "missing":
        return [f"{key}: missing; expected {words}."]
    if section:
        return [f"{key}: expected a group of values, got {value!r}."]
    if field.description and not kind.endswith(("_type", "_from_float", "_number")):
        words = field.description
    written = _written(field.annotation, value)
    return [f"{key}: expected {words}, got {value!r}; write {key}={written}."]


def _options(annotation: Any) -> tuple[Any, ...]:
    """The members of a union; other types are one by themselves."""
    if get_origin(annotation) is Annotated:
        return _options(get_args(annotation)[0])
    if get_origin(annotation) not in (Union, types.UnionType):
        return (annotation,)
    return tuple(one for member in get_args(annotation) for one in _options(member))


def _describe(annotation: Any) -> str:
    """A type in words: `a whole number or null`."""
    words = {
        int: "a whole number",
        float: "a number",
        str: "text",
        bool: "true or false",
        dict: "a mapping",
        type(None): "null",
    }

    def of(option: Any) -> str:
        if get_origin(option) is Literal:
            return " or ".join(map(str, get_args(option)))
        if get_origin(option) is list:
            return f"a list of {_describe(get_args(option)[0])}"
        kind = get_origin(option) or option
        return words.get(kind, f"the group {getattr(kind, '__name__', kind)}")

    return " or ".join(map(of, _options(annotation)))


def _written(annotation: Any, value: Any) -> str:
    """How a value of the type is written, as near to `value` as can be."""
    kinds = [get_origin(option) or option for option in _options(annotation)]
    if list in kinds:
        number = isinstance(value, int | float) and not isinstance(value, bool)
        single = number or (isinstance(value, str) and re.fullmatch(r"[\w-]+", value))
        return f"[{value}]" if single else "[VALUE,VALUE]"
    if kinds == [int] and isinstance(value, float) and value.is_integer():
        return f"{int(value):_}"
    return "VALUE"
