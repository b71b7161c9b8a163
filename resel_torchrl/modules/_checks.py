"""Checks of what users pass to the modules, and the errors that explain it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from tensordict import NestedKey, TensorDictBase
from torch import Tensor, nn

from resel_torchrl.modules.cores import CORES, SequenceCore


def check_size(owner: nn.Module, name: str, value: Tensor, size: int) -> None:
    """Raise ValueError unless the last dimension of ``value`` has ``size``."""
    if value.shape[-1:] != (size,):
        raise ValueError(
            f"{type(owner).__name__}: expected {name} of shape [*B, {size}], got "
            f"{list(value.shape)}. Correct {name}_size, or the data."
        )


def read_entry(
    tensordict: TensorDictBase,
    key: NestedKey,
    shape: Sequence[int],
    dtype: torch.dtype,
) -> Tensor:
    """Return an encoder's entry, ``[*batch, *shape]``, in a dtype its weights accept.

    Raises:
        KeyError: if it is missing.
        ValueError: if it has another shape, or a dtype that would mix single and
            double precision.
    """
    value = tensordict.get(key, None)
    if value is None:
        raise KeyError(
            f"ContextEncoder: expected an entry {key!r}, got {_entries(tensordict)}. "
            "When acting, append InitTracker() and encoder.make_tensordict_primer() to "
            "the environment (Collector(auto_register_policy_transforms=True) does "
            "so); when training, pass pack_episodes(sample)."
        )
    batch = tensordict.batch_size
    if value.shape != (*batch, *shape):
        raise ValueError(
            f"ContextEncoder: expected {key!r} of shape {[*batch, *shape]} (batch "
            f"{list(batch)}, features {list(shape)}), got {list(value.shape)}. Correct "
            "the size in `inputs`, or the tensordict's batch size."
        )
    if not value.is_floating_point():
        return value.to(dtype)
    if value.dtype != dtype and torch.float64 in (value.dtype, dtype):
        raise ValueError(
            f"ContextEncoder: expected {key!r} in {dtype}, as the weights, got "
            f"{value.dtype}. Append DoubleToFloat() to the environment, or convert the "
            "encoder with .double() or .float()."
        )
    return value


def read_is_init(tensordict: TensorDictBase, key: NestedKey) -> Tensor:
    """Return the start flags as bool ``[*batch]``.

    Raises:
        KeyError: if they are missing.
        ValueError: if they are not bool, or of another shape.
    """
    batch = tensordict.batch_size
    is_init = tensordict.get(key, None)
    if is_init is None:
        raise KeyError(
            f"ContextEncoder: expected the start flag {key!r}, got "
            f"{_entries(tensordict)}. Append torchrl.envs.InitTracker() to the "
            "environment; without it memory would leak between episodes."
        )
    if is_init.dtype != torch.bool or is_init.shape not in (batch, (*batch, 1)):
        raise ValueError(
            f"ContextEncoder: expected {key!r} as torch.bool of shape {[*batch, 1]}, "
            f"got {is_init.dtype} of shape {list(is_init.shape)}. Take it from "
            "InitTracker() or pack_episodes(sample)."
        )
    return is_init.reshape(batch)


def _entries(tensordict: TensorDictBase) -> str:
    return ", ".join(sorted(map(str, tensordict.keys(True, True))))


def check_encoder_arguments(
    shapes: Mapping[NestedKey, tuple[int, ...]],
    own: Mapping[NestedKey, nn.Module],
    sizes: Mapping[str, int],
    core: str | SequenceCore,
    core_kwargs: Mapping[str, Any] | None,
) -> None:
    """Raise one ValueError that lists every fault of the constructor's arguments."""
    faults = []
    if not shapes:
        faults.append("inputs: expected at least one entry, got none.")
    for key, shape in shapes.items():
        if not shape or min(shape) < 1:
            faults.append(f"inputs[{key!r}]: expected sizes >= 1, got {shape}.")
        elif len(shape) > 1 and key not in own:
            faults.append(
                f"inputs[{key!r}]: expected one size, got {shape}. Give "
                f"pre_encoders={{{key!r}: module}} for an entry with a shape."
            )
    for key in own:
        if key not in shapes:
            faults.append(
                f"pre_encoders: expected keys among inputs {list(shapes)}, got {key!r}."
            )
    for name, size in sizes.items():
        if size < 1:
            faults.append(f"{name}: expected an integer >= 1, got {size}.")
    if isinstance(core, str):
        if core not in CORES:
            faults.append(f"core: expected one of {sorted(CORES)}, got {core!r}.")
    elif not isinstance(core, SequenceCore):
        faults.append(
            f"core: expected a name among {sorted(CORES)} or a SequenceCore, got "
            f"{type(core).__name__}."
        )
    else:
        if core_kwargs:
            faults.append(
                "core_kwargs: expected none beside a core that is built already, got "
                f"{dict(core_kwargs)}. Pass them to {type(core).__name__} instead."
            )
        width = sizes["hidden_size"]
        if (core.input_size, core.output_size) != (width, width):
            faults.append(
                f"hidden_size: expected the core's width {core.input_size}, got "
                f"{width}. Pass hidden_size={core.input_size}."
            )
    if faults:
        raise ValueError("\n".join(["ContextEncoder:", *faults]))
