"""Collecting in a process of its own, beside the process that learns."""

from __future__ import annotations

import contextlib
import pickle
import signal
import traceback
import weakref
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from typing import Any

import gymnasium
import numpy as np
import torch
from gymnasium.vector import VectorEnv
from tensordict import TensorDict
from torchrl.data import ReplayBuffer

from resel_torchrl._random import seed_generators
from resel_torchrl.collect.acting import RecurrentPolicy
from resel_torchrl.collect.curriculum import Curriculum
from resel_torchrl.collect.episode import (
    Counters,
    EpisodeResult,
    episode_arrays,
    episodes_under_way,
)
from resel_torchrl.collect.episode_collector import EpisodeCollector
from resel_torchrl.collect.policy_weights import SharedWeights, WeightReader
from resel_torchrl.envs._support import signals_held_back
from resel_torchrl.errors import RunError

__all__ = ["ProcessCollector"]


class ProcessCollector:
    """An :class:`EpisodeCollector` in another process, beside the updates.

    :meth:`step` counts one step of the collector there, waiting for it if need be, so
    whatever is done per counted step (updates, rows of the log, evaluations) is as
    exact as with a collector in the same process. The process may be ahead of the
    count; with `made` for the steps that it has made, at all times

        steps ≤ made ≤ steps + ahead.

    It starts with a credit of `ahead` steps, spends one per step, waits at zero, and is
    given one back for each step counted. A finished episode is written to the replay
    buffer when its last step is counted, by this process alone.

    Each step acts on the newest weights published before it began, which are at most
    `weights.every` updates old. The process starts at the first :meth:`step` or
    :meth:`load_state_dict`, with one CPU thread, and ends with :meth:`close`, or when
    this object is gone. It is started by `spawn`: a script needs the usual
    ``if __name__ == "__main__":``.

    Args:
        make_env: Makes the environment, over there; it can be pickled.
        make_policy: Makes the policy from `weights.copies`; it can be pickled.
        weights: Weights of the acting modules.
        replay_buffer: Gets one `extend` per episode.
        horizon: As of :class:`EpisodeCollector`, as those that follow.
        seed: Seed of the run.
        random_steps: Steps of the random phase.
        random_start_steps: Most random steps at the start of an episode after it.
        env_index: Number of the first environment within the run.
        ahead: Steps that the process may be ahead.
        store_memory: Whether hidden states are stored.
        curriculum: Gives the options of each `reset`; it goes on in the process.

    Raises:
        ValueError: If `ahead` is below 1.

    >>> import functools
    >>> from torchrl.data import LazyTensorStorage, TensorDictReplayBuffer
    >>> from resel_torchrl.envs import make_gym
    >>> from resel_torchrl.modules import make_agent
    >>> agent = make_agent(1, 1, core="gru", hidden_size=8, n_critics=2)
    >>> weights = SharedWeights([agent.actor_encoder, agent.actor], every=1)
    >>> sizes = dict(observation_size=1, action_size=1)
    >>> collector = ProcessCollector(
    ...     functools.partial(make_gym, "Pendulum-V-v0"),
    ...     functools.partial(RecurrentPolicy, **sizes),
    ...     weights,
    ...     TensorDictReplayBuffer(storage=LazyTensorStorage(1000)),
    ...     horizon=200,
    ...     seed=0,
    ... )
    >>> ended = [result for _ in range(200) for result in collector.step()]
    >>> ended[0].length, collector.steps, len(collector.replay_buffer)
    (200, 200, 200)
    >>> collector.close()
    """

    def __init__(
        self,
        make_env: Callable[[], gymnasium.Env | VectorEnv],
        make_policy: Callable[..., RecurrentPolicy],
        weights: SharedWeights,
        replay_buffer: ReplayBuffer,
        *,
        horizon: int,
        seed: int,
        random_steps: int = 0,
        random_start_steps: int = 0,
        env_index: int = 0,
        ahead: int = 10,
        store_memory: bool = False,
        curriculum: Curriculum | None = None,
    ) -> None:
        if ahead < 1:
            raise ValueError(f"expected ahead of 1 step or more, got {ahead}.")
        self.make_env = make_env
        self.make_policy = make_policy
        self.weights = weights
        self.replay_buffer = replay_buffer
        self.policy = make_policy(*weights.copies)
        self.num_envs = self.policy.num_envs
        self.seed = seed
        self.random_steps = random_steps
        self.random_start_steps = random_start_steps
        self.env_index = env_index
        self.ahead = ahead
        self.curriculum = curriculum
        self._arrays = episode_arrays(
            self.policy, horizon, store_memory=store_memory, shared=True
        )
        self._options = {
            "horizon": horizon,
            "seed": seed,
            "random_steps": random_steps,
            "random_start_steps": random_start_steps,
            "env_index": env_index,
            "store_memory": store_memory,
            "curriculum": curriculum,
            "arrays": self._arrays,
        }
        self._counted = Counters(0, self.num_envs * (0,), self.num_envs * (-1,))
        self._reached = self._counted  # of the process, as far as is known
        self._inbox: deque[_Step] = deque()  # made and not yet counted
        self._failure: _Failed | None = None  # comes after the steps of the inbox
        self._process: _Process | None = None
        self._owed = 0

    @property
    def steps(self) -> int:
        """Environment steps counted."""
        return self._counted.steps

    @property
    def episodes(self) -> int:
        """Finished (or given up) episodes of the steps counted."""
        return sum(self._counted.episodes)

    @property
    def in_random_phase(self) -> bool:
        """Whether any environment is in the random phase in the next step."""
        return self._counted.in_random_phase(self.random_steps)

    @property
    def curriculum_measures(self) -> tuple[str, ...]:
        """What the result of an episode holds beside the environment's measures."""
        return () if self.curriculum is None else (self.curriculum.name,)

    @property
    def pid(self) -> int | None:
        """Number of the process at work; None without one."""
        return None if self._process is None else self._process.pid

    def counters(self) -> Counters:
        """Where the count is."""
        return self._counted

    def step(self) -> list[EpisodeResult]:
        """Counts one step, waiting for it if it is not made yet.

        Returns:
            The episodes that it ended; they are in the buffer then.

        Raises:
            RuntimeError: If the environment failed in the process, with its message, or
                the process died. Steps made before are counted first.
        """
        if self._process is None:
            self._start(None)
        self._grant(0)
        while self._failure is None and (not self._inbox or self._process.poll()):
            self._take(self._receive())
        if not self._inbox:
            self._counted = self._failure.counters
            raise RuntimeError(self._failure.text) from RuntimeError(
                self._failure.details
            )
        step = self._inbox.popleft()
        self._counted = step.counters
        self.weights.age = step.age
        self._grant(1)
        for result, episode in zip(step.results, step.episodes, strict=True):
            flat = TensorDict(episode, [result.length])
            self.replay_buffer.extend(flat.unflatten_keys("."))
            if self.curriculum is not None:  # kept up to date should the process die
                self.curriculum.end_episode(result)
        return step.results

    def _start(self, state: dict[str, Any] | None) -> None:
        if state is None and self.steps:
            raise RuntimeError(
                "expected a collecting process at work, got one that is closed; take "
                "its state before, or make another collector and load that."
            )
        reader = self.weights.reader()
        self._process = _Process(
            self.make_env, self.make_policy, reader, self._options, pickle.dumps(state)
        )
        self._owed = self.ahead - len(self._inbox)
        answer = self._receive()
        if isinstance(answer, _Failed):
            raise RunError(answer.text) from RuntimeError(answer.details)

    def _grant(self, steps: int) -> None:
        """Give credit, in portions: a pipe holds few messages that nobody reads.

        A portion is never more than `ahead`, so what is held back leaves at least one
        step made or under way: neither side can wait for the other.
        """
        self._owed += steps
        if self._owed >= max(1, self.ahead // 2):
            self._process.send("credit", self._owed)
            self._owed = 0

    def _receive(self) -> _Ready | _Step | _State | _Failed:
        message = self._process.receive()
        if message is None:
            text = self._process.obituary()
            return _Failed(self._reached, text, "no traceback is left")
        self._reached = message.counters
        return message

    def _take(self, message: _Step | _Failed) -> None:
        if isinstance(message, _Failed):
            self._failure = self._failure or message  # the first one is the cause
        else:
            self._inbox.append(message)

    def state_dict(self) -> dict[str, Any]:
        """State of the process, the steps that are not counted yet, and the count.

        The process is asked between two of its steps. If it has died, its state is that
        before the first step of the next episode.
        """
        process = None
        if self._process is not None:
            process = self._process_state()
        elif self.steps:
            self._start(None)  # raises
        return {
            "counters": list(self._counted),
            "process": process,
            "counted": self.curriculum and self.curriculum.state_dict(),
            "inbox": [
                {
                    "counters": list(step.counters),
                    "age": step.age,
                    "episodes": step.episodes,
                    "results": [list(vars(r).values()) for r in step.results],
                }
                for step in self._inbox
            ],
        }

    def _process_state(self) -> dict[str, Any]:
        self._process.send("state", None)
        while True:
            message = self._receive()
            if isinstance(message, _State):
                return message.collector
            self._take(message)
            if self._process.dead:
                break
        nothing = torch.zeros(0, self.policy.action_size)
        return {
            "steps": self._reached.steps,
            "in_flight": [
                {"number": number + 1, "options": None, "actions": nothing}
                for number in self._reached.episodes
            ],
            "policy": None,
            "curriculum": self.curriculum and self.curriculum.state_dict(),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Takes the count back and starts a process where the other one was.

        Raises:
            RunError: If the process cannot start or the environment does not repeat the
                episodes under way, as :meth:`EpisodeCollector.load_state_dict`.
        """
        self.close()
        self._counted = Counters(*state["counters"])
        self._inbox = deque(
            _Step(
                Counters(*entry["counters"]),
                entry["age"],
                entry["episodes"],
                [EpisodeResult(*values) for values in entry["results"]],
            )
            for entry in state["inbox"]
        )
        self._failure = None
        if self.curriculum is not None:
            self.curriculum.load_state_dict(state["counted"])
        self._start(state["process"])

    def abandon_episode(self) -> dict[str, np.ndarray]:
        """Gives up the episodes under way, as :class:`EpisodeCollector` does."""
        found = episodes_under_way(
            self._arrays, self._counted, self.seed, self.env_index
        )
        steps, episodes, t = self._counted
        self._counted = Counters(steps, tuple(n + 1 for n in episodes), len(t) * (-1,))
        return found

    def close(self) -> None:
        """Ends the process, if there is one."""
        if self._process is not None:
            self._process.end()
            self._process = None


@dataclass(frozen=True)
class _Ready:
    """The process has begun, where its counters say."""

    counters: Counters


@dataclass(frozen=True)
class _Step:
    """One step of the collector; of the episodes that it ended, what they hold.

    `age` is that of the weights; `episodes` holds entries by dotted name.
    """

    counters: Counters
    age: int
    episodes: list[dict[str, torch.Tensor]] = field(default_factory=list)
    results: list[EpisodeResult] = field(default_factory=list)


@dataclass(frozen=True)
class _State:
    """The state of the process's collector."""

    counters: Counters
    collector: dict[str, Any]


@dataclass(frozen=True)
class _Failed:
    """An error of the environment; no further step is made."""

    counters: Counters
    text: str
    details: str


class _Process:
    """A process that collects, and the learner's end of the connection to it."""

    def __init__(self, *setup: Any) -> None:
        context = torch.multiprocessing.get_context("spawn")
        connection, other = context.Pipe()
        process = context.Process(
            target=_collect, args=(other, *setup), name="collect", daemon=True
        )
        # Only a process that has started is asked for anything.
        with other, signals_held_back():
            process.start()
        self._connection, self._process = connection, process
        self.dead = False
        self.poll = connection.poll
        self.end = weakref.finalize(self, _end_process, connection, process)

    @property
    def pid(self) -> int:
        return self._process.pid

    def send(self, kind: str, value: Any) -> None:
        with contextlib.suppress(ConnectionError):  # it has died: reading tells
            _send(self._connection, (kind, value))

    def receive(self) -> Any:
        """The next message; None once the process has died."""
        try:
            return self._connection.recv()
        except (EOFError, ConnectionError):
            self.dead = True
            return None

    def obituary(self) -> str:
        """How it ended, in a sentence."""
        self._process.join(timeout=60)
        code = self._process.exitcode
        how = f"with exit status {code}"
        if code is not None and code < 0:
            how = f"by {signal.Signals(-code).name}"
        return (
            f"the collecting process was ended {how}, without a message of its own "
            "(killed, out of memory, or a simulator that crashed; at its start also a "
            'script without if __name__ == "__main__":).'
        )


def _end_process(connection: Connection, process: BaseProcess) -> None:
    """Close the learner's end, and kill a process that does not follow."""
    connection.close()  # the process sees it after the step that it is at
    process.join(timeout=5)
    if process.is_alive():
        process.kill()
        process.join()
    process.close()


def _send(connection: Connection, message: Any) -> None:
    """Send by value; torch would send tensors as files that end with the process."""
    connection.send_bytes(pickle.dumps(message, pickle.HIGHEST_PROTOCOL))


def _collect(
    connection: Connection,
    make_env: Callable[[], gymnasium.Env | VectorEnv],
    make_policy: Callable[..., RecurrentPolicy],
    reader: WeightReader,
    options: Mapping[str, Any],
    pickled_state: bytes,
) -> None:
    """Make the collector, take its state, and serve the learner until it hangs up."""
    torch.set_num_threads(1)
    outbox, state = _Outbox(), pickle.loads(pickled_state)
    # The learner may want no more, or be no more, at any time.
    with (
        contextlib.suppress(EOFError, ConnectionError),
        contextlib.ExitStack() as stack,
    ):
        try:
            env = make_env()
            stack.callback(env.close)
            policy = make_policy(*reader.modules)
            collector = EpisodeCollector(env, policy, outbox, **options)
            if state is not None:
                collector.load_state_dict(state)
        except Exception as error:
            _send(connection, _failed(error, Counters(0, (0,), (-1,))))
            return
        # A stream of its own for each start, as its state is not kept.
        entropy = [options["seed"], options["env_index"], collector.steps, 1]
        seed_generators(int(np.random.SeedSequence(entropy).generate_state(1)[0]))
        _send(connection, _Ready(collector.counters()))
        _serve(connection, reader, collector, outbox)


def _serve(
    connection: Connection,
    reader: WeightReader,
    collector: EpisodeCollector,
    outbox: _Outbox,
) -> None:
    """Answer `("credit", steps)` by steps, `("state", None)` by the state."""
    credit, failed = 0, False
    while True:
        while failed or credit == 0 or connection.poll():
            kind, value = connection.recv()
            if kind == "credit":
                credit += value
            else:
                state = collector.state_dict()
                _send(connection, _State(collector.counters(), state))
        credit -= 1
        try:
            age = reader.load()
            results = collector.step()
        except Exception as error:
            _send(connection, _failed(error, collector.counters()))
            collector.abandon_episode()
            failed = True
        else:
            episodes = outbox.take()
            _send(connection, _Step(collector.counters(), age, episodes, results))


def _failed(error: Exception, counters: Counters) -> _Failed:
    text = str(error).strip() or type(error).__name__
    return _Failed(counters, text, "".join(traceback.format_exception(error)))


class _Outbox:
    """Takes the place of the replay buffer, which only the learner writes."""

    def __init__(self) -> None:
        self._episodes: list[dict[str, torch.Tensor]] = []

    def extend(self, flat: TensorDict) -> None:
        self._episodes.append({k: v.clone() for k, v in flat.flatten_keys(".").items()})

    def take(self) -> list[dict[str, torch.Tensor]]:
        episodes, self._episodes = self._episodes, []
        return episodes
