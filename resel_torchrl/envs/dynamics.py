"""MuJoCo robots with hidden gravity, body masses or joint damping.

``{Ant,HalfCheetah,Hopper,Humanoid,Walker2d}-{Gravity,Mass,Damping}-v5``, horizon 1000
(the "dynamics randomisation" tasks of arXiv 2405.15384 are those of gravity):
Gymnasium's -v5 robots with actions in [-1, 1]. Each episode takes one task of a fixed,
seeded set, a multiplier ``1.5 ** u``, ``u ~ U(-3, 3)`` (Humanoid ``U(-2, 2)``), for

    Gravity  the gravity
    Mass     each body: its mass and its inertia, as if its density changed
    Damping  each damped joint: its damping

and keeps it to its end. It is not observed, and nor is what would give it away: Mass
leaves ``cinert`` and ``cvel`` out of Humanoid's observation, inertias and velocities
about a centre of mass. Contact forces (``cfrc_ext`` of Ant and Humanoid) are left out
everywhere, as they were most likely zero in the robots that the paper used.
"""

from __future__ import annotations

import math
import numbers
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import gymnasium
import numpy as np
from gymnasium.envs.registration import EnvSpec
from gymnasium.utils import RecordConstructorArgs

from resel_torchrl.envs._support import (
    MUJOCO_ROBOTS,
    Reset,
    Step,
    import_simulator,
    make_mujoco_robot,
)
from resel_torchrl.envs.wrappers import MaskObservation, ScaleAction

__all__ = ["FACTORS", "TASKS", "HiddenDynamics", "TaskSet", "make"]

FACTORS = ("gravity", "mass", "damping")
#: A multiplier is this to the power of ``u``.
_BASE = 1.5
#: Parts of Humanoid's observation that tell its body masses.
_TELL_MASS = ("cinert", "cvel")


def make(
    robot: str,
    factor: Literal["gravity", "mass", "damping"],
    *,
    log_range: float = 3.0,
    **kwargs: Any,
) -> gymnasium.Env:
    """Makes a MuJoCo robot with hidden dynamics.

    Args:
        robot: one of Gymnasium's -v5 robots.
        factor: one of :data:`FACTORS`.
        log_range: as of :class:`HiddenDynamics`.
        **kwargs: arguments of :meth:`TaskSet.make`; others are passed to the robot,
            such as ``render_mode``.

    Raises:
        ValueError: as :class:`HiddenDynamics`, or if a part of the observation is asked
            for that tells the masses where these are hidden.
        ModuleNotFoundError: if MuJoCo is not installed.
    """
    tasks = {name: kwargs.pop(name) for name in TaskSet.OPTIONS if name in kwargs}
    hidden = ["cfrc_ext"] if robot in ("Ant", "Humanoid") else []
    if factor == "mass" and robot == "Humanoid":
        hidden += _TELL_MASS
        for name in (f"include_{part}_in_observation" for part in _TELL_MASS):
            if kwargs.get(name):
                raise ValueError(
                    f"expected no {name} where body masses are hidden, got "
                    f"{kwargs[name]}: it tells them; leave it out"
                )
    shown = {f"include_{part}_in_observation": False for part in hidden}
    env = make_mujoco_robot(robot, **{**shown, **kwargs})
    env = HiddenDynamics(env, factor, log_range=log_range, **tasks)
    return ScaleAction(MaskObservation(env))


