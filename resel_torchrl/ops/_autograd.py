"""What the operators with kernels of their own share: registering a backward pass."""

from collections.abc import Callable

import torch


def register_backward(operator: Callable, save: Callable, backward: Callable) -> None:
    """Give an operator of ``torch.library`` its backward pass, another operator.

    Args:
        operator: returns outputs, the last state, and what it keeps for the backward
            pass.
        save: takes the operator's inputs and its returns; returns the tensors that the
            backward pass needs, and whatever else it does.
        backward: takes these two, then the gradients of outputs and last state; returns
            a gradient, or None, for each of the operator's inputs.
    """

    def setup_context(ctx, inputs, output):
        tensors, ctx.others = save(inputs, output)
        ctx.save_for_backward(*tensors)
        ctx.mark_non_differentiable(*output[2:])
        # PyTorch would make zeros for what the operator keeps, too.
        ctx.set_materialize_grads(False)
        ctx.outputs = [(x.shape, x.dtype, x.device) for x in output[:2]]

    def gradients(ctx, *given):
        grads = [
            torch.zeros(shape, dtype=dtype, device=device) if grad is None else grad
            for grad, (shape, dtype, device) in zip(given[:2], ctx.outputs, strict=True)
        ]
        return backward(ctx.saved_tensors, ctx.others, *grads)

    operator.register_autograd(gradients, setup_context=setup_context)
