"""What holds for the Numba kernels alone: blocks, threads, compiling, choice."""

import hashlib
from functools import partial
from pathlib import Path

import pytest
import torch

from resel_torchrl.ops import causal_conv, gru_scan, selective_scan
from resel_torchrl.ops._backends import is_usable, load
from resel_torchrl.ops.gru import BACKENDS
from tests.ops.cases import CASES, flags, leaves, run_with_gradients

pytest.importorskip("numba")
from resel_torchrl.ops import _numba
from resel_torchrl.ops._numba import exp2, kernel, sigmoid, softplus

KERNELS = {name: case for name, case in CASES.items() if name.endswith("_cpu")}
every_kernel = pytest.mark.parametrize("case", KERNELS.values(), ids=KERNELS)


@kernel
def _elementary(x, powers, sigmoids, sums):
    for i in range(len(x)):
        powers[i] = exp2(x[i])
        sigmoids[i] = sigmoid(x[i])
        sums[i] = softplus(x[i])


@pytest.mark.parametrize(
    ("dtype", "tolerance"), [(torch.float32, 2e-7), (torch.float64, 1e-14)]
)
def test_elementary_functions(dtype, tolerance):
    x = torch.linspace(-125, 127, 20_011, dtype=dtype)
    powers, sigmoids, sums = (torch.empty_like(x) for _ in range(3))
    _elementary(x.numpy(), powers.numpy(), sigmoids.numpy(), sums.numpy())
    exact = x.double()
    torch.testing.assert_close(
        powers.double(), torch.exp2(exact), rtol=tolerance, atol=0
    )
    torch.testing.assert_close(
        sigmoids.double(), torch.sigmoid(exact), rtol=0, atol=tolerance
    )
    normal = exact > -80  # below, exp(x) has fewer digits
    wanted = torch.log1p(exact.exp()).where(exact < 30, exact)
    error = (sums.double() / wanted - 1).abs()[normal]
    # That of exp(x) grows with x, which is rounded before its power is taken.
    assert (error <= tolerance * (4 + exact.abs()[normal])).all()


def test_elementary_functions_at_their_ends():
    inf, nan = torch.inf, torch.nan
    x = torch.tensor([-inf, -1e30, -126.0, 0.0, 1e30, inf, nan])
    powers, sigmoids, sums = (torch.empty_like(x) for _ in range(3))
    _elementary(x.numpy(), powers.numpy(), sigmoids.numpy(), sums.numpy())
    assert (powers[:2] < 1.3e-38).all()
    assert powers[3] == 1
    assert (powers[4:6] > 1e38).all()
    assert powers[6].isnan()
    assert (sigmoids[:3] < 1e-30).all()
    assert sigmoids[3] == 0.5
    assert (sigmoids[4:6] == 1).all()
    assert sigmoids[6].isnan()
    assert (sums[:2] < 1.3e-38).all()
    assert (sums[4:6] > 1e29).all()
    assert sums[6].isnan()


@every_kernel
@pytest.mark.parametrize(
    ("L", "width"), [(15, 63), (16, 64), (17, 65), (63, 255), (64, 256), (70, 257)]
)
def test_sizes_around_the_blocks(case, L, width):
    inputs, is_init = case.inputs(2, L, width), flags(2, L, 0.1)
    torch.testing.assert_close(
        run_with_gradients(case.run, inputs, is_init),
        run_with_gradients(case.naive, inputs, is_init),
    )


@every_kernel
def test_resets_at_every_place_of_two_blocks(case):
    inputs = case.inputs(1, 34, 2)
    for place in range(34):
        is_init = torch.zeros(1, 34, dtype=torch.bool)
        is_init[0, place] = True
        torch.testing.assert_close(
            run_with_gradients(case.run, inputs, is_init),
            run_with_gradients(case.naive, inputs, is_init),
        )


@every_kernel
def test_results_do_not_depend_on_the_threads(case):
    inputs, is_init = case.inputs(3, 40, 130, torch.float32), flags(3, 40, 0.1)
    threads = torch.get_num_threads()
    results = []
    try:
        for count in (1, 2, 3):
            torch.set_num_threads(count)
            results.append(run_with_gradients(case.run, inputs, is_init))
    finally:
        torch.set_num_threads(threads)
    for result in results[1:]:
        # Not to the bit: PyTorch's own products round as they are shared out.
        torch.testing.assert_close(result, results[0])


