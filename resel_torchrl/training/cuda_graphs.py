"""Faster ways to run a function of batches: CUDA graphs, torch.compile, bfloat16."""

from __future__ import annotations

import functools
import sysconfig
import warnings
from collections.abc import Callable, Hashable, Mapping
from pathlib import Path
from typing import Any

import torch
from tensordict import TensorDict
from torch import Tensor
from torch._inductor import cpp_builder
from torchrl import torchrl_logger

from resel_torchrl.ops._backends import is_usable
from resel_torchrl.ops.causal_conv import BACKENDS as CONVOLUTIONS
from resel_torchrl.ops.gru import BACKENDS as GRUS
from resel_torchrl.ops.selective_scan import BACKENDS as SCANS

__all__ = [
    "CompiledFunction",
    "CudaRecorder",
    "GraphedFunction",
    "StaticBatch",
    "compiler_problem",
    "in_bfloat16",
    "layout",
]

Outputs = Mapping[str, Tensor]
#: Captures a function and returns its replay, on the same memory.
Recorder = Callable[[Callable[[], Outputs]], Callable[[], Outputs]]


class StaticBatch:
    """A batch whose entries keep their memory while their values change.

    Args:
        batch: ``[R, L]``; it is copied. An entry that stores one column for all, as
            :func:`~resel_torchrl.replay.pack_episodes` makes them, keeps doing so.
    """

    def __init__(self, batch: TensorDict) -> None:
        self._stored = {
            key: _stored(value).clone() for key, value in batch.items(True, True)
        }
        self.batch = TensorDict({}, batch.batch_size, device=batch.device)
        for key, value in batch.items(True, True):
            self.batch.set(key, self._stored[key].expand_as(value))

    def fill(self, batch: TensorDict) -> None:
        """Copy the values of a batch of the same layout."""
        for key, value in batch.items(True, True):
            self._stored[key].copy_(_stored(value))


def layout(batch: TensorDict) -> Hashable:
    """Keys, shapes and types of a batch: a batch of the same fits into its memory."""
    entries = sorted(batch.items(True, True), key=lambda entry: str(entry[0]))
    return tuple(
        (key, value.shape, value.dtype, _stored(value).shape) for key, value in entries
    )


def _stored(value: Tensor) -> Tensor:
    """The part of an entry ``[R, L, *]`` that is in memory."""
    return value if value.stride(1) else value[:, :1]


class CudaRecorder:
    """Captures functions as CUDA graphs that share memory: they never run side by side.

    A replay may overwrite what the one before returned, of whichever graph. A new round
    of graphs wants a new recorder: the memory ends with the last graph on it.

    Args:
        device: The GPU.

    >>> if torch.cuda.is_available():
    ...     x = torch.zeros((), device="cuda")
    ...     again = CudaRecorder(x.device)(lambda: {"x": x.add_(1)})
    ...     assert x == 0 and again()["x"] == 1 and again()["x"] == 2
    """

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self._pool: Any = None

    def __call__(self, function: Callable[[], Outputs]) -> Callable[[], Outputs]:
        """Capture the launches of `function`, which runs none of them yet."""
        with torch.cuda.device(self.device):
            if self._pool is None:
                self._pool = torch.cuda.graph_pool_handle()
            graph = torch.cuda.CUDAGraph()
            with torch.cuda.graph(graph, pool=self._pool):
                outputs = function()

        def replay() -> Outputs:
            graph.replay()
            return outputs

        return replay


