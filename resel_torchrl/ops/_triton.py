"""What the operations written in Triton share; Triton itself is an optional package."""

import importlib
import importlib.util
import os
from functools import lru_cache
from types import ModuleType

import torch
from torch import Tensor

OPTIONS = {"num_stages": 1, "enable_fp_fusion": True}
"""Of every launch: the kernels fetch ahead themselves, and want multiply-adds."""


@lru_cache
def import_kernels(module: str) -> ModuleType:
    """Import a module of Triton kernels; raise ModuleNotFoundError without Triton."""
    if importlib.util.find_spec("triton") is None:
        raise ModuleNotFoundError(
            "the GPU kernels need the package 'triton', which is not installed: "
            'pip install "resel_torchrl[cuda]"',
            name="triton",
        )
    return importlib.import_module(module)


def check_tensors(
    operation: str, **expected: tuple[Tensor | None, tuple[int, ...]]
) -> None:
    """Check what a kernel cannot: it would read past the end of a smaller tensor.

    Args:
        operation: name in the error.
        **expected: each tensor with its shape, by name; ``is_init`` is boolean, all
            others are of one type. None is left out.

    Raises:
        ValueError: for a shape, or a device that is no CUDA device.
        TypeError: for a type.
    """
    tensors = {name: x for name, (x, _) in expected.items() if x is not None}
    for name, tensor in tensors.items():
        shape = tuple(expected[name][1])
        if tuple(tensor.shape) != shape:
            raise ValueError(
                f"{operation}: expected {name} of shape {shape}, got "
                f"{tuple(tensor.shape)}."
            )
    types = {name: tensor.dtype for name, tensor in tensors.items()}
    if types.pop("is_init", torch.bool) != torch.bool:
        raise TypeError(
            f"{operation}: expected a boolean is_init, got {tensors['is_init'].dtype}."
        )
    if set(types.values()) not in ({torch.float32}, {torch.float64}):
        raise TypeError(
            f"{operation}: expected float32 throughout, or float64, got {types}. "
            "Convert the inputs to one of them."
        )
    devices = {tensor.device for tensor in tensors.values()}
    if len(devices) > 1 or not (devices.pop().type == "cuda" or _interpreted()):
        raise ValueError(
            f"{operation}: expected all tensors on one CUDA device, got "
            f"{ {name: str(tensor.device) for name, tensor in tensors.items()} }. Move "
            "them there, or use the operation of the same name without `_triton`."
        )


def _interpreted() -> bool:
    """Whether Triton interprets kernels on the CPU; it reads this when imported."""
    return os.environ.get("TRITON_INTERPRET") == "1"


def processors(x: Tensor) -> int:
    """Multiprocessors of the GPU that holds ``x``; an H100's 132 elsewhere."""
    if x.device.type != "cuda":
        return 132
    return torch.cuda.get_device_properties(x.device).multi_processor_count


def next_power_of_2(n: int) -> int:
    """The smallest power of two that is not below ``n``."""
    return 1 << (n - 1).bit_length()


def dense_last(tensor: Tensor) -> Tensor:
    """``tensor`` if its last dimension is contiguous, else a copy for which it is."""
    return tensor if tensor.stride(-1) == 1 else tensor.contiguous()
