"""Triton kernels of the GRU; :mod:`.triton` launches them.

The programs of a column of the grid share a group of rows. Each owns ``BLOCK_U`` units,
keeps their weights in registers for all of time, and at each step needs what all of
them made of the step before: ``[H]`` numbers a row, exchanged through memory. That
memory is full of ``BLANK``, a signalling NaN, which no arithmetic gives. A number has
arrived when it is not blank any more, so each is its own flag: one store of 32 or 64
bits is never seen in halves, every step has a place of its own that is written once,
and no order between two numbers matters. Programs need no fence and no barrier.

Programs that wait for each other must all be running. The host launches no more of them
than there are multiprocessors, all at once; a program that reads ``patience`` times in
vain for the same step goes on with what it has, which is NaN, and does not wait again.
"""

import triton
import triton.language as tl

LOG2_E = tl.constexpr(1.4426950408889634)


@triton.jit
def _only_if(condition, mask):
    """``mask & condition``, which Triton's interpreter cannot do with a scalar."""
    return tl.where(condition, mask, False)


@triton.jit
def _bits(values):
    """The bits of each number, as an integer."""
    if values.dtype == tl.float64:
        bits = values.to(tl.int64, bitcast=True)
    else:
        bits = values.to(tl.int32, bitcast=True)
    return bits


@triton.jit
def _send(pointer, values, mask, BLANK: tl.constexpr):
    """Stores values where other programs wait for them; none of them looks blank."""
    values = tl.where(_bits(values) == BLANK, float("nan"), values)
    tl.store(pointer, values, mask=mask, cache_modifier=".cg")


@triton.jit
def _receive(pointer, mask, patience, BLANK: tl.constexpr):
    """Values that other programs send, zeros without mask, and the patience left.

    Volatile reads come from the memory that all multiprocessors share. A block has as
    many numbers as the program has threads or more, so that no two threads read the
    same one at different times and disagree on whether it has come.
    """
    values = tl.load(pointer, mask=mask, other=0.0, volatile=True)
    missing = tl.max((_bits(values) == BLANK).to(tl.int32))
    tries = 0
    while (missing > 0) & (tries < patience):
        values = tl.load(pointer, mask=mask, other=0.0, volatile=True)
        missing = tl.max((_bits(values) == BLANK).to(tl.int32))
        tries += 1
    return values, tl.where(missing > 0, 0, patience)


@triton.jit
def _sigmoid(x):
    return 1.0 / (1.0 + tl.exp2(x * -LOG2_E))


@triton.jit
def _tanh(x):
    return 2.0 * _sigmoid(2.0 * x) - 1.0


@triton.jit
def _load_weights(
    weight,
    H: tl.constexpr,
    BLOCK_U: tl.constexpr,
    COLUMNS: tl.constexpr,
    LANES: tl.constexpr,
):
    """The weights ``[COLUMNS, BLOCK_U, LANES]`` of r, z and n, zero outside.

    Read as ``[COLUMNS · BLOCK_U, LANES]``, whose rows Triton deals out to the warps one
    by one: all columns of a unit fall to one warp, as units come by eights.
    """
    place = tl.arange(0, COLUMNS * BLOCK_U)[:, None]
    u = tl.program_id(0) * BLOCK_U + place % BLOCK_U
    k = place // BLOCK_U * LANES + tl.arange(0, LANES)[None, :]
    at, mask = u * H + k, (u < H) & (k < H)
    w_r = tl.load(weight + at, mask=mask, other=0.0)
    w_z = tl.load(weight + H * H + at, mask=mask, other=0.0)
    w_n = tl.load(weight + 2 * H * H + at, mask=mask, other=0.0)
    return (
        tl.reshape(w_r, [COLUMNS, BLOCK_U, LANES]),
        tl.reshape(w_z, [COLUMNS, BLOCK_U, LANES]),
        tl.reshape(w_n, [COLUMNS, BLOCK_U, LANES]),
    )


@triton.jit
def _product(weights, values):
    """``[BLOCK_U]`` of weights ``[COLUMNS, BLOCK_U, LANES]``: no warp needs another."""
    return tl.sum(tl.sum(weights * values[:, None, :], axis=0), axis=1)


