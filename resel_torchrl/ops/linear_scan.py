"""First-order linear recurrence with resets, in blocks of time."""

import math
from itertools import pairwise

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from resel_torchrl.ops._precision import in_full_precision
from resel_torchrl.ops._resets import any_requires_grad, masked_state, reset_steps


# A compiler would write the steps of time out, one by one.
@torch.compiler.disable
@in_full_precision
def linear_scan(
    a: Tensor, b: Tensor, is_init: Tensor, state: Tensor
) -> tuple[Tensor, Tensor]:
    """Run ``h_t = a_t h_{t-1} + b_t`` over time, from zero at each start flag.

    Real or complex. Time is cut into blocks of about ``√(L / 2)`` steps: all blocks
    run side by side, then the last state of each is handed on to the next one, so that
    about ``√(8 L)`` operations follow each other in place of ``L``. The backward pass
    is the same recurrence backwards in time. Besides its inputs it keeps the outputs,
    ``R · L · D`` numbers, and cannot be differentiated again. Made for a CPU and
    without a wait for the host on any other device.

    Args:
        a: decays, ``[R, L, D]``, or ``[D]`` where they are constant in time, which
            spares their products. At a start flag they have no effect and no gradient.
        b: inputs, ``[R, L, D]``.
        is_init: start flags, bool ``[R, L]``.
        state: state before the first step, ``[R, D]``. It is ignored, with no gradient,
            in rows whose first flag is true.

    Returns:
        The states after each step ``[R, L, D]`` and after the last one ``[R, D]``.

    Raises:
        ValueError: if ``a`` has another shape, or the dtypes of ``a``, ``b`` and
            ``state`` differ.

    Examples:
        >>> a = torch.tensor([0.5])
        >>> is_init = torch.tensor([[False, False, True, False]])
        >>> h, last = linear_scan(a, torch.ones(1, 4, 1), is_init, torch.ones(1, 1))
        >>> h.flatten(), last
        (tensor([1.5000, 1.7500, 1.0000, 1.5000]), tensor([[1.5000]]))
    """
    if a.shape not in (b.shape, b.shape[-1:]):
        raise ValueError(
            f"linear_scan expected decays of shape {list(b.shape)} or, constant in "
            f"time, {list(b.shape[-1:])}, got {list(a.shape)}. Expand them to the "
            "inputs' shape."
        )
    if not a.dtype == b.dtype == state.dtype:
        raise ValueError(
            f"linear_scan expected one dtype, got {a.dtype} decays, {b.dtype} inputs "
            f"and a {state.dtype} state. Convert them, for example with .to(b.dtype)."
        )
    if any_requires_grad(a, b, state):
        return _LinearScan.apply(a, b, is_init, state)
    return _forward(a, b, is_init, state)


def linear_scan_step(a: Tensor, b: Tensor, is_init: Tensor, state: Tensor) -> Tensor:
    """One time step of :func:`linear_scan`: the same arguments without ``L``.

    Returns:
        The new state, ``[R, D]``.

    Examples:
        >>> start = torch.tensor([True, False])
        >>> linear_scan_step(
        ...     torch.tensor([0.5]), torch.ones(2, 1), start, torch.ones(2, 1)
        ... )
        tensor([[1.0000],
                [1.5000]])
    """
    return masked_state(is_init, a * state) + b


def linear_scan_naive(
    a: Tensor, b: Tensor, is_init: Tensor, state: Tensor
) -> tuple[Tensor, Tensor]:
    """The specification of :func:`linear_scan`: :func:`linear_scan_step` over time.

    Examples:
        >>> b, is_init = torch.ones(1, 3, 1), torch.zeros(1, 3, dtype=torch.bool)
        >>> a, state = torch.tensor([0.5]), torch.zeros(1, 1)
        >>> linear_scan_naive(a, b, is_init, state)[0].flatten()
        tensor([1.0000, 1.5000, 1.7500])
    """
    outputs = []
    for t in range(b.shape[1]):
        a_t = a if a.dim() == 1 else a[:, t]
        state = linear_scan_step(a_t, b[:, t], is_init[:, t], state)
        outputs.append(state)
    return torch.stack(outputs, 1), state


def block_length(length: int) -> int:
    """Time steps of a block of :func:`linear_scan`.

    Two operations per step inside the blocks and one per block make ``√(L / 2)`` the
    least in all.
    """
    return max(1, round(math.sqrt(length / 2)))


