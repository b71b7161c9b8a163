"""Which time steps of a batch need their incoming state masked."""

import torch
from torch import Tensor


def reset_steps(is_init: Tensor) -> list[bool]:
    """Tells, for each time step, whether a recurrence must mask its state there.

    On a CPU the flags can be read for nothing, so steps without a start are left
    alone. On any other device reading them would make the host wait: every step is
    masked there.

    Args:
        is_init: start flags, bool ``[R, L]``.

    Returns:
        One bool for each of the ``L`` steps; True wherever some row may start.

    Examples:
        >>> reset_steps(torch.tensor([[True, False, False], [True, False, True]]))
        [True, False, True]
    """
    if is_init.device.type == "cpu":
        return is_init.any(0).tolist()
    return [True] * is_init.shape[1]


def masked_state(is_init: Tensor, state: Tensor) -> Tensor:
    """Zeroes the state of the rows that start, NaN and infinity included.

    Args:
        is_init: start flags, bool ``[R]``.
        state: ``[R, *]``.

    Returns:
        A new tensor like ``state``.

    Examples:
        >>> masked_state(torch.tensor([True, False]), torch.tensor([torch.nan, 1.0]))
        tensor([0., 1.])
    """
    mask = is_init.reshape(-1, *([1] * (state.dim() - 1)))
    return torch.where(mask, state.new_zeros(()), state)


def any_requires_grad(*tensors: Tensor | None) -> bool:
    """Whether autograd will ask for the backward pass of these inputs."""
    return torch.is_grad_enabled() and any(
        tensor is not None and tensor.requires_grad for tensor in tensors
    )
