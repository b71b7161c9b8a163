"""What the collecting process does: it steps while it has credit, and reports."""

from __future__ import annotations

import pickle
import traceback
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from typing import Any

import gymnasium
import numpy as np
import torch
from tensordict import TensorDict

from resel_torchrl.training.acting import RecurrentPolicy
from resel_torchrl.training.collect import Collector
from resel_torchrl.training.episode import Counters, EpisodeResult
from resel_torchrl.training.generators import seed_generators
from resel_torchrl.training.shared_weights import WeightReader

__all__ = [
    "Failed",
    "Ready",
    "State",
    "Step",
    "collect",
    "end_process",
    "send",
]


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