class GraphedFunction:
    """A function of batches that is recorded once for each layout and then replayed.

    The first calls with a layout run as they are: they build what is built once, such
    as the moments of an optimizer and compiled kernels. The next call records, and it
    and all later ones replay. What the function changes besides its outputs it must
    change in place, and it must not look at a value.

    Args:
        function: From a batch to tensors by name.
        record: How; :class:`CudaRecorder` on a GPU.
        warm_up: Calls with each layout that run as they are, at least 1.
    """

    def __init__(
        self,
        function: Callable[[TensorDict], Outputs],
        record: Recorder,
        *,
        warm_up: int = 3,
    ) -> None:
        if warm_up < 1:
            raise ValueError(
                f"warm_up: expected 1 call or more, got {warm_up}; what is built once "
                "must not be recorded."
            )
        self.function = function
        self.record = record
        self.warm_up = warm_up
        self._calls: dict[Hashable, int] = {}
        self._recorded: dict[Hashable, tuple[StaticBatch, Callable[[], Outputs]]] = {}

    @property
    def n_recorded(self) -> int:
        """Number of layouts that are replayed."""
        return len(self._recorded)

    def __call__(self, batch: TensorDict) -> Outputs:
        """Run the function; what it returns is overwritten by later calls."""
        key = layout(batch)
        if key not in self._recorded:
            calls = self._calls[key] = self._calls.get(key, 0) + 1
            if calls <= self.warm_up:
                return self.function(batch)
            static = StaticBatch(batch)
            replay = self.record(lambda: self.function(static.batch))
            self._recorded[key] = static, replay
        static, replay = self._recorded[key]
        static.fill(batch)
        return replay()


# PyTorch gives up after 8 compilations; batches have a short list of layouts, more.
_LIMITS = {"recompile_limit": 256, "accumulated_recompile_limit": 1024}


class CompiledFunction:
    """A function of batches, compiled once for each layout of them.

    What it computes is what the function does, to rounding, with eager PyTorch's random
    numbers. Compiling a loss takes some ten seconds for each layout; PyTorch keeps the
    result on disk, from which a later process takes it in a second or two.

    Args:
        function: Of a batch and further tensors.

    >>> def double(batch):
    ...     return TensorDict(twice=batch["reward"] * 2)
    >>> compiled = CompiledFunction(double)
    >>> compiled.n_layouts
    0
    """

    def __init__(self, function: Callable[..., Any]) -> None:
        self._compiled = torch.compile(
            function, dynamic=False, options={"fallback_random": True}
        )
        self._name = function.__name__
        self._layouts: set[Hashable] = set()

    @property
    def n_layouts(self) -> int:
        """Number of layouts that were met."""
        return len(self._layouts)

    def __call__(self, batch: TensorDict, *others: Tensor) -> Any:
        """Run the function; the first call with a layout compiles it."""
        with torch._dynamo.config.patch(_LIMITS):
            if (key := (layout(batch), len(others))) in self._layouts:
                return self._compiled(batch, *others)
            self._layouts.add(key)
            device = next(iter(batch.values(True, True))).device
            for backends in (CONVOLUTIONS, GRUS, SCANS):
                backends.load_all(device.type)
            torchrl_logger.info(
                f"Compiling {self._name} for batches {list(batch.shape)}; the first "
                "time this takes some ten seconds."
            )
            with warnings.catch_warnings():
                # TensorDict asks for an option that PyTorch no longer has.
                warnings.filterwarnings("ignore", message=".*inline_inbuilt_nn_modules")
                return self._compiled(batch, *others)


def compiler_problem(device: torch.device) -> str | None:
    """Name what `torch.compile` lacks on this machine, and its cure; None if nothing.

    It writes C++ for a CPU and Triton for a GPU, whose launchers are C; both are
    compiled against Python's headers.

    Args:
        device: Where the compiled functions are to run.

    >>> lacking = compiler_problem(torch.device("cpu"))
    >>> lacking is None or "install" in lacking
    True
    """
    if device.type == "cuda" and not is_usable("triton"):
        return 'Triton; pip install "resel_torchrl[cuda]"'
    try:
        cpp_builder.get_cpp_compiler()
    except RuntimeError:
        return "a C++ compiler; install g++, or name one in the variable CXX"
    headers = Path(sysconfig.get_path("include")) / "Python.h"
    if not headers.is_file():
        return "Python's headers (Python.h); install python3-dev or the like"
    return None


def in_bfloat16(function: Callable, device_type: str) -> Callable:
    """Wrap a function: its matrix products are made in bfloat16 (`torch.autocast`)."""

    @functools.wraps(function)
    def run(*arguments):
        # CUDA graphs allow no cache of cast weights, and few are met twice in a call.
        with torch.autocast(device_type, torch.bfloat16, cache_enabled=False):
            return function(*arguments)

    return run
