"""The selective scan on a GPU: fused kernels for both passes, and their launch."""

import math
from typing import NamedTuple

import torch
from torch import Tensor

from resel_torchrl.ops._autograd import register_backward
from resel_torchrl.ops._resets import any_requires_grad
from resel_torchrl.ops._triton import (
    OPTIONS,
    check_tensors,
    dense_last,
    import_kernels,
    next_power_of_2,
    processors,
)

_KERNELS = "resel_torchrl.ops.selective_scan._triton_kernels"
_STEPS = 8
_FINISH_STEPS, _FINISH_CHANNELS, _GATE_BLOCK = 32, 64, 1024


def selective_scan_triton(
    x: Tensor,
    dt: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor,
    is_init: Tensor,
    state: Tensor,
    z: Tensor | None = None,
    dt_softplus: bool = False,
) -> tuple[Tensor, Tensor]:
    """Run :func:`~resel_torchrl.ops.selective_scan` in fused kernels for both passes.

    Skip and gate are inside the kernel. The forward pass keeps its inputs, the outputs
    before the gate and the state every 8 steps; the backward pass recomputes states
    block by block in registers. That is, in numbers, besides inputs and outputs,

        kept:       ceil(L / 8) · R · D · N + R · L · D where gated
        workspace:  2 ceil(D / 8) · R · L · N backward, at N = 64

    and nothing of it without gradients. Gradients repeat bit for bit. The host never
    waits. The backward pass cannot be differentiated again.

    Inputs are read where they lie if their last dimension is contiguous: x, z, B and C
    may be views of wider tensors. The kernels are compiled once for each D, N and set
    of strides along time, not for each R and L. Raises ValueError or TypeError for a
    shape, device or type that does not fit. Source: arXiv 2312.00752, algorithm 2 and
    section 3.3.2.
    """
    R, L, channels = x.shape
    N = A.shape[-1]
    check_tensors(
        "selective_scan_triton",
        x=(x, (R, L, channels)),
        dt=(dt, (R, L, channels)),
        A=(A, (channels, N)),
        B=(B, (R, L, N)),
        C=(C, (R, L, N)),
        D=(D, (channels,)),
        is_init=(is_init, (R, L)),
        state=(state, (R, channels, N)),
        z=(z, (R, L, channels)),
    )
    keep = any_requires_grad(x, dt, A, B, C, D, state, z)
    y, last, *_ = _forward(x, dt, A, B, C, D, is_init, state, z, dt_softplus, keep)
    return y, last


class PassPlan(NamedTuple):
    """How one pass of the scan is laid over a GPU.

    Attributes:
        channels: channels of a program, a power of two.
        warps: warps of a program.
        batch: steps of time whose inputs are read at once, a power of two.
        chunk: steps of time of a program, a multiple of 8.
    """

    channels: int
    warps: int
    batch: int
    chunk: int


class LaunchPlan(NamedTuple):
    """How the scan's kernels are laid over a GPU: everything there is to tune."""

    forward: PassPlan
    backward: PassPlan


# States to a lane, warps to a program, and the warps that keep a multiprocessor busy:
# one to each of its four schedulers, or two where registers allow no third.
_NARROW, _WIDE = (4, 4, 4), (16, 1, 8)
_SHORTEST_CHUNK = 64


