"""Losses through `torch.compile`: operations joined into fewer, larger ones."""

from __future__ import annotations

import sysconfig
import warnings
from collections.abc import Callable, Hashable
from pathlib import Path
from typing import Any

import torch
from tensordict import TensorDict
from torch import Tensor
from torch._inductor import cpp_builder
from torchrl._utils import logger as torchrl_logger

from resel_torchrl.ops._backends import is_usable, load_all
from resel_torchrl.ops.causal_conv import BACKENDS as CONVOLUTIONS
from resel_torchrl.ops.gru import BACKENDS as GRUS
from resel_torchrl.ops.selective_scan import BACKENDS as SCANS
from resel_torchrl.training.cuda_graphs import layout

__all__ = ["CompiledFunction", "compiler_problem"]

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
        """Runs the function; the first call with a layout compiles it."""
        with torch._dynamo.config.patch(_LIMITS):
            if (key := (layout(batch), len(others))) in self._layouts:
                return self._compiled(batch, *others)
            self._layouts.add(key)
            device = next(iter(batch.values(True, True))).device
            for backends in (CONVOLUTIONS, GRUS, SCANS):
                load_all(backends, device.type)
            torchrl_logger.info(
                f"Compiling {self._name} for batches {list(batch.shape)}; the first "
                "time this takes some ten seconds."
            )
            with warnings.catch_warnings():
                # TensorDict asks for an option that PyTorch no longer has.
                warnings.filterwarnings("ignore", message=".*inline_inbuilt_nn_modules")
                return self._compiled(batch, *others)


def compiler_problem(device: torch.device) -> str | None:
    """What `torch.compile` lacks here, or None.

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
