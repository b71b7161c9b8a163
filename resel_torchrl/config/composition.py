"""From a command line to a checked configuration, and from a run directory back."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from importlib import resources
from pathlib import Path
from typing import Any

import yaml
from hydra import compose as hydra_compose
from hydra import initialize_config_module
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.errors import HydraException, OverrideParseException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from resel_torchrl.config.names import nearest
from resel_torchrl.config.schema import Config
from resel_torchrl.config.validation import (
    FREE_FORM,
    ConfigError,
    config_keys,
    validate,
)

__all__ = [
    "check_overrides",
    "choices",
    "compose",
    "from_hydra",
    "hydra_arguments",
    "load_config",
    "resume_config",
    "to_dict",
    "to_yaml",
]

GROUPS = ("task", "core")
RESUMABLE = ("steps", "eval", "log")


def choices(group: str) -> list[str]:
    """The names that `group=NAME` takes on the command line.

    >>> choices("core")
    ['gru', 'lru', 'lstm', 'mamba', 'memoryless', 'min_gru', 'one_step', 'transformer']
    """
    folder = resources.files("resel_torchrl.config") / group
    return sorted(
        entry.name.removesuffix(".yaml")
        for entry in folder.iterdir()
        if entry.name.endswith(".yaml")
    )


def compose(overrides: Sequence[str] = (), *, config_name: str = "train") -> Config:
    """The packaged YAML with the given overrides, checked.

    Args:
        overrides: As on the command line: `["task=walker_v", "optim.lr_actor=1e-4"]`.
        config_name: Name of the main YAML file.

    Raises:
        ConfigError: Listing every mistake of the overrides and of the values.

    >>> compose(["task=pendulum_v", "core=lstm", "seed=3"]).run_dir
    'runs/pendulum_v/lstm-seed3'
    """
    problems, sound = _name_problems(overrides)
    try:
        config = from_hydra(_compose(sound, config_name))
    except ConfigError as error:
        raise ConfigError([*problems, *error.problems]) from None
    if problems:
        raise ConfigError(problems)
    return config


def check_overrides(
    overrides: Sequence[str], *, config_name: str = "train", multirun: bool = True
) -> None:
    """Looks for mistakes before Hydra runs anything; sweeps are checked job by job.

    With `resume=RUN_DIR` only the names are checked: the values that count are stored.

    Args:
        overrides: As on the command line.
        config_name: Name of the main YAML file.
        multirun: Whether a name may have several values, for one run each.

    Raises:
        ConfigError: Listing all of them, with the nearest names.

    >>> check_overrides(["task=pendulm_v", "agent.hidden_sise=32"])
    Traceback (most recent call last):
    ...
    resel_torchrl.config.validation.ConfigError: 2 mistakes in the configuration:
      1. task=pendulm_v: no such task. Nearest: pendulum_v, pendulum_p.
      2. agent.hidden_sise: unknown key. Nearest: agent.hidden_size, agent.head_sizes, \
agent.embedding_size.
    """
    problems, sound = _name_problems(overrides)
    parsed = _parse(sound)
    sweeps = [entry.input_line for entry in parsed if entry.is_sweep_override()]
    if not multirun:
        problems += [
            f"{text}: several values make several runs; add --multirun for one run "
            "per value, or give one value."
            for text in sweeps
        ]
    if not sweeps and all(entry.key_or_group != "resume" for entry in parsed):
        try:
            from_hydra(_compose(sound, config_name))
        except ConfigError as error:
            problems += error.problems
    if problems:
        raise ConfigError(problems)


def from_hydra(cfg: DictConfig) -> Config:
    """Checks what Hydra composed and turns it into a :class:`Config`.

    Raises:
        ConfigError: Listing every mistake.

    >>> cfg = OmegaConf.create(to_dict(compose(["task=pendulum_v"])))
    >>> cfg.run_dir = "runs/${task}/again"
    >>> from_hydra(cfg).run_dir
    'runs/pendulum_v/again'
    """
    try:
        values = OmegaConf.to_container(cfg, resolve=True)
    except OmegaConfBaseException as error:
        raise ConfigError([f"the configuration does not resolve: {error}"]) from None
    values.pop("hydra", None)
    return validate(values)


def to_dict(config: Config) -> dict[str, Any]:
    """The configuration as a nested plain dict.

    >>> to_dict(compose())["train"]["policy_delay"]
    2
    """
    return dataclasses.asdict(config)


def to_yaml(config: Config) -> str:
    """The configuration as YAML, as a run directory stores it.

    >>> to_yaml(compose(["task=pendulum_v", "seed=3"])).splitlines()[:2]
    ['task: pendulum_v', 'seed: 3']
    """
    return OmegaConf.to_yaml(OmegaConf.create(to_dict(config)))


def load_config(path: str | Path) -> Config:
    """Reads the configuration that a run directory stores.

    Values that an older version did not know are those of the packaged train.yaml.

    Raises:
        ConfigError: If the file is not readable YAML or holds a mistake.

    >>> import tempfile
    >>> config = compose(["task=pendulum_v", "seed=3"])
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = Path(folder, "config.yaml")
    ...     _ = path.write_text(to_yaml(config))
    ...     load_config(path) == config
    True
    """
    try:
        text = (
            resources.files("resel_torchrl.config").joinpath("train.yaml").read_text()
        )
        defaults = OmegaConf.create(text)
        for name in ("defaults", "hydra"):
            defaults.pop(name)
        stored = OmegaConf.load(path)
        values = OmegaConf.to_container(OmegaConf.merge(defaults, stored), resolve=True)
    except (yaml.YAMLError, OmegaConfBaseException) as error:
        raise ConfigError([f"{path}: expected YAML, got: {error}"]) from None
    return validate(values)


def resume_config(stored: Config, overrides: Sequence[str]) -> Config:
    """The stored configuration with the few overrides that a resumed run may take.

    Args:
        stored: Configuration of the run directory; it wins.
        overrides: The command line, `resume=` included.

    Raises:
        ConfigError: Naming each override other than `steps`, `eval` and `log`.

    >>> stored = compose(["task=pendulum_v"])
    >>> resume_config(stored, ["resume=runs/x", "steps=99"]).steps
    99
    >>> resume_config(stored, ["optim.lr_actor=1.0"])
    Traceback (most recent call last):
    ...
    resel_torchrl.config.validation.ConfigError: 1 mistake in the configuration:
      1. optim.lr_actor: a resumed run keeps its stored configuration; only steps, \
