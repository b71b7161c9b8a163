"""Collecting in a process of its own, seen from the process that learns."""

from __future__ import annotations

import contextlib
import copy
import pickle
import signal
import time
import traceback
import weakref
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from typing import Any

import gymnasium
import numpy as np
import torch
from tensordict import TensorDict
from torch import nn
from torchrl.data import ReplayBuffer

from resel_torchrl._random import seed_generators
from resel_torchrl.collect.acting import RecurrentPolicy, states_on_cpu
from resel_torchrl.collect.curriculum import Curriculum
from resel_torchrl.collect.episode import Counters, EpisodeResult
from resel_torchrl.collect.episode_collector import Collector
from resel_torchrl.envs._support import signals_held_back
from resel_torchrl.errors import RunError

__all__ = [
    "Failed",
    "ProcessCollector",
    "Ready",
    "SharedWeights",
    "State",
    "Step",
    "WeightReader",
    "collect",
    "end_process",
    "send",
]


class ProcessCollector(Collector):
    """A collector whose steps are made by another process, beside the updates.

    :meth:`step` counts one environment step, waiting for it if need be, so whatever is
    done per counted step (updates, rows of the log, evaluations) is as exact as with a
    :class:`Collector` in the same process. The process may be ahead of the count; with
    `made` for the steps that it has made, at all times

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
        horizon: Longest episode, in steps.
        seed: Seed of the run.
        random_steps: Steps of the random phase.
        random_start_steps: As of :class:`Collector`.
        env_index: Number of this environment within the run.
        ahead: Steps that the process may be ahead.
        store_memory: As of :class:`Collector`.
        curriculum: Likewise; it goes on in the process.

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
    >>> results = [collector.step() for _ in range(200)]
    >>> results[-1].length, collector.steps, len(collector.replay_buffer)
    (200, 200, 200)
    >>> collector.close()
    """

    def __init__(
        self,
        make_env: Callable[[], gymnasium.Env],
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
        options = {
            "horizon": horizon,
            "seed": seed,
            "random_steps": random_steps,
            "random_start_steps": random_start_steps,
            "env_index": env_index,
            "store_memory": store_memory,
            "curriculum": curriculum,
        }
        policy = make_policy(*weights.copies)
        super().__init__(None, policy, replay_buffer, **options)
        self.weights = weights
        self.ahead = ahead
        self._setup = (
            *(make_env, make_policy, weights.reader()),
            *(self.share_memory(), options),
        )
        self._connection: Connection | None = None
        self._process: BaseProcess | None = None
        self._inbox: deque[Step] = deque()  # made and not yet counted
        self._failure: Failed | None = None  # comes after the steps of the inbox
        self._reached = Counters(0, 0, -1)  # of the process, as far as is known
        self._owed = 0
        self._dead = False

    def step(self) -> EpisodeResult | None:
        """Counts one environment step, waiting for it if it is not made yet.

        Returns:
            The episode, if this step ended it; it is in the buffer then.

        Raises:
            RuntimeError: If the environment failed in the process, with its message, or
                the process died. Steps made before are counted first.
        """
        if self._process is None:
            self._start(None)
        self._grant(0)
        while self._failure is None and (not self._inbox or self._connection.poll()):
            self._take(self._receive())
        if not self._inbox:
            self.steps, self.episodes, self._t = self._failure.counters
            raise RuntimeError(self._failure.text) from RuntimeError(
                self._failure.details
            )
        step = self._inbox.popleft()
        self.steps, self.episodes, self._t = step.counters
        self.weights.age = step.age
        self._grant(1)
        if step.episode is not None:
            flat = TensorDict(step.episode, [step.result.length])
            self.replay_buffer.extend(flat.unflatten_keys("."))
            if self.curriculum is not None:
                # Kept up to date for the day that the process has died.
                self.curriculum.end_episode(step.result)
        return step.result

    def _start(self, state: dict[str, Any] | None) -> None:
        if state is None and self.steps:
            raise RuntimeError(
                "expected a collecting process at work, got one that is closed; take "
                "its state before, or make another collector and load that."
            )
        context = torch.multiprocessing.get_context("spawn")
        connection, other = context.Pipe()
        process = context.Process(
            target=collect, args=(other, *self._setup), name="collect", daemon=True
        )
        # Only a process that has started is asked for anything.
        with other, signals_held_back():
            process.start()
        self._connection, self._process = connection, process
        self._finalizer = weakref.finalize(self, end_process, connection, process)
        self._owed = self.ahead - len(self._inbox)
        self._dead = False
        self._send("start", state)
        answer = self._receive()
        if not isinstance(answer, Ready):
            raise RunError(answer.text) from RuntimeError(answer.details)

    def _grant(self, steps: int) -> None:
        """Gives credit, in portions: a pipe holds few messages that nobody reads.

        A portion is never more than `ahead`, so what is held back leaves at least one
        step made or under way: neither side can wait for the other.
        """
        self._owed += steps
        if self._owed >= max(1, self.ahead // 2):
            self._send("credit", self._owed)
            self._owed = 0

    def _send(self, kind: str, value: Any) -> None:
        with contextlib.suppress(ConnectionError):  # it has died: reading tells
            send(self._connection, (kind, value))

    def _receive(self) -> Ready | Step | State | Failed:
        try:
            message = self._connection.recv()
        except (EOFError, ConnectionError):
            self._dead = True
            return Failed(self._reached, self._obituary(), "no traceback is left")
        self._reached = message.counters
        return message

    def _obituary(self) -> str:
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

    def _take(self, message: Step | Failed) -> None:
        if isinstance(message, Failed):
            self._failure = self._failure or message  # the first one is the cause
        else:
            self._inbox.append(message)

    def state_dict(self) -> dict[str, Any]:
        """State of the process, the steps that are not counted yet, and the count.

        The process is asked between two of its steps. If it has died, its state is that
        before the first step of the next episode.
        """
        return {
            "counters": list(self.counters()),
            "process": self._process_state(),
            "counted": self.curriculum and self.curriculum.state_dict(),
            "inbox": [
                {
                    "counters": list(step.counters),
                    "age": step.age,
                    "episode": step.episode,
                    "result": step.result and list(vars(step.result).values()),
                }
                for step in self._inbox
            ],
        }

    def _process_state(self) -> dict[str, Any] | None:
        if self._process is None:
            if self.steps:
                self._start(None)  # raises
            return None
        self._send("state", None)
        while not self._dead:
            message = self._receive()
            if isinstance(message, State):
                return message.collector
            self._take(message)
        self._t, t = -1, self._t
        state = super().state_dict()
        self._t = t
        steps, episodes, _ = self._reached
        return state | {"steps": steps, "episodes": episodes + 1}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Takes the count back and starts a process where the other one was.

        Raises:
            RunError: If the process cannot start or the environment does not repeat the
                episode under way, as :meth:`Collector.load_state_dict`.
        """
        self.close()
        self.steps, self.episodes, self._t = state["counters"]
        self._inbox = deque(
            Step(
                Counters(*entry["counters"]),
                entry["age"],
                entry["episode"],
                entry["result"] and EpisodeResult(*entry["result"]),
            )
            for entry in state["inbox"]
        )
        self._failure = None
        if self.curriculum is not None:
            self.curriculum.load_state_dict(state["counted"])
        self._start(state["process"])

    def close(self) -> None:
        """Ends the process, if there is one."""
        if self._process is not None:
            self._finalizer()
            self._process = self._connection = None


@dataclass(frozen=True)
class Ready:
    """The process has begun, where its counters say."""

    counters: Counters


@dataclass(frozen=True)
class Step:
    """One environment step; of the last one of an episode, the episode.

    `age` is that of the weights; `episode` holds entries by dotted name.
    """

    counters: Counters
    age: int
    episode: dict[str, torch.Tensor] | None = None
    result: EpisodeResult | None = None


@dataclass(frozen=True)
class State:
    """The state of the process's collector."""

    counters: Counters
    collector: dict[str, Any]


@dataclass(frozen=True)
class Failed:
    """An error of the environment; no further step is made."""

    counters: Counters
    text: str
    details: str


def send(connection: Connection, message: Any) -> None:
    """Sends by value; torch would send tensors as files that end with the process."""
    connection.send_bytes(pickle.dumps(message, pickle.HIGHEST_PROTOCOL))


class _Outbox:
    """Takes the place of the replay buffer, which only the learner writes."""

    episode: dict[str, torch.Tensor] | None = None

    def extend(self, flat: TensorDict) -> None:
        self.episode = {k: v.clone() for k, v in flat.flatten_keys(".").items()}

    def take(self) -> dict[str, torch.Tensor] | None:
        episode, self.episode = self.episode, None
        return episode


def collect(
    connection: Connection,
    make_env: Callable[[], gymnasium.Env],
    make_policy: Callable[..., RecurrentPolicy],
    reader: WeightReader,
    memory: Mapping[str, torch.Tensor],
    options: Mapping[str, Any],
) -> None:
    """Serves the learner until it closes its end of the connection.

    The learner sends `("start", state)` once, then `("credit", steps)` and
    `("state", None)`. The newest weights are loaded before each step.

    Args:
        connection: This process's end.
        make_env: Makes the environment.
        make_policy: Makes the policy from the reader's modules.
        reader: The learner's weights.
        memory: The learner's arrays for the episode under way.
        options: Arguments of :class:`~resel_torchrl.training.Collector`.
    """
    torch.set_num_threads(1)
    worker = _Worker(connection, reader)
    try:
        _, state = connection.recv()
        if worker.begins(make_env, make_policy, memory, options, state):
            while True:
                worker.answer_until_credit()
                worker.step()
    except (EOFError, ConnectionError):
        pass  # the learner wants no more, or is no more
    finally:
        worker.close()


class _Worker:
    def __init__(self, connection: Connection, reader: WeightReader) -> None:
        self.connection = connection
        self.reader = reader
        self.outbox = _Outbox()
        self.collector: Collector | None = None
        self.credit = 0
        self.failed = False

    def begins(
        self,
        make_env: Callable[[], gymnasium.Env],
        make_policy: Callable[..., RecurrentPolicy],
        memory: Mapping[str, torch.Tensor],
        options: Mapping[str, Any],
        state: dict[str, Any] | None,
    ) -> bool:
        """Makes the collector and takes its state; tells whether it could."""
        try:
            policy = make_policy(*self.reader.modules)
            self.collector = Collector(make_env(), policy, self.outbox, **options)
            self.collector.attach(memory)
            if state is not None:
                self.collector.load_state_dict(state)
        except Exception as error:
            self.report(error, Counters(0, 0, -1))
            return False
        # A stream of its own for each start, as its state is not kept.
        entropy = [options["seed"], options["env_index"], self.collector.steps, 1]
        seed_generators(int(np.random.SeedSequence(entropy).generate_state(1)[0]))
        send(self.connection, Ready(self.collector.counters()))
        return True

    def answer_until_credit(self) -> None:
        """Takes messages; returns once there is credit and no message is left."""
        while self.failed or self.credit == 0 or self.connection.poll():
            kind, value = self.connection.recv()
            if kind == "credit":
                self.credit += value
            else:
                counters = self.collector.counters()
                send(self.connection, State(counters, self.collector.state_dict()))

    def step(self) -> None:
        self.credit -= 1
        try:
            age = self.reader.load()
            result = self.collector.step()
        except Exception as error:
            self.report(error, self.collector.counters())
            self.collector.abandon_episode()
            self.failed = True
            return
        counters = self.collector.counters()
        send(self.connection, Step(counters, age, self.outbox.take(), result))

    def report(self, error: Exception, counters: Counters) -> None:
        text = str(error).strip() or type(error).__name__
        details = "".join(traceback.format_exception(error))
        send(self.connection, Failed(counters, text, details))

    def close(self) -> None:
        if self.collector is not None:
            self.collector.close()


def end_process(connection: Connection, process: BaseProcess) -> None:
    """Closes the learner's end, and kills a process that does not follow."""
    connection.close()  # the process sees it after the step that it is at
    process.join(timeout=5)
    if process.is_alive():
        process.kill()
        process.join()
    process.close()


# Places in the shared numbers: a count that is odd while weights are being written,
# the update they are of, the updates made.
VERSION, PUBLISHED, UPDATES = range(3)


class SharedWeights:
    """Copies on the CPU, in shared memory, of modules that learn in this process.

    Publishing copies the weights where the readers see them; nothing is pickled.
    A reader (:meth:`reader`) never acts on weights that are more than `every` updates
    old, nor on weights of which it saw one half before and one after a publication: a
    version counter tells.

    Args:
        sources: Modules that learn, on any device.
        every: Updates between two publications.

    Attributes:
        copies: The modules in shared memory.
        age: Updates between the weights behind the last counted step and that step;
            the collector writes it.

    >>> source = nn.Linear(1, 1)
    >>> weights = SharedWeights([source], every=2)
    >>> reader = weights.reader()
    >>> _ = source.weight.data.add_(1.0)
    >>> weights.updated()
    >>> reader.load(), torch.equal(source.weight, reader.modules[0].weight)
    (1, False)
    >>> weights.updated()
    >>> reader.load(), torch.equal(source.weight, reader.modules[0].weight)
    (0, True)
    """

    def __init__(self, sources: Sequence[nn.Module], every: int) -> None:
        self.sources = list(sources)
        self.copies = [
            copy.deepcopy(source).to("cpu").requires_grad_(False).share_memory()
            for source in self.sources
        ]
        self.every = every
        self.age = 0
        self._numbers = torch.zeros(3, dtype=torch.int64).share_memory_()

    def reader(self) -> WeightReader:
        """What the collecting process reads with; it can be sent to a new process."""
        return WeightReader(self.copies, self._numbers)

    def updated(self) -> None:
        """Counts an update of the sources, and publishes them if it is time."""
        self._numbers[UPDATES] += 1
        if self._numbers[UPDATES] - self._numbers[PUBLISHED] >= self.every:
            self.publish()

    def publish(self) -> None:
        """Copies the weights as they are now to where readers see them."""
        states = states_on_cpu(self.sources)  # may wait, and readers need not
        self._numbers[VERSION] += 1
        for shared, state in zip(self.copies, states, strict=True):
            shared.load_state_dict(state)
        self._numbers[PUBLISHED] = self._numbers[UPDATES]
        self._numbers[VERSION] += 1

    def state_dict(self) -> dict[str, Any]:
        """The age; the copies are made anew on resume."""
        return {"age": self.age}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Takes the age back and publishes the sources, which are loaded before."""
        self.age = state["age"]
        self.publish()


class WeightReader:
    """Modules of the collecting process, and the shared weights they are loaded from.

    Args:
        shared: Modules in shared memory.
        numbers: The counters beside them.

    Attributes:
        modules: Private copies to act with.

    >>> reader = SharedWeights([nn.Linear(1, 1)], every=1).reader()
    >>> reader.load()
    0
    """

    def __init__(self, shared: Sequence[nn.Module], numbers: torch.Tensor) -> None:
        self.modules = [copy.deepcopy(module) for module in shared]
        self._shared = list(shared)
        self._numbers = numbers
        self._held = 0  # version; 0 is the one that the copies were made of

    @torch.no_grad()
    def load(self) -> int:
        """Brings the private modules up to date.

        Returns:
            Updates made since these weights were published, at most `every`.

        Raises:
            TimeoutError: If no whole version can be read: the learner stopped in the
                middle of writing.
        """
        for _ in range(100_000):
            version = int(self._numbers[VERSION])
            if version % 2 == 0:
                if version != self._held:
                    for shared, module in zip(self._shared, self.modules, strict=True):
                        module.load_state_dict(shared.state_dict())
                age = int(self._numbers[UPDATES] - self._numbers[PUBLISHED])
                # Only if nothing was published meanwhile do weights and age belong
                # together; otherwise what was copied is copied again.
                if int(self._numbers[VERSION]) == version:
                    self._held = version
                    return age
            time.sleep(1e-4)
        raise TimeoutError(
            "expected weights from the learner, got none whole within 10 seconds; "
            "the learning process has died or was halted: end this one too."
        )