@triton.jit(do_not_specialize=["R", "L", "begin", "end", "patience"])
def forward_kernel(
    gates,
    flags,
    weight,
    bias,
    state,
    y,
    gates_row,
    gates_time,
    R,
    L,
    begin,
    end,
    patience,
    H: tl.constexpr,
    BLANK: tl.constexpr,
    BLOCK_U: tl.constexpr,
    COLUMNS: tl.constexpr,
    LANES: tl.constexpr,
):
    """Outputs of the steps from ``begin`` to ``end - 1``, sent through ``y`` itself."""
    group, groups = tl.program_id(1).to(tl.int64), tl.num_programs(1)
    u = tl.program_id(0) * BLOCK_U + tl.arange(0, BLOCK_U)
    k = tl.arange(0, COLUMNS)[:, None] * LANES + tl.arange(0, LANES)[None, :]
    mask_u, mask_k = u < H, k < H
    w_r, w_z, w_n = _load_weights(weight, H, BLOCK_U, COLUMNS, LANES)
    b_r = tl.load(bias + u, mask=mask_u, other=0.0)
    b_z = tl.load(bias + H + u, mask=mask_u, other=0.0)
    b_n = tl.load(bias + 2 * H + u, mask=mask_u, other=0.0)
    for t in range(begin, end):
        for i in range(tl.cdiv(R - tl.program_id(1), groups)):
            row = group + i * groups
            at = row * L + t
            # Asked for before the wait, so that they come during it.
            inputs = gates + row * gates_row + tl.cast(t, tl.int64) * gates_time + u
            x_r = tl.load(inputs, mask=mask_u, other=0.0)
            x_z = tl.load(inputs + H, mask=mask_u, other=0.0)
            x_n = tl.load(inputs + 2 * H, mask=mask_u, other=0.0)
            going_on = tl.load(flags + at) == 0
            all_k, own_u = _only_if(going_on, mask_k), _only_if(going_on, mask_u)
            if t == 0:
                h = tl.load(state + row * H + k, mask=all_k, other=0.0)
                own = tl.load(state + row * H + u, mask=own_u, other=0.0)
            else:
                before = y + (at - 1) * H
                tl.debug_barrier()  # another thread of this program stored its own
                own = tl.load(before + u, mask=own_u, other=0.0, volatile=True)
                h, patience = _receive(before + k, all_k, patience, BLANK)
            r = _sigmoid(x_r + (_product(w_r, h) + b_r))
            z = _sigmoid(x_z + (_product(w_z, h) + b_z))
            n = _tanh(x_n + r * (_product(w_n, h) + b_n))
            _send(y + at * H + u, n + z * (own - n), mask_u, BLANK)