def _forward(a, b, is_init, state):
    first = a if a.dim() == 1 else a[:, 0]
    h = _blocks(a, b, is_init, masked_state(is_init[:, 0], first * state), False)
    return h, h[:, -1].clone()


def _blocks(a, b, start, carry, reverse):
    """Solves h_t = a_t h_{t-1} + b_t, ``carry`` added to the first input: [R, L, D].

    With ``reverse`` time runs backwards: h_t = a_{t+1} h_{t+1} + b_t, where a start
    flag at t + 1 cuts the link, and ``carry`` is added to the last input.
    """
    R, L, D = b.shape
    K = block_length(L)
    C = -(-L // K)
    constant = a.dim() == 1
    # Numbers of the padding at the end: no input, and decays that are not used.
    h = b.new_empty(R, C * K, D)
    h[:, :L] = b
    h[:, L:] = 0
    h[:, L - 1 if reverse else 0] += carry
    if reverse:
        start = start[:, 1:]
        a = a if constant else a[:, 1:]
    start = torch.nn.functional.pad(start, (0, C * K - start.shape[1]))
    start = start.view(R, C, K)
    if constant:
        powers = a.expand(K, D).cumprod(0)
        decay = (powers.flip(0) if reverse else powers).expand(R, C, K, D)
    else:
        decay = torch.empty_like(h)
        decay[:, : a.shape[1]] = a
        decay[:, a.shape[1] :] = 0
        decay = decay.view(R, C, K, D)
    blocks = h.view(R, C, K, D)

    # Inside the blocks; decays become products of decays since the block's beginning.
    steps, starts, decays = blocks.unbind(2), start.unbind(2), decay.unbind(2)
    resets = reset_steps(start.flatten(0, 1))
    within = range(K - 1, -1, -1) if reverse else range(K)
    for before, k in pairwise(within):
        factor = a if constant else decays[k]
        if resets[k]:
            steps[k].add_(_cut(factor * steps[before], starts[k]))
        else:
            steps[k].addcmul_(factor, steps[before])
        if not constant:
            decays[k].mul_(decays[before])

    # From block to block.
    end, cut = within[-1], start.any(-1)
    ends, products, cuts = blocks[:, :, end], decay[:, :, end], cut.unbind(1)
    ends, products, resets = ends.unbind(1), products.unbind(1), reset_steps(cut)
    order = range(C - 1, -1, -1) if reverse else range(C)
    incoming = b.new_zeros(R, C, D)
    carries = incoming.unbind(1)
    for before, c in pairwise(order):
        if resets[before]:
            passed = _cut(products[before] * carries[before], cuts[before])
            torch.add(ends[before], passed, out=carries[c])
        else:
            torch.addcmul(
                ends[before], products[before], carries[before], out=carries[c]
            )

    # Into the blocks, but for the first, up to each one's first start flag.
    rest = slice(0, C - 1) if reverse else slice(1, C)
    blocks, decay, incoming = blocks[:, rest], decay[:, rest], incoming[:, rest, None]
    if any(resets):
        seen = start[:, rest]
        seen = (seen.flip(2) if reverse else seen).cumsum(2) > 0
        seen = seen.flip(2) if reverse else seen
        blocks.add_(_cut(decay * incoming, seen))
    else:
        blocks.addcmul_(decay, incoming)
    return h[:, :L]


def _cut(values: Tensor, start: Tensor) -> Tensor:
    """Zeroes, in place, ``values`` [*, D] where ``start`` [*] is true."""
    return values.masked_fill_(start.unsqueeze(-1), 0)


class _LinearScan(torch.autograd.Function):
    @staticmethod
    def forward(ctx, a, b, is_init, state):
        h, last = _forward(a, b, is_init, state)
        ctx.save_for_backward(a, is_init, state, h)
        return h, last

    @staticmethod
    @once_differentiable
    def backward(ctx, grad_h, grad_last):
        a, is_init, state, h = ctx.saved_tensors
        a = a.conj().resolve_conj()
        grad_b = _blocks(a, grad_h, is_init, grad_last, True)
        first = a if a.dim() == 1 else a[:, 0]
        grad_state = masked_state(is_init[:, 0], first * grad_b[:, 0])
        grad_a = torch.empty_like(h)
        torch.mul(grad_b[:, 0], state.conj(), out=grad_a[:, 0])
        torch.mul(grad_b[:, 1:], h[:, :-1].conj(), out=grad_a[:, 1:])
        _cut(grad_a, is_init)
        return grad_a.sum((0, 1)) if a.dim() == 1 else grad_a, grad_b, None, grad_state
