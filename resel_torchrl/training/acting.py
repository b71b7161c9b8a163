"""Acting one step at a time with plain tensors: the path of the hot loop."""

from __future__ import annotations

import copy
from typing import Any, Literal

import numpy as np
import torch
from tensordict import NestedKey

from resel_torchrl.modules import CategoricalActor, ContextEncoder, FusedStep
from resel_torchrl.training.agent import Actor

__all__ = ["RecurrentPolicy"]


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

    >>> from resel_torchrl.training import make_agent
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

    >>> from resel_torchrl.training import make_agent
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
    >>> from resel_torchrl.training import make_agent
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
