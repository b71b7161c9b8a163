"""One time step of the networks' parts for one environment, as Numba kernels.

What PyTorch spends on a step at batch size one is mostly the cost of calling it. Each
kernel here is one call. Vectors are float32 arrays ``[n]``, weights have PyTorch's
layout ``[out, in]``, states are changed in place, outputs are written into arrays of
the caller's. The equations are those of :mod:`torch.nn` and of the cores.
"""

import math

import numpy as np

from resel_torchrl.ops._numba import exp2, kernel, sigmoid

__all__ = ["dense", "elu", "gru_step", "lstm_step", "mamba_step"]

_LOG2_E = np.float32(math.log2(math.e))
_ONE, _TWO, _HALF = np.float32(1), np.float32(2), np.float32(0.5)
_SQRT_HALF = np.float32(math.sqrt(0.5))


@kernel
def dense(weight, bias, x, out):
    """``out = weight x + bias``, four outputs at a time."""
    size = len(out)
    for o in range(0, size - 3, 4):
        a, b, c, d = bias[o], bias[o + 1], bias[o + 2], bias[o + 3]
        for i in range(len(x)):
            a += weight[o, i] * x[i]
            b += weight[o + 1, i] * x[i]
            c += weight[o + 2, i] * x[i]
            d += weight[o + 3, i] * x[i]
        out[o], out[o + 1], out[o + 2], out[o + 3] = a, b, c, d
    for o in range(size - size % 4, size):
        a = bias[o]
        for i in range(len(x)):
            a += weight[o, i] * x[i]
        out[o] = a


@kernel
def elu(x):
    """Exponential linear unit, in place."""
    for i in range(len(x)):
        below = exp2(min(x[i], np.float32(0)) * _LOG2_E) - _ONE
        x[i] = x[i] if x[i] > 0 else below


@kernel
def gru_step(weight_ih, weight_hh, bias_ih, bias_hh, x, state, gates, hidden):
    """One step of a GRU cell; ``gates`` and ``hidden`` are scratch, ``[3H]``."""
    H = len(state)
    dense(weight_ih, bias_ih, x, gates)
    dense(weight_hh, bias_hh, state, hidden)
    for i in range(H):
        r = sigmoid(gates[i] + hidden[i])
        z = sigmoid(gates[H + i] + hidden[H + i])
        n = _TWO * sigmoid(_TWO * (gates[2 * H + i] + r * hidden[2 * H + i])) - _ONE
        state[i] = n + z * (state[i] - n)


@kernel
def lstm_step(weight_ih, weight_hh, bias_ih, bias_hh, x, state, gates, hidden):
    """One step of an LSTM cell, ``state`` hidden then cell; scratch is ``[4H]``."""
    H = len(state) // 2
    dense(weight_ih, bias_ih, x, gates)
    dense(weight_hh, bias_hh, state[:H], hidden)
    for i in range(H):
        into = sigmoid(gates[i] + hidden[i])
        forget = sigmoid(gates[H + i] + hidden[H + i])
        new = _TWO * sigmoid(_TWO * (gates[2 * H + i] + hidden[2 * H + i])) - _ONE
        cell = forget * state[H + i] + into * new
        out = sigmoid(gates[3 * H + i] + hidden[3 * H + i])
        state[H + i] = cell
        state[i] = out * (_TWO * sigmoid(_TWO * cell) - _ONE)


@kernel
def mamba_step(
    norm,
    norm_eps,
    in_proj,
    conv,
    conv_bias,
    x_proj,
    dt_proj,
    dt_bias,
    A_log,
    D,
    out_proj,
    inner,
    inner_bias,
    outer,
    outer_bias,
    feedforward_norm,
    feedforward_norm_bias,
    zeros,
    x,
    conv_state,
    ssm_state,
    wide,
    y,
):
    """One step of the paper's Mamba block, from ``x`` to ``y``.

    Weights are those of :class:`~resel_torchrl.modules.cores.MambaCore` in its order,
    with ``conv`` ``[D, K]``; ``zeros`` stands for an absent bias, of any length that
    suffices; ``conv_state`` is ``[D, K - 1]``, ``ssm_state`` ``[D, N]``. ``wide`` is
    scratch of ``[4, max(2D, rank + 2N, feedforward_size)]``.
    """
    size, (channels, N), K = len(x), ssm_state.shape, conv.shape[1]
    rank = dt_proj.shape[1]
    projected, gate = wide[0, :channels], wide[0, channels : 2 * channels]
    u, step = wide[1, :channels], wide[2, :channels]
    low = wide[3, : rank + 2 * N]

    total = np.float32(0)
    for i in range(size):
        total += x[i] * x[i]
    scale = _ONE / np.sqrt(total / np.float32(size) + norm_eps)
    for i in range(size):
        y[i] = x[i] * scale * norm[i]
    dense(in_proj, zeros, y, wide[0, : 2 * channels])

    for d in range(channels):
        total = conv_bias[d] + conv[d, K - 1] * projected[d]
        for k in range(K - 1):
            total += conv[d, k] * conv_state[d, k]
        for k in range(K - 2):
            conv_state[d, k] = conv_state[d, k + 1]
        if K > 1:
            conv_state[d, K - 2] = projected[d]
        u[d] = total
    for d in range(channels):
        u[d] *= sigmoid(u[d])

    dense(x_proj, zeros, u, low)
    dense(dt_proj, dt_bias, low[:rank], step)
    B, C = low[rank : rank + N], low[rank + N :]
    for d in range(channels):
        s = step[d]
        dt = s if s > 20 else np.float32(math.log1p(math.exp(s)))  # softplus
        total = D[d] * u[d]
        for n in range(N):
            A = -exp2(A_log[d, n] * _LOG2_E) * _LOG2_E
            h = exp2(dt * A) * ssm_state[d, n] + dt * u[d] * B[n]
            ssm_state[d, n] = h
            total += h * C[n]
        step[d] = total
    for d in range(channels):
        step[d] *= gate[d] * sigmoid(gate[d])
    dense(out_proj, zeros, step, y)

    for i in range(size):
        y[i] += x[i]
    hidden = wide[0, : len(inner)]
    dense(inner, inner_bias, y, hidden)
    for i in range(len(hidden)):
        hidden[i] *= _HALF + _HALF * np.float32(math.erf(hidden[i] * _SQRT_HALF))
    fed = wide[1, :size]
    dense(outer, outer_bias, hidden, fed)
    total, square = np.float32(0), np.float32(0)
    for i in range(size):
        y[i] += fed[i]
        total += y[i]
    mean = total / np.float32(size)
    for i in range(size):
        y[i] -= mean
        square += y[i] * y[i]
    scale = _ONE / np.sqrt(square / np.float32(size) + norm_eps)
    for i in range(size):
        y[i] = y[i] * scale * feedforward_norm[i] + feedforward_norm_bias[i]
