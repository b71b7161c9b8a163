"""Fixed, seeded sets of tasks, split into tasks to train on and tasks to test on."""

from __future__ import annotations

import math
import numbers
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

__all__ = ["Split", "Task", "TaskSet"]

Split = Literal["train", "test"]
#: One task: the values of its hidden factors.
Task = tuple[float, ...]


@dataclass(frozen=True)
class TaskSet:
    """Tasks of an environment, of which each episode takes one.

    Attributes:
        train: the tasks to train on.
        test: the tasks to test on, none of which is among the others.
        split: which of the two this environment takes.

    Raises:
        ValueError: if the two overlap, the split is unknown or empty, or a task is not
            made of as many finite numbers as the others.

    Examples:
        >>> tasks = TaskSet(train=((1.0,), (2.0,)), test=((3.0,),), split="test")
        >>> tasks.tasks
        ((3.0,),)
        >>> TaskSet(train=((1.0,), (2.0,)), test=((2.0,),), split="train")
        Traceback (most recent call last):
        ...
        ValueError: expected test tasks that are not trained on, but [2.0] is among \
the training tasks and among the test tasks; take it out of one of them
    """

    train: tuple[Task, ...]
    test: tuple[Task, ...]
    split: Split

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
        size = len(self.tasks[0])
        for task in (*self.train, *self.test):
            if len(task) != size or not all(math.isfinite(value) for value in task):
                raise ValueError(
                    f"expected tasks of {size} finite numbers each, got {list(task)}"
                )

    @property
    def tasks(self) -> tuple[Task, ...]:
        """The tasks of the split."""
        return self.train if self.split == "train" else self.test

    @classmethod
    def make(
        cls,
        draw: Callable[[np.random.Generator], Sequence[float]],
        *,
        split: Split,
        n_train: int,
        n_test: int,
        task_seed: int,
        train_tasks: Sequence[Sequence[float]] | None = None,
        test_tasks: Sequence[Sequence[float]] | None = None,
    ) -> TaskSet:
        """Draws a set, or takes the tasks that are given.

        Args:
            draw: draws one task.
            split: which part of the set is taken.
            n_train: number of training tasks, the first that are drawn.
            n_test: number of test tasks, the next that are drawn.
            task_seed: seed of the set; it has nothing to do with the episodes' seeds.
            train_tasks: these in place of drawn ones.
            test_tasks: likewise.

        Raises:
            ValueError: as the class; from a number of tasks or a seed that is no whole
                number of 0 or more; and from a given
                task that is not of as many numbers as a drawn one.

        Examples:
            >>> options = dict(n_train=40, n_test=20, task_seed=0)
            >>> train, test = (
            ...     TaskSet.make(lambda rng: [rng.uniform()], split=split, **options)
            ...     for split in ("train", "test")
            ... )
            >>> len(train.tasks), len(test.tasks), train.test == test.tasks
            (40, 20, True)
        """
        given = {"n_train": n_train, "n_test": n_test, "task_seed": task_seed}
        for name, value in given.items():
            whole = isinstance(value, numbers.Integral) and not isinstance(value, bool)
            if not whole or value < 0:
                raise ValueError(
                    f"expected {name} to be a whole number of 0 or more, got {value!r}"
                )
        generator = np.random.default_rng(task_seed)
        drawn = [_task(draw(generator)) for _ in range(n_train + n_test)]
        train, test = tuple(drawn[:n_train]), tuple(drawn[n_train:])
        if train_tasks is not None:
            train = tuple(map(_task, train_tasks))
        if test_tasks is not None:
            test = tuple(map(_task, test_tasks))
        size = len(_task(draw(generator)))
        for task in (*train, *test):
            if len(task) != size:
                raise ValueError(
                    f"expected given tasks of {size} numbers each, got {list(task)}"
                )
        return cls(train, test, split)

    def choose(
        self, generator: np.random.Generator, options: Mapping[str, Any] | None = None
    ) -> Task:
        """The task of an episode: a random one, or the one of a number.

        The generator is drawn from in either case, so that what an environment draws
        next does not depend on which.

        Args:
            generator: the environment's own.
            options: of the environment's ``reset``; ``options["task"]`` is a number
                within the split.

        Raises:
            ValueError: if there is no task of that number.

        Examples:
            >>> tasks = TaskSet(train=((1.0,), (2.0,)), test=(), split="train")
            >>> tasks.choose(np.random.default_rng(0), {"task": 1})
            (2.0,)
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


def _task(values: Sequence[float]) -> Task:
    return tuple(float(value) for value in np.ravel(values))