class HiddenDynamics(gymnasium.Wrapper, RecordConstructorArgs):
    """Sets a factor of a MuJoCo robot's dynamics anew at every reset.

    ``reset(options={"task": i})`` takes the i-th task of the split in place of a random
    one; with the same seed the robot starts in the same state in every task. Setting a
    task rebuilds no model and starts from the model's original values. The multipliers
    are in ``info["task"]`` by name, of every reset and step: ``gravity``,
    ``mass_<body>``, ``damping_<joint>``.

    Args:
        env: a MuJoCo robot of Gymnasium's.
        factor: one of :data:`FACTORS`.
        log_range: multipliers are drawn as ``1.5 ** u`` with u uniform between minus
            this and this.
        **tasks: the arguments of :meth:`TaskSet.make` but ``draw``.

    Attributes:
        task_set: the tasks.
        n_tasks: number of tasks of the split.
        names: the names of a task's multipliers, in their order.
        facts: the set and the names in plain data, for the record of a run.

    Raises:
        ValueError: if ``log_range`` is no positive number, a task has a multiplier that
            is none, or as :meth:`TaskSet.make`; and from ``reset`` if there is no task
            of a number.
    """

    def __init__(
        self,
        env: gymnasium.Env,
        factor: Literal["gravity", "mass", "damping"],
        *,
        log_range: float,
        **tasks: Any,
    ):
        RecordConstructorArgs.__init__(
            self, factor=factor, log_range=log_range, **tasks
        )
        super().__init__(env)
        if not (log_range > 0 and math.isfinite(log_range)):
            raise ValueError(
                f"expected a log_range above 0, got {log_range}: multipliers lie "
                f"between {_BASE:g} ** -log_range and {_BASE:g} ** log_range"
            )
        if factor not in FACTORS:
            raise ValueError(
                f"expected a factor out of {', '.join(FACTORS)}, got {factor!r}"
            )
        setters = {"gravity": _gravity, "mass": _mass, "damping": _damping}
        self.names, self._scale = setters[factor](
            env.unwrapped.model, env.unwrapped.data
        )
        size = len(self.names)
        self.task_set = TaskSet.make(
            lambda generator: _BASE ** generator.uniform(-log_range, log_range, size),
            **tasks,
        )
        for task in (*self.task_set.train, *self.task_set.test):
            if min(task) <= 0:
                raise ValueError(
                    f"expected tasks of multipliers above 0 ({', '.join(self.names)}), "
                    f"got {list(task)}"
                )
        self.n_tasks = len(self.task_set.tasks)
        self.facts = {
            "multipliers": list(self.names),
            "log_range": log_range,
            **self.task_set.facts(),
        }
        self._task: dict[str, float] = {}

    def reset(self, *, seed: int | None = None, options: dict | None = None) -> Reset:
        """Starts an episode, see :meth:`gymnasium.Env.reset`."""
        robot = self.unwrapped
        # Seeds the robot and does nothing else: its reset must find the task set, and
        # must not draw its start from the numbers that have chosen the task.
        gymnasium.Env.reset(robot, seed=seed)
        task = self.task_set.choose(robot.np_random, options)
        self._scale(np.array(task))
        self._task = dict(zip(self.names, task, strict=True))
        observation, info = self.env.reset(options=options)
        return observation, {**info, "task": self._task.copy()}

    def step(self, action: Any) -> Step:
        """Makes one step, see :meth:`gymnasium.Env.step`."""
        observation, reward, terminated, truncated, info = self.env.step(action)
        info["task"] = self._task.copy()
        return observation, reward, terminated, truncated, info


#: Names of the multipliers of a model, and what sets them.
_Setter = tuple[tuple[str, ...], Callable[[np.ndarray], None]]


def _gravity(model: Any, data: Any) -> _Setter:
    original = model.opt.gravity.copy()

    def scale(multipliers: np.ndarray) -> None:
        model.opt.gravity[:] = original * multipliers

    return ("gravity",), scale


def _mass(model: Any, data: Any) -> _Setter:
    set_constants = import_simulator("mujoco", extra="mujoco").mj_setConst
    bodies = slice(1, None)  # body 0 is the world
    mass = model.body_mass[bodies].copy()
    inertia = model.body_inertia[bodies].copy()  # [bodies, 3]

    def scale(multipliers: np.ndarray) -> None:
        model.body_mass[bodies] = mass * multipliers
        model.body_inertia[bodies] = inertia * multipliers[:, None]
        set_constants(model, data)  # what the model's compiler derives from masses

    numbers = range(1, model.nbody)
    names = (model.body(number).name or f"body_{number}" for number in numbers)
    return tuple(f"mass_{name}" for name in names), scale


def _damping(model: Any, data: Any) -> _Setter:
    damped = np.flatnonzero(model.dof_damping)
    original = model.dof_damping[damped].copy()
    joints, place = np.unique(model.dof_jntid[damped], return_inverse=True)

    def scale(multipliers: np.ndarray) -> None:
        model.dof_damping[damped] = original * multipliers[place]

    names = (model.joint(int(number)).name for number in joints)
    return tuple(f"damping_{name}" for name in names), scale


