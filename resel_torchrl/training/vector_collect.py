"""Collecting whole episodes from several environments that are stepped together."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from gymnasium.vector import AutoresetMode, VectorEnv
from torchrl.data import ReplayBuffer

from resel_torchrl.training.episode import (
    EpisodeResult,
    another_episode,
    check_memory,
    check_same,
    episode_seed,
    read_vector_measures,
    store_episode,
    too_long,
)
from resel_torchrl.training.random_start import RandomStart
from resel_torchrl.training.vector_acting import VectorPolicy

__all__ = ["VectorCollector"]


class VectorCollector:
    """Steps N environments together; each episode goes to the replay buffer whole.

    One :meth:`step` makes N environment steps. Episode i of environment k starts from
    `episode_seed(seed, k, i)`, so what an environment shows does not depend on how long
    the episodes of the others are. Which episodes take random actions is decided at
    their start, by the number of steps made: each environment finishes its random
    episode at random, then acts.

    Args:
        envs: Environments that are not reset by themselves
            (:func:`resel_torchrl.envs.vectorize`), each as for
            :class:`~resel_torchrl.training.Collector`.
        policy: Acts, after the random phase; for as many environments.
        replay_buffer: Gets one `extend` per episode, in the order in which they end
            and, of those that end together, of the environments.
        horizon: Longest episode, in steps.
        seed: Seed of the run.
        random_steps: Steps of the random phase, over all environments.
        random_start_steps: As of :class:`~resel_torchrl.training.Collector`.
        store_memory: As of :class:`~resel_torchrl.training.Collector`.

    Raises:
        ValueError: If the environments reset themselves, the policy is for another
            number of them, or an encoder without memory is to have it stored.

    >>> import functools
    >>> from torchrl.data import LazyTensorStorage, TensorDictReplayBuffer
    >>> from resel_torchrl.envs import make_gym, vectorize
    >>> from resel_torchrl.training import make_agent
    >>> agent = make_agent(1, 1, core="gru", hidden_size=8, n_critics=2)
    >>> policy = VectorPolicy(agent.actor_encoder, agent.actor, 1, 1, copies=2)
    >>> envs = vectorize([functools.partial(make_gym, "Pendulum-V-v0")] * 2)
    >>> buffer = TensorDictReplayBuffer(storage=LazyTensorStorage(1000))
    >>> collector = VectorCollector(envs, policy, buffer, horizon=200, seed=0)
    >>> results = [collector.step() for _ in range(200)]
    >>> [result.length for result in results[-1]], collector.steps, len(buffer)
    ([200, 200], 400, 400)
    """

    def __init__(
        self,
        envs: VectorEnv,
        policy: VectorPolicy,
        replay_buffer: ReplayBuffer,
        *,
        horizon: int,
        seed: int,
        random_steps: int = 0,
        random_start_steps: int = 0,
        store_memory: bool = False,
    ) -> None:
        mode = envs.metadata.get("autoreset_mode")
        if mode != AutoresetMode.DISABLED:
            raise ValueError(
                "expected environments with AutoresetMode.DISABLED, as their episodes "
                f"get their seeds here, got {mode}; make them with "
                "resel_torchrl.envs.vectorize."
            )
        if policy.copies != envs.num_envs:
            raise ValueError(
                f"expected a policy for {envs.num_envs} environments, got one for "
                f"{policy.copies}; make it with copies={envs.num_envs}."
            )
        self.envs = envs
        self.policy = policy
        self.replay_buffer = replay_buffer
        self.horizon = horizon
        self.seed = seed
        self.random_steps = random_steps
        self.random_start_steps = random_start_steps
        self.copies = copies = envs.num_envs
        self.steps = 0
        self._episodes = np.zeros(copies, int)
        sizes = policy.observation_size, policy.action_size
        self._observations = np.zeros((copies, horizon + 1, sizes[0]), "f4")
        self._actions = np.zeros((copies, horizon, sizes[1]), "f4")
        self._rewards = np.zeros((copies, horizon), "f4")
        if store_memory:
            check_memory(policy.encoder)
            shape = copies, horizon, policy.encoder.state_size
            self._memories = np.zeros(shape, "f4")
        self.store_memory = store_memory
        self._returns = np.zeros(copies)
        self._t = np.full(copies, -1)  # no episode under way
        self._random = [RandomStart(seed) for _ in range(copies)]

    curriculum_measures = ()  # a stage would begin in the midst of the others' episodes

    @property
    def episodes(self) -> int:
        """Finished (or given up) episodes of all environments."""
        return int(self._episodes.sum())

    @property
    def in_random_phase(self) -> bool:
        """Whether any environment is in the random phase in the next step."""
        new = self._t < 0
        at_random = [random.whole for random in self._random]
        return any(at_random & ~new) or (
            self.steps < self.random_steps and bool(new.any())
        )

    def step(self) -> list[EpisodeResult]:
        """Makes one step of each environment.

        Returns:
            The episodes that it ended; they are in the buffer then.

        Raises:
            RuntimeError: If an episode is longer than `horizon`, or a process of the
                environments has died.
            FloatingPointError: If an environment gave a value that is not finite.
        """
        self._start(self._t < 0)
        if (self._t >= self.horizon).any():
            raise too_long(self.horizon)
        rows, t = np.arange(self.copies), self._t
        actions = self._act(rows, t)
        observations, rewards, terminated, truncated, infos = self.envs.step(
            self.policy.to_env(actions)
        )
        self._record(rows, actions, observations, rewards)
        self.steps += self.copies
        return [
            self._finish(
                i,
                bool(terminated[i]),
                bool(truncated[i]),
                read_vector_measures(infos, i),
            )
            for i in np.flatnonzero(terminated | truncated)
        ]

    def _start(self, new: np.ndarray) -> None:
        """Begins the next episode of the environments in the mask."""
        if not new.any():
            return
        seeds = [self._seed(i) if new[i] else None for i in range(self.copies)]
        observations, _ = self.envs.reset(seed=seeds, options={"reset_mask": new})
        whole, most = self.steps < self.random_steps, self.random_start_steps
        for i in np.flatnonzero(new):
            self._random[i] = RandomStart(seeds[i], most, whole=whole)
        self._observations[new, 0] = observations[new]
        self._returns[new] = 0.0
        self._t[new] = 0

    def _seed(self, i: int) -> int:
        """Seed of the episode that environment i is at, or begins next."""
        return episode_seed(self.seed, i, int(self._episodes[i]))

    def _act(self, rows: np.ndarray, t: np.ndarray) -> np.ndarray:
        """The actions `[N, action_size]`, random or the policy's."""
        at_random = all(random.whole for random in self._random)
        if self.store_memory:
            before = np.where(t[:, None] > 0, self.policy.memory, 0.0)
            self._memories[rows, t] = before
        if at_random and not self.store_memory:
            actions = np.empty((self.copies, self.policy.action_size), "f4")
        else:
            actions = self.policy.act(
                self._observations[rows, t],
                self._rewards[rows, np.maximum(t - 1, 0)],
                first=t == 0,
                deterministic=True if at_random else None,  # which draws nothing
            )
        for i, random in enumerate(self._random):
            if t[i] < random.steps:
                actions[i] = random.action(self.policy)
        if self.store_memory or not at_random:
            self.policy.replace_action(actions)
        return actions

    def _record(
        self,
        rows: np.ndarray,
        actions: np.ndarray,
        observations: np.ndarray,
        rewards: np.ndarray,
    ) -> None:
        """Takes down a step of the environments in `rows`; arguments are `[N, …]`."""
        t = self._t[rows]
        self._actions[rows, t] = actions[rows]
        self._observations[rows, t + 1] = observations[rows]
        self._rewards[rows, t] = rewards[rows]
        self._returns[rows] += rewards[rows]
        self._t[rows] += 1

    def _finish(
        self, i: int, terminated: bool, truncated: bool, measures: dict[str, float]
    ) -> EpisodeResult:
        length = int(self._t[i])
        memories = None
        if self.store_memory:
            memories = {self.policy.encoder.state_key: self._memories[i, :length]}
        store_episode(
            self.replay_buffer,
            self._observations[i, : length + 1],
            self._actions[i, :length],
            self._rewards[i, :length],
            terminated,
            truncated,
            self._seed(i),
            memories,
        )
        self._episodes[i] += 1
        self._t[i] = -1
        return EpisodeResult(float(self._returns[i]), length, measures)

    def close(self) -> None:
        """Closes the environments."""
        self.envs.close()

    def abandon_episode(self) -> dict[str, np.ndarray]:
        """Gives up the episodes under way; the next step starts others.

        All of them: an error of one does not tell whose it was, nor how far the others
        had come in that step.

        Returns:
            What there was of them, a row for each environment: `seed`, `length`,
            `observations`, `actions`, `rewards`, with zeros after the end.
        """
        lengths = np.maximum(self._t, 0)
        seeds = [self._seed(i) for i in range(self.copies)]
        longest = int(lengths.max())
        parts = {
            "observations": self._observations[:, : longest + 1].copy(),
            "actions": self._actions[:, :longest].copy(),
            "rewards": self._rewards[:, :longest].copy(),
        }
        for name, part in parts.items():
            for i, length in enumerate(lengths):
                part[i, length + (name == "observations") :] = 0.0
        self._episodes += 1
        self._t[:] = -1
        return {"seed": np.array(seeds), "length": lengths, **parts}

    def state_dict(self) -> dict[str, Any]:
        """Counters, the policy's memories and each episode under way as its actions."""
        lengths = np.maximum(self._t, 0)
        stored = {}
        if self.store_memory:
            stored["memories"] = [
                torch.from_numpy(self._memories[i, :length].copy())
                for i, length in enumerate(lengths)
            ]
        return stored | {
            "steps": self.steps,
            "episodes": self._episodes.tolist(),
            "under_way": (self._t >= 0).tolist(),
            "random": [random.whole for random in self._random],
            "actions": [
                torch.from_numpy(self._actions[i, :length].copy())
                for i, length in enumerate(lengths)
            ],
            "policy": self.policy.state_dict(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Takes the counters back and replays the episodes under way, all together.

        Raises:
            RunError: If an environment ends a replayed episode early or shows other
                observations: it is another one, or no function of seed and actions.
        """
        self.steps = state["steps"]
        self._episodes[:] = state["episodes"]
        self._t[:] = -1
        actions = [part.numpy() for part in state["actions"]]
        under_way = np.array(state["under_way"])
        if under_way.any():
            self._replay(actions, under_way)
        for i, at_random in enumerate(state["random"]):
            # As _start decided it, which _replay could not know.
            seed, most = self._seed(i), self.random_start_steps
            self._random[i] = RandomStart(seed, most, whole=at_random)
            self._random[i].skip(self.policy, len(actions[i]))
            if len(actions[i]) and not at_random:
                had = state["policy"]["observation"][i].numpy()
                last = len(actions[i]) - 1
                check_same(had, self._observations[i, last], last)
        if self.store_memory:
            for i, memories in enumerate(state["memories"]):
                self._memories[i, : len(memories)] = memories.numpy()
        self.policy.load_state_dict(state["policy"])

    def _replay(self, actions: Sequence[np.ndarray], under_way: np.ndarray) -> None:
        """Brings each environment to where its actions lead from its seed.

        They can only be stepped together, and are to be there together: one with fewer
        actions waits, in episodes that count for nothing, and starts anew in time.
        """
        lengths = np.array([len(part) for part in actions])
        longest = int(lengths.max())
        self._start(np.ones(self.copies, bool))
        ended = np.zeros(self.copies, bool)
        batch = np.zeros((self.copies, self.policy.action_size), "f4")
        for step in range(longest):
            own = step - (longest - lengths)  # below 0 it waits
            self._start(ended | (own == 0) if step else ended)
            for i in np.flatnonzero(own >= 0):
                batch[i] = actions[i][own[i]]
            observations, rewards, terminated, truncated, _ = self.envs.step(
                self.policy.to_env(batch)
            )
            ended = terminated | truncated
            self._record(np.flatnonzero(own >= 0), batch, observations, rewards)
            for i in np.flatnonzero(ended & (own >= 0)):
                raise another_episode(f"it ended at step {own[i] + 1} of {lengths[i]}")
        self._t[~under_way] = -1
