"""Collecting whole episodes from N environments into the replay buffer."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import gymnasium
import numpy as np
import torch
from gymnasium.vector import VectorEnv
from torchrl.data import ReplayBuffer

from resel_torchrl.collect.acting import RecurrentPolicy
from resel_torchrl.collect.curriculum import Curriculum
from resel_torchrl.collect.env_batch import batched
from resel_torchrl.collect.episode import (
    Counters,
    EpisodeResult,
    episode_arrays,
    episode_seed,
    episodes_under_way,
    flat_episode,
    read_measures,
)
from resel_torchrl.errors import RunError

__all__ = ["EpisodeCollector", "RandomStart"]


class EpisodeCollector:
    """Steps N environments together; each episode goes to the replay buffer whole.

    One :meth:`step` makes N environment steps. Episode i of environment k starts from
    `episode_seed(seed, env_index + k, i)`, however long the episodes of the others are.

    An episode that begins within the first `random_steps` steps takes uniformly random
    actions to its end. Later ones begin with 0 to `random_start_steps` random actions,
    a number drawn uniformly, which the policy watches.

    Args:
        env: Gymnasium environment: float32 observations; actions in [−1, 1], or
            discrete. Or a vector of them that are not reset by themselves
            (:func:`resel_torchrl.envs.vectorize`).
        policy: Acts, after the random phase; for as many environments.
        replay_buffer: Gets one `extend` per episode, in the order in which they end
            and, of those that end together, of the environments.
        horizon: Longest episode, in steps.
        seed: Seed of the run.
        random_steps: Steps of the random phase, over all environments.
        random_start_steps: Most random steps at the start of each episode after it.
        env_index: Number of the first environment within the run.
        store_memory: Whether to store, under the encoder's `state_key`, its hidden
            state before each step: zeros at an episode's first. In the random phase the
            encoder then watches, so that its state is there too.
        curriculum: Gives the options of each episode's `reset`; none without.
        arrays: Where the episodes under way are kept; memory of its own by default.

    Attributes:
        steps: Environment steps made.

    Raises:
        ValueError: If the environments reset themselves, the policy is for another
            number of them, or the hidden state of an encoder without one is to be
            stored.

    >>> from torchrl.data import LazyTensorStorage, TensorDictReplayBuffer
    >>> from resel_torchrl.envs import make_gym
    >>> from resel_torchrl.modules import make_agent
    >>> agent = make_agent(1, 1, core="gru", hidden_size=8, n_critics=2)
    >>> policy = RecurrentPolicy(agent.actor_encoder, agent.actor, 1, 1)
    >>> buffer = TensorDictReplayBuffer(storage=LazyTensorStorage(1000))
    >>> env = make_gym("Pendulum-V-v0")
    >>> collector = EpisodeCollector(env, policy, buffer, horizon=200, seed=0)
    >>> ended = [result for _ in range(400) for result in collector.step()]
    >>> [result.length for result in ended], collector.steps, len(buffer)
    ([200, 200], 400, 400)
    """

    def __init__(
        self,
        env: gymnasium.Env | VectorEnv,
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
        arrays: Mapping[str, torch.Tensor] | None = None,
    ) -> None:
        self._envs = batched(env)
        if policy.num_envs != self._envs.num_envs:
            raise ValueError(
                f"expected a policy for {self._envs.num_envs} environments, got one "
                f"for {policy.num_envs}; make it with num_envs={self._envs.num_envs}."
            )
        self.env = env
        self.policy = policy
        self.num_envs = policy.num_envs
        self.replay_buffer = replay_buffer
        self.horizon = horizon
        self.seed = seed
        self.env_index = env_index
        self.random_steps = random_steps
        self.random_start_steps = random_start_steps
        self.store_memory = store_memory
        self.curriculum = curriculum
        self.steps = 0
        if arrays is None:
            arrays = episode_arrays(policy, horizon, store_memory=store_memory)
        self._arrays = arrays
        self._in_flight = [_Episode(arrays, i) for i in range(self.num_envs)]
        self._idle = list(range(self.num_envs))  # those whose next episode is to begin
        self._observations = np.zeros((self.num_envs, policy.observation_size), "f4")
        self._rewards = np.zeros(self.num_envs, "f4")

    @property
    def episodes(self) -> int:
        """Finished (or given up) episodes of all environments."""
        return sum(episode.number for episode in self._in_flight)

    @property
    def in_random_phase(self) -> bool:
        """Whether any environment is in the random phase in the next step.

        An episode's start decides. Random starts do not count.
        """
        return self.counters().in_random_phase(self.random_steps)

    @property
    def curriculum_measures(self) -> tuple[str, ...]:
        """What the result of an episode holds beside the environment's measures."""
        return () if self.curriculum is None else (self.curriculum.name,)

    def counters(self) -> Counters:
        """Where it is."""
        return Counters(
            self.steps,
            tuple(episode.number for episode in self._in_flight),
            tuple(episode.t for episode in self._in_flight),
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
        if self._idle:
            self._begin_episodes()
        in_flight, actions = self._in_flight, self._act()
        for i, episode in enumerate(in_flight):
            if episode.t >= self.horizon:
                raise RuntimeError(
                    f"expected episodes of at most {self.horizon} steps, got a longer "
                    "one; give the true horizon (env.horizon=NUMBER)."
                )
            episode.actions[episode.t] = actions[i]
        observations, rewards, terminated, truncated, infos = self._envs.step(
            self.policy.to_env(actions)
        )
        self.steps += self.num_envs
        for i, episode in enumerate(in_flight):
            episode.record(observations[i], rewards[i])
        return [
            self._finish(
                i, bool(terminated[i]), bool(truncated[i]), self._envs.info(infos, i)
            )
            for i in range(self.num_envs)
            if terminated[i] or truncated[i]
        ]

    def _begin_episodes(self) -> None:
        at_random = self.steps < self.random_steps
        options = None
        if self.curriculum is not None:
            options = self.curriculum.begin_episode(self.steps)
        for i in self._idle:
            self._prepare(i, at_random, options)
        self._reset(self._idle)
        self._idle = []

    def _prepare(self, i: int, at_random: bool, options: dict | None) -> None:
        """Decide what the next episode of environment `i` begins with."""
        episode, most = self._in_flight[i], self.random_start_steps
        episode.seed = episode_seed(self.seed, self.env_index + i, episode.number)
        episode.random = RandomStart(episode.seed, most, whole=at_random)
        episode.options = options

    def _reset(self, numbers: Iterable[int]) -> None:
        """Begin the episodes that these environments are prepared for."""
        in_flight = self._in_flight
        starts = {i: (in_flight[i].seed, in_flight[i].options) for i in numbers}
        for i, (observation, _) in self._envs.reset(starts).items():
            in_flight[i].begin(observation)
            self.policy.first[i] = True

    def _act(self) -> np.ndarray:
        """The actions `[N, action_size]`, random or the policy's."""
        episodes, policy = self._in_flight, self.policy
        at_random = [episode.t < episode.random.steps for episode in episodes]
        if not any(at_random):
            return self._policy_actions(None)
        watching = self.store_memory or not all(e.random.whole for e in episodes)
        if watching:  # where no action is taken, none is drawn
            actions = self._policy_actions(True if all(at_random) else None)
        else:
            actions = np.empty((self.num_envs, policy.action_size), "f4")
        for i, episode in enumerate(episodes):
            if at_random[i]:
                actions[i] = episode.random.action(policy)
        if watching:
            policy.replace_action(actions)
        return actions

    def _policy_actions(self, deterministic: bool | None) -> np.ndarray:
        if self.store_memory:
            for episode, memory in zip(
                self._in_flight, self.policy.memory, strict=True
            ):
                episode.memories[episode.t] = memory if episode.t else 0.0
        for i, episode in enumerate(self._in_flight):
            t = episode.t
            self._observations[i] = episode.observations[t]
            self._rewards[i] = episode.rewards[t - 1]  # not read where t is 0
        return self.policy.act(
            self._observations, self._rewards, deterministic=deterministic
        )

    def _finish(
        self, i: int, terminated: bool, truncated: bool, info: Mapping[str, Any]
    ) -> EpisodeResult:
        episode = self._in_flight[i]
        length = episode.t
        observations = episode.observations[: length + 1]
        rewards = episode.rewards[:length]
        for name, values in (("observation", observations), ("reward", rewards)):
            if not np.isfinite(values).all():
                raise FloatingPointError(
                    f"expected finite numbers from the environment, got a {name} that "
                    f"is not, in the episode from seed {episode.seed}."
                )
        memories = None
        if self.store_memory:
            memories = {self.policy.encoder.state_key: episode.memories[:length]}
        actions = episode.actions[:length]
        self.replay_buffer.extend(
            flat_episode(
                observations, actions, rewards, terminated, truncated, memories
            )
        )
        episode.give_up()
        self._idle.append(i)
        result = EpisodeResult(episode.total, length, read_measures(info))
        if self.curriculum is not None:
            value = float(episode.options[self.curriculum.option])
            result.measures[self.curriculum.name] = value
            self.curriculum.end_episode(result)
        return result

    def close(self) -> None:
        """Closes the environments."""
        self.env.close()

    def abandon_episode(self) -> dict[str, np.ndarray]:
        """Gives up the episodes under way; the next step starts others.

        All of them: an error of one does not tell whose it was, nor how far the others
        had come in that step.

        Returns:
            What there was of them: `seed`, `length`, `observations`, `actions`,
            `rewards`; of several environments a row for each, with zeros after its end.
        """
        found = episodes_under_way(
            self._arrays, self.counters(), self.seed, self.env_index
        )
        for episode in self._in_flight:
            episode.give_up()
        self._idle = list(range(self.num_envs))
        return found

    def state_dict(self) -> dict[str, Any]:
        """Counters, the policy's state and each episode under way as its actions.

        Hidden states to store are part of it: they cannot be had again once the weights
        have changed.
        """
        return {
            "steps": self.steps,
            "in_flight": [episode.state_dict() for episode in self._in_flight],
            "policy": self.policy.state_dict(),
            "curriculum": self.curriculum and self.curriculum.state_dict(),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Takes the counters back and replays the episodes under way.

        Raises:
            RunError: If an environment ends a replayed episode early or shows other
                observations: it is another one, or no function of seed and actions.
        """
        self.steps = state["steps"]
        if self.curriculum is not None:
            self.curriculum.load_state_dict(state["curriculum"])
        self._replay(state["in_flight"])
        if state["policy"] is None:
            self.policy.reset()
        else:
            self.policy.load_state_dict(state["policy"])

    def _replay(self, stored: Sequence[Mapping[str, Any]]) -> None:
        """Bring each environment to where its actions lead from its seed.

        They can only be stepped together, and are to be there together: one with fewer
        actions waits, in episodes that are not recorded, and begins its own in time.
        """
        lengths = [len(state["actions"]) for state in stored]
        longest = max(lengths)
        for i, state in enumerate(stored):
            self._in_flight[i].number = state["number"]
            at_random = self.steps - self.num_envs * lengths[i] < self.random_steps
            self._prepare(i, at_random, state["options"])
        actions = np.zeros((self.num_envs, self.policy.action_size), "f4")
        ended = [True] * self.num_envs
        for step in range(longest):
            own = [step - (longest - length) for length in lengths]  # below 0: waits
            begin = [i for i, t in enumerate(own) if ended[i] or t == 0]
            if begin:
                self._reset(begin)
            for i, t in enumerate(own):
                if t >= 0:
                    actions[i] = stored[i]["actions"][t]
            observations, rewards, terminated, truncated, _ = self._envs.step(
                self.policy.to_env(actions)
            )
            ended = [a or b for a, b in zip(terminated, truncated, strict=True)]
            for i, t in enumerate(own):
                if t >= 0:
                    self._in_flight[i].actions[t] = actions[i]
                    self._in_flight[i].record(observations[i], rewards[i])
                    if ended[i]:
                        what = f"it ended at step {t + 1} of {lengths[i]}"
                        raise _another_episode(what)
        for episode, state in zip(self._in_flight, stored, strict=True):
            episode.take_over(state, self.policy)
        self._idle = [i for i, length in enumerate(lengths) if not length]


class _Episode:
    """The episode under way of one environment, on its row of the arrays."""

    def __init__(self, arrays: Mapping[str, torch.Tensor], i: int) -> None:
        self.observations = arrays["observations"][i].numpy()
        self.actions = arrays["actions"][i].numpy()
        self.rewards = arrays["rewards"][i].numpy()
        memories = arrays.get("memories")
        self.memories = None if memories is None else memories[i].numpy()
        self.number = 0  # of the environment's episodes
        self.t = -1  # none under way
        self.total = 0.0
        self.seed = 0
        self.random = RandomStart(0)
        self.options: dict[str, Any] | None = None

    def begin(self, observation: np.ndarray) -> None:
        self.observations[0] = observation
        self.total, self.t = 0.0, 0

    def record(self, observation: np.ndarray, reward: float) -> None:
        t = self.t
        self.observations[t + 1] = observation
        self.rewards[t] = reward
        self.total += float(reward)
        self.t = t + 1

    def give_up(self) -> None:
        self.number += 1
        self.t = -1

    def state_dict(self) -> dict[str, Any]:
        length = max(self.t, 0)
        state = {
            "number": self.number,
            "options": self.options if length else None,
            "actions": torch.from_numpy(self.actions[:length].copy()),
            "observation": torch.from_numpy(self.observations[length].copy()),
        }
        if self.memories is not None:
            state["memories"] = torch.from_numpy(self.memories[:length].copy())
        return state

    def take_over(self, state: Mapping[str, Any], policy: RecurrentPolicy) -> None:
        """Take what a replay does not give; compare what it gave."""
        length = len(state["actions"])
        if not length:
            self.t = -1
            return
        self.random.advance(length, policy)
        if self.memories is not None:
            self.memories[:length] = state["memories"].numpy()
        had, got = state["observation"].numpy(), self.observations[length]
        # Not bit for bit: another machine may round otherwise.
        if not np.allclose(had, got, rtol=1e-2, atol=1e-2, equal_nan=True):
            what = f"its observation {length} was {had} and is {got} now"
            raise _another_episode(what)


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

    def advance(self, length: int, policy: RecurrentPolicy) -> None:
        """Advances the generator past the first `length` steps of an episode."""
        for _ in range(min(length, self.steps)):
            self.action(policy)


def _another_episode(what: str) -> RunError:
    return RunError(
        "expected the episode under way to repeat itself from its seed and actions, "
        f"but {what}; the environment (or its version) is not the one of the stored "
        "run. Put that one back, or start a new run with another run_dir."
    )
