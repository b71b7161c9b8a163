"""The acting policy: one step of encoder and head for N environments, on arrays."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from typing import Any, Literal

import numpy as np
import torch
from tensordict import NestedKey
from torch import Tensor

from resel_torchrl.modules import CategoricalActor, ContextEncoder, FusedStep
from resel_torchrl.modules.agent import Actor

__all__ = ["RecurrentPolicy"]


class RecurrentPolicy:
    """A policy for N environments that keeps the hidden state of each.

    It computes what :func:`resel_torchrl.modules.make_policy` computes, on the same
    modules, without a TensorDict: the encoder's state, the previous observation, action
    and reward are kept here. Environments do not see each other, and one that begins an
    episode forgets alone. Samples come from PyTorch's global generator.

    Calling it gives the actions that Gymnasium environments take; :meth:`act` gives
    what is stored and what the encoder reads, which is one-hot where actions are
    discrete. With one environment, arrays come with or without the dimension `N`, and
    the action is as the observation.

    Args:
        encoder: Encoder of the actor, with `observation` and any of
            `prev_observation`, `prev_action`, `prev_reward` as inputs.
        actor: Head of the actor.
        observation_size: Entries of an observation.
        action_size: Entries of an action, or number of discrete actions.
        num_envs: Number of environments, N.
        deterministic: What a call does that does not say: sample, or take the mode.
        mode: `"eager"` is PyTorch's own arithmetic, bit for bit that of
            `make_policy`; `"fused"` is that of
            :class:`~resel_torchrl.modules.FusedStep`, for one environment, equal to
            rounding and several times faster; `"auto"` is fused where it can be.

    Attributes:
        first: Whether the next step of each environment begins an episode, bool `[N]`;
            it may be set.

    Raises:
        ValueError: If the encoder has another input, cannot be fused where it is to
            be, or there is no environment.

    >>> import numpy as np
    >>> from resel_torchrl.modules import make_agent
    >>> agent = make_agent(2, 1, core="gru", hidden_size=8, n_critics=2)
    >>> policy = RecurrentPolicy(agent.actor_encoder, agent.actor, 2, 1)
    >>> policy(np.zeros(2, np.float32), deterministic=True).shape
    (1,)
    >>> policy = RecurrentPolicy(agent.actor_encoder, agent.actor, 2, 1, num_envs=3)
    >>> policy(np.zeros((3, 2), np.float32)).shape
    (3, 1)
    """

    def __init__(
        self,
        encoder: ContextEncoder,
        actor: Actor,
        observation_size: int,
        action_size: int,
        *,
        num_envs: int = 1,
        deterministic: bool = False,
        mode: Literal["auto", "eager", "fused"] = "auto",
    ) -> None:
        if num_envs < 1:
            raise ValueError(
                f"expected num_envs of 1 environment or more, got {num_envs}; give the "
                "number of environments that are stepped together."
            )
        self.mode = _acting_mode(mode, encoder, actor, num_envs)
        self.encoder = encoder
        self.actor = actor
        self.discrete = isinstance(actor, CategoricalActor)
        self.observation_size = observation_size
        self.action_size = action_size
        self.num_envs = num_envs
        self.deterministic = deterministic
        self._inputs: dict[NestedKey, Tensor] = {
            "observation": torch.zeros(num_envs, observation_size),
            "prev_observation": torch.zeros(num_envs, observation_size),
            "prev_action": torch.zeros(num_envs, action_size),
            "prev_reward": torch.zeros(num_envs, 1),
        }
        for key in encoder.input_keys:
            if key not in self._inputs:
                raise ValueError(
                    f"expected encoder inputs out of {', '.join(self._inputs)}, got "
                    f"{key}; act through make_policy with a TorchRL environment "
                    "instead."
                )
        self._encoder_inputs = [self._inputs[key] for key in encoder.input_keys]
        self._needs_reward = "prev_reward" in encoder.input_keys
        self._state = torch.zeros(num_envs, encoder.state_size)
        self._is_init = torch.ones(num_envs, dtype=torch.bool)
        # Arrays on the tensors' own memory: NumPy is faster on so few numbers.
        self.first = self._is_init.numpy()
        self._arrays = {key: value.numpy() for key, value in self._inputs.items()}
        self._previous = [self._arrays[f"prev_{x}"] for x in _PREVIOUS]
        self._rewards = self._arrays["prev_reward"][:, 0]
        self._fused: FusedStep | None = None  # made at the first episode's start

    def __reduce__(self) -> tuple[Callable[..., RecurrentPolicy], tuple, dict]:
        """A copy is made anew: its arrays are to lie on its own tensors' memory."""
        options = {name: getattr(self, name) for name in _OPTIONS}
        networks = self.encoder, self.actor, self.observation_size, self.action_size
        make = functools.partial(type(self), **options)
        return make, networks, self.state_dict()

    def reset(self) -> None:
        """Forgets everything: the next call is the first step of each episode."""
        self.first.fill(True)

    def __call__(
        self,
        observation: np.ndarray,
        reward: np.ndarray | float | None = None,
        first: np.ndarray | bool | None = None,
        *,
        deterministic: bool | None = None,
    ) -> np.ndarray | int:
        """The actions for observations, as Gymnasium environments take them.

        Vectors, each entry in [−1, 1], or numbers of discrete actions: `[N,
        action_size]` or `[N]`; `[action_size]` or an integer for one observation.
        Arguments and errors are those of :meth:`act`.
        """
        return self.to_env(
            self.act(observation, reward, first, deterministic=deterministic)
        )

    def to_env(self, action: np.ndarray) -> np.ndarray | int:
        """What environments take for actions of :meth:`act`, of one or of several."""
        if not self.discrete:
            return action
        return int(action.argmax()) if action.ndim == 1 else action.argmax(-1)

    def act(
        self,
        observation: np.ndarray,
        reward: np.ndarray | float | None = None,
        first: np.ndarray | bool | None = None,
        *,
        deterministic: bool | None = None,
    ) -> np.ndarray:
        """The actions for observations, `[N, action_size]`, one-hot if discrete.

        Args:
            observation: `[N, observation_size]`, or `[observation_size]` of one.
            reward: The rewards that came with them, `[N]` or a number; needed after an
                episode's first step where the previous reward is an input.
            first: Which are the first observation of an episode, bool `[N]` or one;
                None for those of :attr:`first`, as after :meth:`reset`.
            deterministic: Whether to take the mode in place of a sample; None does
                what the policy was made for.

        Raises:
            ValueError: If a shape is another one or the rewards are missing.
        """
        one = self._check_shapes(observation, reward, first)
        arrays, starts = self._arrays, self.first
        if first is not None:
            np.logical_or(starts, first, out=starts)
        if reward is None and self._needs_reward and not starts.all():
            raise ValueError(
                "expected the rewards of the step before, got None; call "
                "policy(observation, reward): this policy takes it as an input."
            )
        arrays["prev_observation"][:] = arrays["observation"]
        self._rewards[:] = 0.0 if reward is None else reward
        if np.count_nonzero(starts):
            for array in self._previous:
                array[starts] = 0.0
        arrays["observation"][:] = observation
        if deterministic is None:
            deterministic = self.deterministic
        outputs = self._fused_outputs() if self.mode == "fused" else self._outputs()
        action = arrays["prev_action"]
        action[:] = self.actor.draw(outputs, deterministic).numpy()
        starts.fill(False)
        return action[0].copy() if one else action.copy()

    def _check_shapes(self, observation: Any, reward: Any, first: Any) -> bool:
        """Whether the observation comes without the dimension of environments."""
        got = np.shape(observation)
        one = self.num_envs == 1 and len(got) == 1
        expected = (
            (self.observation_size,) if one else (self.num_envs, self.observation_size)
        )
        if got != expected:
            raise ValueError(
                f"expected an observation of shape {expected}, got {got}; give one for "
                f"each environment that the policy is for (num_envs={self.num_envs})."
            )
        if not one:
            for name, values in (("rewards", reward), ("first", first)):
                if values is not None and np.shape(values) != got[:1]:
                    raise ValueError(
                        f"expected {name} of shape {got[:1]}, one for each "
                        f"environment, got {np.shape(values)}."
                    )
        return one

    @torch.no_grad()
    def _outputs(self) -> Tensor:
        """The head's outputs `[N, size]`; the hidden state moves on."""
        context, self._state = self.encoder.encode_step(
            self._encoder_inputs, self._is_init, self._state
        )
        return self.actor.network.outputs(self._inputs["observation"], context)

    def _fused_outputs(self) -> Tensor:
        if self._fused is None:
            self._fused = FusedStep(self.encoder, self.actor.network)
        state = self._state.numpy()[0]
        if self.first[0]:
            self._fused.bind()  # the loss or a user may have put in other parameters
            state.fill(0.0)
        inputs = [self._arrays[key][0] for key in self.encoder.input_keys]
        outputs = self._fused(inputs, self._arrays["observation"][0], state)
        return torch.from_numpy(outputs).unsqueeze(0)

    def random_action(self, generator: np.random.Generator) -> np.ndarray:
        """A uniformly random action, `[action_size]`, one-hot if discrete."""
        if not self.discrete:
            return generator.uniform(-1, 1, self.action_size).astype("f4")
        action = np.zeros(self.action_size, "f4")
        action[generator.integers(self.action_size)] = 1.0
        return action

    def replace_action(self, action: np.ndarray) -> None:
        """Takes note that other actions were done than those of the last step.

        Args:
            action: `[N, action_size]`, or `[action_size]` of one environment; one-hot
                if discrete.
        """
        self._arrays["prev_action"][:] = action

    @property
    def memory(self) -> np.ndarray:
        """The encoder's hidden state after the last step, `[N, state_size]`.

        The next step may write over it. At the start of an episode it is that of the
        one before, which the encoder does not read.
        """
        return self._state.numpy()

    def state_dict(self) -> dict[str, Any]:
        """Hidden state and previous inputs: enough to go on within an episode."""
        inputs = {key: value.clone() for key, value in self._inputs.items()}
        return {"state": self._state.clone(), "first": self._is_init.clone(), **inputs}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Goes on from a :meth:`state_dict`."""
        self._state = state["state"].clone()
        self._is_init.copy_(state["first"])
        for key, value in self._inputs.items():
            value.copy_(state[key])

    __setstate__ = load_state_dict


_PREVIOUS = "observation", "action", "reward"
_OPTIONS = "num_envs", "deterministic", "mode"


def _acting_mode(
    mode: str, encoder: ContextEncoder, actor: Actor, num_envs: int
) -> Literal["eager", "fused"]:
    """Resolve `"auto"`; raise ValueError if `"fused"` is asked for and cannot be."""
    if mode == "eager":
        return mode
    if mode not in ("auto", "fused"):
        raise ValueError(
            f"expected a mode of acting out of auto, eager, fused, got {mode!r}; leave "
            "it at auto."
        )
    obstacle = FusedStep.obstacle(encoder, actor.network)
    if num_envs > 1:
        obstacle = (
            "expected acting in auto or eager mode, as fused kernels act in one "
            f"environment, got fused with num_envs={num_envs}."
        )
    if mode == "fused" and obstacle:
        raise ValueError(obstacle)
    return "eager" if obstacle else "fused"
