"""Every Triton kernel compiles for A100 and H100 at the paper's size, without a GPU.

Triton's interpreter accepts programs that its compiler rejects; this is the other half.
"""

import importlib
import inspect
import math
import os
import re
import subprocess

import pytest
import torch

triton = pytest.importorskip("triton")
if os.environ.get("TRITON_INTERPRET") == "1":
    pytest.skip("the interpreter replaces the compiler", allow_module_level=True)

from triton.backends.compiler import GPUTarget  # noqa: E402

from resel_torchrl.ops._triton import OPTIONS  # noqa: E402
from tests.ops.triton_cases import CONV, GRU, SCAN  # noqa: E402

D, N, K = 512, 64, 8
PAPER, MANY_ROWS = SCAN.launch_plan(2, 1010, D, N), SCAN.launch_plan(64, 250, D, N)
# As the Mamba mixer lays its tensors out: z is half of one, B and C parts of another.
STRIDES = {"X_TIME": D, "DT_TIME": D, "B_TIME": 144, "C_TIME": 144, "Z_TIME": 2 * D}
SIZES = {**STRIDES, "D": D, "N": N, "BLOCK_N": N, "STEPS": SCAN._STEPS}


def scan_sizes(plan):
    return {**SIZES, "BLOCK_D": plan.channels, "BATCH": plan.batch}


ALL = {"GATED": True, "KEEP": True, "SPLIT": True, "SOFTPLUS": True}
TILE = {**STRIDES, "D": D, "K": K, "SILU": True, "KEEP": True}
TILE |= {"BLOCK_L": CONV._STEPS, "BLOCK_D": CONV._CHANNELS}
FINISH = {"BLOCK_L": SCAN._FINISH_STEPS, "BLOCK_D": SCAN._FINISH_CHANNELS}

SCAN_KERNELS = importlib.import_module(SCAN._KERNELS)
CONV_KERNELS = importlib.import_module(CONV._KERNELS)
GRU_KERNELS = importlib.import_module(GRU._KERNELS)
# name: kernel, its constants, warps
KERNELS = {
    "scan gate backward": (
        SCAN_KERNELS.gate_backward_kernel,
        {**SIZES, "BLOCK": SCAN._GATE_BLOCK},
        4,
    ),
    "scan chunk adjoints": (
        SCAN_KERNELS.chunk_adjoints_kernel,
        scan_sizes(PAPER.backward),
        PAPER.backward.warps,
    ),
    "scan backward": (
        SCAN_KERNELS.backward_kernel,
        scan_sizes(PAPER.backward) | ALL,
        PAPER.backward.warps,
    ),
    "scan finish": (SCAN_KERNELS.finish_kernel, SIZES | ALL | FINISH, 4),
    "conv forward": (CONV_KERNELS.forward_kernel, TILE, 4),
    "conv backward": (CONV_KERNELS.backward_kernel, TILE, 4),
    "gru slopes": (
        GRU_KERNELS.slopes_kernel,
        {"H": 256, "BLOCK": GRU._SLOPES_BLOCK},
        4,
    ),
}
for layout, plan in (("paper", PAPER.forward), ("many rows", MANY_ROWS.forward)):
    KERNELS |= {
        f"scan chunk ends, {layout}": (
            SCAN_KERNELS.chunk_ends_kernel,
            scan_sizes(plan),
            plan.warps,
        ),
        f"scan forward, {layout}": (
            SCAN_KERNELS.forward_kernel,
            scan_sizes(plan) | ALL,
            plan.warps,
        ),
        f"scan forward without gradients, {layout}": (
            SCAN_KERNELS.forward_kernel,
            scan_sizes(plan) | ALL | {"KEEP": False, "SPLIT": False},
            plan.warps,
        ),
    }


# The plan with fewest weights to a thread, and with most; odd and widest units.
for rows, units in ((2, 256), (64, 256), (64, 64), (9, 499), (1, 1024)):
    plan, (columns, lanes) = GRU.launch_plan(rows, units), GRU._layout(units)
    sizes = {"H": units, "BLANK": GRU._BLANK[torch.float32][1], "BLOCK_U": plan.units}
    sizes |= {"COLUMNS": columns, "LANES": lanes}
    KERNELS |= {
        f"gru {way}, {rows} x {units}": (
            getattr(GRU_KERNELS, f"{way}_kernel"),
            sizes,
            plan.warps,
        )
        for way in ("forward", "backward")
    }
