"""Numba kernels of the selective scan. Sequences are flat, one distance to a step."""

import numpy as np

from resel_torchrl.ops._numba import exp2, kernel, sigmoid, softplus

# Channels that one item carries through time, so that their [N, W] states stay in a
# core's first caches. Loops over them ask for the length of an array: of a constant the
# compiler unrolls them before it thinks of vectors.
CHANNELS = _W = 64
# Steps between two states that the forward pass keeps. The backward pass makes that
# many again at a time: [K, N, W] decays and states, which fit into a second cache.
KEPT = _K = 16


@kernel
def forward(
    first,
    last,
    x,
    x_step,
    dt,
    dt_step,
    B,
    B_step,
    C,
    C_step,
    z,
    z_step,
    A,
    D,
    is_init,
    state,
    y,
    last_state,
    kept,
    dt_softplus,
    keep,
):
    """Items ``first`` to ``last - 1``; ``A`` times log2(e)."""
    L, width, N = is_init.shape[1], len(D), A.shape[1]
    tiles = (width + _W - 1) // _W
    a, h = np.zeros((N, _W), x.dtype), np.zeros((N, _W), x.dtype)
    step, u, out = (
        np.zeros(_W, x.dtype),
        np.zeros(_W, x.dtype),
        np.zeros(_W, x.dtype),
    )
    for item in range(first, last):
        r, channel = item // tiles, item % tiles * _W
        own = min(_W, width - channel)
        skip = D[channel : channel + own]
        for n in range(N):
            for j in range(own):
                a[n, j] = A[channel + j, n]
                h[n, j] = state[r, channel + j, n]
        for t in range(L):
            row = r * L + t
            if is_init[r, t]:
                h[:] = 0
            if keep and t % _K == 0:
                kept[t // _K, item] = h
            inputs = x[row * x_step + channel : row * x_step + channel + own]
            rates = dt[row * dt_step + channel : row * dt_step + channel + own]
            for j in range(own):
                step[j] = softplus(rates[j]) if dt_softplus else rates[j]
                u[j] = step[j] * inputs[j]
            out[:] = 0
            for n in range(N):
                b, c = B[row * B_step + n], C[row * C_step + n]
                for j in range(a.shape[1]):
                    new = exp2(step[j] * a[n, j]) * h[n, j] + u[j] * b
                    h[n, j] = new
                    out[j] += c * new
            outputs = y[r, t, channel : channel + own]
            for j in range(own):
                outputs[j] = out[j] + skip[j] * inputs[j]
            if len(z):
                gate = z[row * z_step + channel : row * z_step + channel + own]
                for j in range(own):
                    outputs[j] *= gate[j] * sigmoid(gate[j])
        for n in range(N):
            for j in range(own):
                last_state[r, channel + j, n] = h[n, j]


@kernel
def backward(
    first,
    last,
    x,
    x_step,
    dt,
    dt_step,
    B,
    B_step,
    C,
    C_step,
    z,
    z_step,
    A,
    A_log2,
    D,
    is_init,
    kept,
    grad_y,
    grad_last,
    grad_x,
    grad_dt,
    grad_A,
    grad_B,
    grad_C,
    grad_D,
    grad_state,
    grad_z,
    dt_softplus,
):
    """Items ``first`` to ``last - 1``, from the last step to the first."""
    L, width, N = is_init.shape[1], len(D), A.shape[1]
    tiles = (width + _W - 1) // _W
    zero, one = x.dtype.type(0), x.dtype.type(1)
    # h[k] is the state before step k of a block, h[_K + 1] the zero after a reset.
    h, decay = np.zeros((_K + 2, N, _W), x.dtype), np.zeros((_K, N, _W), x.dtype)
    step, u, out = (
        np.zeros((_K, _W), x.dtype),
        np.zeros((_K, _W), x.dtype),
        np.zeros((_K, _W), x.dtype),
    )
    a, a_log2 = np.zeros((N, _W), x.dtype), np.zeros((N, _W), x.dtype)
    grad_h, grad_a = np.zeros((N, _W), x.dtype), np.zeros((N, _W), x.dtype)
    dy, grad_u = np.zeros(_W, x.dtype), np.zeros(_W, x.dtype)
    grad_step, grad_skip = np.zeros(_W, x.dtype), np.zeros(_W, x.dtype)
    for item in range(first, last):
        r, tile = item // tiles, item % tiles
        channel = tile * _W
        own = min(_W, width - channel)
        skip = D[channel : channel + own]
        a[:], a_log2[:], grad_h[:], grad_a[:], grad_skip[:] = 0, 0, 0, 0, 0
        step[:], u[:], dy[:] = 0, 0, 0
        for n in range(N):
            for j in range(own):
                a[n, j] = A[channel + j, n]
                a_log2[n, j] = A_log2[channel + j, n]
                grad_h[n, j] = grad_last[r, channel + j, n]
        for block in range((L - 1) // _K, -1, -1):
            begin = block * _K
            steps = min(_K, L - begin)
            h[0] = kept[block, item]
            for k in range(steps):
                row = r * L + begin + k
                before = _K + 1 if is_init[r, begin + k] else k
                inputs = x[row * x_step + channel : row * x_step + channel + own]
                rates = dt[row * dt_step + channel : row * dt_step + channel + own]
                for j in range(own):
                    step[k, j] = softplus(rates[j]) if dt_softplus else rates[j]
                    u[k, j] = step[k, j] * inputs[j]
                out[k] = 0
                for n in range(N):
                    b, c = B[row * B_step + n], C[row * C_step + n]
                    for j in range(a.shape[1]):
                        e = exp2(step[k, j] * a_log2[n, j])
                        decay[k, n, j] = e
                        new = e * h[before, n, j] + u[k, j] * b
                        h[k + 1, n, j] = new
                        out[k, j] += c * new
            for k in range(steps - 1, -1, -1):
                t = begin + k
                row = r * L + t
                before = _K + 1 if is_init[r, t] else k
                inputs = x[row * x_step + channel : row * x_step + channel + own]
                given = grad_y[r, t, channel : channel + own]
                dy[:own] = given
                if len(z):
                    gate = z[row * z_step + channel : row * z_step + channel + own]
                    grad_gate = grad_z[r, t, channel : channel + own]
                    for j in range(own):
                        s = sigmoid(gate[j])
                        dy[j] *= gate[j] * s
                        slope = s * (one + gate[j] * (one - s))
                        grad_gate[j] = (
                            given[j] * slope * (out[k, j] + skip[j] * inputs[j])
                        )
                grad_u[:], grad_step[:] = 0, 0
                for n in range(N):
                    b, c = B[row * B_step + n], C[row * C_step + n]
                    sum_B, sum_C = zero, zero
                    for j in range(a.shape[1]):
                        g = grad_h[n, j] + c * dy[j]
                        sum_C += dy[j] * h[k + 1, n, j]
                        sum_B += g * u[k, j]
                        grad_u[j] += g * b
                        g *= decay[k, n, j]
                        grad_h[n, j] = g
                        g *= h[before, n, j]  # now of the exponent dt · A
                        grad_step[j] += g * a[n, j]
                        grad_a[n, j] += g * step[k, j]
                    grad_B[tile, r, t, n] = sum_B
                    grad_C[tile, r, t, n] = sum_C
                if is_init[r, t]:
                    grad_h[:] = 0
                into_x = grad_x[r, t, channel : channel + own]
                into_dt = grad_dt[r, t, channel : channel + own]
                rates = dt[row * dt_step + channel : row * dt_step + channel + own]
                for j in range(own):
                    into_x[j] = grad_u[j] * step[k, j] + dy[j] * skip[j]
                    slope = sigmoid(rates[j]) if dt_softplus else one
                    into_dt[j] = (grad_step[j] + grad_u[j] * inputs[j]) * slope
                    grad_skip[j] += dy[j] * inputs[j]
        for j in range(own):
            grad_D[r, channel + j] = grad_skip[j]
            for n in range(N):
                grad_A[r, channel + j, n] = grad_a[n, j]
                grad_state[r, channel + j, n] = grad_h[n, j]
