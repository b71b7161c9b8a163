"""Collecting whole episodes from one environment into the replay buffer."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from typing import Any

import gymnasium
import numpy as np
import torch
from gymnasium.vector import AutoresetMode, VectorEnv
from torchrl.data import ReplayBuffer

from resel_torchrl.collect.acting import RecurrentPolicy, VectorPolicy
from resel_torchrl.collect.curriculum import Curriculum
from resel_torchrl.collect.episode import (
    Counters,
    EpisodeResult,
    another_episode,
    check_memory,
    check_same,
    episode_seed,
    read_measures,
    read_vector_measures,
    store_episode,
    too_long,
)

__all__ = [
    "Collector",
    "RandomStart",
    "VectorCollector",
]


class Collector:
    """Steps one environment and hands each finished episode to the replay buffer whole.

    The first `random_steps` steps take uniformly random actions; the episode under way
    at that point is finished the same way. Later episodes begin with 0 to
    `random_start_steps` random actions, a number drawn uniformly, which the policy
    watches. Episode i starts from `episode_seed(seed, env_index, i)`.

    Args:
        env: Gymnasium environment: float32 observations; actions in [−1, 1], or
            discrete.
        policy: Acts, after the random phase.
        replay_buffer: Gets one `extend` per episode.
        horizon: Longest episode, in steps.
        seed: Seed of the run.
        random_steps: Steps of the random phase.
        random_start_steps: Most random steps at the start of each episode after it.
        env_index: Number of this environment within the run.
        store_memory: Whether to store, under the encoder's `state_key`, its memory
            before each step: zeros at an episode's first. In the random phase the
            encoder then watches, so that its memory is there too.
        curriculum: Gives the options of each episode's `reset`; none without.

    Raises:
        ValueError: If the memory of an encoder without one is to be stored.

    >>> from torchrl.data import LazyTensorStorage, TensorDictReplayBuffer
    >>> from resel_torchrl.envs import make_gym
    >>> from resel_torchrl.collect import RecurrentPolicy
    >>> from resel_torchrl.modules import make_agent
    >>> agent = make_agent(1, 1, core="gru", hidden_size=8, n_critics=2)
    >>> policy = RecurrentPolicy(agent.actor_encoder, agent.actor, 1, 1)
    >>> buffer = TensorDictReplayBuffer(storage=LazyTensorStorage(1000))
    >>> env = make_gym("Pendulum-V-v0")
    >>> collector = Collector(env, policy, buffer, horizon=200, seed=0, random_steps=1)
    >>> results = [collector.step() for _ in range(200)]
    >>> results[-1].length, len(buffer), collector.in_random_phase
    (200, 200, False)
    """

    copies = 1  # environment steps that one call makes

    def __init__(
        self,
        env: gymnasium.Env,
        policy: RecurrentPolicy,
        replay_buffer: ReplayBuffer,
        *,
        horizon: int,
        seed: int,
        random_steps: int = 0,
        random_start_steps: int = 0,
        env_index: int = 0,
        store_memory: bool = False,
        curriculum: Curriculum | None = None,
    ) -> None:
        self.env = env
        self.policy = policy
        self.replay_buffer = replay_buffer
        self.horizon = horizon
        self.seed = seed
        self.env_index = env_index
        self.random_steps = random_steps
        self.random_start_steps = random_start_steps
        self.curriculum = curriculum
        self.steps = 0
        self.episodes = 0
        self._observations = np.zeros((horizon + 1, policy.observation_size), "f4")
        self._actions = np.zeros((horizon, policy.action_size), "f4")
        self._rewards = np.zeros(horizon, "f4")
        if store_memory:
            check_memory(policy.encoder)
            self._memories = np.zeros((horizon, policy.encoder.state_size), "f4")
        self.store_memory = store_memory
        self._return = 0.0
        self._t = -1  # no episode under way
        self._random = RandomStart(seed)

    @property
    def in_random_phase(self) -> bool:
        """Whether the next step is of the random phase; an episode's start decides.

        Random starts do not count.
        """
        return self.steps - max(self._t, 0) < self.random_steps

    @property
    def curriculum_measures(self) -> tuple[str, ...]:
        """What the result of an episode holds beside the environment's measures."""
        return () if self.curriculum is None else (self.curriculum.name,)

    def step(self) -> EpisodeResult | None:
        """Makes one environment step.

        Returns:
            The episode, if this step ended it; it is in the buffer then.

        Raises:
            RuntimeError: If the episode is longer than `horizon`.
            FloatingPointError: If the environment gave a value that is not finite.
        """
        if self._t < 0:
            self._start()
        t = self._t
        if t >= self.horizon:
            raise too_long(self.horizon)
        if self.store_memory:
            self._memories[t] = self.policy.memory[0] if t else 0.0
        at_random = t < self._random.steps
        watching = self.store_memory or not self._random.whole
        if watching:
            reward = self._rewards[t - 1] if t else None
            action = self.policy.act(
                self._observations[t],
                reward,
                first=t == 0,
                deterministic=True if at_random else None,  # which draws nothing
            )
        if at_random:
            action = self._random.action(self.policy)
            if watching:
                self.policy.replace_action(action)
        observation, reward, terminated, truncated, info = self.env.step(
            self.policy.to_env(action)
        )
        self._actions[t] = action
        self._observations[t + 1] = observation
        self._rewards[t] = reward
        self._return += float(reward)
        self._t += 1
        self.steps += 1
        if not (terminated or truncated):
            return None
        return self._finish(terminated, truncated, read_measures(info))

    def _start(self) -> None:
        seed = episode_seed(self.seed, self.env_index, self.episodes)
        whole = self.steps < self.random_steps
        self._random = RandomStart(seed, self.random_start_steps, whole=whole)
        options = None
        if self.curriculum is not None:
            options = self.curriculum.begin_episode(self.steps)
        self._observations[0], _ = self.env.reset(seed=seed, options=options)
        self._return = 0.0
        self._t = 0

    def _finish(
        self, terminated: bool, truncated: bool, measures: dict[str, float]
    ) -> EpisodeResult:
        length = self._t
        memories = None
        if self.store_memory:
            memories = {self.policy.encoder.state_key: self._memories[:length]}
        store_episode(
            self.replay_buffer,
            self._observations[: length + 1],
            self._actions[:length],
            self._rewards[:length],
            terminated,
            truncated,
            episode_seed(self.seed, self.env_index, self.episodes),
            memories,
        )
        self.episodes += 1
        self._t = -1
        result = EpisodeResult(self._return, length, measures)
        if self.curriculum is not None:
            value = float(self.curriculum.value)
            self.curriculum.end_episode(result)
            measures[self.curriculum.name] = value
        return result

    def counters(self) -> Counters:
        """Where it is; `t` is −1 between two episodes."""
        return Counters(self.steps, self.episodes, self._t)

    def share_memory(self) -> dict[str, torch.Tensor]:
        """Moves the arrays of the episode under way to memory that processes share.

        Returns:
            The arrays, for the :meth:`attach` of a collector in another process.
        """
        names = ["_observations", "_actions", "_rewards"]
        names += ["_memories"] if self.store_memory else []
        shared = {
            name: torch.from_numpy(getattr(self, name)).share_memory_()
            for name in names
        }
        self.attach(shared)
        return shared

    def attach(self, shared: Mapping[str, torch.Tensor]) -> None:
        """Keeps the episode under way in the arrays that another collector shares."""
        for name, array in shared.items():
            setattr(self, name, array.numpy())

    def close(self) -> None:
        """Closes the environment."""
        self.env.close()

    def abandon_episode(self) -> dict[str, np.ndarray]:
        """Gives up the episode under way; the next step starts another.

        Returns:
            What there was of it: `seed`, `observations`, `actions`, `rewards`.
        """
        length = max(self._t, 0)
        seed = episode_seed(self.seed, self.env_index, self.episodes)
        self.episodes += 1
        self._t = -1
        return {
            "seed": np.array(seed),
            "observations": self._observations[: length + 1].copy(),
            "actions": self._actions[:length].copy(),
            "rewards": self._rewards[:length].copy(),
        }

    def state_dict(self) -> dict[str, Any]:
        """Counters, the policy's memory and the episode under way as its actions.

        Memories to store are part of it: they cannot be had again once the weights have
        changed.
        """
        length = max(self._t, 0)
        stored = {}
        if self.store_memory:
            stored["memories"] = torch.from_numpy(self._memories[:length].copy())
        if self.curriculum is not None:
            stored["curriculum"] = self.curriculum.state_dict()
        return stored | {
            "steps": self.steps,
            "episodes": self.episodes,
            "under_way": self._t >= 0,
            "random": self._random.whole,
            "actions": torch.from_numpy(self._actions[:length].copy()),
            "policy": self.policy.state_dict(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Takes the counters back and replays the episode under way.

        Raises:
            RunError: If the environment ends the replayed episode early or shows other
                observations: it is another one, or no function of seed and actions.
        """
        self.episodes = state["episodes"]
        self._t = -1
        if self.curriculum is not None:
            self.curriculum.load_state_dict(state["curriculum"])
        actions = state["actions"].numpy()
        if state["under_way"]:
            # Whether it is random was decided by the number of steps at its start.
            self.steps = state["steps"] - len(actions)
            self._start()
            self._random.skip(self.policy, len(actions))
            for t, action in enumerate(actions):
                observation, reward, terminated, truncated, _ = self.env.step(
                    self.policy.to_env(action)
                )
                self._actions[t] = action
                self._observations[t + 1] = observation
                self._rewards[t] = reward
                self._return += float(reward)
                self._t += 1
                if terminated or truncated:
                    raise another_episode(
                        f"it ended at step {self._t} of {len(actions)}"
                    )
            if len(actions) and not self._random.whole:
                had = state["policy"]["observation"][0].numpy()
                last = len(actions) - 1
                check_same(had, self._observations[last], last)
        if self.store_memory:
            self._memories[: len(actions)] = state["memories"].numpy()
        self.steps = state["steps"]
        self.policy.load_state_dict(state["policy"])


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
    >>> from resel_torchrl.modules import make_agent
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


class RandomStart:
    """How many actions of an episode are random, and the generator that draws them.

    Random starts show what follows where the policy no longer goes by itself; for Atari
    they were 30 idle steps at most (Mnih et al. 2015, extended data table 1).

    Args:
        seed: Seed of the episode.
        most: The number of random steps is uniform over 0, …, `most`.
        whole: Whether all steps are random in place of that.

    Attributes:
        steps: Steps, from the first, that take a random action.
        whole: Whether these are all.

    >>> start = RandomStart(seed=0, most=9)
    >>> start.steps, start.whole, RandomStart(seed=0, most=0).steps
    (5, False, 0)
    """

    def __init__(self, seed: int, most: int = 0, *, whole: bool = False) -> None:
        self.whole = whole
        # Not the stream from which the environment draws, at its reset, with this seed.
        stream = seed if whole else [seed, 1]
        self._generator = np.random.default_rng(stream) if whole or most else None
        if whole:
            self.steps = sys.maxsize
        else:
            self.steps = int(self._generator.integers(most + 1)) if most else 0

    def action(self, policy: RecurrentPolicy) -> np.ndarray:
        """The next random action, `[action_size]`."""
        return policy.random_action(self._generator)

    def skip(self, policy: RecurrentPolicy, steps: int) -> None:
        """Draws what an episode of so many steps has drawn."""
        for _ in range(min(steps, self.steps)):
            self.action(policy)