@every_kernel
@pytest.mark.parametrize("time_major", [False, True])
@pytest.mark.parametrize("rows", [1, 3])
def test_strided_inputs(case, rows, time_major):
    """Layers hand over parts of wider tensors, and time-major ones."""
    sequences, weights, state = case.inputs(rows, 20, 6)
    is_init = flags(rows, 20)
    strided = {name: torch.cat([x - 1, x], -1) for name, x in sequences.items()}
    if time_major:
        strided = {
            name: x.transpose(0, 1).contiguous().transpose(0, 1)
            for name, x in strided.items()
        }
    strided = {name: x[..., x.shape[-1] // 2 :] for name, x in strided.items()}
    for x in strided.values():
        assert not x.is_contiguous()
    wide = (
        {name: x.detach().requires_grad_() for name, x in strided.items()},
        weights,
        state,
    )
    torch.testing.assert_close(
        run_with_gradients(case.run, wide, is_init.t().contiguous().t()),
        run_with_gradients(case.naive, (sequences, weights, state), is_init),
    )


@every_kernel
def test_registered_operator(case):
    """Schema, fake tensors and autograd registration, so that compilers see it."""
    torch.compiler.reset()
    sequences, weights, state = case.inputs(2, 17, 3)
    is_init = flags(2, 17)

    def traced(*tensors):
        names = dict(zip([*sequences, *weights, "state"], tensors, strict=True))
        pick_out = {name: names[name] for name in sequences}
        return case.run(
            pick_out, {name: names[name] for name in weights}, is_init, names["state"]
        )

    inputs = [x.detach() for x in leaves((sequences, weights, state)).values()]
    exported = torch.compile(traced, backend="aot_eager", fullgraph=True)
    with torch.no_grad():
        torch.testing.assert_close(exported(*inputs), traced(*inputs))
    graded = [x.clone().requires_grad_() for x in inputs]
    wanted = torch.autograd.grad(traced(*graded)[0].square().sum(), graded)
    got = torch.autograd.grad(exported(*graded)[0].square().sum(), graded)
    torch.testing.assert_close(got, wanted)


def test_operators_pass_pytorchs_checks():
    for name, arguments in {
        "causal_conv_cpu": (torch.randn(2, 5, 3), torch.randn(3, 4), torch.randn(3)),
        "gru_scan_cpu": (torch.randn(2, 5, 9), torch.randn(9, 3), torch.randn(9)),
    }.items():
        first, *weights = (x.requires_grad_() for x in arguments)
        shape = (2, 3, 3) if name.startswith("causal") else (2, 3)
        state = torch.randn(shape, requires_grad=True)
        is_init = flags(2, 5)
        inputs = (
            (first, *weights, is_init, state, True)
            if name.startswith("causal")
            else (first, is_init, *weights, state, True)
        )
        torch.library.opcheck(getattr(torch.ops.resel_torchrl, name), inputs)
    s, weights, state = CASES["selective_scan_gated_cpu"].inputs(2, 5, 3, torch.float32)
    for z, dt_softplus in ((s["z"], True), (None, False)):
        main = s["x"], s["dt"], weights["A"], s["B"], s["C"], weights["D"]
        torch.library.opcheck(
            torch.ops.resel_torchrl.selective_scan_cpu,
            (*main, flags(2, 5), state, z, dt_softplus, True),
        )


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_auto_takes_the_kernel_in_float32(dtype):
    chosen = load(BACKENDS.choose("auto", torch.zeros(1, dtype=dtype)))
    expected = "gru_scan_cpu" if dtype is torch.float32 else "gru_scan_plain"
    assert chosen.__name__ == expected


def test_an_absent_package_is_an_error_that_says_how_to_get_it(monkeypatch):
    monkeypatch.setattr("resel_torchrl.ops._backends.is_usable", lambda name: False)
    with pytest.raises(
        ModuleNotFoundError, match=r"package numba.*pip install.*\[cpu\]"
    ):
        BACKENDS.check("cpu")
    chosen = load(BACKENDS.choose("auto", torch.zeros(1)))
    assert chosen.__name__ == "gru_scan_plain"


def test_another_device_is_refused():
    x = torch.zeros(1, 2, 3, device="meta")
    is_init = torch.zeros(1, 2, dtype=torch.bool, device="meta")
    scan = partial(gru_scan, x, is_init, x[0], x[0, 0], x[0, :1], backend="cpu")
    conv = partial(causal_conv, x, x[0], x[0, 0], is_init, x, backend="cpu")
    ssm = partial(selective_scan, x, x, x[0], x, x, x[0, 0], is_init, x, backend="cpu")
    for run in (scan, conv, ssm):
        with pytest.raises(ValueError, match="expected tensors on cpu, got meta"):
            run()


def test_a_package_that_cannot_be_imported_counts_as_absent(monkeypatch, tmp_path):
    (tmp_path / "numba_like").mkdir()
    (tmp_path / "numba_like/__init__.py").write_text(
        'raise ImportError("needs another NumPy")'
    )
    monkeypatch.syspath_prepend(tmp_path)
    assert not is_usable("numba_like")
    assert is_usable("numba")


def test_what_is_kept_on_disk_is_out_of_date_with_the_shared_functions():
    """Else a change of `exp2` would leave the kernels that call it as they were."""
    stamp = _elementary._cache._cache_file._source_stamp
    assert stamp[1] == hashlib.sha256(Path(_numba.__file__).read_bytes()).hexdigest()
    _elementary._cache._cache_file._load_index()  # a stamp of another make is ignored
