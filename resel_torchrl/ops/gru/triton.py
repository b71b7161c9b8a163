"""The GRU over time on a GPU: kernels that keep the weights in registers."""

import math
from typing import NamedTuple

import torch
from torch import Tensor

from resel_torchrl.ops._autograd import register_backward
from resel_torchrl.ops._triton import (
    OPTIONS,
    _interpreted,
    check_tensors,
    dense_last,
    import_kernels,
    next_power_of_2,
    processors,
)
from resel_torchrl.ops.gru.plain import gru_scan_plain

_KERNELS = "resel_torchrl.ops.gru._triton_kernels"
# Bits of a signalling NaN, which mark what has not been computed yet.
_BLANK = {
    torch.float32: (torch.int32, 0x7FA5A5A5),
    torch.float64: (torch.int64, 0x7FF5A5A5A5A5A5A5),
}
# Reads in vain of one step's numbers, of a quarter of a microsecond or more: seconds.
_PATIENCE = 1 << 24
# 8 units fill a sector of memory when they are written; 96 weights to a thread leave it
# registers for all else.
_UNITS, _WEIGHTS, _MOST_WARPS = (8, 16, 32), 96, 8
_SLOPES_BLOCK = 256
# Programs that wait for each other. The interpreter runs one after the other, and does
# not know the option.
_MEETING = {} if _interpreted() else {"launch_cooperative_grid": True}


def gru_scan_triton(
    gates: Tensor, is_init: Tensor, weight_hh: Tensor, bias_hh: Tensor, state: Tensor
) -> tuple[Tensor, Tensor]:
    """Run :func:`~resel_torchrl.ops.gru_scan` in one kernel launch for each pass.

    The hidden-to-hidden matrix stays in registers for all steps, shared out over
    several multiprocessors, which exchange the hidden state through memory at each
    step. They must all run at once: the launch is cooperative, and asks for no more of
    them than the GPU has. A matrix that is too wide for the registers (``H`` above 1024
    on an H100, 864 on an A100) goes through ``gru_scan_plain``. Should a multiprocessor
    wait for another in vain, which no input can bring about, it goes on with NaN after
    some seconds.

    With gradients only inputs and outputs are kept: ``4 · R · L · H`` numbers. The
    backward pass recomputes the gates by one matrix product, ahead of its own
    recurrence, and takes ``9 · R · L · H`` numbers of memory while it runs; the weights
    get their gradient from one product after it. These products follow PyTorch's own
    setting of their precision; the recurrences are in full precision always. Gradients
    repeat bit for bit. The host never waits. The backward pass cannot be differentiated
    again.

    ``gates`` is read where it lies if its last dimension is contiguous, be it row-major
    or time-major. The kernels are compiled once for each H and plan, not for each R
    and L. Raises ValueError or TypeError for a shape, device or type that does not fit.
    """
    R, L, H = *gates.shape[:2], state.shape[-1]
    check_tensors(
        "gru_scan_triton",
        gates=(gates, (R, L, 3 * H)),
        is_init=(is_init, (R, L)),
        weight_hh=(weight_hh, (3 * H, H)),
        bias_hh=(bias_hh, (3 * H,)),
        state=(state, (R, H)),
    )
    if not _fits(H, gates.dtype, gates.device):
        return gru_scan_plain(gates, is_init, weight_hh, bias_hh, state)
    return _forward(gates, is_init, weight_hh, bias_hh, state)


class LaunchPlan(NamedTuple):
    """How the recurrence is laid over a GPU, forward and backward.

    Attributes:
        units: units of a program, a power of two.
        programs: programs that share a group of rows.
        groups: groups of rows; the programs of all of them run at the same time.
        warps: warps of a program.
    """

    units: int
    programs: int
    groups: int
    warps: int


