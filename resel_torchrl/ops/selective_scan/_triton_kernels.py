"""Triton kernels of the selective scan; :mod:`.triton` launches them.

One program runs over time for one row and ``BLOCK_D`` channels. The states of a channel
are spread over lanes, four to a lane, and stay in registers. Time goes in blocks of
``STEPS`` unrolled steps: what a block reads from memory is asked for during the block
before it, and sums over lanes and warps are taken for a whole block at once.

``T`` is the number of steps in one program's share of time, a multiple of ``STEPS``:
all of time, or, where rows and channels are too few to fill the chip, a chunk of it.
Then a first kernel finds what each chunk does to the state that enters it, which is
``h -> exp(A · decays) · h + end``, or ``h -> end`` once a start flag was seen in it.

Steps past the end count as ``dt = x = 0``, which leaves the state as it is.
"""

import triton
import triton.language as tl

LOG2_E = tl.constexpr(1.4426950408889634)
LN_2 = tl.constexpr(0.6931471805599453)


@triton.jit
def _stack(parts):
    """Stacks ``2^i`` tensors ``[*S]`` along new last dimensions ``[*S, 2, 2, ...]``."""
    if len(parts) == 1:
        return parts[0]
    else:
        return tl.join(_stack(parts[0::2]), _stack(parts[1::2]))


@triton.jit
def _within(index, size: tl.constexpr, BLOCK: tl.constexpr):
    """Mask of ``index < size``, known to be true where blocks divide the size."""
    if size % BLOCK == 0:
        return tl.full(index.shape, 0, tl.int32) == 0
    else:
        return index < size


@triton.jit
def _only_if(condition, mask):
    """``mask & condition``, which Triton's interpreter cannot do with a scalar."""
    return tl.where(condition, mask, False)


@triton.jit
def _load_steps(
    pointer, index, mask, t, end, STRIDE: tl.constexpr, STEPS: tl.constexpr
):
    """A tuple of ``STEPS`` vectors from time t on; zeros from ``end`` on."""
    pointer += t * STRIDE
    if t + STEPS <= end:
        loaded = _load_each(pointer, index, mask, STRIDE, STEPS, 0, False)
    else:
        loaded = _load_each(pointer, index, mask, STRIDE, STEPS, end - t, True)
    return loaded


@triton.jit
def _load_each(
    pointer,
    index,
    mask,
    STRIDE: tl.constexpr,
    STEPS: tl.constexpr,
    count,
    PARTIAL: tl.constexpr,
):
    loaded = ()
    for k in tl.static_range(STEPS):
        inside = mask
        if PARTIAL:
            inside = _only_if(k < count, mask)
        loaded += (tl.load(pointer + k * STRIDE + index, mask=inside, other=0.0),)
    return loaded


@triton.jit
def _load_flags(pointer, t, end, STEPS: tl.constexpr):
    """A tuple of ``STEPS`` start flags; false from ``end`` on."""
    loaded = ()
    for k in tl.static_range(STEPS):
        loaded += (tl.load(pointer + t + k, mask=t + k < end, other=False),)
    return loaded


@triton.jit
def _entering_state(
    h, A2, sums, seen, ends, row, chunk, chunks, d, mask_d, dn, mask_dn, D, N
):
    """State before ``chunk``, given the one before the first."""
    for c in range(chunk):
        at = row * chunks + c
        decay = tl.exp2(
            tl.load(sums + at * D + d, mask=mask_d, other=0.0)[:, None] * A2
        )
        end = tl.load(ends + at * D * N + dn, mask=mask_dn, other=0.0)
        h = tl.where(tl.load(seen + at) != 0, 0.0, decay * h) + end
    return h