@dataclass(frozen=True)
class TaskSet:
    """Tasks of an environment, of which each episode takes one.

    A task is a tuple of numbers, the values of its hidden factors.

    Attributes:
        train: the tasks to train on.
        test: the tasks to test on, none of which is among the others.
        split: which of the two this environment takes.

    Raises:
        ValueError: if the two overlap, or the split is unknown or empty.
    """

    #: The arguments of :meth:`make` but ``draw``.
    OPTIONS = ("split", "n_train", "n_test", "task_seed", "train_tasks", "test_tasks")

    train: tuple[tuple[float, ...], ...]
    test: tuple[tuple[float, ...], ...]
    split: Literal["train", "test"]

    def __post_init__(self) -> None:
        for task in self.test:
            if task in self.train:
                raise ValueError(
                    f"expected test tasks that are not trained on, but {list(task)} is "
                    "among the training tasks and among the test tasks; take it out "
                    "of one of them"
                )
        if self.split not in ("train", "test"):
            raise ValueError(f"expected split train or test, got {self.split!r}")
        if not self.tasks:
            raise ValueError(
                f"expected one {self.split} task or more, got none; raise "
                f"n_{self.split}, or give {self.split}_tasks"
            )

    @property
    def tasks(self) -> tuple[tuple[float, ...], ...]:
        """The tasks of the split."""
        return self.train if self.split == "train" else self.test

    @classmethod
    def make(
        cls,
        draw: Callable[[np.random.Generator], Sequence[float]],
        *,
        split: Literal["train", "test"] = "train",
        n_train: int = 40,
        n_test: int = 20,
        task_seed: int = 0,
        train_tasks: Sequence[Sequence[float]] | None = None,
        test_tasks: Sequence[Sequence[float]] | None = None,
    ) -> TaskSet:
        """Draws a set, or takes the tasks that are given.

        Args:
            draw: draws one task.
            split: which part of the set the episodes take.
            n_train: number of training tasks, the first that are drawn.
            n_test: number of test tasks, the next that are drawn.
            task_seed: seed of the set; it has nothing to do with the episodes' seeds.
            train_tasks: these in place of drawn ones.
            test_tasks: likewise.

        Raises:
            ValueError: as the class; from a number of tasks or a seed that is no whole
                number of 0 or more; and from a given task that is not of as many finite
                numbers as a drawn one.
        """
        given = {"n_train": n_train, "n_test": n_test, "task_seed": task_seed}
        for name, value in given.items():
            whole = isinstance(value, numbers.Integral) and not isinstance(value, bool)
            if not whole or value < 0:
                raise ValueError(
                    f"expected {name} to be a whole number of 0 or more, got {value!r}"
                )
        generator = np.random.default_rng(task_seed)
        drawn = _tuples(draw(generator) for _ in range(n_train + n_test))
        train, test = drawn[:n_train], drawn[n_train:]
        if train_tasks is not None:
            train = _tuples(train_tasks)
        if test_tasks is not None:
            test = _tuples(test_tasks)
        size = np.size(draw(generator))
        for task in (*train, *test):
            if len(task) != size or not np.isfinite(task).all():
                raise ValueError(
                    f"expected given tasks of {size} numbers each, got {list(task)}; "
                    "all of them finite"
                )
        return cls(train, test, split)

    def choose(
        self, generator: np.random.Generator, options: Mapping[str, Any] | None = None
    ) -> tuple[float, ...]:
        """The task of an episode: a random one, or that of ``options["task"]``.

        The generator is drawn from in either case, so that what an environment draws
        next does not depend on which.

        Raises:
            ValueError: if the split has no task of that number.
        """
        number = int(generator.integers(len(self.tasks)))
        if options is not None and "task" in options:
            number = options["task"]
            if not 0 <= number < len(self.tasks):
                raise ValueError(
                    f"expected the number of a {self.split} task, from 0 to "
                    f"{len(self.tasks) - 1}, got {number}"
                )
        return self.tasks[number]

    def facts(self) -> dict[str, Any]:
        """The set in plain data, for the record of a run."""
        return {
            "split": self.split,
            "train_tasks": [list(task) for task in self.train],
            "test_tasks": [list(task) for task in self.test],
        }


def _tuples(tasks: Iterable[Sequence[float]]) -> tuple[tuple[float, ...], ...]:
    return tuple(tuple(map(float, np.ravel(task))) for task in tasks)


TASKS = [
    EnvSpec(
        f"{robot}-{factor.capitalize()}-v5",
        f"{__name__}:make",
        max_episode_steps=1000,
        kwargs={
            "robot": robot,
            "factor": factor,
            "log_range": 2.0 if robot == "Humanoid" else 3.0,
        },
    )
    for factor in FACTORS
    for robot in MUJOCO_ROBOTS
]
