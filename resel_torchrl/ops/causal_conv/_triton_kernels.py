"""Triton kernels of the causal convolution; :mod:`.triton` launches them.

A program takes ``BLOCK_L`` steps of time and ``BLOCK_D`` channels of one row. Inputs
are counted from ``-(K - 1)`` on, those before 0 being the incoming state. Walking away
from a step, ``alive`` falls at the first start flag that parts it from the tap.
"""

import triton
import triton.language as tl

LOG2_E = tl.constexpr(1.4426950408889634)


@triton.jit
def _inputs(x, state, s, d, mask, X_TIME: tl.constexpr, K: tl.constexpr):
    """Inputs at times s, the incoming state's where s is negative."""
    past = tl.load(
        state + d * (K - 1) + s + (K - 1), mask=mask & (s < 0) & (s > -K), other=0.0
    )
    return tl.where(
        s < 0, past, tl.load(x + s * X_TIME + d, mask=mask & (s >= 0), other=0.0)
    )


@triton.jit(do_not_specialize=["L"])
def forward_kernel(
    x,
    weight,
    bias,
    flags,
    state,
    y,
    linear,
    last,
    x_row,
    L,
    X_TIME: tl.constexpr,
    D: tl.constexpr,
    K: tl.constexpr,
    SILU: tl.constexpr,
    KEEP: tl.constexpr,
    BLOCK_L: tl.constexpr,
    BLOCK_D: tl.constexpr,
):
    """Outputs and the last inputs; with SILU and KEEP also the outputs before it."""
    row = tl.program_id(2).to(tl.int64)
    t = tl.program_id(1) * BLOCK_L + tl.arange(0, BLOCK_L)[:, None]
    d = tl.program_id(0) * BLOCK_D + tl.arange(0, BLOCK_D)[None, :]
    mask_d, mask = d < D, (t < L) & (d < D)
    x += row * x_row
    state += row * D * (K - 1)
    flags += row * L
    at = row * L * D + t * D + d
    alive = t < L
    out = tl.load(bias + d, mask=mask_d, other=0.0) + tl.zeros_like(t)
    for j in tl.static_range(K):
        tap = _inputs(x, state, t - j, d, mask, X_TIME, K)
        w = tl.load(weight + d * K + (K - 1 - j), mask=mask_d, other=0.0)
        out += tl.where(alive, tap * w, 0.0)
        start = tl.load(flags + t - j, mask=(t >= j) & (t < L), other=0)
        alive = alive & (start == 0)
    if SILU:
        if KEEP:
            tl.store(linear + at, out, mask=mask)
        out = out / (1.0 + tl.exp2(out * -LOG2_E))
    tl.store(y + at, out, mask=mask)

    # The last block of time also knows which of the last inputs its end can see.
    if tl.program_id(1) == tl.num_programs(1) - 1:
        seen = d < D
        for j in tl.static_range(K - 1):
            s = L - 1 - j + tl.zeros_like(d)
            past = _inputs(x, state, s, d, mask_d, X_TIME, K)
            place = (row * D + d) * (K - 1) + (K - 2 - j)
            tl.store(last + place, tl.where(seen, past, 0.0), mask=mask_d)
            seen = seen & (tl.load(flags + s, mask=s >= 0, other=0) == 0)


@triton.jit(do_not_specialize=["L"])
def backward_kernel(
    x,
    weight,
    flags,
    state,
    linear,
    grad_y,
    grad_last,
    grad_x,
    grad_state,
    grad_weight,
    grad_bias,
    x_row,
    L,
    X_TIME: tl.constexpr,
    D: tl.constexpr,
    K: tl.constexpr,
    SILU: tl.constexpr,
    BLOCK_L: tl.constexpr,
    BLOCK_D: tl.constexpr,
):
    """Gradients of the inputs at ``BLOCK_L`` times, the incoming state's among them.

    Those of weight and bias are per row and block of time: the host adds them up.
    """
    row = tl.program_id(2).to(tl.int64)
    s = tl.program_id(1) * BLOCK_L + tl.arange(0, BLOCK_L)[:, None] - (K - 1)
    d = tl.program_id(0) * BLOCK_D + tl.arange(0, BLOCK_D)[None, :]
    mask_d, mask = d < D, (s < L) & (d < D)
    x += row * x_row
    state += row * D * (K - 1)
    flags += row * L
    grad_y += row * L * D
    linear += row * L * D
    part = row * tl.num_programs(1) + tl.program_id(1)
    tap = _inputs(x, state, s, d, mask, X_TIME, K)
    alive = s < L
    grad = tl.zeros_like(tap)
    for j in tl.static_range(K):
        t = s + j
        inside = (t >= 0) & (t < L)
        grad_t = tl.load(grad_y + t * D + d, mask=inside & mask_d, other=0.0)
        if SILU:
            v = tl.load(linear + t * D + d, mask=inside & mask_d, other=0.0)
            share = 1.0 / (1.0 + tl.exp2(v * -LOG2_E))
            grad_t *= share * (1.0 + v * (1.0 - share))
        if j == 0:
            over_t = tl.sum(grad_t, axis=0)[None, :]
            tl.store(grad_bias + part * D + d, over_t, mask=mask_d)
        else:
            start = tl.load(flags + t, mask=inside, other=0)
            alive = alive & (start == 0)
        w = tl.load(weight + d * K + (K - 1 - j), mask=mask_d, other=0.0)
        grad += tl.where(alive, grad_t * w, 0.0)
        over_t = tl.sum(tl.where(alive, grad_t * tap, 0.0), axis=0)[None, :]
        tl.store(grad_weight + (part * D + d) * K + (K - 1 - j), over_t, mask=mask_d)
    # Here alive says that no start flag follows within K - 1 steps.
    slot = s - (L - (K - 1))
    at = (row * D + d) * (K - 1) + slot
    seen = alive & (slot >= 0) & mask
    grad += tl.load(grad_last + at, mask=seen, other=0.0)
    tl.store(grad_x + row * L * D + s * D + d, grad, mask=mask & (s >= 0))
    at = (row * D + d) * (K - 1) + s + (K - 1)
    tl.store(grad_state + at, grad, mask=mask & (s < 0))
