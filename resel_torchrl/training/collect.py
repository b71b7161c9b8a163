"""Collecting whole episodes from one environment into the replay buffer."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import gymnasium
import numpy as np
import torch
from torchrl.data import ReplayBuffer

from resel_torchrl.training.acting import RecurrentPolicy
from resel_torchrl.training.curriculum import Curriculum
from resel_torchrl.training.episode import (
    Counters,
    EpisodeResult,
    another_episode,
    check_memory,
    check_same,
    episode_seed,
    read_measures,
    store_episode,
    too_long,
)
from resel_torchrl.training.random_start import RandomStart

__all__ = ["Collector"]


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
    >>> from resel_torchrl.training import RecurrentPolicy, make_agent
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
