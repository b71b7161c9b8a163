"""What the Numba kernels share: compiling and elementary functions.

Only to be imported where Numba is installed. Kernels are compiled at their first call
and kept on disk. They see C-contiguous NumPy views of tensors, write into arrays that
the caller made, and divide their work into items that are computed the same way
whichever thread takes them (:func:`~resel_torchrl.ops._threads.run_items`).
"""

import hashlib
from collections.abc import Callable
from pathlib import Path

import numba
import numpy as np
from numba import types
from numba.extending import intrinsic, overload
from torch import Tensor

# Sums may be reordered, which vectorises them; NaN and infinity keep their meaning.
_FAST = {"contract", "reassoc", "nsz", "arcp"}

_SOURCE = hashlib.sha256(Path(__file__).read_bytes()).hexdigest()


def kernel(function: Callable) -> Callable:
    """Compile a kernel that runs without the interpreter's lock; keep it on disk.

    What is kept is Numba's to find out of date by the file that the kernel is in; here
    it is out of date with this file too, whose functions are compiled into the kernels.
    """
    options = {"nogil": True, "fastmath": _FAST, "error_model": "numpy"}
    try:
        compiled = numba.njit(function, cache=True, **options)
    except RuntimeError:  # no folder that can be written to
        return numba.njit(function, **options)
    kept = compiled._cache._cache_file
    kept._source_stamp = (kept._source_stamp, _SOURCE)
    return compiled


@intrinsic
def _float_of_bits(typing_context, bits):
    """The float32 that has these 32 bits."""

    def generate(context, builder, signature, arguments):
        return builder.bitcast(arguments[0], context.get_value_type(types.float32))

    return types.float32(types.int32), generate


# Minimax polynomial of 2^f on [-1/2, 1/2], highest power first; relative error 7e-8.
_EXP2 = tuple(
    np.float32(c)
    for c in (
        1.5353362e-4,
        1.3398874e-3,
        9.6184373e-3,
        5.5503324e-2,
        2.4022648e-1,
        6.9314720e-1,
        1.0,
    )
)
_C6, _C5, _C4, _C3, _C2, _C1, _C0 = _EXP2


def exp2(x):
    """``2 ** x``; vectorised in float32, where it is 1.2e-38 below -126."""
    return np.exp2(x)


@overload(exp2, jit_options={"fastmath": _FAST, "error_model": "numpy"})
def _exp2(x):
    if x != types.float32:
        return lambda x: np.exp2(x)

    def polynomial(x):
        low, high = np.float32(-126), np.float32(127)
        x = low if x < low else x  # written so that NaN stays NaN
        x = high if x > high else x
        whole = np.rint(x)
        f = x - whole
        p = ((_C6 * f + _C5) * f + _C4) * f + _C3
        p = ((p * f + _C2) * f + _C1) * f + _C0
        return p * _float_of_bits((np.int32(whole) + np.int32(127)) << np.int32(23))

    return polynomial


@kernel
def sigmoid(x):
    """``1 / (1 + exp(-x))``."""
    one = type(x)(1)
    return one / (one + exp2(type(x)(-1.4426950408889634) * x))


# Minimax polynomial of log(1 + e) / e on [0, 1], highest power first; rel. error 5e-9.
_LOG1P = tuple(
    np.float32(c)
    for c in (
        -3.2439045e-3,
        1.98509184e-2,
        -5.69585124e-2,
        1.06035513e-1,
        -1.53055314e-1,
        1.9675918e-1,
        -2.49541295e-1,
        3.3329962e-1,
        -4.99999024e-1,
        9.99999995e-1,
    )
)
_L9, _L8, _L7, _L6, _L5, _L4, _L3, _L2, _L1, _L0 = _LOG1P


def log1p_of_share(e):
    """``log(1 + e)`` of an ``e`` in [0, 1]; vectorised in float32."""
    return np.log1p(e)


