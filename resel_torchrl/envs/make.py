"""Makes a task by name: as a Gymnasium environment, or as a TorchRL one."""

from __future__ import annotations

import re
from collections.abc import Hashable, Mapping
from dataclasses import dataclass, field
from typing import Any

import gymnasium
import torch
from gymnasium.spaces import Discrete
from torchrl.envs import GymWrapper, InitTracker, TransformedEnv

from resel_torchrl._nearest import did_you_mean
from resel_torchrl.envs._support import log_mujoco_warnings
from resel_torchrl.envs.registry import find_spec
from resel_torchrl.envs.wrappers import CheckEpisode, fit_spaces

__all__ = ["TaskInfo", "make_env", "make_gym", "task_info"]


def make_gym(task: str, *, horizon: int | None = None, **kwargs: Any) -> gymnasium.Env:
    """Makes a task as a Gymnasium environment.

    Observations are float32 vectors. Continuous actions lie in [-1, 1]; discrete ones
    stay integers. Rewards are the environment's own. An episode is truncated at the
    horizon. Values that are not finite, and steps past the end, are errors, see
    :class:`CheckEpisode`. Episodes of the tasks in :func:`task_names` are a function of
    the seed given to ``reset`` and of the actions, to the last bit.

    Args:
        task: one of :func:`task_names`, or any other Gymnasium id (``"module:id"``
            imports ``module`` first), which is shown unmasked.
        horizon: the largest number of steps of an episode; by default the task's own:
            its time limit, or the ``horizon`` attribute of an environment that ends
            its episodes by itself.
        **kwargs: passed to the environment, such as ``render_mode``.

    Raises:
        ValueError: if the task is unknown (the message lists the nearest names), has no
            horizon and none is given, or has observations that are no vectors or
            actions that are neither bounded vectors nor ``Discrete``.
        TypeError: if the environment does not take an option of ``kwargs``.
        ModuleNotFoundError: if the simulator is not installed; the message names the
            extra to install.

    Examples:
        >>> env = make_gym("Pendulum-V-v0")
        >>> observation, info = env.reset(seed=0)
        >>> observation.shape, observation.dtype
        ((1,), dtype('float32'))
        >>> env.action_space
        Box(-1.0, 1.0, (1,), float32)
    """
    spec = find_spec(task)
    if horizon is not None and horizon < 1:
        raise ValueError(f"expected a horizon of at least 1 step, got {horizon}")
    if "gymnasium.envs.mujoco" in str(spec.entry_point):
        log_mujoco_warnings()
    try:
        env = gymnasium.make(
            spec, max_episode_steps=horizon, disable_env_checker=True, **kwargs
        )
    except TypeError as error:
        unknown = re.search(r"unexpected keyword argument '(\w+)'", str(error))
        if unknown is None or unknown[1] not in kwargs:
            raise
        known = {**spec.kwargs, **kwargs}.keys() - {unknown[1]}
        raise TypeError(
            f"the environment has no option {unknown[1]!r}."
            + did_you_mean(unknown[1], known)
        ) from error
    horizon = horizon or spec.max_episode_steps or _attribute(env, "horizon", None)
    if horizon is None:
        env.close()
        raise ValueError(
            f"no horizon is known for {task!r}: it was registered without "
            "max_episode_steps, and has no attribute `horizon` of its own; give "
            "horizon=, the most steps of an episode"
        )
    return CheckEpisode(fit_spaces(env), horizon)