def launch_plan(
    rows: int, units: int, processors: int = 132, words: int = 1
) -> LaunchPlan | None:
    """Choose the units of a program and the groups of rows.

    The fewer units a program owns, the sooner a step is done, so they are as few as
    give every row programs of its own, each on a multiprocessor of its own. With more
    rows than fit a group has several, which take turns: while the programs work on one,
    the numbers of another are on their way.

    Args:
        rows: ``R``.
        units: ``H``.
        processors: multiprocessors of the GPU.
        words: registers of a number: 1 for float32, 2 for float64.

    Returns:
        The plan, or None where the weights do not fit in the registers of the GPU.
    """
    width = _width(units)
    # No more threads than numbers to read at a step: see the kernels' `_receive`.
    warps = min(width // 32, _MOST_WARPS)
    best, fewest = None, rows + 1
    for block in _UNITS:
        programs = math.ceil(units / block)
        if 3 * block * width * words > _WEIGHTS * 32 * warps or programs > processors:
            continue
        turns = math.ceil(rows / min(processors // programs, rows))
        if turns < fewest:
            best, fewest = (block, programs, math.ceil(rows / turns), warps), turns
    return None if best is None else LaunchPlan(*best)


@torch.compiler.assume_constant_result
def _fits(units: int, dtype: torch.dtype, device: torch.device) -> bool:
    return _plan(torch.empty(1, 0, dtype=dtype, device=device), units) is not None


def _plan(x: Tensor, units: int) -> LaunchPlan | None:
    return launch_plan(x.shape[0], units, processors(x), x.element_size() // 4)


@torch.library.custom_op("resel_torchrl::gru_scan", mutates_args=())
def _forward(
    gates: Tensor, is_init: Tensor, weight_hh: Tensor, bias_hh: Tensor, state: Tensor
) -> tuple[Tensor, Tensor]:
    y, last = _outputs(gates, is_init, weight_hh, bias_hh, state)
    gates = dense_last(gates)
    is_init, weight_hh, bias_hh, state = (
        tensor.contiguous() for tensor in (is_init, weight_hh, bias_hh, state)
    )
    _run(
        import_kernels(_KERNELS).forward_kernel,
        *(gates, is_init, weight_hh, bias_hh, state, _blanked(y)),
        *gates.stride()[:2],
        like=y,
        steps=y.shape[1],
    )
    last.copy_(y[:, -1])
    return y, last


@_forward.register_fake
def _outputs(gates, is_init, weight_hh, bias_hh, state):
    R, L, H = *gates.shape[:2], state.shape[1]
    return gates.new_empty(R, L, H), gates.new_empty(R, H)


@torch.library.custom_op("resel_torchrl::gru_scan_backward", mutates_args=())
def _backward(
    gates: Tensor,
    is_init: Tensor,
    weight_hh: Tensor,
    bias_hh: Tensor,
    state: Tensor,
    y: Tensor,
    grad_y: Tensor,
    grad_last: Tensor,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    gates, is_init = dense_last(gates), is_init.contiguous()
    R, L, H = y.shape
    previous = torch.cat([state.unsqueeze(1), y[:, :-1]], 1)  # [R, L, H]
    previous.masked_fill_(is_init.unsqueeze(-1), 0)
    previous = previous.flatten(0, 1)
    slopes = _slopes(gates, torch.addmm(bias_hh, previous, weight_hh.t()), previous)
    grad_h, grad_state = y.new_empty(R, L, H), y.new_empty(R, H)
    _run(
        import_kernels(_KERNELS).backward_kernel,
        *(slopes, is_init, weight_hh.reshape(3, H, H).mT.contiguous()),
        *(grad_y.contiguous(), grad_last.contiguous(), _blanked(grad_h), grad_state),
        like=y,
        steps=L + 1,
    )
    products = slopes[:, :, :4].mul_(grad_h.unsqueeze(2))
    grad_gates = torch.cat([products[:, :, :2], products[:, :, 3:]], 2).flatten(2)
    grad_hidden = slopes.view(R * L, 5 * H)[:, : 3 * H]
    return grad_gates, grad_hidden.t() @ previous, grad_hidden.sum(0), grad_state


@_backward.register_fake
def _(gates, is_init, weight_hh, bias_hh, state, y, grad_y, grad_last):
    return (
        y.new_empty(gates.shape),
        y.new_empty(weight_hh.shape),
        y.new_empty(bias_hh.shape),
        y.new_empty(state.shape),
    )


def _save(inputs, output):
    return (*inputs, output[0]), None


def _gradients(saved, _, grad_y, grad_last):
    grad_gates, *grads = _backward(*saved, grad_y, grad_last)
    return grad_gates, None, *grads


register_backward(_forward, _save, _gradients)


def _run(kernel, *arguments, like: Tensor, steps: int):
    """Runs a recurrence for rows and units like ``like [R, L, H]``."""
    R, L, H = like.shape
    plan, (columns, lanes) = _plan(like, H), _layout(H)
    with torch.cuda.device_of(like):
        for begin, end in _launches(steps):
            kernel[plan.programs, plan.groups](
                *(*arguments, R, L, begin, end, _PATIENCE),
                H=H,
                BLANK=_BLANK[like.dtype][1],
                BLOCK_U=plan.units,
                COLUMNS=columns,
                LANES=lanes,
                num_warps=plan.warps,
                **_MEETING,
                **OPTIONS,
            )


def _launches(steps: int) -> list[tuple[int, int]]:
    """First step and end of each launch; where no two programs run at once, one each.

    What a program waits for was then computed by the launch before.
    """
    if _interpreted():
        return [(step, step + 1) for step in range(steps)]
    return [(0, steps)]


def _slopes(gates: Tensor, hidden: Tensor, previous: Tensor) -> Tensor:
    R, L, H = *gates.shape[:2], previous.shape[-1]
    slopes = previous.new_empty(R, L, 5, H)
    block = min(_SLOPES_BLOCK, next_power_of_2(H))
    with torch.cuda.device_of(gates):
        import_kernels(_KERNELS).slopes_kernel[R * L, math.ceil(H / block)](
            *(gates, hidden, previous, slopes, *gates.stride()[:2], L),
            H=H,
            BLOCK=block,
            **OPTIONS,
        )
    return slopes


def _blanked(tensor: Tensor) -> Tensor:
    """``tensor`` itself, every number of it now marked as not computed yet."""
    integers, blank = _BLANK[tensor.dtype]
    tensor.view(integers).fill_(blank)
    return tensor


def _width(units: int) -> int:
    return max(next_power_of_2(units), 32)


def _layout(units: int) -> tuple[int, int]:
    """Columns of numbers, and how many a warp reads at once: up to four to a lane."""
    lanes = min(_width(units), 32 * math.gcd(units, 4))
    return _width(units) // lanes, lanes
