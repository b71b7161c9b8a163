"""The categorical policy head, for discrete actions."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from tensordict import NestedKey
from tensordict.nn import TensorDictModule
from torch import Tensor, nn
from torchrl.data import Composite, OneHot, TensorSpec
from torchrl.modules import OneHotCategorical, ProbabilisticActor

from resel_torchrl.modules.actor import Actor, ActorHead

__all__ = ["CategoricalActor"]


class CategoricalActor(Actor, ProbabilisticActor):
    """Categorical policy head on an observation and a context; actions are one-hot.

    Layers as in :class:`TanhNormalActor`, to one number per action. Probabilities are
    ``softmax + probability_floor``, normalised again, so that no action dies out
    (arXiv 2405.15384, appendix, and its released code). Over an episode of ``T`` steps
    a policy does what it means to do at each of them with a probability of about
    ``1 - T * (action_size - 1) * probability_floor`` at most: a long task without room
    for a mistake wants a smaller floor.

    It writes ``probs``, ``action_key`` (integers 0 and 1, as TorchRL's environments
    take them) and, with ``return_log_prob``, ``sample_log_prob``. Actions are samples,
    or the mode under ``set_exploration_type(ExplorationType.DETERMINISTIC)``.

    Args not listed are those of :class:`TanhNormalActor`.

    Args:
        action_size: number of actions.
        probability_floor: what is added to the probability of each action, from 1e-6
            to 1.
        spec: one-hot action spec; ``None`` makes one.

    Raises:
        ValueError: if ``spec`` is not a one-hot spec of ``action_size`` actions, or the
            floor is not from 1e-6 to 1.

    Example:
        >>> import torch
        >>> from resel_torchrl.modules import CategoricalActor
        >>> actor = CategoricalActor(3, 2, context_size=5)
        >>> actor.act(torch.zeros(4, 3), torch.zeros(4, 5)).sum(-1)
        tensor([1., 1., 1., 1.])
    """

    def __init__(
        self,
        observation_size: int,
        action_size: int,
        context_size: int = 128,
        *,
        embedding_size: int = 128,
        hidden_sizes: Sequence[int] = (256, 256),
        probability_floor: float = 0.01,
        spec: TensorSpec | None = None,
        observation_key: NestedKey = "observation",
        context_key: NestedKey = "context_actor",
        action_key: NestedKey = "action",
        return_log_prob: bool = False,
    ) -> None:
        if spec is None:
            spec = OneHot(action_size)
        _check_one_hot_spec(spec, action_size, action_key)
        if not 1e-6 <= probability_floor <= 1:
            raise ValueError(
                f"probability_floor: expected a number from 1e-6 to 1, got "
                f"{probability_floor}. PyTorch cuts log-probabilities off at 1e-7, and "
                "their gradient with them; take a small one, such as 1e-4."
            )
        head = CategoricalHead(
            observation_size, action_size, context_size, embedding_size, hidden_sizes
        )
        head.probability_floor = probability_floor
        super().__init__(
            TensorDictModule(
                head, in_keys=[observation_key, context_key], out_keys=["probs"]
            ),
            in_keys=["probs"],
            out_keys=[action_key],
            spec=spec,
            distribution_class=OneModeOneHot,
            # Checking the probabilities would read them back to the host.
            distribution_kwargs={"validate_args": False},
            return_log_prob=return_log_prob,
            log_prob_key="sample_log_prob",
        )

    def draw(self, outputs: Tensor, deterministic: bool = False) -> Tensor:
        """Return one-hot actions ``[B, action_size]`` of the outputs' dtype."""
        probs = self.network.distribution(outputs)
        if deterministic:
            index = probs.argmax(-1, keepdim=True)
        else:
            index = torch.multinomial(probs, 1)
        return torch.zeros_like(probs).scatter_(-1, index, 1.0)


class CategoricalHead(ActorHead):
    """Map observation and context to the probabilities of the actions."""

    probability_floor: float

    def distribution(self, outputs: Tensor) -> Tensor:
        """Return the probabilities, ``[*B, action_size]``."""
        probs = outputs.softmax(-1) + self.probability_floor
        return probs / probs.sum(-1, keepdim=True)


class OneModeOneHot(OneHotCategorical):
    """TorchRL's ``OneHotCategorical`` with one action as its mode, ties or not.

    TorchRL marks all actions that are equally probable, which is no one-hot action.
    """

    @property
    def mode(self) -> Tensor:
        return nn.functional.one_hot(self.probs.argmax(-1), self.num_samples)


def _check_one_hot_spec(spec: TensorSpec, size: int, key: NestedKey) -> None:
    leaf = spec[key] if isinstance(spec, Composite) else spec
    if not isinstance(leaf, OneHot) or leaf.shape[-1:] != (size,):
        raise ValueError(
            f"spec: expected a OneHot spec of {size} actions, got {leaf}. Make the "
            "environment with one-hot actions (torchrl.envs.GymEnv does so by "
            "default), or correct action_size."
        )
