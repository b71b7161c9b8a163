"""What the log tells of the updates, and the watch for numbers that are not finite."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch
from tensordict import TensorDict
from tensordict.nn import TensorDictModuleBase
from torch import Tensor
from torchrl.modules import set_recurrent_mode

from resel_torchrl.errors import NonFiniteLossError

if TYPE_CHECKING:
    from resel_torchrl.training.learner import Learner, Role

__all__ = [
    "UpdateMetrics",
    "check_gradients",
    "check_tensors",
    "check_terms",
    "contexts",
    "gradient_norms",
]


class UpdateMetrics:
    """Means over the updates of a row of the log, and what its first update did.

    Sums stay on the learner's device; only :meth:`values` waits for them. As one of the
    learner's observers it measures the first step of each role in a row: the gradient
    norms, and how far the encoder's contexts move.

    Args:
        roles: The steps of an update.
    """

    def __init__(self, roles: Iterable[str]) -> None:
        self._due = dict.fromkeys(roles, True)
        self._measured: dict[str, Tensor] = {}
        self._counts: dict[str, int] = {}
        #: Sum of each term over the updates of the row.
        self.sums: dict[str, Tensor] = {}

    @torch.no_grad()
    def add(self, terms: Mapping[str, Tensor]) -> None:
        """Count the scalars of one update in; they are copied."""
        for name, value in terms.items():
            value = value.detach()
            self._counts[name] = self._counts.get(name, 0) + 1
            if name in self.sums:
                self.sums[name] += value
            else:
                self.sums[name] = value.clone()

    def wants_step(self, learner: Learner, role: Role) -> bool:
        """Whether the next step of `role` is the first of the row."""
        return self._due[role]

    def before_step(self, learner: Learner, role: Role, batch: TensorDict) -> None:
        """Measure the gradients and the contexts."""
        self._measured.update(gradient_norms(learner.optimizer.param_groups))
        self._contexts = contexts(batch, learner.encoders[role])

    def after_step(self, learner: Learner, role: Role, batch: TensorDict) -> None:
        """Measure the mean distance that the step moved the contexts, over `valid`."""
        shift = (contexts(batch, learner.encoders[role]) - self._contexts).norm(dim=-1)
        learned = batch.get("learning_mask", batch.get("valid")).squeeze(-1)
        change = torch.where(learned, shift, 0.0).sum() / learned.sum()
        self._measured[f"context_{role}_change"] = change
        self._due[role] = False
        del self._contexts

    def values(self) -> dict[str, float]:
        """Return the means of the row so far, and what was measured."""
        means = {
            name: float(total) / self._counts[name] for name, total in self.sums.items()
        }
        return means | {name: float(value) for name, value in self._measured.items()}

    def begin_row(self) -> None:
        """Forget the row."""
        self.sums.clear()
        self._counts.clear()
        self._measured.clear()
        self._due = dict.fromkeys(self._due, True)

    def state_dict(self) -> dict[str, Any]:
        """Return the row so far."""
        return {
            "sums": dict(self.sums),
            "counts": dict(self._counts),
            "measure": dict(self._due),
            "measured": dict(self._measured),
        }

    def load_state_dict(self, state: Mapping[str, Any], device: torch.device) -> None:
        """Go on with the row of :meth:`state_dict`, on the learner's device."""
        self._counts, self._due = dict(state["counts"]), dict(state["measure"])
        self.sums = {name: x.to(device) for name, x in state["sums"].items()}
        self._measured = {name: x.to(device) for name, x in state["measured"].items()}


def gradient_norms(groups: Iterable[Mapping[str, Any]]) -> dict[str, Tensor]:
    """Euclidean norm of the gradient of each group that has one."""
    norms = {}
    for group in groups:
        gradients = [p.grad for p in group["params"] if p.grad is not None]
        if gradients:
            norm = torch.nn.utils.get_total_norm(gradients)
            norms[f"grad_norm_{group['name']}"] = norm
    return norms


@torch.no_grad()
def contexts(batch: TensorDict, encoder: TensorDictModuleBase) -> Tensor:
    """Contexts ``[R, L, C]`` that an encoder makes of a packed batch now, a copy."""
    inputs = batch.select(*encoder.in_keys, strict=False)
    with set_recurrent_mode(True):
        return encoder(inputs).get(encoder.out_key).clone()


def check_terms(terms: Mapping[str, Tensor], update: int) -> None:
    """Raise a :class:`NonFiniteLossError` that names a loss which is not finite."""
    for name, value in terms.items():
        if name.startswith("loss_") and not math.isfinite(value.detach()):
            raise _complaint(name, float(value.detach()), update)


def check_gradients(groups: Iterable[Mapping[str, Any]], update: int) -> None:
    """Raise a :class:`NonFiniteLossError` that names a group of parameters."""
    gradients: dict[str, Sequence[Tensor]] = {
        group["name"]: [p.grad for p in group["params"] if p.grad is not None]
        for group in groups
    }
    everything = [gradient for group in gradients.values() for gradient in group]
    if math.isfinite(torch.nn.utils.get_total_norm(everything)):
        return
    for name, group in gradients.items():
        # The norm of finite numbers may overflow: that alone is no fault.
        for gradient in group:
            if not gradient.isfinite().all():
                value = float(gradient[~gradient.isfinite()][0])
                raise _complaint(f"gradient of {name}", value, update)


def check_tensors(tensors: Mapping[str, Tensor], update: int) -> None:
    """Raise a :class:`NonFiniteLossError` that names a tensor with such a value."""
    sound = torch.stack([value.isfinite().all().cpu() for value in tensors.values()])
    for (name, value), is_sound in zip(tensors.items(), sound.tolist(), strict=True):
        if not is_sound:
            raise _complaint(name, float(value[~value.isfinite()][0]), update)


def _complaint(name: str, value: float, update: int) -> NonFiniteLossError:
    return NonFiniteLossError(
        f"expected a finite {name}, got {value} at update {update}"
    )
