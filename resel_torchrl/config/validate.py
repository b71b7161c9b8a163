"""Checking a configuration: every mistake at once, each with what to do about it."""

from __future__ import annotations

import dataclasses
import inspect
import re
import types
from collections.abc import Callable, Mapping
from typing import Annotated, Any, Literal, Union, get_args, get_origin, get_type_hints

import gymnasium

from resel_torchrl._nearest import suggestion
from resel_torchrl.config.build import (
    copies_problems,
    core_problems,
    curriculum_problems,
    decay_problems,
)
from resel_torchrl.config.schema import Config
from resel_torchrl.envs import task_names
from resel_torchrl.errors import ConfigError
from resel_torchrl.modules.cores import CORES

__all__ = ["config_keys", "validate"]

FREE_FORM = ("agent.core_kwargs", "env.kwargs", "eval.kwargs")


def config_keys(schema: type = Config, prefix: str = "") -> list[str]:
    """The dotted name of every value in the schema.

    >>> "optim.lr_context_encoder" in config_keys()
    True
    """
    keys = []
    hints = get_type_hints(schema)
    for entry in dataclasses.fields(schema):
        if dataclasses.is_dataclass(hints[entry.name]):
            keys += config_keys(hints[entry.name], f"{prefix}{entry.name}.")
        else:
            keys.append(prefix + entry.name)
    return keys


