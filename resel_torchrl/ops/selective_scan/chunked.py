"""The selective scan in chunks of time, in plain PyTorch."""

import math

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from resel_torchrl.ops._resets import any_requires_grad, masked_state, reset_steps

# Numbers in one chunk's [K, R, N, D] buffer: few enough to stay in a core's cache, many
# enough that a chunk's vectorised operations cost more than calling them.
_CHUNK_NUMBERS = 2**19
_SHORTEST_CHUNK, _LONGEST_CHUNK = 8, 64


def selective_scan_chunked(
    x: Tensor,
    dt: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    is_init: Tensor,
    state: Tensor,
) -> tuple[Tensor, Tensor]:
    """Run the recurrence in chunks of ``K`` steps; the backward pass recomputes.

    Decays and inputs of a chunk are computed at once, the recurrence itself in place.
    The forward pass keeps its inputs and the state at each chunk's start; the backward
    pass recomputes one chunk at a time. Besides inputs and outputs that is, in numbers,

        kept:       ceil(L / K) · R · D · N
        workspace:  2 K · R · D · N forward, 4 K · R · D · N backward

    with ``K`` from :func:`chunk_length`; the naive scan keeps ``3 L · R · D · N``. At
    R = 2, L = 1010, D = 512, N = 64 in float32: 32 MiB kept, 8 MiB of workspace,
    against 760 MiB. The backward pass cannot be differentiated again.

    Arguments and returns are those of
    :func:`~resel_torchrl.ops.selective_scan.selective_scan`, less skip and gate.
    """
    if any_requires_grad(x, dt, A, B, C, state):
        return _SelectiveScan.apply(x, dt, A, B, C, is_init, state)
    y, state, _ = _forward(x, dt, A, B, C, is_init, reset_steps(is_init), state, False)
    return y, state


def chunk_length(rows: int, channels: int, states: int) -> int:
    """Time steps that :func:`selective_scan_chunked` handles at once, 8 to 64."""
    fitting = _CHUNK_NUMBERS // (rows * channels * states)
    return min(max(fitting, _SHORTEST_CHUNK), _LONGEST_CHUNK)


class _Chunks:
    """Time-major inputs and the buffers that each chunk is computed in.

    States are laid out [R, N, D] here: there are more channels than states, and a
    longer innermost dimension makes for fewer, longer vector loops.
    """

    def __init__(self, x, dt, A, B, C, is_init, resets):
        self.x, self.dt, self.B, self.C = (
            tensor.transpose(0, 1).contiguous() for tensor in (x, dt, B, C)
        )
        self.u = self.dt * self.x  # [L, R, D]
        self.start, self.resets = is_init.t(), resets
        # exp2 is several times faster than exp on a CPU.
        self.A_log2 = (A * math.log2(math.e)).t().contiguous()  # [N, D]
        self.L, self.R, self.D = self.x.shape
        self.N = A.shape[1]
        self.K = min(chunk_length(self.R, self.D, self.N), self.L)
        self.decay, self.h = self.buffer(), self.buffer()

    def buffer(self):
        shape = (self.K, self.R, self.N, self.D)
        return torch.empty(shape, dtype=self.x.dtype, device=self.x.device)

    def spans(self):
        return [(s, min(s + self.K, self.L)) for s in range(0, self.L, self.K)]

    def states(self, begin, end, state):
        """Decays and states [k, R, N, D] of steps begin to end, in the buffers."""
        decay, h = self.decay[: end - begin], self.h[: end - begin]
        torch.mul(self.dt[begin:end].unsqueeze(-2), self.A_log2, out=decay).exp2_()
        u, B = self.u[begin:end].unsqueeze(-2), self.B[begin:end].unsqueeze(-1)
        torch.mul(u, B, out=h)
        for t, decay_t, h_t in zip(
            range(begin, end), decay.unbind(0), h.unbind(0), strict=True
        ):
            if self.resets[t]:
                state = masked_state(self.start[t], state)
            state = h_t.addcmul_(decay_t, state)
        return decay, h

    def over_states(self, vectors, matrices):
        """Σ_n vectors[k, r, n] · matrices[k, r, n, d]: [k, R, D]."""
        product = torch.bmm(
            vectors.reshape(-1, 1, self.N), matrices.view(-1, self.N, self.D)
        )
        return product.view(-1, self.R, self.D)

    def over_channels(self, vectors, matrices):
        """Σ_d vectors[k, r, d] · matrices[k, r, n, d]: [k, R, N]."""
        product = torch.bmm(
            vectors.reshape(-1, 1, self.D), matrices.view(-1, self.N, self.D).mT
        )
        return product.view(-1, self.R, self.N)