def make_env(
    task: str,
    seed: int | None = None,
    *,
    device: torch.device | str | None = None,
    **kwargs: Any,
) -> TransformedEnv:
    """Makes a task as a TorchRL environment that tracks the start of episodes.

    It has the keys ``observation`` float32 ``[n]``, ``action`` float32 ``[m]`` in
    [-1, 1] (one-hot for discrete actions), ``is_init`` bool ``[1]``, and under
    ``"next"`` also ``reward`` float32 ``[1]``, ``done``, ``terminated`` and
    ``truncated``. An encoder adds the inputs it needs itself, through
    ``env.append_transform(encoder.make_tensordict_primer())``, or a ``Collector`` does
    so for its policy.

    Args:
        task: as in :func:`make_gym`.
        seed: makes the sequence of episodes repeatable; random without. TorchRL's
            ``env.reset(seed=...)`` starts one episode from a seed of its own.
        device: where the tensors are put; the CPU by default.
        **kwargs: as in :func:`make_gym`.

    Errors are those of :func:`make_gym`.

    Examples:
        >>> env = make_env("CartPole-P-v0", seed=0)
        >>> env.action_spec.shape, env.reset()["observation"].shape
        (torch.Size([2]), torch.Size([2]))
        >>> env.rollout(3)["is_init"].flatten().tolist()
        [True, False, False]
    """
    env = GymWrapper(make_gym(task, **kwargs), device=device)
    env = TransformedEnv(env, InitTracker())
    if seed is not None:
        env.set_seed(seed)
    return env


@dataclass(frozen=True)
class TaskInfo:
    """Sizes of a task, and what a run records of it.

    Attributes:
        name: the task.
        observation_size: number of observed dimensions.
        action_size: number of action dimensions, or of discrete actions.
        discrete: whether the actions are discrete.
        horizon: the largest number of steps of an episode.
        kept: the dimensions of the environment's own observation that are observed.
        measures: names of what ``info["measures"]`` holds at the end of an episode.
        n_tasks: number of tasks that ``reset(options={"task": number})`` chooses from;
            0 for an environment that is one task.
        curriculum_options: options of ``reset`` that a curriculum may change.
        facts: plain data for the record of a run: the horizon, ``kept``, and what the
            environment's attribute ``facts`` holds, such as its task set.

    Examples:
        >>> info = task_info("Pendulum-V-v0")
        >>> isinstance(info, TaskInfo), info.observation_size, info.kept
        (True, 1, (2,))
    """

    name: str
    observation_size: int
    action_size: int
    discrete: bool
    horizon: int
    kept: tuple[int, ...]
    measures: tuple[str, ...] = ()
    n_tasks: int = 0
    curriculum_options: tuple[str, ...] = ()
    facts: Mapping[str, Any] = field(default_factory=dict, repr=False)


_infos: dict[Hashable, TaskInfo] = {}


def task_info(task: str, **kwargs: Any) -> TaskInfo:
    """Reads the sizes of a task from an environment made for it, once per process.

    Args and errors are those of :func:`make_gym`.

    Examples:
        >>> task_info("Pendulum-P-v0")  # doctest: +NORMALIZE_WHITESPACE
        TaskInfo(name='Pendulum-P-v0', observation_size=2, action_size=1,
                 discrete=False, horizon=200, kept=(0, 1), measures=(),
                 n_tasks=0, curriculum_options=())
    """
    key = task, _frozen(kwargs)
    if key not in _infos:
        _infos[key] = _read_info(task, kwargs)
    return _infos[key]


def _frozen(value: Any) -> Hashable:
    """A hashable stand-in for a value of a configuration."""
    if isinstance(value, Mapping):
        return tuple((key, _frozen(value[key])) for key in sorted(value))
    if isinstance(value, (list, tuple)):
        return tuple(map(_frozen, value))
    return type(value), value


def _read_info(task: str, kwargs: Mapping[str, Any]) -> TaskInfo:
    env = make_gym(task, **kwargs)
    size = env.observation_space.shape[0]
    kept = _attribute(env, "kept", tuple(range(size)))
    discrete = isinstance(env.action_space, Discrete)
    info = TaskInfo(
        name=task,
        observation_size=size,
        action_size=int(env.action_space.n if discrete else env.action_space.shape[0]),
        discrete=discrete,
        horizon=env.horizon,
        kept=kept,
        measures=tuple(_attribute(env, "measures", ())),
        n_tasks=_attribute(env, "n_tasks", 0),
        curriculum_options=tuple(_attribute(env, "curriculum_options", ())),
        facts={
            "horizon": env.horizon,
            "kept": list(kept),
            **_attribute(env, "facts", {}),
        },
    )
    env.close()
    return info


def _attribute(env: gymnasium.Env, name: str, default: Any) -> Any:
    return env.get_wrapper_attr(name) if env.has_wrapper_attr(name) else default
