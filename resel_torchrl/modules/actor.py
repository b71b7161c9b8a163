"""Policy heads: what they share, and the tanh-Gaussian one."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from tensordict import NestedKey
from tensordict.nn import TensorDictModule
from torch import Tensor, nn
from torchrl.data import Bounded, Composite, TensorSpec
from torchrl.modules import ProbabilisticActor

from resel_torchrl.modules._layers import check_size, xavier_linear
from resel_torchrl.modules.tanh_normal import TanhNormal
from resel_torchrl.ops._precision import in_full_precision

__all__ = ["Actor", "TanhNormalActor"]

LOG_SCALE_MIN = -20.0
LOG_SCALE_MAX = 2.0


class Actor:
    """Base of the policy heads: acting on plain tensors.

    A subclass is also a TensorDict module whose first part is an :class:`ActorHead`.
    """

    @property
    def network(self) -> ActorHead:
        """The layers, from observation and context to what the head computes."""
        return self.module[0].module

    def head(self, observation: Tensor, context: Tensor) -> Any:
        """Return what the layers give to the distribution.

        Args:
            observation: ``[*B, observation_size]``.
            context: ``[*B, context_size]``.

        Returns:
            ``loc`` and ``scale`` before tanh, the probabilities of the actions, or the
            action without noise: each ``[*B, action_size]``.

        Raises:
            ValueError: if a last dimension has another size.
        """
        return self.network(observation, context)

    def act(
        self, observation: Tensor, context: Tensor, deterministic: bool = False
    ) -> Tensor:
        """Return actions ``[*B, action_size]`` on plain tensors.

        Args:
            observation: ``[*B, observation_size]``.
            context: ``[*B, context_size]``.
            deterministic: take the mode, not a sample.
        """
        return self.draw(self.network.outputs(observation, context), deterministic)

    def draw(self, outputs: Tensor, deterministic: bool = False) -> Tensor:
        """Return actions from the last layer's outputs; each head has its own."""
        raise NotImplementedError


class TanhNormalActor(Actor, ProbabilisticActor):
    """Tanh-Gaussian policy head on an observation and a context.

    ``Linear(observation)`` and the context, concatenated, go through ELU layers to
    the mean and log standard deviation (clamped to [-20, 2]) of a normal distribution,
    which tanh squashes into (-1, 1). Source: arXiv 2405.15384, appendix, and its
    released code. As a ``ProbabilisticTensorDictSequential`` it goes into ``SACLoss``.

    It writes ``loc``, ``scale``, ``action_key`` and, with ``return_log_prob``,
    ``sample_log_prob``. Actions are samples, or ``tanh(loc)`` under
    ``set_exploration_type(ExplorationType.DETERMINISTIC)``.

    Args:
        observation_size: size of the observation.
        action_size: size of the action.
        context_size: size of the encoder's context.
        embedding_size: output size of the observation map.
        hidden_sizes: widths of the hidden layers.
        spec: action spec, with bounds [-1, 1]; ``None`` makes one.
        observation_key: entry with the observation, ``[*B, observation_size]``.
        context_key: entry with the context, ``[*B, context_size]``.
        action_key: entry to write the action to, ``[*B, action_size]``.
        return_log_prob: write ``sample_log_prob``, ``[*B]``, too.

    Raises:
        ValueError: if ``spec`` is not a bounded spec of ``action_size`` entries in
            [-1, 1].

    Example:
        >>> import torch
        >>> from resel_torchrl.modules import TanhNormalActor
        >>> from tensordict import TensorDict
        >>> actor = TanhNormalActor(3, 2, context_size=5)
        >>> data = TensorDict(
        ...     observation=torch.zeros(4, 3),
        ...     context_actor=torch.zeros(4, 5),
        ...     batch_size=[4],
        ... )
        >>> actor(data)["action"].shape
        torch.Size([4, 2])
    """

    def __init__(
        self,
        observation_size: int,
        action_size: int,
        context_size: int = 128,
        *,
        embedding_size: int = 128,
        hidden_sizes: Sequence[int] = (256, 256),
        spec: TensorSpec | None = None,
        observation_key: NestedKey = "observation",
        context_key: NestedKey = "context_actor",
        action_key: NestedKey = "action",
        return_log_prob: bool = False,
    ) -> None:
        if spec is None:
            spec = Bounded(-1.0, 1.0, (action_size,))
        check_action_spec(spec, action_size, action_key)
        head = TanhNormalHead(
            observation_size,
            2 * action_size,
            context_size,
            embedding_size,
            hidden_sizes,
        )
        super().__init__(
            TensorDictModule(
                head, in_keys=[observation_key, context_key], out_keys=["loc", "scale"]
            ),
            in_keys=["loc", "scale"],
            out_keys=[action_key],
            spec=spec,
            distribution_class=TanhNormal,
            return_log_prob=return_log_prob,
            log_prob_key="sample_log_prob",
        )

    def draw(self, outputs: Tensor, deterministic: bool = False) -> Tensor:
        """Return actions in (-1, 1), ``[*B, action_size]``."""
        loc, scale = self.network.distribution(outputs)
        if not deterministic:
            loc = loc + scale * torch.randn_like(loc)
        return torch.tanh(loc)


