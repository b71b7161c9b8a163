"""Losses, gradients and parameters that must stay finite."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

__all__ = ["NonFiniteLossError", "check_gradients", "check_tensors", "check_terms"]


class NonFiniteLossError(FloatingPointError):
    """A loss, gradient or parameter of the learner that is NaN or infinite.

    On a CPU it is raised before the step that would spoil the parameters.
    """


def check_terms(terms: Mapping[str, Tensor], update: int) -> None:
    """Raises a :class:`NonFiniteLossError` that names a loss which is not finite.

    Args:
        terms: Scalars by name; those whose names begin with `loss_` are losses.
        update: Number of the update, for the message.

    >>> check_terms({"loss_qvalue": torch.tensor(1.0), "entropy": torch.tensor(0.5)}, 7)
    """
    for name, value in terms.items():
        if name.startswith("loss_") and not math.isfinite(value.detach()):
            raise _complaint(name, float(value.detach()), update)


def check_gradients(groups: Iterable[Mapping[str, Any]], update: int) -> None:
    """Raises a :class:`NonFiniteLossError` that names a group of parameters.

    Args:
        groups: Groups of an optimizer, with a name and parameters each.
        update: Number of the update, for the message.

    >>> parameter = torch.zeros(2, requires_grad=True)
    >>> parameter.sum().backward()
    >>> check_gradients([{"name": "actor", "params": [parameter]}], 7)
    """
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
    """Raises a :class:`NonFiniteLossError` that names a tensor with such a value.

    Args:
        tensors: Floating-point tensors by name, looked at in one go.
        update: Number of the update, for the message.

    >>> check_tensors({"weight": torch.ones(3)}, 7)
    """
    sound = torch.stack([value.isfinite().all().cpu() for value in tensors.values()])
    for (name, value), is_sound in zip(tensors.items(), sound.tolist(), strict=True):
        if not is_sound:
            raise _complaint(name, float(value[~value.isfinite()][0]), update)


def _complaint(name: str, value: float, update: int) -> NonFiniteLossError:
    return NonFiniteLossError(
        f"expected a finite {name}, got {value} at update {update}"
    )