@triton.jit(do_not_specialize=["L", "T"])
def chunk_ends_kernel(
    x,
    dt,
    A,
    B,
    flags,
    ends,
    sums,
    seen,
    x_row,
    dt_row,
    B_row,
    L,
    T,
    X_TIME: tl.constexpr,
    DT_TIME: tl.constexpr,
    B_TIME: tl.constexpr,
    D: tl.constexpr,
    N: tl.constexpr,
    BLOCK_D: tl.constexpr,
    BLOCK_N: tl.constexpr,
    STEPS: tl.constexpr,
):
    """What each chunk of time does to the state that enters it."""
    row, chunk = tl.program_id(1).to(tl.int64), tl.program_id(2)
    d = tl.program_id(0) * BLOCK_D + tl.arange(0, BLOCK_D)
    n = tl.arange(0, BLOCK_N)
    mask_d, mask_n = _within(d, D, BLOCK_D), _within(n, N, BLOCK_N)
    dn, mask_dn = d[:, None] * N + n[None, :], mask_d[:, None] & mask_n[None, :]
    A2 = tl.load(A + dn, mask=mask_dn, other=0.0) * LOG2_E
    h = tl.zeros_like(A2)
    total = tl.sum(h, axis=1)
    reset = False
    x += row * x_row
    dt += row * dt_row
    B += row * B_row
    flags += row * L
    begin = chunk * T
    end = tl.minimum(begin + T, L)
    for t in range(begin, end, STEPS):
        x_t = _load_steps(x, d, mask_d, t, end, X_TIME, STEPS)
        dt_t = _load_steps(dt, d, mask_d, t, end, DT_TIME, STEPS)
        B_t = _load_steps(B, n, mask_n, t, end, B_TIME, STEPS)
        start_t = _load_flags(flags, t, end, STEPS)
        for k in tl.static_range(STEPS):
            h = tl.where(start_t[k], 0.0, h)
            total = tl.where(start_t[k], 0.0, total) + dt_t[k]
            reset = reset | start_t[k]
            u = dt_t[k] * x_t[k]
            h = tl.exp2(dt_t[k][:, None] * A2) * h + u[:, None] * B_t[k][None, :]
    at = row * tl.num_programs(2) + chunk
    tl.store(ends + at * D * N + dn, h, mask=mask_dn)
    tl.store(sums + at * D + d, total, mask=mask_d)
    tl.store(seen + at, reset.to(tl.int8))


