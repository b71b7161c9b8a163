"""Ensembles of Q functions, each evaluated as one batched network."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import torch
from tensordict import NestedKey, TensorDictBase
from tensordict.nn import TensorDictModuleBase
from torch import Tensor, nn

from resel_torchrl.modules._layers import check_size
from resel_torchrl.ops._precision import in_full_precision

__all__ = ["DiscreteEnsembleCritic", "EnsembleCritic"]


class _Ensemble(TensorDictModuleBase):
    """The members of a critic: layer ``i`` of all of them is one batched product.

    ``weights[i]`` is ``[n_critics, in, out]``, ``biases[i]`` ``[n_critics, out]``. A
    subclass has linear input maps before them, shared by all members.
    """

    def __init__(self, in_keys: list[NestedKey], out_key: NestedKey) -> None:
        super().__init__()
        self.in_keys, self.out_keys = in_keys, [out_key]

    def _add_members(self, n_critics: int, sizes: Sequence[int]) -> None:
        if n_critics < 1:
            raise ValueError(
                f"n_critics: expected at least 1, got {n_critics}. The paper uses 8."
            )
        self.n_critics = n_critics
        self.weights = nn.ParameterList(
            [torch.empty(n_critics, a, b) for a, b in pairwise(sizes)]
        )
        self.biases = nn.ParameterList(
            [torch.empty(n_critics, size) for size in sizes[1:]]
        )
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw all parameters anew, each member's layers on their own."""
        for module in self.children():
            if isinstance(module, nn.Linear):
                module.reset_parameters()
        for weight in self.weights:
            for member in weight:
                nn.init.xavier_uniform_(member)
        for bias in self.biases:
            nn.init.zeros_(bias)

    def forward(self, tensordict: TensorDictBase) -> TensorDictBase:
        """Write the members' Q values to the out key."""
        inputs = [tensordict[key] for key in self.in_keys]
        tensordict.set(self.out_keys[0], self.values(*inputs))
        return tensordict

    def _members(self, x: Tensor) -> Tensor:
        """Run all members on the same input: ``[*B, in]`` to ``[n_critics, N, out]``.

        ``N`` is the number of inputs in the batch ``*B``.
        """
        # The expansion has stride 0: no copy of the input is made per member.
        x = x.reshape(1, -1, x.shape[-1]).expand(self.n_critics, -1, -1)
        last = len(self.weights) - 1
        for i in range(last):
            x = torch.baddbmm(self.biases[i].unsqueeze(1), x, self.weights[i])
            x = nn.functional.elu_(x)  # its slope follows from its output, kept anyway
        return _last_layer(x, self.weights[last], self.biases[last].unsqueeze(1))


class EnsembleCritic(_Ensemble):
    """Q values of ``n_critics`` members, ``[*B, n_critics]``.

    ``Linear(observation)``, ``Linear(action)`` and the context are concatenated once
    for all members; each member has its own ELU layers and output. Layer ``i`` holds
    all members' weights as one tensor, ``weights[i]`` ``[n_critics, in, out]`` and
    ``biases[i]`` ``[n_critics, out]``, so it costs one batched product. Architecture
    and initialisation: arXiv 2405.15384, appendix, and its released code; every member
    is Xavier-uniform on its own.

    Args:
        observation_size: size of the observation.
        action_size: size of the action.
        context_size: size of the encoder's context.
        n_critics: number of members.
        embedding_size: output size of each of the two input maps.
        hidden_sizes: widths of each member's hidden layers.
        observation_key: entry with the observation, ``[*B, observation_size]``.
        action_key: entry with the action, ``[*B, action_size]``.
        context_key: entry with the context, ``[*B, context_size]``.
        out_key: entry to write the values to, ``[*B, n_critics]``.

    Raises:
        ValueError: if ``n_critics`` is less than 1.

    Example:
        >>> import torch
        >>> from resel_torchrl.modules import EnsembleCritic
        >>> from tensordict import TensorDict
        >>> critic = EnsembleCritic(3, 2, context_size=5, n_critics=8)
        >>> data = TensorDict(
        ...     observation=torch.zeros(4, 7, 3),
        ...     action=torch.zeros(4, 7, 2),
        ...     context_critic=torch.zeros(4, 7, 5),
        ...     batch_size=[4, 7],
        ... )
        >>> critic(data)["state_action_value"].shape
        torch.Size([4, 7, 8])
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
        action_key: NestedKey = "action",
        context_key: NestedKey = "context_critic",
        out_key: NestedKey = "state_action_value",
    ) -> None:
        super().__init__([observation_key, action_key, context_key], out_key)
        self.sizes = (observation_size, action_size, context_size)
        self.observation_map = nn.Linear(observation_size, embedding_size)
        self.action_map = nn.Linear(action_size, embedding_size)
        self._add_members(
            n_critics, [2 * embedding_size + context_size, *hidden_sizes, 1]
        )

    def values(self, observation: Tensor, action: Tensor, context: Tensor) -> Tensor:
        """Return every member's Q value.

        Args:
            observation: ``[*B, observation_size]``.
            action: ``[*B, action_size]``.
            context: ``[*B, context_size]``.

        Returns:
            Q values ``[*B, n_critics]``.

        Raises:
            ValueError: if a last dimension has another size.
        """
        check_size(self, "observation", observation, self.sizes[0])
        check_size(self, "action", action, self.sizes[1])
        check_size(self, "context", context, self.sizes[2])
        x = torch.cat(
            [self.observation_map(observation), self.action_map(action), context], -1
        )
        values = self._members(x).squeeze(-1)
        return values.t().reshape(*x.shape[:-1], self.n_critics)


class DiscreteEnsembleCritic(_Ensemble):
    """Q values of every action under ``n_critics`` members, ``[*B, A, n_critics]``.

    As :class:`EnsembleCritic`, but a member has one output per action and no action
    input, so that one pass gives the values of all actions (arXiv 2405.15384,
    appendix, and its released code).

    Args not listed are those of :class:`EnsembleCritic`.

    Args:
        action_size: number of actions, A.
        out_key: entry to write the values to, ``[*B, action_size, n_critics]``.

    Raises:
        ValueError: if ``n_critics`` is less than 1.

    Example:
        >>> import torch
        >>> from resel_torchrl.modules import DiscreteEnsembleCritic
        >>> critic = DiscreteEnsembleCritic(3, 2, context_size=5, n_critics=8)
        >>> critic.values(torch.zeros(4, 7, 3), torch.zeros(4, 7, 5)).shape
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
        super().__init__([observation_key, context_key], out_key)
        self.action_size = action_size
        self.sizes = (observation_size, context_size)
        self.observation_map = nn.Linear(observation_size, embedding_size)
        self._add_members(
            n_critics, [embedding_size + context_size, *hidden_sizes, action_size]
        )

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
        values = self._members(x)
        return values.permute(1, 2, 0).reshape(
            *x.shape[:-1], self.action_size, self.n_critics
        )


@in_full_precision
def _last_layer(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """Values of members, with all of their digits under autocast too."""
    if weight.shape[-1] == 1 and x.device.type == "cpu":
        # A CPU's matrix products are slow where they have one column.
        return (x * weight.mT).sum(-1, keepdim=True) + bias
    return torch.baddbmm(bias, x, weight)