@triton.jit(do_not_specialize=["L"])
def slopes_kernel(
    gates,
    hidden,
    previous,
    slopes,
    gates_row,
    gates_time,
    L,
    H: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """What an output's gradient is multiplied by on its way back, at all steps.

    ``hidden [R, L, 3H]`` is what the hidden states ``previous [R, L, H]`` gave to the
    gates. ``slopes [R, L, 5, H]`` lead to its shares of r, z and n, to the input's
    share of n, and past all gates to the hidden state: the last is z.
    """
    at = tl.program_id(0).to(tl.int64)
    row, t = at // L, at % L
    u = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    mask = u < H
    gates += row * gates_row + t * gates_time + u
    hidden += at * (3 * H) + u
    slopes += at * (5 * H) + u
    before = tl.load(previous + at * H + u, mask=mask, other=0.0)
    h_r = tl.load(hidden, mask=mask, other=0.0)
    h_z = tl.load(hidden + H, mask=mask, other=0.0)
    h_n = tl.load(hidden + 2 * H, mask=mask, other=0.0)
    r = _sigmoid(tl.load(gates, mask=mask, other=0.0) + h_r)
    z = _sigmoid(tl.load(gates + H, mask=mask, other=0.0) + h_z)
    n = _tanh(tl.load(gates + 2 * H, mask=mask, other=0.0) + r * h_n)
    slope = (1.0 - z) * (1.0 - n * n)
    tl.store(slopes, slope * h_n * (r * (1.0 - r)), mask=mask)
    tl.store(slopes + H, (before - n) * (z * (1.0 - z)), mask=mask)
    tl.store(slopes + 2 * H, slope * r, mask=mask)
    tl.store(slopes + 3 * H, slope, mask=mask)
    tl.store(slopes + 4 * H, z, mask=mask)


@triton.jit
def _load_slopes(slopes, row, step, L, k, u, mask_k, mask_u, H: tl.constexpr):
    """Slopes after ``step``, counted backwards; zeros before the first, after the last.

    Of r, z and n for all units, and past the gates for the program's own.
    """
    inside = (step > 0) & (step <= L)
    all_k, own_u = _only_if(inside, mask_k), _only_if(inside, mask_u)
    slopes += (row * L + (L - step)) * (5 * H)
    s_r = tl.load(slopes + k, mask=all_k, other=0.0)
    s_z = tl.load(slopes + H + k, mask=all_k, other=0.0)
    s_n = tl.load(slopes + 2 * H + k, mask=all_k, other=0.0)
    return s_r, s_z, s_n, tl.load(slopes + 4 * H + u, mask=own_u, other=0.0)


@triton.jit(do_not_specialize=["R", "L", "begin", "end", "patience"])
def backward_kernel(
    slopes,
    flags,
    weight,
    grad_y,
    grad_last,
    grad_h,
    grad_state,
    R,
    L,
    begin,
    end,
    patience,
    H: tl.constexpr,
    BLANK: tl.constexpr,
    BLOCK_U: tl.constexpr,
    COLUMNS: tl.constexpr,
    LANES: tl.constexpr,
):
    """The outputs' whole gradients ``grad_h [R, L, H]``, sent through themselves.

    Steps ``begin`` to ``end - 1`` are counted from the last backwards; the one after
    all ``L`` is the incoming state's. ``weight`` is ``[3, H, H]``, of each gate the
    transpose, so that a program owns the units that it makes gradients for.
    """
    group, groups = tl.program_id(1).to(tl.int64), tl.num_programs(1)
    u = tl.program_id(0) * BLOCK_U + tl.arange(0, BLOCK_U)
    k = tl.arange(0, COLUMNS)[:, None] * LANES + tl.arange(0, LANES)[None, :]
    mask_u, mask_k = u < H, k < H
    w_r, w_z, w_n = _load_weights(weight, H, BLOCK_U, COLUMNS, LANES)
    step, row = begin, group
    s_r, s_z, s_n, z = _load_slopes(slopes, row, step, L, k, u, mask_k, mask_u, H)
    for _ in range((end - begin) * tl.cdiv(R - tl.program_id(1), groups)):
        at = row * L + (L - 1 - step)
        mask_y = _only_if(step < L, mask_u)
        grad = tl.load(grad_y + at * H + u, mask=mask_y, other=0.0)
        # All that needs no gradient is done before the wait for it, and what the next
        # turn needs is asked for.
        w = w_r * s_r[:, None, :] + w_z * s_z[:, None, :] + w_n * s_n[:, None, :]
        passing = z
        last_turn = row + groups >= R
        next_step = tl.where(last_turn, step + 1, step)
        next_row = tl.where(last_turn, group, row + groups)
        s_r, s_z, s_n, z = _load_slopes(
            slopes, next_row, next_step, L, k, u, mask_k, mask_u, H
        )
        if step == 0:
            grad += tl.load(grad_last + row * H + u, mask=mask_u, other=0.0)
        else:
            going_on = tl.load(flags + at + 1) == 0
            all_k, own_u = _only_if(going_on, mask_k), _only_if(going_on, mask_u)
            after = grad_h + (at + 1) * H
            tl.debug_barrier()  # another thread of this program stored its own
            own = tl.load(after + u, mask=own_u, other=0.0, volatile=True)
            g, patience = _receive(after + k, all_k, patience, BLANK)
            grad += tl.where(going_on, _product(w, g) + passing * own, 0.0)
        if step < L:
            _send(grad_h + at * H + u, grad, mask_u, BLANK)
        else:
            tl.store(grad_state + row * H + u, grad, mask=mask_u)
        step, row = next_step, next_row
