"""Acting one step at a time with plain tensors: the path of the hot loop."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import numpy as np
import torch
from tensordict import NestedKey
from torch import Tensor, nn

from resel_torchrl.modules import CategoricalActor, ContextEncoder, FusedStep
from resel_torchrl.modules.agent import Actor

__all__ = [
    "PolicyCopy",
    "RecurrentPolicy",
    "VectorPolicy",
]


def acting_mode(
    mode: Literal["auto", "eager", "fused"], encoder: ContextEncoder, actor: Actor
) -> Literal["eager", "fused"]:
    """How a policy of these networks acts.

    Args:
        mode: As :class:`RecurrentPolicy` takes it.
        encoder: Encoder of the actor.
        actor: Head of the actor.

    Raises:
        ValueError: If the mode is unknown, or fused where the networks cannot be.

    >>> from resel_torchrl.modules import make_agent
    >>> agent = make_agent(2, 1, core="gru", hidden_size=8, n_critics=2)
    >>> acting_mode("eager", agent.actor_encoder, agent.actor)
    'eager'
    """
    if mode == "eager":
        return mode
    if mode not in ("auto", "fused"):
        raise ValueError(
            f"expected a mode of acting out of auto, eager, fused, got {mode!r}; leave "
            "it at auto."
        )
    obstacle = FusedStep.obstacle(encoder, actor.network)
    if mode == "fused" and obstacle:
        raise ValueError(obstacle)
    return "eager" if obstacle else "fused"


class StepPolicy:
    """What one-step policies share: networks, and the memory of `rows` environments.

    Args:
        encoder: Encoder of the actor.
        actor: Head of the actor.
        observation_size: Entries of an observation.
        action_size: Entries of an action, or number of discrete actions.
        rows: Number of environments.
        deterministic: What a call does that does not say.

    Raises:
        ValueError: If the encoder has an input that is not kept here.

    >>> from resel_torchrl.modules import make_agent
    >>> agent = make_agent(2, 1, core="gru", hidden_size=8, n_critics=2)
    >>> policy = StepPolicy(agent.actor_encoder, agent.actor, 2, 1, 3, False)
    >>> policy.random_action(np.random.default_rng(0)).shape
    (1,)
    """

    first: Any  # whether the next step is the first of an episode

    def __init__(
        self,
        encoder: ContextEncoder,
        actor: Actor,
        observation_size: int,
        action_size: int,
        rows: int,
        deterministic: bool,
    ) -> None:
        self.deterministic = deterministic
        self.encoder = encoder
        self.actor = actor
        self.discrete = isinstance(actor, CategoricalActor)
        self.observation_size = observation_size
        self.action_size = action_size
        self._memory = {
            "observation": torch.zeros(rows, observation_size),
            "prev_observation": torch.zeros(rows, observation_size),
            "prev_action": torch.zeros(rows, action_size),
            "prev_reward": torch.zeros(rows, 1),
        }
        self._inputs = [self._slot(key) for key in encoder.input_keys]
        self._needs_reward = "prev_reward" in encoder.input_keys
        self._is_init = torch.ones(rows, dtype=torch.bool)
        self._state = torch.zeros(rows, encoder.state_size)

    def _slot(self, key: NestedKey) -> torch.Tensor:
        if key not in self._memory:
            raise ValueError(
                f"expected encoder inputs out of {', '.join(self._memory)}, got {key}; "
                "act through make_policy with a TorchRL environment instead."
            )
        return self._memory[key]

    def random_action(self, generator: np.random.Generator) -> np.ndarray:
        """A uniformly random action, `[action_size]`, one-hot if discrete."""
        if not self.discrete:
            return generator.uniform(-1, 1, self.action_size).astype("f4")
        action = np.zeros(self.action_size, "f4")
        action[generator.integers(self.action_size)] = 1.0
        return action

    @property
    def memory(self) -> np.ndarray:
        """The encoder's memory after the last step, `[rows, state_size]`.

        The next step may write over it. At the start of an episode it is that of the
        one before, which the encoder does not read.
        """
        return self._state.numpy()

    def replace_action(self, action: np.ndarray) -> None:
        """Remembers that another action was done than the one of the last step.

        Args:
            action: `[action_size]`, or `[rows, action_size]` of several environments;
                one-hot if discrete.
        """
        self._memory["prev_action"][:] = torch.from_numpy(action)

    def state_dict(self) -> dict[str, Any]:
        """The memory, enough to go on in the middle of an episode."""
        return {
            "state": self._state.clone(),
            "first": copy.deepcopy(self.first),
            **{key: value.clone() for key, value in self._memory.items()},
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Takes the memory back from :meth:`state_dict`."""
        self._state = state["state"].clone()
        self.first = copy.deepcopy(state["first"])
        for key, value in self._memory.items():
            value.copy_(state[key])

    def _outputs(self) -> torch.Tensor:
        """The head's outputs `[rows, size]`; the state moves on."""
        context, self._state = self.encoder.encode_step(
            self._inputs, self._is_init, self._state
        )
        return self.actor.network.outputs(self._memory["observation"], context)