class ActorHead(nn.Module):
    """``Linear(observation)`` beside the context, ELU layers, and a linear output.

    Architecture and initialisation: arXiv 2405.15384, appendix, and its released code.
    """

    def __init__(
        self,
        observation_size: int,
        output_size: int,
        context_size: int,
        embedding_size: int,
        hidden_sizes: Sequence[int],
    ) -> None:
        super().__init__()
        self.observation_size = observation_size
        self.context_size = context_size
        self.observation_map = xavier_linear(observation_size, embedding_size)
        layers: list[nn.Module] = []
        width = embedding_size + context_size
        for hidden_size in hidden_sizes:
            layers += [xavier_linear(width, hidden_size), nn.ELU(inplace=True)]
            width = hidden_size
        layers.append(xavier_linear(width, output_size))
        self.layers = nn.Sequential(*layers)

    def forward(
        self, observation: Tensor, context: Tensor
    ) -> Tensor | tuple[Tensor, ...]:
        """Return :meth:`distribution` of :meth:`outputs`."""
        return self.distribution(self.outputs(observation, context))

    def outputs(self, observation: Tensor, context: Tensor) -> Tensor:
        """Return the last layer's output, ``[*B, output_size]``."""
        check_size(self, "observation", observation, self.observation_size)
        check_size(self, "context", context, self.context_size)
        hidden = torch.cat([self.observation_map(observation), context], -1)
        *layers, last = self.layers
        for layer in layers:
            hidden = layer(hidden)
        return _last_layer(hidden, last.weight, last.bias)

    def distribution(self, outputs: Tensor) -> Tensor | tuple[Tensor, ...]:
        """Return the distribution's parameters, here the outputs themselves."""
        return outputs


class TanhNormalHead(ActorHead):
    """Map observation and context to mean and standard deviation before tanh."""

    def distribution(self, outputs: Tensor) -> tuple[Tensor, Tensor]:
        """Return ``loc`` and ``scale``, each ``[*B, action_size]``."""
        loc, log_scale = outputs.chunk(2, -1)
        return loc, log_scale.clamp(LOG_SCALE_MIN, LOG_SCALE_MAX).exp()


# Autocast would leave a distribution's parameters too few digits.
_last_layer = in_full_precision(nn.functional.linear)


def check_action_spec(spec: TensorSpec, size: int, key: NestedKey) -> None:
    """Raise ValueError unless ``spec`` is bounded by [-1, 1] and has ``size``."""
    leaf = spec[key] if isinstance(spec, Composite) else spec
    low, high = getattr(leaf, "low", None), getattr(leaf, "high", None)
    bounded = low is not None and bool((low == -1).all() and (high == 1).all())
    if not bounded or leaf.shape[-1:] != (size,):
        raise ValueError(
            f"spec: expected a Bounded spec in [-1, 1] with {size} entries, got "
            f"{leaf}. Rescale the environment's actions (e.g. torchrl.envs."
            "ActionScaling), or correct action_size."
        )