eval, log may be given. Leave it out, or start a new run with its own run_dir.
    """
    problems, sound = _name_problems(overrides)
    cfg = OmegaConf.create(to_dict(stored))
    for parsed in _parse(sound):
        key = parsed.key_or_group
        if key == "resume" or key.split(".")[0] == "hydra":
            continue
        if key.split(".")[0] not in RESUMABLE or parsed.package is not None:
            problems.append(
                f"{key}: a resumed run keeps its stored configuration; only "
                f"{', '.join(RESUMABLE)} may be given. Leave it out, or start a new "
                "run with its own run_dir."
            )
            continue
        OmegaConf.update(cfg, key, parsed.value())
    try:
        config = validate(OmegaConf.to_container(cfg))
    except ConfigError as error:
        problems += error.problems
    if problems:
        raise ConfigError(problems)
    return config


def _compose(overrides: Sequence[str], config_name: str) -> DictConfig:
    # Hydra allows one context at a time; the one of a running job is put back after.
    running = GlobalHydra.instance().hydra
    GlobalHydra.instance().hydra = None
    try:
        with initialize_config_module("resel_torchrl.config", version_base="1.3"):
            return hydra_compose(config_name, overrides=hydra_arguments(overrides))
    except HydraException as error:
        raise ConfigError([str(error).splitlines()[0]]) from None
    finally:
        GlobalHydra.instance().hydra = running


def hydra_arguments(arguments: Sequence[str]) -> list[str]:
    """The arguments as Hydra takes them: options that YAML does not list are added.

    >>> hydra_arguments(["env.kwargs.g=9.8", "seed=1"])
    ['++env.kwargs.g=9.8', 'seed=1']
    """
    free = tuple(f"{key}." for key in FREE_FORM)
    return [f"++{text}" if text.startswith(free) else text for text in arguments]


def _parse(overrides: Sequence[str]) -> list[Override]:
    return OverridesParser.create().parse_overrides(list(overrides))


def _name_problems(overrides: Sequence[str]) -> tuple[list[str], list[str]]:
    """Mistakes in the names of overrides, and the overrides without one."""
    problems, sound = [], []
    known = set(config_keys())
    for text in overrides:
        try:
            parsed = _parse([text])[0]
        except OverrideParseException:
            problems.append(f"{text}: expected NAME=VALUE, as in task=walker_v.")
            continue
        key = parsed.key_or_group
        if key in GROUPS:
            problem = _choice_problem(text, key, parsed)
        elif key in known or key.startswith(("hydra", *(f"{k}." for k in FREE_FORM))):
            problem = None
        else:
            problem = f"{key}: unknown key. {nearest(key, known | set(GROUPS))}"
        if problem is None:
            sound.append(text)
        else:
            problems.append(problem)
    return problems, sound


def _choice_problem(text: str, group: str, parsed: Override) -> str | None:
    names = choices(group)
    if parsed.is_sweep_override():
        chosen = parsed.sweep_string_iterator() if parsed.is_choice_sweep() else []
    else:
        chosen = [parsed.value()]
    for name in chosen:
        if name not in names:
            return f"{text}: no such {group}. {nearest(str(name), names)}"
    return None