class RecurrentPolicy(StepPolicy):
    """A policy for one environment that keeps its own memory.

    It computes what :func:`resel_torchrl.modules.make_policy` computes, on the same
    modules, without a TensorDict: the encoder's state, the previous observation and
    action and the previous reward are kept here.

    Calling it gives the action that the Gymnasium environment takes: a vector, or with
    a :class:`~resel_torchrl.modules.CategoricalActor` a number. :meth:`act` gives what
    is stored and what the encoder reads: the vector, or the one-hot vector.

    Args:
        encoder: Encoder of the actor, with `observation` and any of
            `prev_observation`, `prev_action`, `prev_reward` as inputs.
        actor: Head of the actor.
        observation_size: Entries of an observation.
        action_size: Entries of an action, or number of discrete actions.
        deterministic: What a call does that does not say: sample, or take the mode.
        mode: `"eager"` is PyTorch's own arithmetic, bit for bit that of
            `make_policy`; `"fused"` is that of
            :class:`~resel_torchrl.modules.FusedStep`, equal to rounding and several
            times faster; `"auto"` is fused where it can be.

    Raises:
        ValueError: If the encoder has another input, or cannot be fused where it is to
            be.

    >>> import numpy as np
    >>> from resel_torchrl.modules import make_agent
    >>> agent = make_agent(2, 1, core="gru", hidden_size=8, n_critics=2)
    >>> policy = RecurrentPolicy(agent.actor_encoder, agent.actor, 2, 1)
    >>> action = policy(np.zeros(2, np.float32), deterministic=True)
    >>> action.shape, policy.first
    ((1,), False)
    """

    def __init__(
        self,
        encoder: ContextEncoder,
        actor: Actor,
        observation_size: int,
        action_size: int,
        *,
        deterministic: bool = False,
        mode: Literal["auto", "eager", "fused"] = "auto",
    ) -> None:
        self.mode = acting_mode(mode, encoder, actor)
        super().__init__(
            encoder, actor, observation_size, action_size, 1, deterministic
        )
        self._fused: FusedStep | None = None  # made at the first episode's start
        self._views = {key: value[0].numpy() for key, value in self._memory.items()}
        self._input_views = [x[0].numpy() for x in self._inputs]
        self.first = True

    def reset(self) -> None:
        """Forgets everything: the next call is the first step of an episode."""
        self.first = True

    def __call__(
        self,
        observation: np.ndarray,
        reward: float | None = None,
        first: bool = False,
        *,
        deterministic: bool | None = None,
    ) -> np.ndarray | int:
        """The action for an observation, as the environment takes it.

        A vector `[action_size]`, each entry in [−1, 1], or the number of a discrete
        action. Arguments and errors are those of :meth:`act`.
        """
        return self.to_env(
            self.act(observation, reward, first, deterministic=deterministic)
        )

    def to_env(self, action: np.ndarray) -> np.ndarray | int:
        """What the environment takes for an action `[action_size]` of :meth:`act`."""
        return int(action.argmax()) if self.discrete else action

    @torch.no_grad()
    def act(
        self,
        observation: np.ndarray,
        reward: float | None = None,
        first: bool = False,
        *,
        deterministic: bool | None = None,
    ) -> np.ndarray:
        """The action for an observation, `[action_size]`, one-hot if discrete.

        Args:
            observation: `[observation_size]`.
            reward: The reward that came with it; needed after the first step where the
                previous reward is an input.
            first: Whether this is the first observation of an episode.
            deterministic: Whether to take the mode in place of a sample; None does
                what the policy was made for.

        Raises:
            ValueError: If the observation has another shape or the reward is missing.
        """
        if np.shape(observation) != (self.observation_size,):
            raise ValueError(
                f"expected an observation of shape ({self.observation_size},), got "
                f"{np.shape(observation)}; give one observation at a time."
            )
        views = self._views
        if first or self.first:
            for name in ("prev_observation", "prev_action", "prev_reward"):
                views[name][:] = 0.0
            self._is_init.fill_(True)
        else:
            if self._needs_reward and reward is None:
                raise ValueError(
                    "expected the reward of the step before, got None; call "
                    "policy(observation, reward): this policy takes it as an input."
                )
            views["prev_observation"][:] = views["observation"]
            views["prev_reward"][:] = 0.0 if reward is None else reward
            self._is_init.fill_(False)
        views["observation"][:] = observation
        if deterministic is None:
            deterministic = self.deterministic
        outputs = self._fused_outputs() if self.mode == "fused" else self._outputs()
        action = self.actor.draw(outputs, deterministic)
        views["prev_action"][:] = action[0].numpy()
        self.first = False
        return views["prev_action"].copy()

    def _fused_outputs(self) -> torch.Tensor:
        if self._fused is None:
            self._fused = FusedStep(self.encoder, self.actor.network)
        if self._is_init:
            self._fused.bind()  # the loss or a user may have put in other parameters
            self._state.zero_()
        outputs = self._fused(
            self._input_views, self._views["observation"], self._state[0].numpy()
        )
        return torch.from_numpy(outputs).unsqueeze(0)