@overload(log1p_of_share, jit_options={"fastmath": _FAST, "error_model": "numpy"})
def _log1p_of_share(e):
    if e != types.float32:
        return lambda e: np.log1p(e)

    def polynomial(e):
        p = (((_L9 * e + _L8) * e + _L7) * e + _L6) * e + _L5
        return e * (((((p * e + _L4) * e + _L3) * e + _L2) * e + _L1) * e + _L0)

    return polynomial


@kernel
def softplus(x):
    """``log(1 + exp(x))``; NaN stays NaN."""
    zero = type(x)(0)
    above = zero if x < zero else x
    return above + log1p_of_share(exp2(type(x)(-1.4426950408889634) * abs(x)))


@kernel
def add_product(vector, matrix, out):
    """``out += vector @ matrix``, with ``matrix`` of shape ``[len(vector), len(out)]``.

    Eight rows of the matrix at a time, so that ``out`` is read and written less often.
    """
    size = len(vector)
    for k in range(0, size - 7, 8):
        a, b, c, d = vector[k], vector[k + 1], vector[k + 2], vector[k + 3]
        e, f, g, h = vector[k + 4], vector[k + 5], vector[k + 6], vector[k + 7]
        for i in range(len(out)):
            out[i] += (
                (a * matrix[k, i] + b * matrix[k + 1, i])
                + (c * matrix[k + 2, i] + d * matrix[k + 3, i])
                + (e * matrix[k + 4, i] + f * matrix[k + 5, i])
                + (g * matrix[k + 6, i] + h * matrix[k + 7, i])
            )
    for k in range(size - size % 8, size):
        for i in range(len(out)):
            out[i] += vector[k] * matrix[k, i]


@kernel
def add_products(out, to, a, at_a, step_a, b, at_b, step_b, count, n):
    """``out[to:] += Σ a[at_a + i · step_a:] · b[at_b + i · step_b:]``, n numbers each.

    Elementwise products of ``count`` rows, four at a time, so that ``out`` is read and
    written less often.
    """
    sums = out[to : to + n]
    done = 0
    while done < count:
        i, k = at_a + done * step_a, at_b + done * step_b
        # Slices, since an index that might be negative would be looked at each time.
        a0, b0 = a[i : i + n], b[k : k + n]
        if done + 4 > count:
            for j in range(n):
                sums[j] += a0[j] * b0[j]
            done += 1
            continue
        i, k = i + step_a, k + step_b
        a1, b1 = a[i : i + n], b[k : k + n]
        i, k = i + step_a, k + step_b
        a2, b2 = a[i : i + n], b[k : k + n]
        i, k = i + step_a, k + step_b
        a3, b3 = a[i : i + n], b[k : k + n]
        for j in range(n):
            sums[j] += (a0[j] * b0[j] + a1[j] * b1[j]) + (a2[j] * b2[j] + a3[j] * b3[j])
        done += 4


def views(*tensors: Tensor) -> list[np.ndarray]:
    """The tensors as C-contiguous arrays; a copy is made where one is not."""
    return [tensor.detach().contiguous().numpy() for tensor in tensors]


def flat(*tensors: Tensor) -> list[np.ndarray]:
    """The tensors as arrays of one dimension; a copy is made where one is not dense."""
    return [tensor.detach().reshape(-1).numpy() for tensor in tensors]


def flat_rows(x: Tensor) -> tuple[np.ndarray, int]:
    """The memory from the first number of ``x [R, L, D]`` to its last, as an array.

    A part of a wider tensor's last dimension is left where it is. With it comes the
    distance in the array from one step to the next; rows follow each other at L times
    that.
    """
    R, L, D = x.shape
    distance = x.stride(1)
    if x.stride() != (L * distance, distance, 1) or distance < D or not x.numel():
        return x.detach().reshape(-1).numpy(), D
    size = (R * L - 1) * distance + D
    return x.detach().as_strided((size,), (1,)).numpy(), distance
