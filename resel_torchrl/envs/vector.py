"""Several environments behind Gymnasium's vector interface."""

from __future__ import annotations

import contextlib
import multiprocessing
from collections.abc import Callable, Iterator, Sequence
from multiprocessing.connection import wait
from multiprocessing.process import BaseProcess
from multiprocessing.util import Finalize
from typing import Any, Literal

import gymnasium
from gymnasium.vector import AsyncVectorEnv, AutoresetMode, SyncVectorEnv, VectorEnv
from gymnasium.vector.async_vector_env import AsyncState

from resel_torchrl.envs._support import signals_held_back

__all__ = ["vectorize"]


def vectorize(
    make_envs: Sequence[Callable[[], gymnasium.Env]],
    vectorization: Literal["sync", "async"] = "sync",
) -> VectorEnv:
    """Puts environments together that are stepped in one call.

    They are not reset by themselves (``AutoresetMode.DISABLED``), so that whoever steps
    them gives each episode its seed: ``reset(seed=..., options={"reset_mask": mask})``
    begins an episode where the mask is true and leaves the others alone.

    Args:
        make_envs: makes each of them; for processes, what ``cloudpickle`` takes, such
            as ``functools.partial(make_gym, "Pendulum-V-v0")``.
        vectorization: ``"sync"`` steps them one after another in this process,
            ``"async"`` each in a process of its own, for slow simulators. A script
            that uses the latter needs ``if __name__ == "__main__":``.

    Returns:
        A Gymnasium ``SyncVectorEnv`` or ``AsyncVectorEnv``.

    Raises:
        ValueError: if there is none, the vectorization is unknown, or spaces differ.

    Examples:
        >>> import functools
        >>> import numpy as np
        >>> from resel_torchrl.envs import make_gym
        >>> envs = vectorize([functools.partial(make_gym, "Pendulum-V-v0")] * 3)
        >>> observations, _ = envs.reset(seed=[5, 6, 7])
        >>> observations.shape, envs.step(np.zeros((3, 1), np.float32))[1].shape
        ((3, 1), (3,))
        >>> mask = np.array([False, True, False])
        >>> again, _ = envs.reset(seed=[5, 6, 7], options={"reset_mask": mask})
        >>> (again == observations).flatten().tolist()
        [False, True, False]
    """
    if not make_envs:
        raise ValueError("expected 1 environment or more to put together, got none")
    if vectorization == "sync":
        envs = [make() for make in make_envs]
        _check_spaces(envs)
        return SyncVectorEnv(
            [lambda env=env: env for env in envs], autoreset_mode=AutoresetMode.DISABLED
        )
    if vectorization != "async":
        raise ValueError(
            f"expected a vectorization out of sync, async, got {vectorization!r}"
        )
    try:
        with signals_held_back():
            return _Processes(
                make_envs, context=_context(), autoreset_mode=AutoresetMode.DISABLED
            )
    except RuntimeError as error:
        raise ValueError(f"{_UNEQUAL}: {error}") from error


_UNEQUAL = (
    "expected environments with equal observation and action spaces, but they differ; "
    "make all of them with the same arguments"
)


def _check_spaces(envs: Sequence[gymnasium.Env]) -> None:
    first = envs[0]
    for number, env in enumerate(envs):
        for name in ("observation_space", "action_space"):
            spaces = getattr(first, name), getattr(env, name)
            if spaces[0] != spaces[1]:
                raise ValueError(
                    f"{_UNEQUAL}: {name} of number 0 is {spaces[0]}, of number "
                    f"{number} {spaces[1]}"
                )


def _context() -> str:
    """How processes start: never as a copy of this one, which may have threads."""
    if "forkserver" not in multiprocessing.get_all_start_methods():
        return "spawn"
    # Imported once, by the process whose copies they are.
    multiprocessing.set_forkserver_preload(["__main__", "resel_torchrl.envs"])
    return "forkserver"


class _Processes(AsyncVectorEnv):
    """Raises where a process has died, and kills those that are left.

    They hold SIGTERM back, by which Gymnasium and Python end them.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        # Python waits for its processes at exit; this comes before.
        Finalize(self, _kill, args=(self.processes,), exitpriority=100)

    def reset_wait(self, timeout: float | None = None) -> tuple[Any, ...]:
        with self._deaths_raised():
            return super().reset_wait(timeout)

    def step_async(self, actions: Any) -> None:
        with self._deaths_raised():
            super().step_async(actions)

    def step_wait(self, timeout: float | None = None) -> tuple[Any, ...]:
        with self._deaths_raised():
            return super().step_wait(timeout)

    @contextlib.contextmanager
    def _deaths_raised(self) -> Iterator[None]:
        try:
            yield
        except (EOFError, ConnectionError) as error:
            wait([process.sentinel for process in self.processes], timeout=60)
            dead = [p for p in self.processes if not p.is_alive()]
            ends = ", ".join(f"{p.name} with status {p.exitcode}" for p in dead)
            raise RuntimeError(
                "expected all processes of the environments at work, but one was ended "
                f"without a message of its own ({ends or 'unknown'}): killed, out of "
                "memory, or a simulator that crashed."
            ) from error

    def close_extras(self, timeout: float | None = None, terminate: bool = False):
        """Asks the processes to close; kills those that are at work or dead."""
        if not terminate and self._state == AsyncState.DEFAULT:
            with contextlib.suppress(EOFError, ConnectionError):
                super().close_extras()
        _kill(self.processes)
        for pipe in self.parent_pipes:
            if pipe is not None:
                pipe.close()


def _kill(processes: Sequence[BaseProcess]) -> None:
    for process in processes:
        process.kill()
        process.join()