def launch_plan(
    rows: int, length: int, channels: int, states: int, processors: int = 132
) -> LaunchPlan:
    """Choose block sizes, warps and chunks of time.

    *Wide* is one warp a program and 16 states a lane: several channels share the reads
    of B and C and their gradients' sums, nothing waits at a barrier, and the registers
    leave room for two warps to a scheduler. Per state it is the cheapest layout, the
    only one backward. *Narrow* is four states a lane, which spreads two rows of the
    paper's 512 x 64 over nearly all of an H100's 528 schedulers, forward. Time is cut
    only where a layout leaves more than half of its places empty, since that costs a
    second pass over the exponentials: forward, narrow is taken where it can do without
    a cut and wide cannot.

    A batch of reads is as long as registers allow without spilling them.

    Args:
        rows: ``R``.
        length: ``L``.
        channels: ``D``.
        states: ``N``.
        processors: multiprocessors of the GPU, of four schedulers each.
    """

    def lay_out(layout, batch: int) -> PassPlan:
        lane_states, most_warps, places = layout
        width = next_power_of_2(states)
        most = max(32 * lane_states * most_warps // width, 1)
        block = min(most, next_power_of_2(channels))
        warps = min(max(block * width // (32 * lane_states), 1), most_warps)
        running = rows * math.ceil(channels / block) * warps
        chunks = 1
        if 2 * running <= places * processors:
            chunks = max(
                min(places * processors // running, length // _SHORTEST_CHUNK), 1
            )
        chunk = math.ceil(length / chunks / _STEPS) * _STEPS
        return PassPlan(block, warps, batch, chunk)

    forward, narrow = lay_out(_WIDE, 4), lay_out(_NARROW, 8)
    if forward.chunk < length <= narrow.chunk:
        forward = narrow
    return LaunchPlan(forward, lay_out(_WIDE, 2))


@torch.library.custom_op("resel_torchrl::selective_scan", mutates_args=())
def _forward(
    x: Tensor,
    dt: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor,
    is_init: Tensor,
    state: Tensor,
    z: Tensor | None,
    dt_softplus: bool,
    keep: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    kernels = import_kernels(_KERNELS)
    y, last, sizes, ungated, boundaries = _forward_outputs(
        x, dt, A, B, C, D, is_init, state, z, dt_softplus, keep
    )
    if dt_softplus:
        # Once for each element; in the kernel it would be for each lane of a channel.
        dt = torch.nn.functional.softplus(dt, out=sizes)
    x, dt, B, C = (dense_last(tensor) for tensor in (x, dt, B, C))
    gate = x if z is None else dense_last(z)
    A, D, is_init, state = (t.contiguous() for t in (A, D, is_init, state))
    R, L, channels = x.shape
    plan = launch_plan(R, L, channels, A.shape[1], processors(x)).forward
    grid = _grid(x, plan)
    ends, sums, seen = _passed_between_chunks(A, grid)
    common = _common(A, plan)
    with torch.cuda.device_of(x):
        if grid[2] > 1:
            kernels.chunk_ends_kernel[grid](
                *(x, dt, A, B, is_init, ends, sums, seen),
                *(x.stride(0), dt.stride(0), B.stride(0), L, plan.chunk),
                *(x.stride(1), dt.stride(1), B.stride(1)),
                **common,
            )
        kernels.forward_kernel[grid](
            *(x, dt, A, B, C, D, is_init, state, gate),
            *(y, ungated, last, boundaries, ends, sums, seen),
            *(x.stride(0), dt.stride(0), B.stride(0), C.stride(0), gate.stride(0)),
            *(L, plan.chunk),
            *(x.stride(1), dt.stride(1), B.stride(1), C.stride(1), gate.stride(1)),
            GATED=z is not None,
            KEEP=keep,
            SPLIT=grid[2] > 1,
            BATCH=plan.batch,
            **common,
        )
    return y, last, sizes, ungated, boundaries


@_forward.register_fake
def _forward_outputs(x, dt, A, B, C, D, is_init, state, z, dt_softplus, keep):
    R, L, channels = x.shape
    blocks = (L + _STEPS - 1) // _STEPS
    return (
        x.new_empty(R, L, channels),
        x.new_empty(R, channels, A.shape[1]),
        x.new_empty((R, L, channels) if dt_softplus else 0),
        x.new_empty((R, L, channels) if keep and z is not None else 0),
        x.new_empty((R, blocks, channels, A.shape[1]) if keep else 0),
    )


@torch.library.custom_op("resel_torchrl::selective_scan_backward", mutates_args=())
def _backward(
    x: Tensor,
    dt: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor,
    is_init: Tensor,
    z: Tensor | None,
    ungated: Tensor,
    boundaries: Tensor,
    grad_y: Tensor,
    grad_last: Tensor,
    dt_softplus: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    kernels = import_kernels(_KERNELS)
    x, dt, B, C = (dense_last(tensor) for tensor in (x, dt, B, C))
    A, D, is_init = A.contiguous(), D.contiguous(), is_init.contiguous()
    grad_y, grad_last = grad_y.contiguous(), grad_last.contiguous()
    R, L, channels = x.shape
    N = A.shape[1]
    plan = launch_plan(R, L, channels, N, processors(x)).backward
    grid = _grid(x, plan)
    adjoints, sums, seen = _passed_between_chunks(A, grid)
    common = _common(A, plan)
    grad_x, grad_dt = (x.new_empty(R, L, channels) for _ in range(2))
    grad_z = x.new_empty((R, L, channels) if z is not None else 0)
    grad_state = x.new_empty(R, channels, N)
    parts_A = x.new_empty(R, grid[2], channels, N)
    parts_BC = x.new_empty(grid[0], 2, R, L, N)
    finish = (math.ceil(channels / _FINISH_CHANNELS), math.ceil(L / _FINISH_STEPS), R)
    parts_D = x.new_empty(R, finish[1], channels)
    with torch.cuda.device_of(x):
        if z is not None:
            z = dense_last(z)
            grad_out = x.new_empty(R, L, channels)
            kernels.gate_backward_kernel[(math.ceil(L * channels / _GATE_BLOCK), R)](
                *(grad_y, z, ungated, grad_out, grad_z, z.stride(0), L, z.stride(1)),
                D=channels,
                BLOCK=_GATE_BLOCK,
                **OPTIONS,
            )
            grad_y = grad_out
        if grid[2] > 1:
            kernels.chunk_adjoints_kernel[grid](
                *(dt, A, C, is_init, grad_y, adjoints, sums, seen),
                *(dt.stride(0), C.stride(0), L, plan.chunk, dt.stride(1), C.stride(1)),
                **common,
            )
        kernels.backward_kernel[grid](
            *(x, dt, A, B, C, is_init, boundaries, adjoints, sums, seen),
            *(grad_y, grad_last, grad_x, grad_dt, parts_A, parts_BC, grad_state),
            *(x.stride(0), dt.stride(0), B.stride(0), C.stride(0), L, plan.chunk),
            *(x.stride(1), dt.stride(1), B.stride(1), C.stride(1)),
            SPLIT=grid[2] > 1,
            BATCH=plan.batch,
            **common,
        )
        kernels.finish_kernel[finish](
            *(x, dt, D, grad_y, grad_x, grad_dt, parts_D),
            *(x.stride(0), dt.stride(0), L, x.stride(1), dt.stride(1)),
            D=channels,
            SOFTPLUS=dt_softplus,
            BLOCK_L=_FINISH_STEPS,
            BLOCK_D=_FINISH_CHANNELS,
            **OPTIONS,
        )
    grad_B, grad_C = parts_BC.sum(0).unbind()
    # Outputs of an operation must not share memory.
    grads = (parts_A.sum((0, 1)), grad_B.clone(), grad_C.clone(), parts_D.sum((0, 1)))
    return grad_x, grad_dt, *grads, grad_state, grad_z


@_backward.register_fake
def _(
    x, dt, A, B, C, D, is_init, z, ungated, boundaries, grad_y, grad_last, dt_softplus
):
    R, L, channels = x.shape
    like_x = (R, L, channels)
    return (
        x.new_empty(like_x),
        x.new_empty(like_x),
        x.new_empty(A.shape),
        x.new_empty(B.shape),
        x.new_empty(C.shape),
        x.new_empty(D.shape),
        x.new_empty(R, channels, A.shape[1]),
        x.new_empty(like_x if z is not None else 0),
    )


def _save(inputs, output):
    x, dt, A, B, C, D, is_init, _, z, dt_softplus, _ = inputs
    _, _, sizes, ungated, boundaries = output
    dt = sizes if dt_softplus else dt
    return (x, dt, A, B, C, D, is_init, z, ungated, boundaries), dt_softplus


def _gradients(saved, dt_softplus, grad_y, grad_last):
    *grads, grad_state, grad_z = _backward(*saved, grad_y, grad_last, dt_softplus)
    gated = saved[7] is not None
    return *grads, None, grad_state, grad_z if gated else None, None, None


register_backward(_forward, _save, _gradients)


def _passed_between_chunks(A: Tensor, grid: tuple[int, int, int]):
    """Memory for a state, a sum of step sizes and a flag for each row and chunk."""
    _, R, chunks = grid
    if chunks == 1:
        return A, A, A  # never read nor written
    return (
        A.new_empty(R, chunks, *A.shape),
        A.new_empty(R, chunks, A.shape[0]),
        torch.empty(R, chunks, dtype=torch.int8, device=A.device),
    )


def _grid(x: Tensor, plan: PassPlan) -> tuple[int, int, int]:
    R, L, D = x.shape
    return math.ceil(D / plan.channels), R, math.ceil(L / plan.chunk)


def _common(A: Tensor, plan: PassPlan) -> dict[str, int | bool]:
    D, N = A.shape
    sizes = {"D": D, "N": N, "BLOCK_D": plan.channels, "BLOCK_N": next_power_of_2(N)}
    return {**sizes, "STEPS": _STEPS, "num_warps": plan.warps, **OPTIONS}
