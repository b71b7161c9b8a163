"""Numba kernels of the causal convolution."""

import numpy as np

from resel_torchrl.ops._numba import add_products, kernel, sigmoid

# Steps and channels of one item: its rows stay in a core's first caches, and the loops
# over channels are long enough to hide what it costs to begin one.
STEPS = _T = 64
CHANNELS = _W = 256

# Input i of a row meets outputs i - K + 1 to i: the state is inputs 0 to K - 2, x the
# ones from K - 1 on, and the state after the last step inputs L to L + K - 2. Rows lie
# in flat arrays; `at` is where row 0 of an episode's x begins, `channel` included.


@kernel
def _taps(starts, t, K):
    """How many taps of output t are within its episode, or before the first step."""
    seen = 1
    while seen < K and (t - seen + 1 < 0 or not starts[t - seen + 1]):
        seen += 1
    return seen


@kernel
def _convolve(t, taps, x, at, stride, weights, state, before, D, K, bias, out, to, n):
    """Writes n channels of output t to ``out[to:]``."""
    outputs = out[to : to + n]
    for j in range(n):
        outputs[j] = bias[j]
    first = K - taps
    inside = min(max(K - 1 - t, first), K)  # taps before this one meet the state
    channel = before % D
    add_products(
        out,
        to,
        weights,
        first * D + channel,
        D,
        state,
        before + (t + first) * D,
        D,
        inside - first,
        n,
    )
    add_products(
        out,
        to,
        weights,
        inside * D + channel,
        D,
        x,
        at + (t + inside - K + 1) * stride,
        stride,
        K - inside,
        n,
    )


@kernel
def forward(first, last, x, stride, weights, bias, is_init, state, y, after, silu):
    """Items ``first`` to ``last - 1``; weights and states have their channels last."""
    L = is_init.shape[1]
    D = len(bias)
    K = len(weights) // D
    tiles, blocks = (D + _W - 1) // _W, max((L + _T - 1) // _T, 1)
    zero = y.dtype.type(0)
    for item in range(first, last):
        r, block = item // (tiles * blocks), item // tiles % blocks
        channel = item % tiles * _W
        n = min(_W, D - channel)
        at, before = r * L * stride + channel, r * (K - 1) * D + channel
        own = bias[channel : channel + n]
        for t in range(block * _T, min((block + 1) * _T, L)):
            to = (r * L + t) * D + channel
            taps = _taps(is_init[r], t, K)
            _convolve(
                t, taps, x, at, stride, weights, state, before, D, K, own, y, to, n
            )
            if silu:
                outputs = y[to : to + n]
                for j in range(n):
                    outputs[j] *= sigmoid(outputs[j])
        if block < blocks - 1:
            continue
        lost = K - 1 - _taps(is_init[r], L - 1, K)
        for s in range(K - 1):
            for j in range(n):
                value = zero
                if s >= lost and L + s < K - 1:
                    value = state[before + (L + s) * D + j]
                elif s >= lost:
                    value = x[at + (L + s - K + 1) * stride + j]
                after[before + s * D + j] = value


@kernel
def backward(
    first,
    last,
    x,
    stride,
    weights,
    bias,
    is_init,
    state,
    grad_y,
    grad_after,
    grad_x,
    grad_weights,
    grad_bias,
    grad_state,
    silu,
):
    """Items ``first`` to ``last - 1``: a block of inputs, and the outputs they meet."""
    R, L = is_init.shape
    D = len(bias)
    K = len(weights) // D
    tiles, blocks = (D + _W - 1) // _W, len(grad_bias) // (R * D)
    zero, one = x.dtype.type(0), x.dtype.type(1)
    # Gradients of the outputs before SiLU, from K - 1 before the block's first on.
    grads = np.zeros((_T + K - 1) * _W, x.dtype)
    sums = np.zeros(K * _W, x.dtype)
    for item in range(first, last):
        r, block = item // (tiles * blocks), item // tiles % blocks
        channel = item % tiles * _W
        n = min(_W, D - channel)
        at, before = r * L * stride + channel, r * (K - 1) * D + channel
        begin = block * _T
        end = min(begin + _T, L + K - 1)
        ahead = begin - K + 1
        own, starts = bias[channel : channel + n], is_init[r]
        for t in range(max(ahead, 0), min(end, L)):
            to, source = (t - ahead) * _W, (r * L + t) * D + channel
            grad, given = grads[to : to + n], grad_y[source : source + n]
            if silu:
                _convolve(
                    t,
                    _taps(starts, t, K),
                    x,
                    at,
                    stride,
                    weights,
                    state,
                    before,
                    D,
                    K,
                    own,
                    grads,
                    to,
                    n,
                )
                for j in range(n):
                    s = sigmoid(grad[j])
                    grad[j] = given[j] * (s * (one + grad[j] * (one - s)))
            else:
                grad[:] = given

        sums[:] = 0
        t = begin
        while t < min(end, L):
            # Four steps in one go, where all of their taps meet inputs of the row.
            steps = 4 if K - 1 <= t <= min(end, L) - 4 else 1
            for s in range(steps):
                steps = steps if _taps(starts, t + s, K) == K else 1
            to = (t - ahead) * _W
            for k in range(K - _taps(starts, t, K), K):
                if t + k < K - 1:
                    add_products(
                        sums, k * _W, grads, to, 0, state, before + (t + k) * D, 0, 1, n
                    )
                else:
                    source = at + (t + k - K + 1) * stride
                    add_products(
                        sums, k * _W, grads, to, _W, x, source, stride, steps, n
                    )
            t += steps
        share = (r * blocks + block) * D + channel
        total = grad_bias[share : share + n]
        total[:] = zero
        for t in range(begin, min(end, L)):
            grad = grads[(t - ahead) * _W : (t - ahead) * _W + n]
            for j in range(n):
                total[j] += grad[j]
        for k in range(K):
            to = ((r * blocks + block) * K + k) * D + channel
            grad_weights[to : to + n] = sums[k * _W : k * _W + n]

        for i in range(begin, end):
            t = i - K + 1  # the first output that the input may meet
            near = max(-t, 0)
            far = near  # outputs t + near to t + far - 1 meet it
            while far < K and t + far < L and not (far and starts[t + far]):
                far += 1
            out, to = (
                (grad_state, before + i * D)
                if i < K - 1
                else (grad_x, (r * L + t) * D + channel)
            )
            kept = i >= L and t + far == L
            after = before + (i - L) * D
            if kept:
                out[to : to + n] = grad_after[after : after + n]
            else:
                out[to : to + n] = zero
            add_products(
                out,
                to,
                weights,
                (K - 1 - near) * D + channel,
                -D,
                grads,
                (t + near - ahead) * _W,
                _W,
                far - near,
                n,
            )
