"""The deterministic policy head of the TD3 form."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from tensordict import NestedKey
from tensordict.nn import TensorDictModule, TensorDictSequential
from torch import Tensor
from torchrl.data import Bounded, TensorSpec
from torchrl.modules import AdditiveGaussianModule

from resel_torchrl.modules.actor import Actor, ActorHead, check_action_spec

__all__ = ["DeterministicActor"]


class DeterministicActor(Actor, TensorDictSequential):
    """Tanh policy head on an observation and a context, with noise while exploring.

    Layers as in :class:`TanhNormalActor`, then tanh. TorchRL's
    ``AdditiveGaussianModule`` adds normal noise to the action and clips the sum to
    [-1, 1], except under ``set_exploration_type(ExplorationType.DETERMINISTIC)``.
    Source: TD3, `arXiv 1802.09477 <https://arxiv.org/abs/1802.09477>`_.

    Args not listed are those of :class:`TanhNormalActor`.

    Args:
        exploration_noise: standard deviation of the noise.

    Raises:
        ValueError: if ``spec`` is not a bounded spec of ``action_size`` entries in
            [-1, 1], or the noise is negative.

    Example:
        >>> import torch
        >>> from resel_torchrl.modules import DeterministicActor
        >>> actor = DeterministicActor(3, 2, context_size=5)
        >>> observation, context = torch.zeros(4, 3), torch.zeros(4, 5)
        >>> action = actor.act(observation, context, deterministic=True)
        >>> torch.equal(action, actor.head(observation, context))
        True
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

    def draw(self, outputs: Tensor, deterministic: bool = False) -> Tensor:
        """Return actions in [-1, 1], ``[*B, action_size]``."""
        action = self.network.distribution(outputs)
        if not deterministic:
            noise = self.exploration_noise * torch.randn_like(action)
            action = (action + noise).clamp(-1.0, 1.0)
        return action


class DeterministicHead(ActorHead):
    """Map observation and context to an action."""

    def distribution(self, outputs: Tensor) -> Tensor:
        """Return the action, ``[*B, action_size]``."""
        return outputs.tanh()