WAITING = [name for name in KERNELS if name.startswith(("gru forward", "gru backward"))]


def compiled(kernel, constants, warps, capability):
    """Machine code for aligned float32 tensors and sizes known at run time."""
    signature, attributes = {}, {}
    for place, name in enumerate(kernel.arg_names):
        if name in constants:
            signature[name] = "constexpr"
            continue
        types = {"flags": "*i1", "seen": "*i8"}
        types |= dict.fromkeys(["R", "L", "T", "begin", "end", "patience"], "i32")
        stride = name.endswith(("_row", "_time"))
        signature[name] = types.get(name, "i32" if stride else "*fp32")
        if signature[name] != "i32" or stride:
            attributes[(place,)] = [["tt.divisibility", 16]]
    source = triton.compiler.ASTSource(
        kernel,
        signature,
        {name: constants[name] for name in kernel.arg_names if name in constants},
        attributes,
    )
    return triton.compile(
        source,
        target=GPUTarget("cuda", capability, 32),
        options={"num_warps": warps, **OPTIONS, **GRU._MEETING},
    )


@pytest.mark.parametrize("name", KERNELS)
@pytest.mark.parametrize("capability", [pytest.param(80, marks=pytest.mark.slow), 90])
def test_kernel_compiles(name, capability, tmp_path):
    kernel = compiled(*KERNELS[name], capability)
    (tmp_path / "cubin").write_bytes(kernel.asm["cubin"])
    usage = subprocess.run(
        [triton.knobs.nvidia.cuobjdump.path, "-res-usage", tmp_path / "cubin"],
        capture_output=True,
        text=True,
        check=True,
    )
    registers, stack = re.search(r"REG:(\d+) STACK:(\d+)", usage.stdout).groups()
    # The backward scan fills all registers; a few loop constants of it go to the stack.
    assert int(stack) <= (128 if name == "scan backward" else 0)
    assert int(registers) <= 255


@pytest.mark.parametrize("name", WAITING)
def test_one_thread_waits_for_a_number(name):
    """Else two might read it at different times, and one go on without the other.

    The reads are volatile, none is left out, and what is sent does not wait in a cache.
    """
    kernel = compiled(*KERNELS[name], 90)
    code = kernel.asm["ttgir"]
    reads = re.findall(
        r"tt\.load .*isVolatile = true.*tensor<(\d+)x(\d+)x!tt\.ptr<f32>, (#\w+)>", code
    )
    assert len(reads) == 2  # at once, and in the loop
    for columns, lanes, layout in reads:
        (parts,) = re.findall(rf"\n{layout} = #ttg\.blocked<{{(.*), order", "\n" + code)
        covered = math.prod(map(int, re.findall(r"\d+", parts)))
        assert covered <= int(columns) * int(lanes)
    assert "ld.volatile.global" in kernel.asm["ptx"]
    assert "st.global.cg" in kernel.asm["ptx"]
    assert kernel.metadata.launch_cooperative_grid


@pytest.mark.parametrize("name", WAITING)
def test_a_unit_s_products_are_summed_within_one_warp(name):
    """Else each sum of each step would go through shared memory, past two barriers."""
    kernel, sizes, warps = KERNELS[name]
    code = compiled(kernel, sizes, warps, 90).asm["ttgir"]
    shape = "x".join(str(sizes[name]) for name in ("COLUMNS", "BLOCK_U", "LANES"))
    layouts = set(re.findall(rf"arith\.mulf .*tensor<{shape}xf32, (#\w+)>", code))
    assert len(layouts) == 1
    assert re.search(rf"{layouts.pop()} = .*warpsPerCTA = \[1, {warps}, 1\]", code)


def test_every_kernel_is_among_them():
    tested = {kernel for kernel, *_ in KERNELS.values()}
    for module in (SCAN_KERNELS, CONV_KERNELS, GRU_KERNELS):
        for name, value in inspect.getmembers(module):
            assert not name.endswith("_kernel") or value in tested, name
