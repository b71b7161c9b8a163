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

from resel_torchrl.modules._checks import (
    check_encoder_arguments,
    read_entry,
    read_is_init,
)
from resel_torchrl.modules.cores import SequenceCore, make_core
from resel_torchrl.modules.init import xavier_linear
from resel_torchrl.modules.previous_step import PreviousStep, is_previous

__all__ = [
    "ContextEncoder",
    "ContextTrunk",
    "context_inputs",
]


class ContextEncoder(TensorDictModuleBase):
    """Summarise the history of an episode in a context vector.

    One pre-encoder per input, then :class:`ContextTrunk` (arXiv 2405.15384,
    section 4 and appendix). ``trunk`` learns with ``lr_context_encoder``,
    ``pre_encoders`` with the learning rate of the rest of the actor or critic;
    :func:`resel_torchrl.optim.parameter_groups` makes that split.

    It reads the inputs, ``is_init_key`` (bool ``[*B, 1]``, true at the first step
    of an episode) and, as its memory, ``state_key`` (``[*B, state_size]``), and
    works in one of two modes, chosen by :class:`torchrl.modules.set_recurrent_mode`
    (losses switch recurrent mode on by themselves):

    * *sequential* (the default, for acting): batch ``[*B]``, one step. Writes the
      context ``[*B, context_size]`` and the new memory to ``("next", state_key)``.
    * *recurrent*: batch ``[R, L]``, time last; ``[T]`` counts as one row, further
      leading dimensions are folded into R. The memory before the first column is
      read at that column, or is zero if ``state_key`` is absent. Writes the context
      only.

    In both, memory is zeroed wherever ``is_init`` is true: nothing passes from one
    episode to the next. Inputs whose last part begins with ``prev_`` are supplied
    by :class:`PreviousStep`, which :meth:`make_tensordict_primer` returns, so that
    a collector can append it by itself. A core that sees the present only
    (``core="memoryless"``) drops these inputs, and one without memory
    (``state_size`` 0) neither reads nor writes ``state_key``.

    :meth:`encode` and :meth:`encode_step` are the same computation on plain
    tensors, in the order of ``input_keys``.

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
        state_key: entry of the memory; ``f"{out_key}_state"`` if ``None``.
        is_init_key: entry of the start flag. TorchRL's registration supplies
            ``"is_init"``; for another name append ``InitTracker(init_key=...)``.

    Attributes:
        input_keys: the inputs in use.
        core: the sequence core.
        state_size: length of the memory vector; 0 for cores without memory.
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
        shapes = {unravel_key(k): _as_shape(v) for k, v in inputs.items()}
        own = {unravel_key(k): v for k, v in (pre_encoders or {}).items()}
        sizes = {
            "embedding_size": embedding_size,
            "hidden_size": hidden_size,
            "context_size": context_size,
        }
        check_encoder_arguments(shapes, own, sizes, core, core_kwargs)
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
        self.state_key = (
            _with_suffix(self.out_key, "_state")
            if state_key is None
            else unravel_key(state_key)
        )
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

    def encode(
        self, inputs: Sequence[Tensor], is_init: Tensor, state: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """Encode whole sequences.

        Args:
            inputs: one tensor ``[R, L, *shape]`` per entry of ``input_keys``.
            is_init: start flags, bool ``[R, L]``.
            state: memory before the first column, ``[R, state_size]``; zeros if
                ``None``.

        Returns:
            The context ``[R, L, context_size]`` and the memory after the last
            column, ``[R, state_size]``.
        """
        return self.trunk(self._embed(inputs), is_init, state)

    def encode_step(
        self, inputs: Sequence[Tensor], is_init: Tensor, state: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Encode one step of B episodes.

        Args:
            inputs: one tensor ``[B, *shape]`` per entry of ``input_keys``.
            is_init: start flags, bool ``[B]``.
            state: memory, ``[B, state_size]``.

        Returns:
            The context ``[B, context_size]`` and the new memory
            ``[B, state_size]``.
        """
        return self.trunk.step(self._embed(inputs), is_init, state)

    def forward(self, tensordict: TensorDictBase) -> TensorDictBase:
        """Write the context and, in sequential mode, the new memory.

        Args:
            tensordict: batch ``[*B]`` in sequential mode, ``[R, L]`` in recurrent
                mode.

        Returns:
            The same tensordict.

        Raises:
            KeyError: if an input, the start flag or (in sequential mode) the memory
                is missing.
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
        inputs = [
            read_entry(tensordict, key, shape, dtype)
            for key, shape in zip(self.input_keys, self.input_shapes, strict=True)
        ]
        is_init = read_is_init(tensordict, self.is_init_key)
        if recurrent:
            length = batch[-1]
            inputs = [x.reshape(-1, length, *x.shape[len(batch) :]) for x in inputs]
            state = None
            if self.state_size and tensordict.get(self.state_key, None) is not None:
                state = read_entry(
                    tensordict, self.state_key, (self.state_size,), dtype
                )
                state = state.reshape(-1, length, self.state_size)[:, 0]
            context, _ = self.encode(inputs, is_init.reshape(-1, length), state)
        else:
            n = math.prod(batch)
            inputs = [x.reshape(n, *x.shape[len(batch) :]) for x in inputs]
            if self.state_size:
                state = read_entry(
                    tensordict, self.state_key, (self.state_size,), dtype
                )
            else:
                state = inputs[0].new_zeros(n, 0)
            context, state = self.encode_step(
                inputs, is_init.reshape(n), state.reshape(n, self.state_size)
            )
            if self.state_size:
                tensordict.set(self.out_keys[1], state.reshape(*batch, self.state_size))
        tensordict.set(self.out_key, context.reshape(*batch, self.context_size))
        return tensordict

    def make_tensordict_primer(self) -> Transform:
        """Return the transform that an environment needs for acting.

        It starts the memory at zero and, as a :class:`PreviousStep`, supplies the
        ``prev_*`` inputs. One transform does both: TorchRL skips a primer whose
        entries the environment has, so that registering twice changes nothing. For
        an encoder with neither it is an empty ``Compose``.

        TorchRL calls this method itself (``get_env_transforms_from_module``,
        ``Collector``) and adds ``InitTracker`` where it is missing.
        """
        dtype = self.trunk.out_projection.weight.dtype
        memory = {}
        if self.state_size:
            memory[self.state_key] = Unbounded((self.state_size,), dtype=dtype)
        previous = [key for key in self.input_keys if is_previous(key)]
        if previous:
            return PreviousStep(previous, carried=memory)
        return TensorDictPrimer(memory, expand_specs=True) if memory else Compose()


def _as_shape(size: int | Sequence[int]) -> tuple[int, ...]:
    return (size,) if isinstance(size, int) else tuple(size)


def _with_suffix(key: NestedKey, suffix: str) -> NestedKey:
    return key + suffix if isinstance(key, str) else (*key[:-1], key[-1] + suffix)


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
        >>> list(context_inputs(9, 6, reward=True))[-1]
        'prev_reward'
    """
    inputs: dict[NestedKey, int] = {
        "observation": observation_size,
        "prev_observation": observation_size,
        "prev_action": action_size,
    }
    if reward:
        inputs["prev_reward"] = 1
    return inputs
