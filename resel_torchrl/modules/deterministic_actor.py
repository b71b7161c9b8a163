"""The deterministic policy head of the TD3 form."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from tensordict import NestedKey
from tensordict.nn import TensorDictModule, TensorDictSequential
from torch import Tensor
from torchrl.data import Bounded, TensorSpec
from torchrl.modules import AdditiveGaussianModule

from resel_torchrl.modules.actor import ActorHead, check_action_spec

__all__ = ["DeterministicActor"]


class DeterministicHead(ActorHead):
    """Map (observation, context) to an action."""

    def distribution(self, outputs: Tensor) -> Tensor:
        """Return the action, ``[*B, action_size]``."""
        return outputs.tanh()


class DeterministicActor(TensorDictSequential):
    """Tanh policy head on an observation and a context, with noise while exploring.

    ``Linear(observation)`` and the context, concatenated, go through ELU layers and
    tanh to the action. TorchRL's ``AdditiveGaussianModule`` adds normal noise to it
    and clips the sum to [-1, 1], but under
    ``set_exploration_type(ExplorationType.DETERMINISTIC)``. Layers and initialisation
    as in :class:`TanhNormalActor`; TD3: `arXiv 1802.09477
    <https://arxiv.org/abs/1802.09477>`_.

    It reads ``observation_key`` and ``context_key`` and writes ``action_key``.

    Args:
        observation_size: size of the observation.
        action_size: size of the action.
        context_size: size of the encoder's context.
        embedding_size: output size of the observation map.
        hidden_sizes: widths of the hidden layers.
        exploration_noise: standard deviation of the noise.
        spec: action spec, with bounds [-1, 1]; ``None`` makes one.
        observation_key: entry with the observation, ``[*B, observation_size]``.
        context_key: entry with the context, ``[*B, context_size]``.
        action_key: entry to write the action to, ``[*B, action_size]``.

    Raises:
        ValueError: if ``spec`` is not a bounded spec of ``action_size`` entries in
            [-1, 1], or the noise is negative.

    Example:
        >>> import torch
        >>> from resel_torchrl.modules import DeterministicActor
        >>> from tensordict import TensorDict
        >>> from torchrl.envs import ExplorationType, set_exploration_type
        >>> actor = DeterministicActor(3, 2, context_size=5)
        >>> data = TensorDict(
        ...     observation=torch.zeros(4, 3),
        ...     context_actor=torch.zeros(4, 5),
        ...     batch_size=[4],
        ... )
        >>> with set_exploration_type(ExplorationType.DETERMINISTIC):
        ...     action = actor(data.clone())["action"]
        >>> torch.equal(action, actor.head(data["observation"], data["context_actor"]))
        True
        >>> with set_exploration_type(ExplorationType.RANDOM):
        ...     torch.equal(action, actor(data)["action"])
        False
    """

    def __init__(
        self,
        observation_size: int,
        action_size: int,
        context_size: int = 128,
        *,
        embedding_size: int = 128,
        hidden_sizes: Sequence[int] = (256, 256),
        exploration_noise: float = 0.1,
        spec: TensorSpec | None = None,
        observation_key: NestedKey = "observation",
        context_key: NestedKey = "context_actor",
        action_key: NestedKey = "action",
    ) -> None:
        if exploration_noise < 0:
            raise ValueError(
                f"exploration_noise: expected 0 or more, got {exploration_noise}. The "
                "default is 0.1."
            )
        if spec is None:
            spec = Bounded(-1.0, 1.0, (action_size,))
        check_action_spec(spec, action_size, action_key)
        head = DeterministicHead(
            observation_size, action_size, context_size, embedding_size, hidden_sizes
        )
        super().__init__(
            TensorDictModule(
                head, in_keys=[observation_key, context_key], out_keys=[action_key]
            ),
            AdditiveGaussianModule(
                spec,
                sigma_init=exploration_noise,
                sigma_end=exploration_noise,
                action_key=action_key,
            ),
        )
        self.exploration_noise = exploration_noise
        self.spec = spec

    def head(self, observation: Tensor, context: Tensor) -> Tensor:
        """Return the action without noise, ``[*B, action_size]``.

        Args:
            observation: ``[*B, observation_size]``.
            context: ``[*B, context_size]``.

        Raises:
            ValueError: if a last dimension has another size.
        """
        return self.network(observation, context)

    @property
    def network(self) -> ActorHead:
        """The head's network."""
        return self.module[0].module

    def act(
        self, observation: Tensor, context: Tensor, deterministic: bool = False
    ) -> Tensor:
        """Return actions, with noise or without, on plain tensors.

        Args:
            observation: ``[*B, observation_size]``.
            context: ``[*B, context_size]``.
            deterministic: leave the noise out.

        Returns:
            ``[*B, action_size]``, each entry in [-1, 1].
        """
        return self.draw(self.network.outputs(observation, context), deterministic)

    def draw(self, outputs: Tensor, deterministic: bool = False) -> Tensor:
        """Return actions ``[*B, action_size]`` from the network's outputs."""
        action = self.network.distribution(outputs)
        if not deterministic:
            noise = self.exploration_noise * torch.randn_like(action)
            action = (action + noise).clamp(-1.0, 1.0)
        return action
