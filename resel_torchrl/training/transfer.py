"""Ways between CPU and GPU on which the host waits once or not at all."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

__all__ = ["load_weights", "moved"]


def moved(tensor: Tensor, device: torch.device | str) -> Tensor:
    """A tensor on a device; the host does not wait for its way to a GPU.

    It goes through page-locked memory, which PyTorch keeps until the copy is made. From
    any other memory the host would wait until the GPU has done all that came before.

    Args:
        tensor: anywhere.
        device: where to.

    >>> moved(torch.ones(2), "cpu")
    tensor([1., 1.])
    """
    device = torch.device(device)
    if tensor.device.type == "cpu" and device.type == "cuda":
        return tensor.pin_memory().to(device, non_blocking=True)
    return tensor.to(device)


@torch.no_grad()
def load_weights(copies: Sequence[nn.Module], sources: Sequence[nn.Module]) -> None:
    """Loads modules on the CPU with the weights of others, on any one device.

    From a GPU all come by one wait, not by one for each tensor.

    Args:
        copies: they get the weights.
        sources: modules like them, in the same order.

    >>> source, copy = nn.Linear(1, 1), nn.Linear(1, 1)
    >>> load_weights([copy], [source])
    >>> torch.equal(copy.weight, source.weight)
    True
    """
    states = [source.state_dict() for source in sources]
    devices = {
        value.device
        for state in states
        for value in state.values()
        if isinstance(value, Tensor) and value.device.type == "cuda"
    }
    if devices:
        states = [{k: _on_the_way(v) for k, v in state.items()} for state in states]
        for device in devices:
            torch.cuda.current_stream(device).synchronize()
    for copy, state in zip(copies, states, strict=True):
        copy.load_state_dict(state)


def _on_the_way(value: Any) -> Any:
    """A tensor of a GPU in page-locked memory, which is not there yet."""
    if not isinstance(value, Tensor) or value.device.type != "cuda":
        return value
    host = torch.empty_like(value, device="cpu", pin_memory=True)
    return host.copy_(value, non_blocking=True)
