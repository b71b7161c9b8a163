"""Encoder and policy head as a handful of kernels, for acting in one environment."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor, nn

from resel_torchrl.modules.context_encoder import ContextEncoder
from resel_torchrl.modules.cores import SequenceCore
from resel_torchrl.modules.cores.gru import GRUCore
from resel_torchrl.modules.cores.lstm import LSTMCore
from resel_torchrl.modules.cores.mamba import MambaCore
from resel_torchrl.modules.cores.positionwise import (
    MemorylessCore,
    OneStepCore,
    PositionwiseCore,
)
from resel_torchrl.ops._backends import is_usable

if is_usable("numba"):
    from resel_torchrl.ops import step_cpu

__all__ = ["FusedStep"]

Step = Callable[[np.ndarray, np.ndarray, np.ndarray], None]  # x, state, y


class FusedStep:
    """One step of a context encoder and of the head on it, for one environment.

    The same computation as ``encoder.encode_step`` and ``head.outputs``, to rounding,
    in about ten calls of Numba kernels where PyTorch takes some sixty. It reads the
    modules' own parameters where they lie; call :meth:`bind` after one was replaced
    (not just changed).

    Args:
        encoder: with ``Linear`` pre-encoders and a GRU, LSTM, Mamba or position-wise
            core.
        head: an actor's ``network``.

    Raises:
        ValueError: if :meth:`obstacle` names one.

    Example:
        >>> import numpy as np
        >>> from resel_torchrl.modules import FusedStep, make_agent
        >>> agent = make_agent(3, 2, core="gru", hidden_size=8)
        >>> step = FusedStep(agent.actor_encoder, agent.actor.network)
        >>> inputs = [np.ones(size, np.float32) for size in (3, 3, 2)]
        >>> step(inputs, inputs[0], np.zeros(8, np.float32)).shape
        (4,)
    """

    def __init__(self, encoder: ContextEncoder, head: nn.Module) -> None:
        obstacle = self.obstacle(encoder, head)
        if obstacle:
            raise ValueError(obstacle)
        self.encoder, self.head = encoder, head
        self.bind()

    @staticmethod
    def obstacle(encoder: ContextEncoder, head: nn.Module) -> str:
        """Say why the networks cannot be fused; empty if they can."""
        lacking = FusedStep.core_obstacle(type(encoder.core))
        if lacking:
            return lacking
        if not all(
            type(layer) is nn.Linear and layer.bias is not None
            for layer in encoder.pre_encoders
        ):
            return (
                "expected Linear pre-encoders with a bias, got pre-encoders of your "
                "own; act in eager mode."
            )
        for parameter in (*encoder.parameters(), *head.parameters()):
            if parameter.device.type != "cpu" or parameter.dtype != torch.float32:
                return (
                    "expected float32 parameters on the CPU, got "
                    f"{parameter.dtype} on {parameter.device}; act in eager mode."
                )
        return ""

    @staticmethod
    def core_obstacle(core: type[SequenceCore]) -> str:
        """Say why no encoder with such a core can be fused here; empty if some can."""
        if not is_usable("numba"):
            return (
                "expected the package numba, got none; install it with: pip install "
                "'resel_torchrl[cpu]', or act in eager mode."
            )
        if core not in STEPS:
            names = ", ".join(known.__name__ for known in STEPS)
            return (
                f"expected a core out of {names}, got {core.__name__}; act in eager "
                "mode."
            )
        return ""

    def bind(self) -> None:
        """Look the parameters up, and allocate what lies between layers."""
        encoder, head, trunk = self.encoder, self.head, self.encoder.trunk
        self._inputs = [_dense(layer) for layer in encoder.pre_encoders]
        self._into = _dense(trunk.in_projection)
        self._out_of = _dense(trunk.out_projection)
        self._core = STEPS[type(encoder.core)](encoder.core)
        self._observed = _dense(head.observation_map)
        self._layers = [_dense(m) for m in head.layers if isinstance(m, nn.Linear)]
        ends = np.cumsum([0] + [len(bias) for _, bias in self._inputs])
        self._embedding = np.empty(ends[-1], np.float32)
        self._parts = [self._embedding[a:b] for a, b in itertools.pairwise(ends)]
        self._x, self._y = np.empty((2, encoder.core.input_size), np.float32)
        width = len(self._observed[1])
        self._features = np.empty(width + encoder.context_size, np.float32)
        self._seen, self._context = self._features[:width], self._features[width:]
        self._hidden = [np.empty(len(bias), np.float32) for _, bias in self._layers]

    def __call__(
        self, inputs: Sequence[np.ndarray], observation: np.ndarray, state: np.ndarray
    ) -> np.ndarray:
        """Advance one step.

        Args:
            inputs: one float32 vector for each of the encoder's ``input_keys``.
            observation: what the head sees, ``[observation_size]``.
            state: hidden state, ``[state_size]``, changed in place; zero at a start.

        Returns:
            The head's outputs, in an array that the next call overwrites.
        """
        dense, elu = step_cpu.dense, step_cpu.elu
        for (weight, bias), x, part in zip(
            self._inputs, inputs, self._parts, strict=True
        ):
            dense(weight, bias, x, part)
        dense(*self._into, self._embedding, self._x)
        elu(self._x)
        self._core(self._x, state, self._y)
        elu(self._y)
        dense(*self._out_of, self._y, self._context)
        dense(*self._observed, observation, self._seen)
        x = self._features
        for (weight, bias), hidden in zip(self._layers, self._hidden, strict=True):
            if x is not self._features:
                elu(x)
            dense(weight, bias, x, hidden)
            x = hidden
        return x


def _array(parameter: Tensor) -> np.ndarray:
    return parameter.detach().numpy()


def _dense(layer: nn.Linear) -> tuple[np.ndarray, np.ndarray]:
    return _array(layer.weight), _array(layer.bias)


def _gated(kernel_name: str, gates: int) -> Callable[[SequenceCore], Step]:
    def bound(core: SequenceCore) -> Step:
        run = getattr(step_cpu, kernel_name)
        weights = [_array(parameter) for parameter in core.cell_parameters]
        size = core.input_size
        scratch = np.empty((2, gates * size), np.float32)

        def step(x: np.ndarray, state: np.ndarray, y: np.ndarray) -> None:
            run(*weights, x, state, *scratch)
            y[:] = state[:size]

        return step

    return bound


def _mamba(core: MambaCore) -> Step:
    mixer = core.mixer
    first, last = core.feedforward[0], core.feedforward[2]
    channels, taps = mixer.d_inner, mixer.d_conv
    low = mixer.dt_rank + 2 * mixer.d_state
    width = max(2 * channels, low, first.out_features)
    weights = [
        _array(core.norm.weight),
        np.float32(core.norm.eps),
        _array(mixer.in_proj.weight),
        _array(mixer.conv1d.weight).squeeze(1),
        _array(mixer.conv1d.bias),
        _array(mixer.x_proj.weight),
        *_dense(mixer.dt_proj),
        _array(mixer.A_log),
        _array(mixer.D),
        _array(mixer.out_proj.weight),
        *_dense(first),
        *_dense(last),
        _array(core.feedforward_norm.weight),
        _array(core.feedforward_norm.bias),
        np.zeros(max(width, core.input_size), np.float32),
    ]
    wide = np.empty((4, width), np.float32)
    past = channels * (taps - 1)

    def step(x: np.ndarray, state: np.ndarray, y: np.ndarray) -> None:
        conv = state[:past].reshape(channels, taps - 1)
        ssm = state[past:].reshape(channels, mixer.d_state)
        step_cpu.mamba_step(*weights, x, conv, ssm, wide, y)

    return step


def _positionwise(core: PositionwiseCore) -> Step:
    weight, bias = _dense(core.linear)

    def step(x: np.ndarray, state: np.ndarray, y: np.ndarray) -> None:
        step_cpu.dense(weight, bias, x, y)
        step_cpu.elu(y)

    return step


STEPS: dict[type, Callable[[SequenceCore], Step]] = {
    GRUCore: _gated("gru_step", 3),
    LSTMCore: _gated("lstm_step", 4),
    MambaCore: _mamba,
    MemorylessCore: _positionwise,
    OneStepCore: _positionwise,
}
"""How a step is made of kernels, by type of core."""
