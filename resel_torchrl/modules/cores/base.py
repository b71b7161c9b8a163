"""What every sequence core has in common."""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from types import MappingProxyType

import torch
from torch import Tensor, nn


class SequenceCore(nn.Module, ABC):
    """Map a sequence to a sequence of the same width, carrying a flat hidden state.

    A core has two forms that agree to rounding: :meth:`forward` over whole rows of
    time, in training, and :meth:`step` over one time step, in acting. In both, the
    state of a row is zeroed where ``is_init`` is true, before the step that has it.

    Args:
        size: width of inputs and outputs, at least 1.
        state_size: numbers of state per row, 0 if there is none.

    Attributes:
        input_size: width of the inputs.
        output_size: width of the outputs; equal to ``input_size``.
        state_size: numbers of state per row.
        uses_previous: whether the core may be given the previous observation, action
            and reward. False only where it must see the current observation alone.
        device_type: the only type of device that :meth:`forward` runs on, by the
            choice of a backend; None for any.
        blank_rows: blank steps that :meth:`forward` needs before each start inside of
            a row, by the choice of a backend: the ``gap`` of
            :func:`~resel_torchrl.replay.pack_episodes`.
        max_length: most steps of an episode; None if there is no limit.
        renamed: former names of options and their present ones, for error messages.

    Raises:
        ValueError: if ``size`` is not a positive integer.

    Examples:
        A core of one's own needs its size and the two forms:

        >>> class RunningSum(SequenceCore):
        ...     def __init__(self, size):
        ...         super().__init__(size, state_size=size)
        ...
        ...     def forward(self, x, is_init, state=None):
        ...         state = self.check_sequence(x, is_init, state)
        ...         outputs = []
        ...         for t in range(x.shape[1]):
        ...             _, state = self.step(x[:, t], is_init[:, t], state)
        ...             outputs.append(state)
        ...         return torch.stack(outputs, 1), state
        ...
        ...     def step(self, x, is_init, state):
        ...         state = state.masked_fill(is_init.unsqueeze(-1), 0) + x
        ...         return state, state
        >>> is_init = torch.tensor([[True, False, True, False]])
        >>> RunningSum(1)(torch.ones(1, 4, 1), is_init)[0].flatten()
        tensor([1., 2., 1., 2.])
    """

    uses_previous: bool = True
    device_type: str | None = None
    blank_rows: int = 0
    max_length: int | None = None
    renamed: Mapping[str, str] = MappingProxyType({})

    def __init__(self, size: int, state_size: int):
        super().__init__()
        self.input_size = self.output_size = check_positive(size, "size")
        self.state_size = state_size

    @abstractmethod
    def forward(
        self, x: Tensor, is_init: Tensor, state: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """Run over whole rows of time.

        Args:
            x: ``[R, L, input_size]``, ``L`` at least 1.
            is_init: start flags, bool ``[R, L]``.
            state: state before the first step, ``[R, state_size]``; None for zeros.

        Returns:
            Outputs ``[R, L, output_size]`` and the state after the last step,
            ``[R, state_size]``.

        Raises:
            ValueError: if a shape or the flags' type is wrong.
        """

    @abstractmethod
    def step(self, x: Tensor, is_init: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
        """Run one time step.

        Args:
            x: ``[B, input_size]``.
            is_init: start flags, bool ``[B]``.
            state: ``[B, state_size]``.

        Returns:
            Output ``[B, output_size]`` and new state ``[B, state_size]``.

        Raises:
            ValueError: if a shape or the flags' type is wrong.
        """

    def check_sequence(
        self, x: Tensor, is_init: Tensor, state: Tensor | None
    ) -> Tensor:
        """Check the arguments of :meth:`forward`; return the state, zeros for None."""
        if x.dim() != 3 or x.shape[1] < 1 or x.shape[-1] != self.input_size:
            raise ValueError(
                f"{type(self).__name__}.forward expected x of shape [R, L >= 1, "
                f"{self.input_size}], got {list(x.shape)}. For a single time step "
                f"[B, {self.input_size}] call step()."
            )
        if state is None:
            state = x.new_zeros(x.shape[0], self.state_size)
        self._check_flags_and_state(x, is_init, state, "[R, L]")
        return state

    def check_step(self, x: Tensor, is_init: Tensor, state: Tensor) -> None:
        """Check the arguments of :meth:`step`."""
        if x.dim() != 2 or x.shape[-1] != self.input_size:
            raise ValueError(
                f"{type(self).__name__}.step expected x of shape [B, "
                f"{self.input_size}], got {list(x.shape)}. For rows of time "
                f"[R, L, {self.input_size}] call forward()."
            )
        self._check_flags_and_state(x, is_init, state, "[B]")

    def _check_flags_and_state(self, x, is_init, state, layout):
        if is_init.shape != x.shape[:-1] or is_init.dtype != torch.bool:
            raise ValueError(
                f"{type(self).__name__} expected is_init as bool {layout} = "
                f"{list(x.shape[:-1])}, got {is_init.dtype} {list(is_init.shape)}. "
                "Squeeze a trailing dimension of 1, and call .bool() on numbers."
            )
        if state.shape != (x.shape[0], self.state_size):
            raise ValueError(
                f"{type(self).__name__} expected a state of shape "
                f"{[x.shape[0], self.state_size]}, got {list(state.shape)}. Pass one "
                "flat row of state_size numbers per row of x, or zeros at the start."
            )

    def extra_repr(self) -> str:
        """Width and state size."""
        return f"size={self.input_size}, state_size={self.state_size}"


class GatedCore(SequenceCore):
    """The parameters of a single-layer :class:`torch.nn.GRU` or LSTM, by its names.

    Matrices start Xavier-uniform, biases at zero.
    """

    def __init__(self, size: int, n_gates: int, state_size: int):
        super().__init__(size, state_size)
        self.weight_ih_l0 = nn.Parameter(torch.empty(n_gates * size, size))
        self.weight_hh_l0 = nn.Parameter(torch.empty(n_gates * size, size))
        self.bias_ih_l0 = nn.Parameter(torch.empty(n_gates * size))
        self.bias_hh_l0 = nn.Parameter(torch.empty(n_gates * size))
        xavier_zero_bias_(self)

    @property
    def cell_parameters(self) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """The parameters in the order of :func:`torch.gru_cell`."""
        return self.weight_ih_l0, self.weight_hh_l0, self.bias_ih_l0, self.bias_hh_l0


def check_positive(value: int, name: str) -> int:
    """Return ``value``, or raise ValueError unless it is an integer of at least 1."""
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise ValueError(f"Expected {name} to be an integer >= 1, got {value!r}.")
    return value


def xavier_zero_bias_(module: nn.Module) -> None:
    """Draw a module's own matrices Xavier-uniform, and set its biases to zero.

    Stacked gate matrices (``[3H, D]``, ``[4H, D]``) are drawn as one matrix.
    """
    for parameter in module.parameters(recurse=False):
        if parameter.dim() > 1:
            nn.init.xavier_uniform_(parameter)
        else:
            nn.init.zeros_(parameter)