class VectorPolicy(StepPolicy):
    """A policy for N environments that keeps a memory for each, one row apiece.

    Each row gets what a :class:`RecurrentPolicy` of its own would compute, equal to
    rounding, in one pass of the networks; rows do not see each other, and a row that
    begins an episode forgets alone. Samples come from PyTorch's global generator.

    Args:
        encoder: Encoder of the actor, with inputs as for :class:`RecurrentPolicy`.
        actor: Head of the actor.
        observation_size: Entries of an observation.
        action_size: Entries of an action, or number of discrete actions.
        copies: Number of environments, N.
        deterministic: What a call does that does not say: sample, or take the mode.

    Raises:
        ValueError: If the encoder has another input, or there is no environment.

    >>> import numpy as np
    >>> from resel_torchrl.modules import make_agent
    >>> agent = make_agent(2, 1, core="gru", hidden_size=8, n_critics=2)
    >>> policy = VectorPolicy(agent.actor_encoder, agent.actor, 2, 1, copies=3)
    >>> actions = policy(np.zeros((3, 2), np.float32), deterministic=True)
    >>> actions.shape, policy.first.tolist()
    ((3, 1), [False, False, False])
    """

    mode = "eager"

    def __init__(
        self,
        encoder: ContextEncoder,
        actor: Actor,
        observation_size: int,
        action_size: int,
        *,
        copies: int,
        deterministic: bool = False,
    ) -> None:
        if copies < 1:
            raise ValueError(
                f"expected copies of 1 environment or more, got {copies}; give the "
                "number of environments that are stepped together."
            )
        super().__init__(
            encoder, actor, observation_size, action_size, copies, deterministic
        )
        self.copies = copies
        self.first = torch.ones(copies, dtype=torch.bool)

    def reset(self) -> None:
        """Forgets everything: the next call is the first step of N episodes."""
        self.first.fill_(True)

    def __call__(
        self,
        observations: np.ndarray,
        rewards: np.ndarray | None = None,
        first: np.ndarray | None = None,
        *,
        deterministic: bool | None = None,
    ) -> np.ndarray:
        """The actions for N observations, as a Gymnasium vector environment takes them.

        Vectors `[N, action_size]`, or numbers `[N]` of discrete actions. Arguments and
        errors are those of :meth:`act`.
        """
        return self.to_env(
            self.act(observations, rewards, first, deterministic=deterministic)
        )

    def to_env(self, actions: np.ndarray) -> np.ndarray:
        """What the environments take for actions `[N, action_size]` of :meth:`act`."""
        return actions.argmax(-1) if self.discrete else actions

    @torch.no_grad()
    def act(
        self,
        observations: np.ndarray,
        rewards: np.ndarray | None = None,
        first: np.ndarray | None = None,
        *,
        deterministic: bool | None = None,
    ) -> np.ndarray:
        """The actions for N observations, `[N, action_size]`, one-hot if discrete.

        Args:
            observations: `[N, observation_size]`.
            rewards: `[N]`, those that came with them; needed where the previous reward
                is an input and a row is not the first of an episode. Those of first
                rows are not looked at.
            first: Which are first observations of an episode, bool `[N]`; None for
                none, apart from the first call of all.
            deterministic: Whether to take the mode in place of a sample; None does
                what the policy was made for.

        Raises:
            ValueError: If a shape is another one or the rewards are missing.
        """
        shape = self.copies, self.observation_size
        if np.shape(observations) != shape:
            raise ValueError(
                f"expected observations of shape {shape}, one row for each "
                f"environment, got {np.shape(observations)}; make the policy with "
                "copies=NUMBER of your environments."
            )
        is_init = self._is_init
        is_init.copy_(self.first)
        if first is not None:
            is_init |= self._row(first, "first").bool()
        if rewards is None and self._needs_reward and not is_init.all():
            raise ValueError(
                "expected the rewards of the step before, got None; call "
                "policy(observations, rewards): this policy takes them as an input."
            )
        memory, begins = self._memory, is_init.unsqueeze(-1)
        memory["prev_observation"].copy_(memory["observation"])
        memory["prev_reward"].zero_()
        if rewards is not None:
            memory["prev_reward"].copy_(self._row(rewards, "rewards").unsqueeze(-1))
        for name in ("prev_observation", "prev_action", "prev_reward"):
            memory[name].masked_fill_(begins, 0.0)
        memory["observation"].copy_(torch.as_tensor(observations))
        if deterministic is None:
            deterministic = self.deterministic
        actions = self.actor.draw(self._outputs(), deterministic)
        memory["prev_action"].copy_(actions)
        self.first.fill_(False)
        return actions.numpy().copy()

    def _row(self, values: np.ndarray, name: str) -> torch.Tensor:
        if np.shape(values) != (self.copies,):
            raise ValueError(
                f"expected {name} of shape ({self.copies},), one for each environment, "
                f"got {np.shape(values)}."
            )
        return torch.as_tensor(values)