def validate(values: Mapping[str, Any]) -> Config:
    """Turns a plain mapping into a :class:`Config`.

    Args:
        values: Nested mapping with the names of the schema, as YAML gives it.

    Returns:
        The configuration, of checked types.

    Raises:
        ConfigError: Listing every unknown or missing name, wrong type and value out of
            its limits.

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
    problems: list[str] = []
    config = _build(Config, values, "", problems)
    problems += _cross_checks(values)
    if problems:
        raise ConfigError(sorted(set(problems)))
    return config


def _build(schema: type, values: Any, prefix: str, problems: list[str]) -> Any:
    if not isinstance(values, Mapping):
        problems.append(
            f"{prefix.rstrip('.')}: expected a group of values, got {values!r}."
        )
        return None
    hints = get_type_hints(schema, include_extras=True)
    for name in values:
        if name not in hints:
            hint = suggestion(prefix + str(name), config_keys())
            problems.append(f"{prefix}{name}: unknown key. {hint}")
    built = {}
    for name, hint in hints.items():
        key = prefix + name
        if name not in values:
            problems.append(f"{key}: missing; expected {_describe(hint)}.")
            continue
        if dataclasses.is_dataclass(hint):
            built[name] = _build(hint, values[name], f"{key}.", problems)
            continue
        expected = _describe(hint)
        fits, value = _convert(hint, values[name])
        for limit in getattr(hint, "__metadata__", ()):
            if fits and not limit.holds(value):
                fits, expected = False, limit.expected
        if not fits:
            problems.append(
                f"{key}: expected {expected}, got {values[name]!r}; write "
                f"{key}={_written(hint, values[name])}."
            )
        built[name] = value
    return None if problems else schema(**built)


def _convert(hint: Any, value: Any) -> tuple[bool, Any]:
    """Whether `value` is of the hinted type, and the value in that type."""
    origin, arguments = get_origin(hint), get_args(hint)
    if origin is Annotated:
        return _convert(arguments[0], value)
    if origin in (Union, types.UnionType):
        for option in arguments:
            fits, converted = _convert(option, value)
            if fits:
                return True, converted
        return False, value
    if origin is Literal:
        return value in arguments, value
    if origin is list:
        if not isinstance(value, (list, tuple)):
            return False, value
        pairs = [_convert(arguments[0], item) for item in value]
        return all(fits for fits, _ in pairs), [item for _, item in pairs]
    if hint is type(None):
        return value is None, value
    if hint is dict:
        return isinstance(value, Mapping), dict(value) if value else {}
    if isinstance(value, bool) or hint is bool:
        return hint is bool and isinstance(value, bool), value
    if hint is float:
        if isinstance(value, (int, float)) and float("-inf") < value < float("inf"):
            return True, float(value)
        return False, value
    return isinstance(value, hint), value


def _written(hint: Any, value: Any) -> str:
    """How a value of the hinted type is written, as near to `value` as can be."""
    kind = get_args(hint)[0] if get_origin(hint) is Annotated else hint
    if get_origin(kind) in (Union, types.UnionType):  # a list or null
        kind = next((k for k in get_args(kind) if get_origin(k) is list), kind)
    if get_origin(kind) is list:
        number = isinstance(value, int | float) and not isinstance(value, bool)
        single = number or (isinstance(value, str) and re.fullmatch(r"[\w-]+", value))
        return f"[{value}]" if single else "[VALUE,VALUE]"
    if kind is int and isinstance(value, float) and value.is_integer():
        return f"{int(value):_}"
    return "VALUE"


def _describe(hint: Any) -> str:
    origin, arguments = get_origin(hint), get_args(hint)
    if origin is Annotated:
        return _describe(arguments[0])
    if origin in (Union, types.UnionType):
        return " or ".join(_describe(option) for option in arguments)
    if origin is Literal:
        return " or ".join(map(str, arguments))
    if origin is list:
        return f"a list of {_describe(arguments[0])}"
    names = {
        int: "a whole number",
        float: "a number",
        str: "text",
        bool: "true or false",
        dict: "a mapping",
        type(None): "null",
    }
    return names.get(hint, f"the group {getattr(hint, '__name__', hint)}")


def _cross_checks(values: Mapping[str, Any]) -> list[str]:
    """Mistakes that show only in several values together, or against a registry."""

    def value(key: str) -> Any:
        node: Any = values
        for name in key.split("."):
            node = node.get(name) if isinstance(node, Mapping) else None
        return node

    problems = []
    core, core_kwargs = value("agent.core"), value("agent.core_kwargs")
    if isinstance(core, str) and core not in CORES:
        problems.append(
            f"agent.core: unknown core {core!r}. {suggestion(core, CORES)} "
            "Choose it with core=NAME."
        )
    elif isinstance(core, str) and isinstance(core_kwargs, Mapping):
        wrong = _core_option_problems(core, list(core_kwargs))
        problems += wrong or core_problems(
            core, value("agent.hidden_size"), core_kwargs
        )
    problems += _environment_problems(value("env.id"))
    subset, critics = value("train.critic_subset_size"), value("agent.n_critics")
    if isinstance(subset, int) and isinstance(critics, int) and subset > critics:
        problems.append(
            "train.critic_subset_size: expected at most agent.n_critics = "
            f"{critics}, got {subset}; lower it or raise agent.n_critics."
        )
    batch, buffer = value("replay.batch_size"), value("replay.buffer_size")
    if isinstance(batch, int) and isinstance(buffer, int) and batch > buffer:
        problems.append(
            f"replay.batch_size: expected at most replay.buffer_size = {buffer}, "
            f"got {batch}; lower it or raise replay.buffer_size."
        )
    burn_in = value("replay.burn_in")
    if isinstance(burn_in, int) and burn_in > 0 and not value("replay.segment_length"):
        problems.append(
            f"replay.burn_in: expected 0 with whole episodes, which start from their "
            f"first step, got {burn_in}; set replay.segment_length, or leave it out."
        )
    if value("replay.start_state") == "stored" and not value("replay.segment_length"):
        problems.append(
            "replay.start_state: expected zero with whole episodes, which start with "
            "an empty memory, got stored; set replay.segment_length, or leave it out."
        )
    problems += copies_problems(value) + curriculum_problems(value)
    problems += decay_problems(value) + device_problems(value)
    return problems


def _core_options(core: str) -> list[str]:
    return list(inspect.signature(CORES[core].__init__).parameters)[2:]


def _core_option_problems(core: str, names: list[str]) -> list[str]:
    known = _core_options(core)
    others = {option for other in CORES for option in _core_options(other)}
    wrong = [name for name in names if name not in known]
    if wrong and set(wrong) <= others:
        # The core was changed alone, and the options of the former one are left.
        return [
            f"agent.core: the core {core!r} does not take the options "
            f"{', '.join(wrong)}. Choose it with core={core}, which sets its options."
        ]
    hint = {
        name: suggestion(name, known) if known else "It has none." for name in wrong
    }
    for name in set(wrong) & set(CORES[core].renamed):
        hint[name] = f"It was renamed to {CORES[core].renamed[name]}."
    return [
        f"agent.core_kwargs.{name}: the core {core!r} has no such option. {hint[name]}"
        for name in wrong
    ]


def _environment_problems(env_id: Any) -> list[str]:
    if not isinstance(env_id, str) or ":" in env_id:
        return []
    known = set(task_names()) | set(gymnasium.registry)
    if env_id in known:
        return []
    hint = suggestion(env_id, known)
    if hint.startswith("Known"):  # nothing near, and too many to list
        hint = "resel_torchrl.envs.task_names() lists those of this package."
    return [
        f"env.id: no environment of the name {env_id!r}. {hint} One of your own is "
        "written module:id."
    ]


def device_problems(value: Callable[[str], Any]) -> list[str]:
    """What is wrong with a device and what needs a GPU, beside the types.

    Args:
        value: From a dotted key to its value.

    >>> device_problems({"device": "cpu", "train.cudagraph": True}.get)
    ['train.cudagraph: expected false with device=cpu, which has no CUDA graphs, got \
true; leave it out, or write device=cuda.']
    """
    device, problems = value("device"), []
    if not isinstance(device, str):
        return []
    if not re.fullmatch(r"cpu|cuda(:\d+)?", device):
        problems.append(
            f"device: expected cpu, cuda or cuda:NUMBER, got {device!r}; write "
            "device=cpu."
        )
    if device == "cpu" and value("train.cudagraph") is True:
        problems.append(
            "train.cudagraph: expected false with device=cpu, which has no CUDA "
            "graphs, got true; leave it out, or write device=cuda."
        )
    if value("train.parallel_passes") is True:
        if device == "cpu":
            problems.append(
                "train.parallel_passes: expected false with device=cpu, whose threads "
                "work on one pass, got true; leave it out, or write device=cuda."
            )
        if value("train.compile") is True:
            problems.append(
                "train.parallel_passes: expected false with train.compile=true, which "
                "makes one stream of each term, got true; leave one of them out."
            )
    return problems
