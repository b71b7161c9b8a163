"""The network that every policy head is made of."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from resel_torchrl.modules._checks import check_size
from resel_torchrl.modules.init import xavier_linear
from resel_torchrl.ops._precision import in_full_precision

__all__ = ["ActorHead"]


class ActorHead(nn.Module):
    """``Linear(observation)`` and the context, concatenated, through ELU layers.

    Architecture and initialisation: arXiv 2405.15384, appendix, and its released code.

    Args:
        observation_size: size of the observation.
        output_size: size of the output, which has no activation.
        context_size: size of the encoder's context.
        embedding_size: output size of the observation map.
        hidden_sizes: widths of the hidden layers.

    Example:
        >>> import torch
        >>> from resel_torchrl.modules.actor_head import ActorHead
        >>> head = ActorHead(3, 2, 5, embedding_size=4, hidden_sizes=(8,))
        >>> head.outputs(torch.zeros(7, 3), torch.zeros(7, 5)).shape
        torch.Size([7, 2])
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

    def distribution(self, outputs: Tensor) -> Tensor | tuple[Tensor, ...]:
        """Return what a policy makes of :meth:`outputs`; here these themselves."""
        return outputs

    def forward(
        self, observation: Tensor, context: Tensor
    ) -> Tensor | tuple[Tensor, ...]:
        """Return :meth:`distribution` of :meth:`outputs`."""
        return self.distribution(self.outputs(observation, context))

    def outputs(self, observation: Tensor, context: Tensor) -> Tensor:
        """Return the last layer's output, ``[*B, output_size]``.

        Args:
            observation: ``[*B, observation_size]``.
            context: ``[*B, context_size]``.

        Raises:
            ValueError: if a last dimension has another size.
        """
        check_size(self, "observation", observation, self.observation_size)
        check_size(self, "context", context, self.context_size)
        hidden = torch.cat([self.observation_map(observation), context], -1)
        *layers, last = self.layers
        for layer in layers:
            hidden = layer(hidden)
        return _last_layer(hidden, last.weight, last.bias)


# Autocast leaves a distribution's parameters all of their digits.
_last_layer = in_full_precision(nn.functional.linear)
