"""From a command line to a checked configuration, and from a run directory back."""

from __future__ import annotations

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

from resel_torchrl._nearest import suggestion
from resel_torchrl.config.build import constructor_problems
from resel_torchrl.config.schema import (
    ALGORITHM_SECTIONS,
    ALGORITHMS,
    Config,
    config_keys,
    validate,
)
from resel_torchrl.errors import ConfigError

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

GROUPS = ("task", "core", "size", "algorithm")
#: Whose options YAML does not list all.
FREE_FORM = ("agent.core_kwargs", "env.kwargs", "eval.kwargs")
RESUMABLE = ("steps", "eval", "log")
#: Keys of version 1, whose algorithms had no section of their own.
RENAMED = {
    "agent.algorithm": ("algorithm",),
    "agent.exploration_noise": ("td3_resel.exploration_noise",),
    "agent.probability_floor": ("discrete_resel.probability_floor",),
    "train.alpha_init": ("resel.alpha_init", "discrete_resel.alpha_init"),
    "train.fixed_alpha": ("resel.fixed_alpha", "discrete_resel.fixed_alpha"),
    "train.target_entropy": ("resel.target_entropy", "discrete_resel.target_entropy"),
    "train.target_noise": ("td3_resel.target_noise",),
    "train.target_noise_clip": ("td3_resel.target_noise_clip",),
}


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
    config, further = _checked(sound, config_name)
    if config is None or problems:
        raise ConfigError([*problems, *further])
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
    resel_torchrl.errors.ConfigError: 2 mistakes in the configuration:
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
        problems += _checked(sound, config_name)[1]
    if problems:
        raise ConfigError(problems)


def _checked(
    overrides: Sequence[str], config_name: str
) -> tuple[Config | None, list[str]]:
    """The configuration, or None and what is wrong with it."""
    try:
        cfg = _compose(overrides, config_name)
        unused = _unused(overrides, cfg.algorithm)
        if unused:
            return None, unused
        return from_hydra(cfg), []
    except ConfigError as error:
        return None, error.problems


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
    return _constructed(validate(values))


def _constructed(config: Config) -> Config:
    """The configuration, after a look at what the constructors say to it."""
    problems = constructor_problems(config)
    if problems:
        raise ConfigError(problems)
    return config


def to_dict(config: Config) -> dict[str, Any]:
    """The configuration as a nested plain dict.

    >>> to_dict(compose())["train"]["policy_delay"]
    2
    """
    others = ALGORITHM_SECTIONS - set(ALGORITHMS[config.algorithm])
    return config.model_dump(exclude=others)


def to_yaml(config: Config) -> str:
    """The configuration as YAML, as a run directory stores it.

    >>> to_yaml(compose(["task=pendulum_v", "seed=3"])).splitlines()[:2]
    ['task: pendulum_v', 'seed: 3']
    """
    return OmegaConf.to_yaml(OmegaConf.create(to_dict(config)))


def load_config(path: str | Path) -> Config:
    """Reads the configuration that a run directory stores.

    Names of an older version are read as today's, and values that it did not know are
    those of the packaged YAML.

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
        stored = OmegaConf.load(path)
        if not isinstance(stored, DictConfig):
            raise yaml.YAMLError("no mapping of names to values")
        values = OmegaConf.to_container(
            OmegaConf.merge(_packaged("train"), stored), resolve=True
        )
    except (yaml.YAMLError, OmegaConfBaseException) as error:
        raise ConfigError([f"{path}: expected YAML, got: {error}"]) from None
    return validate(in_current_names(values))


def in_current_names(values: dict[str, Any]) -> dict[str, Any]:
    """A stored configuration of version 1 (see `RENAMED`) in the names of today."""
    agent, train = values.get("agent"), values.get("train")
    if "algorithm" in values or not isinstance(agent, dict):
        return values
    name = agent.get("algorithm", "resel")
    known = _packaged(f"algorithm/{name}") if name in choices("algorithm") else {}
    section = dict(known.get(name, {}))
    for key in RENAMED:
        group, _, option = key.partition(".")
        given = {"agent": agent, "train": train}[group].pop(option, "auto")
        if option in section and given != "auto":
            section[option] = given
    values["env"].pop("facts", None)
    return {**values, "algorithm": name, name: section}


def _packaged(name: str) -> DictConfig:
    """One packaged file by itself, without what its defaults list names."""
    file = resources.files("resel_torchrl.config").joinpath(f"{name}.yaml")
    config = OmegaConf.create(file.read_text())
    for own in ("defaults", "hydra"):
        config.pop(own, None)
    return config


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
    resel_torchrl.errors.ConfigError: 1 mistake in the configuration:
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
        config = _constructed(validate(OmegaConf.to_container(cfg)))
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
    """The arguments as Hydra takes them: what the chosen YAML may not list is added.

    >>> hydra_arguments(["env.kwargs.g=9.8", "seed=1"])
    ['++env.kwargs.g=9.8', 'seed=1']
    """
    free = tuple(f"{key}." for key in (*FREE_FORM, *ALGORITHM_SECTIONS))
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
        elif key in RENAMED:
            value = text.partition("=")[2]
            new = " or ".join(f"{name}={value}" for name in RENAMED[key])
            problem = f"{key}: renamed; write {new}."
        elif key in known or key.startswith(("hydra", *(f"{k}." for k in FREE_FORM))):
            problem = None
        else:
            problem = f"{key}: unknown key. {suggestion(key, known | set(GROUPS))}"
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
            return f"{text}: no such {group}. {suggestion(str(name), names)}"
    return None


def _unused(overrides: Sequence[str], algorithm: str) -> list[str]:
    """Overrides of an algorithm that is not the chosen one."""
    keys = [text.lstrip("+~").partition("=")[0] for text in overrides]
    sections = [(key, key.partition(".")[0]) for key in keys]
    return [
        f"{key}: expected no value of {section} with algorithm={algorithm}, got one; "
        f"leave it out, or choose algorithm={section}."
        for key, section in sections
        if section in ALGORITHM_SECTIONS - set(ALGORITHMS[algorithm])
    ]