class PolicyCopy:
    """A copy of the acting modules on another device, refreshed every few updates.

    Args:
        sources: Modules that learn.
        copies: Modules that act, in the same order.
        every: Updates between two refreshes.

    >>> import torch
    >>> source, copy = nn.Linear(1, 1), nn.Linear(1, 1)
    >>> acting = PolicyCopy([source], [copy], every=2)
    >>> _ = source.weight.data.add_(1.0)
    >>> acting.updated()
    >>> acting.age, torch.equal(source.weight, copy.weight)
    (1, False)
    >>> acting.updated()
    >>> acting.age, torch.equal(source.weight, copy.weight)
    (0, True)
    """

    def __init__(
        self, sources: Sequence[nn.Module], copies: Sequence[nn.Module], every: int
    ) -> None:
        self.pairs = list(zip(sources, copies, strict=True))
        self.every = every
        self.age = 0
        self._copy()

    def _copy(self) -> None:
        states = states_on_cpu([source for source, _ in self.pairs])
        for (_, target), state in zip(self.pairs, states, strict=True):
            target.load_state_dict(state)
        self.age = 0

    def updated(self) -> None:
        """Counts an update of the sources."""
        self.age += 1
        if self.age >= self.every:
            self._copy()

    def state_dict(self) -> dict[str, Any]:
        """The copies, which may be older than their sources, and their age."""
        return {
            "age": self.age,
            "copies": [dict(c.state_dict()) for _, c in self.pairs],
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Takes the copies and their age back."""
        self.age = state["age"]
        for (_, target), stored in zip(self.pairs, state["copies"], strict=True):
            target.load_state_dict(stored)


@torch.no_grad()
def states_on_cpu(modules: Sequence[nn.Module]) -> list[dict[str, Any]]:
    """State dictionaries of modules, to load others on the CPU with.

    From a GPU all tensors come by one wait, not by one for each.

    Args:
        modules: on any one device; on the CPU their tensors are not copied.

    >>> source, copy = nn.Linear(1, 1), nn.Linear(1, 1)
    >>> [state] = states_on_cpu([source])
    >>> copy.load_state_dict(state), torch.equal(copy.weight, source.weight)
    (<All keys matched successfully>, True)
    """
    states = [module.state_dict() for module in modules]
    devices = set()
    for state in states:
        for name, value in state.items():
            if isinstance(value, Tensor) and value.device.type == "cuda":
                devices.add(value.device)
                host = torch.empty_like(value, device="cpu", pin_memory=True)
                state[name] = host.copy_(value, non_blocking=True)
    for device in devices:
        torch.cuda.current_stream(device).synchronize()
    return states