def _forward(x, dt, A, B, C, is_init, resets, state, keep):
    chunks = _Chunks(x, dt, A, B, C, is_init, resets)
    y = torch.empty_like(chunks.x)
    state = state.mT.contiguous()  # [R, N, D]
    boundaries = []
    for begin, end in chunks.spans():
        if keep:
            boundaries.append(state)
        _, h = chunks.states(begin, end, state)
        y[begin:end] = chunks.over_states(chunks.C[begin:end], h)
        state = h[-1].clone()
    return y.transpose(0, 1), state.mT.contiguous(), boundaries


class _SelectiveScan(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, dt, A, B, C, is_init, state):
        ctx.resets = reset_steps(is_init)
        y, last, boundaries = _forward(x, dt, A, B, C, is_init, ctx.resets, state, True)
        ctx.save_for_backward(x, dt, A, B, C, is_init, *boundaries)
        return y, last

    @staticmethod
    @once_differentiable
    def backward(ctx, grad_y, grad_state):
        x, dt, A, B, C, is_init, *boundaries = ctx.saved_tensors
        chunks = _Chunks(x, dt, A, B, C, is_init, ctx.resets)
        grad_y = grad_y.transpose(0, 1).contiguous()  # [L, R, D]
        grad_u, grad_dt = torch.empty_like(chunks.u), torch.empty_like(chunks.dt)
        grad_B, grad_C = torch.empty_like(chunks.B), torch.empty_like(chunks.C)
        A = A.t().contiguous()  # [N, D]
        grad_A = torch.zeros_like(A)
        grad_state = grad_state.mT
        grad_h_buffer, grad_decay_buffer = chunks.buffer(), chunks.buffer()
        for (begin, end), boundary in zip(
            reversed(chunks.spans()), reversed(boundaries), strict=True
        ):
            decay, h = chunks.states(begin, end, boundary)
            grad_C[begin:end] = chunks.over_channels(grad_y[begin:end], h)

            # grad_h[t] = dy_t ⊗ C_t + decay[t + 1] · grad_h[t + 1]
            grad_h = grad_h_buffer[: end - begin]
            dy, C = grad_y[begin:end].unsqueeze(-2), chunks.C[begin:end].unsqueeze(-1)
            torch.mul(dy, C, out=grad_h)
            grad_h[-1] += grad_state
            steps, decays = grad_h.unbind(0), decay.unbind(0)
            for k in range(end - begin - 1, 0, -1):
                if ctx.resets[begin + k]:
                    start = chunks.start[begin + k]
                    steps[k - 1].add_(masked_state(start, decays[k] * steps[k]))
                else:
                    steps[k - 1].addcmul_(decays[k], steps[k])
            grad_state = decays[0] * steps[0]
            if ctx.resets[begin]:
                grad_state = masked_state(chunks.start[begin], grad_state)

            # Through decay = exp(dt A): times dt, A's gradient; times A, that of dt.
            grad_exponent = grad_decay_buffer[: end - begin]
            torch.mul(grad_h[0], boundary, out=grad_exponent[0])
            torch.mul(grad_h[1:], h[:-1], out=grad_exponent[1:])
            grad_exponent.mul_(decay)
            for k, reset in enumerate(ctx.resets[begin:end]):
                if reset:
                    start = chunks.start[begin + k]
                    grad_exponent[k] = masked_state(start, grad_exponent[k])
            step_sizes = chunks.dt[begin:end].unsqueeze(-2)
            grad_A += torch.mul(grad_exponent, step_sizes, out=decay).sum((0, 1))
            torch.sum(grad_exponent.mul_(A), -2, out=grad_dt[begin:end])

            grad_u[begin:end] = chunks.over_states(chunks.B[begin:end], grad_h)
            grad_B[begin:end] = chunks.over_channels(chunks.u[begin:end], grad_h)
        grad_dt.addcmul_(grad_u, chunks.x)
        grad_x = grad_u.mul_(chunks.dt)
        return (
            grad_x.transpose(0, 1),
            grad_dt.transpose(0, 1),
            grad_A.t(),
            grad_B.transpose(0, 1),
            grad_C.transpose(0, 1),
            None,
            grad_state.mT,
        )
