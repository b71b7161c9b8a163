"""Acting in several environments at once with plain tensors."""

from __future__ import annotations

import numpy as np
import torch

from resel_torchrl.modules import ContextEncoder
from resel_torchrl.training.acting import StepPolicy
from resel_torchrl.training.agent import Actor

__all__ = ["VectorPolicy"]


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
    >>> from resel_torchrl.training import make_agent
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
