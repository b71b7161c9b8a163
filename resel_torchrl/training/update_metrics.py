"""What a row of the log says of its updates: means of all, and a closer look at one."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import torch
from tensordict import TensorDict
from tensordict.nn import TensorDictModuleBase
from torch import Tensor
from torchrl.modules import set_recurrent_mode

__all__ = ["UpdateMetrics", "contexts", "gradient_norms"]


class UpdateMetrics:
    """Sums on the learner's device; only :meth:`values` waits for them.

    Args:
        roles: Steps of an update of which the first one in a row is measured.

    >>> metrics = UpdateMetrics(["critic"])
    >>> metrics.add({"loss_qvalue": torch.tensor(1.0)})
    >>> metrics.add({"loss_qvalue": torch.tensor(3.0)})
    >>> if metrics.due("critic"):
    ...     metrics.measured("critic", grad_norm_critic=torch.tensor(0.5))
    >>> metrics.due("critic"), metrics.values()
    (False, {'loss_qvalue': 2.0, 'grad_norm_critic': 0.5})
    >>> metrics.begin_row()
    >>> metrics.due("critic"), metrics.values()
    (True, {})
    """

    def __init__(self, roles: Iterable[str]) -> None:
        self._due = dict.fromkeys(roles, True)
        self._measured: dict[str, Tensor] = {}
        self._counts: dict[str, int] = {}
        #: Sum of each term over the updates of the row.
        self.sums: dict[str, Tensor] = {}

    @torch.no_grad()
    def add(self, terms: Mapping[str, Tensor]) -> None:
        """Counts the scalars of one update in; they are copied."""
        for name, value in terms.items():
            value = value.detach()
            self._counts[name] = self._counts.get(name, 0) + 1
            if name in self.sums:
                self.sums[name] += value
            else:
                self.sums[name] = value.clone()

    def due(self, role: str) -> bool:
        """Whether the next step of `role` is the one to be measured."""
        return self._due[role]

    def measured(self, role: str, **values: Tensor) -> None:
        """Takes what was measured at the step of `role`, which is no longer due."""
        self._due[role] = False
        self._measured.update(values)

    def values(self) -> dict[str, float]:
        """Means of the row so far, and what was measured."""
        means = {
            name: float(total) / self._counts[name] for name, total in self.sums.items()
        }
        return means | {name: float(value) for name, value in self._measured.items()}

    def begin_row(self) -> None:
        """Forgets the row."""
        self.sums.clear()
        self._counts.clear()
        self._measured.clear()
        self._due = dict.fromkeys(self._due, True)

    def state_dict(self) -> dict[str, Any]:
        """The row so far."""
        return {
            "sums": dict(self.sums),
            "counts": dict(self._counts),
            "measure": dict(self._due),
            "measured": dict(self._measured),
        }

    def load_state_dict(self, state: Mapping[str, Any], device: torch.device) -> None:
        """Goes on with the row of :meth:`state_dict`, on the learner's device."""
        self._counts, self._due = dict(state["counts"]), dict(state["measure"])
        self.sums = {name: x.to(device) for name, x in state["sums"].items()}
        self._measured = {name: x.to(device) for name, x in state["measured"].items()}


def gradient_norms(groups: Iterable[Mapping[str, Any]]) -> dict[str, Tensor]:
    """Euclidean norm of the gradient of each group that has one.

    Args:
        groups: With `params` and `name`, as of
            :func:`~resel_torchrl.optim.parameter_groups`.

    >>> weight = torch.zeros(2, requires_grad=True)
    >>> (3 * weight[0] + 4 * weight[1]).backward()
    >>> gradient_norms([{"params": [weight], "name": "actor"}])
    {'grad_norm_actor': tensor(5.)}
    """
    norms = {}
    for group in groups:
        gradients = [p.grad for p in group["params"] if p.grad is not None]
        if gradients:
            norm = torch.nn.utils.get_total_norm(gradients)
            norms[f"grad_norm_{group['name']}"] = norm
    return norms


@torch.no_grad()
def contexts(batch: TensorDict, encoder: TensorDictModuleBase) -> Tensor:
    """What an encoder makes of a packed batch now: ``[R, L, C]``, a copy.

    Args:
        batch: ``[R, L]``.
        encoder: With an `out_key`.
    """
    inputs = batch.select(*encoder.in_keys, strict=False)
    with set_recurrent_mode(True):
        return encoder(inputs).get(encoder.out_key).clone()
