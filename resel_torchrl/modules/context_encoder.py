"""The context encoder: a recurrent summary of everything seen so far."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from tensordict import NestedKey, TensorDictBase, unravel_key
from tensordict.nn import TensorDictModuleBase
from torch import Tensor, nn
from torchrl.data import Unbounded
from torchrl.envs import Compose, TensorDictPrimer, Transform
from torchrl.modules import recurrent_mode

from resel_torchrl.modules._layers import xavier_linear
from resel_torchrl.modules.cores import CORES, SequenceCore, make_core
from resel_torchrl.modules.previous_step import PreviousStep, is_previous

__all__ = ["ContextEncoder", "ContextTrunk", "context_inputs"]


class ContextEncoder(TensorDictModuleBase):
    """Summarise the history of an episode in a context vector.

    One pre-encoder per input, then :class:`ContextTrunk` (arXiv 2405.15384, section 4
    and appendix). ``trunk`` learns with ``lr_context_encoder``, ``pre_encoders`` with
    the rate of the rest of the actor or critic
    (:func:`resel_torchrl.optim.parameter_groups`).

    It reads the inputs, ``is_init_key`` (bool ``[*B, 1]``, true at the first step of an
    episode) and ``state_key``, the hidden state ``[*B, state_size]``, in one of two
    modes (:class:`torchrl.modules.set_recurrent_mode`; losses switch by themselves):

    * *sequential* (the default, for acting): batch ``[*B]``, one step. Writes the
      context ``[*B, context_size]`` and the next hidden state to
      ``("next", state_key)``.
    * *recurrent*: batch ``[R, L]``, time last; ``[T]`` counts as one row, further
      leading dimensions are folded into R. The hidden state before the first step is
      read there, or is zero if ``state_key`` is absent. Writes the context only.

    In both, the hidden state is zeroed wherever ``is_init`` is true. Inputs whose last
    part begins with ``prev_`` are supplied by :class:`PreviousStep`
    (:meth:`make_tensordict_primer`). A core that sees the present only
    (``core="memoryless"``) drops them; one with ``state_size`` 0 neither reads nor
    writes ``state_key``.

    Args:
        inputs: entry to size of its last dimension; see :func:`context_inputs`. An
            entry with its own pre-encoder may give a shape instead, ``(3, 64, 64)``.
        core: name of a sequence core, or a ``SequenceCore`` of width
            ``hidden_size``.
        embedding_size: output size of each pre-encoder.
        hidden_size: width of the core.
        context_size: size of the context.
        core_kwargs: further arguments of the named core.
        pre_encoders: own pre-encoders, by entry, in place of ``Linear``; each maps
            ``[N, *shape]`` to ``[N, embedding_size]``.
        out_key: entry to write the context to.
        state_key: entry of the hidden state; ``f"{out_key}_state"`` if ``None``.
        is_init_key: entry of the start flag. TorchRL's registration supplies
            ``"is_init"``; for another name append ``InitTracker(init_key=...)``.

    Attributes:
        input_keys: the inputs in use.
        core: the sequence core.
        state_size: length of the hidden state; 0 for cores without one.
        context_size: size of the context.

    Raises:
        ValueError: if an argument is out of range or names something unknown; all
            such faults are listed at once.

    Example:
        >>> import torch
        >>> from resel_torchrl.modules import ContextEncoder, context_inputs
        >>> from tensordict import TensorDict
        >>> from torchrl.modules import set_recurrent_mode
        >>> encoder = ContextEncoder(
        ...     context_inputs(3, 2), "gru", hidden_size=16, context_size=4
        ... )
        >>> data = TensorDict(
        ...     observation=torch.zeros(5, 7, 3),
        ...     prev_observation=torch.zeros(5, 7, 3),
        ...     prev_action=torch.zeros(5, 7, 2),
        ...     is_init=torch.zeros(5, 7, 1, dtype=torch.bool),
        ...     batch_size=[5, 7],
        ... )
        >>> with set_recurrent_mode(True):
        ...     encoder(data)["context_actor"].shape
        torch.Size([5, 7, 4])
    """

    def __init__(
        self,
        inputs: Mapping[NestedKey, int | Sequence[int]],
        core: str | SequenceCore = "mamba",
        *,
        embedding_size: int = 128,
        hidden_size: int = 256,
        context_size: int = 128,
        core_kwargs: Mapping[str, Any] | None = None,
        pre_encoders: Mapping[NestedKey, nn.Module] | None = None,
        out_key: NestedKey = "context_actor",
        state_key: NestedKey | None = None,
        is_init_key: NestedKey = "is_init",
    ) -> None:
        shapes = {
            unravel_key(k): (v,) if isinstance(v, int) else tuple(v)
            for k, v in inputs.items()
        }
        own = {unravel_key(k): v for k, v in (pre_encoders or {}).items()}
        sizes = {
            "embedding_size": embedding_size,
            "hidden_size": hidden_size,
            "context_size": context_size,
        }
        faults = _faults(shapes, own, sizes, core, core_kwargs)
        if faults:
            raise ValueError("\n".join(["ContextEncoder:", *faults]))
        super().__init__()
        if isinstance(core, str):
            core = make_core(core, hidden_size, **(core_kwargs or {}))
        if not core.uses_previous:
            shapes = {k: shape for k, shape in shapes.items() if not is_previous(k)}
            if not shapes:
                raise ValueError(
                    f"inputs: expected one that does not begin with 'prev_', because "
                    f"{type(core).__name__} sees the present only; got {list(inputs)}."
                    " Add the observation."
                )
        self.input_keys = list(shapes)
        self.input_shapes = list(shapes.values())
        self.context_size = context_size
        self.state_size = core.state_size
        self._own = [key in own for key in self.input_keys]
        self.pre_encoders = nn.ModuleList(
            own[key] if key in own else nn.Linear(shape[0], embedding_size)
            for key, shape in shapes.items()
        )
        self.trunk = ContextTrunk(
            len(self.input_keys) * embedding_size, core, context_size
        )
        self.out_key = unravel_key(out_key)
        self.state_key = unravel_key(state_key or _with_suffix(self.out_key, "_state"))
        self.is_init_key = unravel_key(is_init_key)
        self.in_keys = [*self.input_keys, self.is_init_key]
        self.out_keys = [self.out_key]
        if self.state_size:
            self.in_keys.append(self.state_key)
            self.out_keys.append(unravel_key(("next", self.state_key)))

    @property
    def core(self) -> SequenceCore:
        """The sequence core."""
        return self.trunk.core

    def encode(
        self, inputs: Sequence[Tensor], is_init: Tensor, state: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """Encode whole sequences, on plain tensors.

        Args:
            inputs: one tensor ``[R, L, *shape]`` per entry of ``input_keys``.
            is_init: start flags, bool ``[R, L]``.
            state: hidden state before the first step, ``[R, state_size]``; zeros if
                ``None``.

        Returns:
            The context ``[R, L, context_size]`` and the hidden state after the last
            step, ``[R, state_size]``.
        """
        return self.trunk(self._embed(inputs), is_init, state)

    def encode_step(
        self, inputs: Sequence[Tensor], is_init: Tensor, state: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Encode one step of B episodes, on plain tensors.

        Args:
            inputs: one tensor ``[B, *shape]`` per entry of ``input_keys``.
            is_init: start flags, bool ``[B]``.
            state: hidden state, ``[B, state_size]``.

        Returns:
            The context ``[B, context_size]`` and the next hidden state
            ``[B, state_size]``.
        """
        return self.trunk.step(self._embed(inputs), is_init, state)

    def forward(self, tensordict: TensorDictBase) -> TensorDictBase:
        """Write the context and, in sequential mode, the next hidden state.

        Args:
            tensordict: batch ``[*B]`` in sequential mode, ``[R, L]`` in recurrent
                mode.

        Returns:
            The same tensordict.

        Raises:
            KeyError: if an input, the start flag or (in sequential mode) the hidden
                state is missing.
            ValueError: if an entry has a wrong shape or dtype.
        """
        batch = tensordict.batch_size
        recurrent = bool(recurrent_mode())
        if recurrent and not batch:
            raise ValueError(
                "ContextEncoder in recurrent mode: expected a batch [R, L] or [T], got "
                "a tensordict without batch dimensions. For one step of acting use "
                "sequential mode, set_recurrent_mode(False)."
            )
        dtype = self.trunk.out_projection.weight.dtype
        rows = [math.prod(batch[:-1]), batch[-1]] if recurrent else [math.prod(batch)]

        def read(key: NestedKey, shape: Sequence[int]) -> Tensor:
            return _read_entry(tensordict, key, shape, dtype).reshape(*rows, *shape)

        inputs = [
            read(key, shape)
            for key, shape in zip(self.input_keys, self.input_shapes, strict=True)
        ]
        is_init = _read_is_init(tensordict, self.is_init_key).reshape(rows)
        if recurrent:
            state = None
            if self.state_size and tensordict.get(self.state_key, None) is not None:
                state = read(self.state_key, (self.state_size,))[:, 0]
            context, _ = self.encode(inputs, is_init, state)
        elif self.state_size:
            state = read(self.state_key, (self.state_size,))
            context, state = self.encode_step(inputs, is_init, state)
            tensordict.set(self.out_keys[1], state.reshape(*batch, self.state_size))
        else:
            state = inputs[0].new_zeros(*rows, 0)
            context, _ = self.encode_step(inputs, is_init, state)
        tensordict.set(self.out_key, context.reshape(*batch, self.context_size))
        return tensordict

    def make_tensordict_primer(self) -> Transform:
        """Return the transform that an environment needs for acting.

        It starts the hidden state at zero and, as a :class:`PreviousStep`, supplies the
        ``prev_*`` inputs. One transform does both, because TorchRL skips a primer whose
        entries the environment has: registering twice changes nothing. For an encoder
        with neither it is an empty ``Compose``.

        TorchRL calls this method itself (``get_env_transforms_from_module``,
        ``Collector``) and adds ``InitTracker`` where it is missing.
        """
        dtype = self.trunk.out_projection.weight.dtype
        hidden = {}
        if self.state_size:
            hidden[self.state_key] = Unbounded((self.state_size,), dtype=dtype)
        previous = [key for key in self.input_keys if is_previous(key)]
        if previous:
            return PreviousStep(previous, carried=hidden)
        return TensorDictPrimer(hidden, expand_specs=True) if hidden else Compose()

    def _embed(self, inputs: Sequence[Tensor]) -> Tensor:
        embeddings = []
        for x, pre_encoder, own, shape in zip(
            inputs, self.pre_encoders, self._own, self.input_shapes, strict=True
        ):
            if own:
                # A convolution, say, takes one batch dimension only.
                batch = x.shape[: x.ndim - len(shape)]
                x = pre_encoder(x.reshape(-1, *shape)).reshape(*batch, -1)
            else:
                x = pre_encoder(x)
            embeddings.append(x)
        return torch.cat(embeddings, -1)


