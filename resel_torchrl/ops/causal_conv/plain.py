"""The causal convolution in plain PyTorch."""

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from resel_torchrl.ops._resets import any_requires_grad, reset_steps


def causal_conv_plain(
    x: Tensor, weight: Tensor, bias: Tensor, is_init: Tensor, state: Tensor
) -> tuple[Tensor, Tensor]:
    """Run :func:`~resel_torchrl.ops.causal_conv` tap by tap, on any device.

    The backward pass keeps the inputs only and cannot be differentiated again.
    """
    if any_requires_grad(x, weight, bias, state):
        return _CausalConv.apply(x, weight, bias, is_init, state)
    return _forward(x, weight, bias, is_init, state)


def _padded(x: Tensor, state: Tensor, is_init: Tensor) -> tuple[Tensor, Tensor]:
    """Inputs [R, K-1+L, D] with the state in front, and the number of their episode."""
    inputs = torch.cat([state.transpose(1, 2), x], 1)
    episode = torch.nn.functional.pad(is_init.cumsum(1), (state.shape[-1], 0))
    return inputs, episode.unsqueeze(-1)


def _spans(is_init: Tensor, reach: int) -> list[tuple[int, int]]:
    """Time spans outside which no step is within ``reach`` steps after a start."""
    spans: list[tuple[int, int]] = []
    for t, reset in enumerate(reset_steps(is_init)):
        if reset and spans and t <= spans[-1][1]:
            spans[-1] = (spans[-1][0], t + reach)
        elif reset:
            spans.append((t, t + reach))
    return spans


def _masked(values: Tensor, same: Tensor, spans: list[tuple[int, int]]) -> Tensor:
    """Keeps ``values`` [R, L, D] where ``same``, which is true outside the spans."""
    if not spans:
        return values
    values = values.clone()
    zero = values.new_zeros(())
    for begin, end in spans:
        part = values[:, begin:end]
        part.copy_(torch.where(same[:, begin:end], part, zero))
    return values


def _forward(x, weight, bias, is_init, state):
    K, L = weight.shape[1], x.shape[1]
    inputs, episode = _padded(x, state, is_init)
    present, spans = episode[:, K - 1 :], _spans(is_init, K - 1)
    y = torch.addcmul(bias, x, weight[:, K - 1])
    for j in range(K - 1):
        same = episode[:, j : j + L] == present
        y.addcmul_(_masked(inputs[:, j : j + L], same, spans), weight[:, j])
    last = torch.where(
        episode[:, L:] == present[:, -1:], inputs[:, L:], x.new_zeros(())
    )
    return y, last.transpose(1, 2)


class _CausalConv(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, weight, bias, is_init, state):
        ctx.save_for_backward(x, weight, is_init, state)
        return _forward(x, weight, bias, is_init, state)

    @staticmethod
    @once_differentiable
    def backward(ctx, grad_y, grad_state):
        x, weight, is_init, state = ctx.saved_tensors
        K, L = weight.shape[1], x.shape[1]
        inputs, episode = _padded(x, state, is_init)
        present, spans = episode[:, K - 1 :], _spans(is_init, K - 1)
        grad_inputs = torch.zeros_like(inputs)
        grad_inputs[:, L:] = torch.where(
            episode[:, L:] == present[:, -1:],
            grad_state.transpose(1, 2),
            x.new_zeros(()),
        )
        grad_weight = torch.empty_like(weight)
        for j in range(K):
            same = episode[:, j : j + L] == present
            grad = _masked(grad_y, same, spans)
            grad_inputs[:, j : j + L].addcmul_(grad, weight[:, j])
            tap = _masked(inputs[:, j : j + L], same, spans)
            grad_weight[:, j] = (tap * grad_y).sum((0, 1))
        grad_past, grad_x = grad_inputs.split([K - 1, L], 1)
        return grad_x, grad_weight, grad_y.sum((0, 1)), None, grad_past.transpose(1, 2)
