"""Which time steps of a batch need their incoming state masked."""

import torch
from torch import Tensor


def reset_steps(is_init: Tensor) -> list[bool]:
    """Return, for each of L time steps, whether a recurrence must mask its state there.

    On a CPU the flags ``is_init [R, L]`` can be read for nothing, so steps without a
    start are left alone. On any other device reading them would make the host wait:
    every step is masked there.
    """
    if is_init.device.type == "cpu":
        return is_init.any(0).tolist()
    return [True] * is_init.shape[1]


def masked_state(is_init: Tensor, state: Tensor) -> Tensor:
    """Zero the ``state [R, *]`` of the rows that start, NaN and infinity included."""
    mask = is_init.reshape(-1, *([1] * (state.dim() - 1)))
    return torch.where(mask, state.new_zeros(()), state)


def any_requires_grad(*tensors: Tensor | None) -> bool:
    """Whether autograd will ask for the backward pass of these inputs."""
    return torch.is_grad_enabled() and any(
        tensor is not None and tensor.requires_grad for tensor in tensors
    )