class ContextTrunk(nn.Module):
    """In-projection, sequence core and out-projection: what learns slowly.

    ``Linear -> ELU -> core -> ELU -> Linear``. All of its parameters, and no
    others, get the context-encoder-specific learning rate (arXiv 2405.15384,
    section 4).

    Args:
        input_size: size of the concatenated embeddings.
        core: the sequence core; its width is the hidden size.
        context_size: size of the context.

    Example:
        >>> import torch
        >>> from resel_torchrl.modules import ContextTrunk, make_core
        >>> trunk = ContextTrunk(6, make_core("gru", 8), context_size=4)
        >>> start = torch.tensor([[True, False, False]])
        >>> context, state = trunk(torch.zeros(1, 3, 6), start, None)
        >>> context.shape, state.shape
        (torch.Size([1, 3, 4]), torch.Size([1, 8]))
    """

    def __init__(self, input_size: int, core: SequenceCore, context_size: int) -> None:
        super().__init__()
        self.in_projection = xavier_linear(input_size, core.input_size)
        self.core = core
        self.out_projection = xavier_linear(core.output_size, context_size)

    def forward(
        self, embedding: Tensor, is_init: Tensor, state: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        """Unroll over time: ``[R, L, input_size]`` to ``[R, L, context_size]``."""
        dtype = self.out_projection.weight.dtype  # what autocast may leave
        x = nn.functional.elu_(self.in_projection(embedding)).to(dtype)
        y, state = self.core(x, is_init, state)
        return self.out_projection(nn.functional.elu(y)).to(dtype), state

    def step(
        self, embedding: Tensor, is_init: Tensor, state: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Advance one step: ``[B, input_size]`` to ``[B, context_size]``."""
        x = nn.functional.elu_(self.in_projection(embedding))
        y, state = self.core.step(x, is_init, state)
        return self.out_projection(nn.functional.elu(y)), state


def context_inputs(
    observation_size: int, action_size: int, *, reward: bool = False
) -> dict[NestedKey, int]:
    """Return the standard inputs of a context encoder with their sizes.

    The encoder of arXiv 2405.15384 sees the observation, the previous observation
    and the previous action; in meta-RL the previous reward too.

    Args:
        observation_size: size of the observation.
        action_size: size of the action (one-hot where discrete).
        reward: add the previous reward.

    Returns:
        Entry name to size, for ``ContextEncoder(inputs=...)``.

    Example:
        >>> from resel_torchrl.modules import context_inputs
        >>> context_inputs(9, 6)
        {'observation': 9, 'prev_observation': 9, 'prev_action': 6}
    """
    inputs: dict[NestedKey, int] = {
        "observation": observation_size,
        "prev_observation": observation_size,
        "prev_action": action_size,
    }
    if reward:
        inputs["prev_reward"] = 1
    return inputs


def _with_suffix(key: NestedKey, suffix: str) -> NestedKey:
    return key + suffix if isinstance(key, str) else (*key[:-1], key[-1] + suffix)


def _faults(
    shapes: Mapping[NestedKey, tuple[int, ...]],
    own: Mapping[NestedKey, nn.Module],
    sizes: Mapping[str, int],
    core: str | SequenceCore,
    core_kwargs: Mapping[str, Any] | None,
) -> list[str]:
    """List what is wrong with the arguments of ``ContextEncoder``."""
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
    faults += [
        f"pre_encoders: expected keys among inputs {list(shapes)}, got {key!r}."
        for key in own
        if key not in shapes
    ]
    faults += [
        f"{name}: expected an integer >= 1, got {size}."
        for name, size in sizes.items()
        if size < 1
    ]
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
    return faults


def _read_entry(
    tensordict: TensorDictBase,
    key: NestedKey,
    shape: Sequence[int],
    dtype: torch.dtype,
) -> Tensor:
    """Return an entry, ``[*batch, *shape]``, in a dtype that the weights accept."""
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


def _read_is_init(tensordict: TensorDictBase, key: NestedKey) -> Tensor:
    """Return the start flags as bool ``[*batch]``."""
    batch = tensordict.batch_size
    is_init = tensordict.get(key, None)
    if is_init is None:
        raise KeyError(
            f"ContextEncoder: expected the start flag {key!r}, got "
            f"{_entries(tensordict)}. Append torchrl.envs.InitTracker() to the "
            "environment; without it the hidden state would leak between episodes."
        )
    if is_init.dtype != torch.bool or is_init.shape not in (batch, (*batch, 1)):
        raise ValueError(
            f"ContextEncoder: expected {key!r} as torch.bool of shape {[*batch, 1]}, "
            f"got {is_init.dtype} of shape {list(is_init.shape)}. Take it from "
            "InitTracker() or pack_episodes(sample)."
        )
    return is_init


def _entries(tensordict: TensorDictBase) -> str:
    return ", ".join(sorted(map(str, tensordict.keys(True, True))))