@triton.jit(do_not_specialize=["L", "T"])
def forward_kernel(
    x,
    dt,
    A,
    B,
    C,
    skip,
    flags,
    state,
    z,
    y,
    ungated,
    last,
    boundaries,
    ends,
    sums,
    seen,
    x_row,
    dt_row,
    B_row,
    C_row,
    z_row,
    L,
    T,
    X_TIME: tl.constexpr,
    DT_TIME: tl.constexpr,
    B_TIME: tl.constexpr,
    C_TIME: tl.constexpr,
    Z_TIME: tl.constexpr,
    D: tl.constexpr,
    N: tl.constexpr,
    GATED: tl.constexpr,
    KEEP: tl.constexpr,
    SPLIT: tl.constexpr,
    BLOCK_D: tl.constexpr,
    BLOCK_N: tl.constexpr,
    STEPS: tl.constexpr,
    BATCH: tl.constexpr,
):
    """Outputs, the last state and, with KEEP, what the backward pass needs.

    ``BATCH`` steps are computed while the inputs of the next as many are fetched.
    """
    row, chunk = tl.program_id(1).to(tl.int64), tl.program_id(2)
    d = tl.program_id(0) * BLOCK_D + tl.arange(0, BLOCK_D)
    n = tl.arange(0, BLOCK_N)
    mask_d, mask_n = _within(d, D, BLOCK_D), _within(n, N, BLOCK_N)
    dn, mask_dn = d[:, None] * N + n[None, :], mask_d[:, None] & mask_n[None, :]
    A2 = tl.load(A + dn, mask=mask_dn, other=0.0) * LOG2_E
    h = tl.load(state + row * D * N + dn, mask=mask_dn, other=0.0)
    if SPLIT:
        h = _entering_state(
            *(h, A2, sums, seen, ends, row, chunk, tl.num_programs(2)),
            *(d, mask_d, dn, mask_dn, D, N),
        )
    skip_d = tl.load(skip + d, mask=mask_d, other=0.0)
    x += row * x_row
    dt += row * dt_row
    B += row * B_row
    C += row * C_row
    z += row * z_row
    flags += row * L
    y += row * L * D
    ungated += row * L * D
    boundaries += row * tl.cdiv(L, STEPS) * D * N
    begin = chunk * T
    end = tl.minimum(begin + T, L)
    x_t = _load_steps(x, d, mask_d, begin, end, X_TIME, BATCH)
    dt_t = _load_steps(dt, d, mask_d, begin, end, DT_TIME, BATCH)
    B_t = _load_steps(B, n, mask_n, begin, end, B_TIME, BATCH)
    C_t = _load_steps(C, n, mask_n, begin, end, C_TIME, BATCH)
    start_t = _load_flags(flags, begin, end, BATCH)
    for t in range(begin, end, STEPS):
        if KEEP:
            tl.store(boundaries + t // STEPS * (D * N) + dn, h, mask=mask_dn)
        outputs = ()
        for s in tl.static_range(BATCH, STEPS + BATCH, BATCH):
            next_x = _load_steps(x, d, mask_d, t + s, end, X_TIME, BATCH)
            next_dt = _load_steps(dt, d, mask_d, t + s, end, DT_TIME, BATCH)
            next_B = _load_steps(B, n, mask_n, t + s, end, B_TIME, BATCH)
            next_C = _load_steps(C, n, mask_n, t + s, end, C_TIME, BATCH)
            next_start = _load_flags(flags, t + s, end, BATCH)
            for k in tl.static_range(BATCH):
                h = tl.where(start_t[k], 0.0, h)
                u = dt_t[k] * x_t[k]
                h = tl.exp2(dt_t[k][:, None] * A2) * h + u[:, None] * B_t[k][None, :]
                outputs += (tl.sum(h * C_t[k][None, :], axis=1) + skip_d * x_t[k],)
            x_t, dt_t, B_t, C_t, start_t = next_x, next_dt, next_B, next_C, next_start
        out = tl.reshape(_stack(outputs), [BLOCK_D, STEPS])
        time = t + tl.arange(0, STEPS)[None, :]
        mask_out = mask_d[:, None] & (time < end)
        at = time * D + d[:, None]
        if GATED:
            if KEEP:
                tl.store(ungated + at, out, mask=mask_out)
            gate = tl.load(z + time * Z_TIME + d[:, None], mask=mask_out, other=0.0)
            out *= gate / (1.0 + tl.exp2(gate * -LOG2_E))
        tl.store(y + at, out, mask=mask_out)
    if end == L:
        tl.store(last + row * D * N + dn, h, mask=mask_dn)


@triton.jit(do_not_specialize=["L"])
def gate_backward_kernel(
    grad_y,
    z,
    ungated,
    grad_out,
    grad_z,
    z_row,
    L,
    Z_TIME: tl.constexpr,
    D: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """Gradients of the gate and of the outputs before it, element by element."""
    row = tl.program_id(1).to(tl.int64)
    i = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    mask, at = i < L * D, row * L * D + i
    gate = tl.load(z + row * z_row + i // D * Z_TIME + i % D, mask=mask, other=0.0)
    grad = tl.load(grad_y + at, mask=mask, other=0.0)
    share = 1.0 / (1.0 + tl.exp2(gate * -LOG2_E))
    tl.store(grad_out + at, grad * (gate * share), mask=mask)
    slope = share * (1.0 + gate * (1.0 - share))
    out = tl.load(ungated + at, mask=mask, other=0.0)
    tl.store(grad_z + at, grad * (out * slope), mask=mask)


@triton.jit(do_not_specialize=["L", "T"])
def chunk_adjoints_kernel(
    dt,
    A,
    C,
    flags,
    grad_out,
    adjoints,
    sums,
    seen,
    dt_row,
    C_row,
    L,
    T,
    DT_TIME: tl.constexpr,
    C_TIME: tl.constexpr,
    D: tl.constexpr,
    N: tl.constexpr,
    BLOCK_D: tl.constexpr,
    BLOCK_N: tl.constexpr,
    STEPS: tl.constexpr,
):
    """Gradient that each chunk's own outputs give the state that enters it.

    With it what a gradient from later chunks passes through: as in the forward pass.
    """
    row, chunk = tl.program_id(1).to(tl.int64), tl.program_id(2)
    d = tl.program_id(0) * BLOCK_D + tl.arange(0, BLOCK_D)
    n = tl.arange(0, BLOCK_N)
    mask_d, mask_n = _within(d, D, BLOCK_D), _within(n, N, BLOCK_N)
    dn, mask_dn = d[:, None] * N + n[None, :], mask_d[:, None] & mask_n[None, :]
    A2 = tl.load(A + dn, mask=mask_dn, other=0.0) * LOG2_E
    grad_h = tl.zeros_like(A2)
    total = tl.sum(grad_h, axis=1)
    reset = False
    dt += row * dt_row
    C += row * C_row
    flags += row * L
    grad_out += row * L * D
    begin = chunk * T
    end = tl.minimum(begin + T, L)
    for block in range(tl.cdiv(end - begin, STEPS)):
        t = begin + (tl.cdiv(end - begin, STEPS) - 1 - block) * STEPS
        dt_t = _load_steps(dt, d, mask_d, t, end, DT_TIME, STEPS)
        grad_t = _load_steps(grad_out, d, mask_d, t, end, D, STEPS)
        C_t = _load_steps(C, n, mask_n, t, end, C_TIME, STEPS)
        start_t = _load_flags(flags, t, end, STEPS)
        for k in tl.static_range(STEPS - 1, -1, -1):
            total += dt_t[k]
            reset = reset | start_t[k]
            grad_h += grad_t[k][:, None] * C_t[k][None, :]
            passed = grad_h * tl.exp2(dt_t[k][:, None] * A2)
            grad_h = tl.where(start_t[k], 0.0, passed)
    at = row * tl.num_programs(2) + chunk
    tl.store(adjoints + at * D * N + dn, grad_h, mask=mask_dn)
    tl.store(sums + at * D + d, total, mask=mask_d)
    tl.store(seen + at, reset.to(tl.int8))


@triton.jit(do_not_specialize=["L", "T"])
def backward_kernel(
    x,
    dt,
    A,
    B,
    C,
    flags,
    boundaries,
    adjoints,
    sums,
    seen,
    grad_out,
    grad_last,
    grad_u,
    grad_decay,
    grad_A,
    grad_BC,
    grad_state,
    x_row,
    dt_row,
    B_row,
    C_row,
    L,
    T,
    X_TIME: tl.constexpr,
    DT_TIME: tl.constexpr,
    B_TIME: tl.constexpr,
    C_TIME: tl.constexpr,
    D: tl.constexpr,
    N: tl.constexpr,
    SPLIT: tl.constexpr,
    BLOCK_D: tl.constexpr,
    BLOCK_N: tl.constexpr,
    STEPS: tl.constexpr,
    BATCH: tl.constexpr,
):
    """The recurrence's gradients; a block's states are recomputed in registers.

    ``grad_A`` is per row and chunk of time, ``grad_BC`` (of B, then of C) per block of
    channels: the host adds them up, so no sum depends on timing. ``grad_u`` is that of
    ``u = dt · x``, ``grad_decay`` that of dt through the decay: :func:`finish_kernel`
    makes ``grad_x`` and ``grad_dt`` of them. Inputs are read ``BATCH`` steps at a time,
    again on the way back: registers are what this kernel is short of.
    """
    row, chunk = tl.program_id(1).to(tl.int64), tl.program_id(2)
    rows, chunks = tl.num_programs(1), tl.num_programs(2)
    d = tl.program_id(0) * BLOCK_D + tl.arange(0, BLOCK_D)
    n = tl.arange(0, BLOCK_N)
    mask_d, mask_n = _within(d, D, BLOCK_D), _within(n, N, BLOCK_N)
    dn, mask_dn = d[:, None] * N + n[None, :], mask_d[:, None] & mask_n[None, :]
    A2 = tl.load(A + dn, mask=mask_dn, other=0.0) * LOG2_E
    grad_h = tl.load(grad_last + row * D * N + dn, mask=mask_dn, other=0.0)
    if SPLIT:
        for i in range(chunks - 1 - chunk):
            at = row * chunks + chunks - 1 - i
            total = tl.load(sums + at * D + d, mask=mask_d, other=0.0)
            own = tl.load(adjoints + at * D * N + dn, mask=mask_dn, other=0.0)
            passed = grad_h * tl.exp2(total[:, None] * A2)
            grad_h = tl.where(tl.load(seen + at) != 0, 0.0, passed) + own
    grad_A_dn = tl.zeros_like(A2)
    x += row * x_row
    dt += row * dt_row
    B += row * B_row
    C += row * C_row
    flags += row * L
    grad_out += row * L * D
    grad_u += row * L * D
    grad_decay += row * L * D
    boundaries += row * tl.cdiv(L, STEPS) * D * N
    grad_B = grad_BC + (tl.program_id(0) * 2 * rows + row) * L * N
    grad_C = grad_B + rows.to(tl.int64) * L * N
    begin = chunk * T
    end = tl.minimum(begin + T, L)
    blocks = tl.cdiv(end - begin, STEPS)
    for block in range(blocks):
        t = begin + (blocks - 1 - block) * STEPS
        h = tl.load(boundaries + t // STEPS * (D * N) + dn, mask=mask_dn, other=0.0)
        start_t = _load_flags(flags, t, end, STEPS)

        befores = ()
        for s in tl.static_range(0, STEPS, BATCH):
            x_t = _load_steps(x, d, mask_d, t + s, end, X_TIME, BATCH)
            dt_t = _load_steps(dt, d, mask_d, t + s, end, DT_TIME, BATCH)
            grad_t = _load_steps(grad_out, d, mask_d, t + s, end, D, BATCH)
            B_t = _load_steps(B, n, mask_n, t + s, end, B_TIME, BATCH)
            for k in tl.static_range(BATCH):
                h = tl.where(start_t[s + k], 0.0, h)
                befores += (h,)
                u = dt_t[k] * x_t[k]
                h = tl.exp2(dt_t[k][:, None] * A2) * h + u[:, None] * B_t[k][None, :]
                over_d = tl.sum(grad_t[k][:, None] * h, axis=0)
                at = t + s + k
                tl.store(grad_C + at * N + n, over_d, mask=_only_if(at < end, mask_n))

        for s in tl.static_range(STEPS - BATCH, -1, -BATCH):
            x_t = _load_steps(x, d, mask_d, t + s, end, X_TIME, BATCH)
            dt_t = _load_steps(dt, d, mask_d, t + s, end, DT_TIME, BATCH)
            grad_t = _load_steps(grad_out, d, mask_d, t + s, end, D, BATCH)
            B_t = _load_steps(B, n, mask_n, t + s, end, B_TIME, BATCH)
            C_t = _load_steps(C, n, mask_n, t + s, end, C_TIME, BATCH)
            for k in tl.static_range(BATCH - 1, -1, -1):
                at = t + s + k
                grad_h += grad_t[k][:, None] * C_t[k][None, :]
                over_d = tl.sum(grad_h * (dt_t[k] * x_t[k])[:, None], axis=0)
                tl.store(grad_B + at * N + n, over_d, mask=_only_if(at < end, mask_n))
                over_n = tl.sum(grad_h * B_t[k][None, :], axis=1)
                tl.store(grad_u + at * D + d, over_n, mask=_only_if(at < end, mask_d))
                grad_h *= tl.exp2(dt_t[k][:, None] * A2)
                slope = grad_h * befores[s + k]
                grad_A_dn += slope * dt_t[k][:, None]
                over_n = tl.sum(slope * A2, axis=1) * LN_2
                tl.store(
                    grad_decay + at * D + d, over_n, mask=_only_if(at < end, mask_d)
                )
                grad_h = tl.where(start_t[s + k], 0.0, grad_h)

    at = row * chunks + chunk
    tl.store(grad_A + at * D * N + dn, grad_A_dn, mask=mask_dn)
    if chunk == 0:
        tl.store(grad_state + row * D * N + dn, grad_h, mask=mask_dn)


@triton.jit(do_not_specialize=["L"])
def finish_kernel(
    x,
    dt,
    skip,
    grad_out,
    grad_u,
    grad_decay,
    grad_skip,
    x_row,
    dt_row,
    L,
    X_TIME: tl.constexpr,
    DT_TIME: tl.constexpr,
    D: tl.constexpr,
    SOFTPLUS: tl.constexpr,
    BLOCK_L: tl.constexpr,
    BLOCK_D: tl.constexpr,
):
    """Turns ``grad_u`` into ``grad_x`` and ``grad_decay`` into ``grad_dt``, in place.

    ``grad_skip`` is per row and block of time.
    """
    row = tl.program_id(2).to(tl.int64)
    t = tl.program_id(1) * BLOCK_L + tl.arange(0, BLOCK_L)[:, None]
    d = tl.program_id(0) * BLOCK_D + tl.arange(0, BLOCK_D)[None, :]
    mask, at = (t < L) & (d < D), row * L * D + t * D + d
    x_td = tl.load(x + row * x_row + t * X_TIME + d, mask=mask, other=0.0)
    dt_td = tl.load(dt + row * dt_row + t * DT_TIME + d, mask=mask, other=0.0)
    out = tl.load(grad_out + at, mask=mask, other=0.0)
    from_u = tl.load(grad_u + at, mask=mask, other=0.0)
    grad_dt = tl.load(grad_decay + at, mask=mask, other=0.0) + from_u * x_td
    if SOFTPLUS:
        grad_dt *= _softplus_slope(dt_td)
    skip_d = tl.load(skip + d, mask=d < D, other=0.0)
    tl.store(grad_u + at, from_u * dt_td + skip_d * out, mask=mask)
    tl.store(grad_decay + at, grad_dt, mask=mask)
    part = tl.sum(out * x_td, axis=0)[None, :]
    at = (row * tl.num_programs(1) + tl.program_id(1)) * D + d
    tl.store(grad_skip + at, part, mask=d < D)


@triton.jit
def _softplus_slope(v):
    """Softplus's slope where its value is v: ``1 - exp(-v)``, by a series near 0."""
    series = 1.0 - v / 7 * (1.0 - v / 8)
    series = 1.0 - v / 4 * (1.0 - v / 5 * (1.0 - v / 6 * series))
    series = v * (1.0 - v / 2 * (1.0 - v / 3 * series))
    return tl.where(v < 0.0625, series, 1.0 - tl.exp2(v * -LOG2_E))
