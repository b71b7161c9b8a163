"""An ensemble of Q functions with one output per discrete action."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from tensordict import NestedKey, TensorDictBase
from tensordict.nn import TensorDictModuleBase
from torch import Tensor, nn

from resel_torchrl.modules._checks import check_size
from resel_torchrl.modules.ensemble_critic import (
    ensemble_layers,
    ensemble_outputs,
    reset_ensemble,
)

__all__ = ["DiscreteEnsembleCritic"]


class DiscreteEnsembleCritic(TensorDictModuleBase):
    """Q values of every action under ``n_critics`` members, ``[*B, A, n_critics]``.

    As :class:`EnsembleCritic`, but each member has one output per action in place of
    an action input, so that one pass gives the values of all actions
    (arXiv 2405.15384, appendix, and its released code).

    Parameters: ``weights[i]`` is ``[n_critics, in, out]`` and ``biases[i]``
    ``[n_critics, out]``; ``observation_map`` is shared.

    Args:
        observation_size: size of the observation.
        action_size: number of actions, A.
        context_size: size of the encoder's context.
        n_critics: number of members.
        embedding_size: output size of the observation map.
        hidden_sizes: widths of each member's hidden layers.
        observation_key: entry with the observation, ``[*B, observation_size]``.
        context_key: entry with the context, ``[*B, context_size]``.
        out_key: entry to write the values to, ``[*B, action_size, n_critics]``.

    Raises:
        ValueError: if ``n_critics`` is less than 1.

    Example:
        >>> import torch
        >>> from resel_torchrl.modules import DiscreteEnsembleCritic
        >>> from tensordict import TensorDict
        >>> critic = DiscreteEnsembleCritic(3, 2, context_size=5, n_critics=8)
        >>> data = TensorDict(
        ...     observation=torch.zeros(4, 7, 3),
        ...     context_critic=torch.zeros(4, 7, 5),
        ...     batch_size=[4, 7],
        ... )
        >>> critic(data)["action_value"].shape
        torch.Size([4, 7, 2, 8])
    """

    def __init__(
        self,
        observation_size: int,
        action_size: int,
        context_size: int = 128,
        *,
        n_critics: int = 8,
        embedding_size: int = 128,
        hidden_sizes: Sequence[int] = (256, 256),
        observation_key: NestedKey = "observation",
        context_key: NestedKey = "context_critic",
        out_key: NestedKey = "action_value",
    ) -> None:
        super().__init__()
        self.in_keys = [observation_key, context_key]
        self.out_keys = [out_key]
        self.n_critics = n_critics
        self.action_size = action_size
        self.sizes = (observation_size, context_size)
        self.observation_map = nn.Linear(observation_size, embedding_size)
        sizes = [embedding_size + context_size, *hidden_sizes, action_size]
        self.weights, self.biases = ensemble_layers(n_critics, sizes)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw all parameters anew, each member's layers on their own."""
        self.observation_map.reset_parameters()
        reset_ensemble(self.weights, self.biases)

    def values(self, observation: Tensor, context: Tensor) -> Tensor:
        """Return every member's Q value of every action.

        Args:
            observation: ``[*B, observation_size]``.
            context: ``[*B, context_size]``.

        Returns:
            Q values ``[*B, action_size, n_critics]``.

        Raises:
            ValueError: if a last dimension has another size.
        """
        check_size(self, "observation", observation, self.sizes[0])
        check_size(self, "context", context, self.sizes[1])
        x = torch.cat([self.observation_map(observation), context], -1)
        values = ensemble_outputs(x, self.weights, self.biases)
        return values.permute(1, 2, 0).reshape(
            *x.shape[:-1], self.action_size, self.n_critics
        )

    def forward(self, tensordict: TensorDictBase) -> TensorDictBase:
        """Write the values, ``[*B, action_size, n_critics]``, to the out key."""
        inputs = [tensordict[key] for key in self.in_keys]
        tensordict.set(self.out_keys[0], self.values(*inputs))
        return tensordict
