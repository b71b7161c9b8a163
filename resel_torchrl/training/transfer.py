"""Ways between CPU and GPU on which the host waits once or not at all."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

__all__ = ["moved", "states_on_cpu"]


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
        return tensor.contiguous().pin_memory().to(device, non_blocking=True)
    return tensor.to(device)


@torch.no_grad()
def states_on_cpu(modules: Sequence[nn.Module]) -> list[dict[str, Any]]:
    """State dictionaries of modules, to load others on the CPU with.

    From a GPU all tensors come by one wait, not by one for each.

    Args:
        modules: on any one device; on the CPU their tensors are not copied.

    >>> source, copy = nn.Linear(1, 1), nn.Linear(1, 1)
    >>> [state] = states_on_cpu([source])
    >>> copy.load_state_dict(state), torch.equal(copy.weight, source.weight)
    (<All keys matched successfully>, True)
    """
    states = [module.state_dict() for module in modules]
    devices = set()
    for state in states:
        for name, value in state.items():
            if isinstance(value, Tensor) and value.device.type == "cuda":
                devices.add(value.device)
                host = torch.empty_like(value, device="cpu", pin_memory=True)
                state[name] = host.copy_(value, non_blocking=True)
    for device in devices:
        torch.cuda.current_stream(device).synchronize()
    return states
