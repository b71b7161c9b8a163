"""The fused GRU against its specification, under Triton's interpreter.

There programs run one after the other, so each step is a launch of its own. That the
programs of one launch meet is tested with a process for each of them.
"""

import importlib
import itertools
import multiprocessing
from types import SimpleNamespace

import pytest
import torch

from tests.ops.cases import flags, poisoned_memory, saved_bytes
from tests.ops.triton_cases import GRU, gru_inputs, naive_gru, with_gradients

scan = GRU.gru_scan_triton
# What has not been computed is a signalling NaN, and NumPy warns of it.
pytestmark = pytest.mark.filterwarnings("ignore:invalid value:RuntimeWarning")
TOLERANCE = {
    torch.float64: {"rtol": 1e-10, "atol": 1e-10},
    torch.float32: {"rtol": 1e-4, "atol": 2e-5},
}


@pytest.fixture
def in_one_launch(monkeypatch):
    """All steps in one launch, as on a GPU, and a tenth try is the last."""
    monkeypatch.setattr(GRU, "_launches", lambda steps: [(0, steps)])
    monkeypatch.setattr(GRU, "_PATIENCE", 10)


class AtOnce:
    """A kernel whose programs run at the same time, in processes that share memory."""

    def __init__(self, kernel):
        self.kernel = kernel

    def __getitem__(self, grid):
        return lambda *arguments, **sizes: self.launch(grid, arguments, sizes)

    def launch(self, grid, arguments, sizes):
        shared = [
            a.clone().share_memory_() if isinstance(a, torch.Tensor) else a
            for a in arguments
        ]
        fork = multiprocessing.get_context("fork")
        programs = [
            fork.Process(target=self.run, args=(grid, place, shared, sizes))
            for place in itertools.product(*map(range, grid))
        ]
        for program in programs:
            program.start()
        for program in programs:
            program.join(600)
            program.kill()
        assert [program.exitcode for program in programs] == [0] * len(programs)
        for mine, theirs in zip(arguments, shared, strict=True):
            if isinstance(mine, torch.Tensor):
                mine.copy_(theirs)

    def run(self, grid, place, arguments, sizes):
        interpreter = importlib.import_module("triton.runtime.interpreter")
        builder = interpreter.interpreter_builder
        set_size, set_place = builder.set_grid_dim, builder.set_grid_idx
        builder.set_grid_dim = lambda *_: set_size(*grid, 1)
        builder.set_grid_idx = lambda *_: set_place(*place, 0)
        self.kernel[(1, 1)](*arguments, **sizes)


def check(inputs, is_init, dtype=torch.float64):
    with poisoned_memory():
        got = with_gradients(scan, inputs, is_init)
    wanted = with_gradients(naive_gru, inputs, is_init)
    torch.testing.assert_close(got, wanted, **TOLERANCE[dtype])


@pytest.mark.parametrize(
    ("sizes", "share", "dtype"),
    [
        ((2, 1, 5), 0.5, torch.float64),
        ((3, 5, 20), 0.3, torch.float64),  # three programs to a row
        ((3, 5, 20), 0.3, torch.float32),
        ((1, 4, 1), 0.2, torch.float64),
        ((2, 3, 8), 1.0, torch.float64),
        ((2, 3, 33), 0.0, torch.float32),
        ((1, 3, 66), 0.2, torch.float64),  # two columns of numbers to a warp
    ],
)
def test_matches_specification(sizes, share, dtype):
    check(gru_inputs(*sizes, dtype), flags(*sizes[:2], share), dtype)


@pytest.mark.parametrize(
    ("processors", "dtype", "plan"),
    [
        (6, torch.float64, (16, 3, 2, 2)),
        (4, torch.float32, (32, 2, 2, 2)),
        (2, torch.float32, (32, 2, 1, 2)),
    ],
)
def test_rows_of_a_group_take_turns(processors, dtype, plan, monkeypatch):
    """Five rows in two groups and in one, on GPUs of a few multiprocessors."""
    words = dtype.itemsize // 4
    assert GRU.launch_plan(5, 40, processors, words) == plan
    monkeypatch.setattr(GRU, "processors", lambda x: processors)
    check(gru_inputs(5, 3, 40, dtype), flags(5, 3), dtype)


def test_resets_at_every_place():
    """One row for each place of the start flag, and one row without."""
    is_init = torch.eye(5, dtype=torch.bool)[:, :4]
    check(gru_inputs(5, 4, 9), is_init)


def test_nothing_crosses_a_start_flag():
    """NaN in the state and before the flag leaves no trace after it, in gradients too.

    The control: without the flag the same NaN reaches every output.
    """
    clean, start = gru_inputs(2, 5, 9), 2
    noisy = {name: tensor.detach().clone() for name, tensor in clean.items()}
    noisy["state"].fill_(torch.nan)
    noisy["gates"][:, :start] = torch.nan
    for tensor in noisy.values():
        tensor.requires_grad_()
    is_init = torch.zeros(2, 5, dtype=torch.bool)
    is_init[:, start] = True

    def after(function, inputs):
        y, last = function(**inputs, is_init=is_init)
        loss = y[:, start:].square().sum() + last.sum()
        (gradient,) = torch.autograd.grad(loss, inputs["gates"])
        return y[:, start:], last, gradient[:, start:]

    torch.testing.assert_close(after(scan, noisy), after(naive_gru, clean))
    is_init[:] = False
    y, last = scan(**noisy, is_init=is_init)
    assert y[:, start:].isnan().all() and last.isnan().all()


def test_no_gradient_crosses_a_start_flag():
    """Nor does NaN that lies behind it. The control has none in between."""
    inputs, is_init = gru_inputs(2, 4, 9), torch.zeros(2, 4, dtype=torch.bool)
    wanted = naive_gru(**inputs, is_init=is_init)[0][:, :2].square().sum()
    wanted = torch.autograd.grad(wanted, list(inputs.values()))
    gates = inputs["gates"].detach().clone()
    gates[:, 2:] = torch.nan
    noisy = inputs | {"gates": gates.requires_grad_()}

    def gradients():
        y, _ = scan(**noisy, is_init=is_init)
        return torch.autograd.grad(y[:, :2].square().sum(), list(noisy.values()))

    is_init[:, 2] = True
    got = dict(zip(inputs, zip(gradients(), wanted, strict=True), strict=True))
    torch.testing.assert_close(got["gates"][0][:, :2], got["gates"][1][:, :2])
    torch.testing.assert_close(*got["state"])
    is_init[:] = False
    assert gradients()[0].isnan().all()


def test_a_state_ignored_gets_no_gradient():
    inputs, is_init = gru_inputs(2, 3, 9), torch.zeros(2, 3, dtype=torch.bool)
    is_init[0, 0] = True
    gradient = with_gradients(scan, inputs, is_init)["state"]
    assert (gradient[0] == 0).all() and (gradient[1] != 0).all()


def test_views():
    """Gates time-major as the core has them, or parts of more; the rest transposed."""
    inputs, is_init = gru_inputs(2, 3, 4), flags(2, 3)
    gates = inputs["gates"].detach()
    time_major = gates.transpose(0, 1).contiguous().requires_grad_()
    wide = torch.cat([gates, gates], -1).requires_grad_()
    thin = gates.mT.contiguous().requires_grad_()
    weight, state, starts = (
        tensor.detach().t().contiguous()
        for tensor in (inputs["weight_hh"], inputs["state"], is_init)
    )
    leaves = [weight.requires_grad_(), state.requires_grad_(), inputs["bias_hh"]]

    for leaf, view in (
        (time_major, time_major.transpose(0, 1)),
        (wide, wide[..., 12:]),
        (thin, thin.mT),
    ):

        def results(function, leaf=leaf, view=view):
            y, last = function(
                view, starts.t(), weight.t(), inputs["bias_hh"], state.t()
            )
            loss = y.square().sum() + last.sin().sum()
            return y, last, *torch.autograd.grad(loss, [leaf, *leaves])

        torch.testing.assert_close(results(scan), results(naive_gru))


@pytest.mark.parametrize("kind", ["transposed", "expanded", "sliced"])
def test_gradients_that_are_views(kind):
    """Autograd hands over what the operation after it made, in any layout."""
    inputs, is_init = gru_inputs(2, 3, 4), flags(2, 3)

    def like(shape):
        draw = torch.Generator().manual_seed(2)
        drawn = torch.randn(*shape[::-1], 2, generator=draw, dtype=torch.float64)
        if kind == "expanded":
            return drawn.flatten()[0].expand(shape)
        if kind == "sliced":
            return drawn.reshape(*shape, 2)[..., 1]
        return drawn[..., 0].contiguous().permute(*reversed(range(len(shape))))

    def gradients(function):
        outputs = function(**inputs, is_init=is_init)
        grads = [like(output.shape) for output in outputs]
        assert not any(grad.is_contiguous() for grad in grads)
        return torch.autograd.grad(outputs, list(inputs.values()), grads)

    torch.testing.assert_close(gradients(scan), gradients(naive_gru))


def test_two_runs_are_equal_bit_for_bit():
    inputs, is_init = gru_inputs(2, 3, 9, torch.float32), flags(2, 3)
    first, second = (with_gradients(scan, inputs, is_init) for _ in range(2))
    assert all(torch.equal(first[name], second[name]) for name in first)


@pytest.mark.parametrize("index", [0, 1])
def test_one_unused_output_is_no_hindrance(index):
    inputs, is_init = gru_inputs(2, 3, 3), flags(2, 3)

    def gradients(function):
        loss = function(**inputs, is_init=is_init)[index].sum()
        return torch.autograd.grad(loss, list(inputs.values()))

    torch.testing.assert_close(gradients(scan), gradients(naive_gru))


@pytest.mark.parametrize(
    ("R", "H", "processors"), [(1, 20, 132), (2, 9, 132), (3, 9, 2)]
)
def test_programs_of_one_launch_meet(R, H, processors, monkeypatch):
    """Three to a row; two groups of two; and three rows that take turns."""
    kernels = GRU.import_kernels(GRU._KERNELS)
    at_once = SimpleNamespace(
        forward_kernel=AtOnce(kernels.forward_kernel),
        backward_kernel=AtOnce(kernels.backward_kernel),
        slopes_kernel=kernels.slopes_kernel,
    )
    monkeypatch.setattr(GRU, "import_kernels", lambda name: at_once)
    monkeypatch.setattr(GRU, "_launches", lambda steps: [(0, steps)])
    monkeypatch.setattr(GRU, "processors", lambda x: processors)
    check(gru_inputs(R, 5, H), flags(R, 5, 0.1))


def test_a_program_that_waits_in_vain_goes_on_with_nan(in_one_launch):
    """The first program has run when the second begins, which owns the last unit.

    At a start neither needs the other. The control: eight units are one program's.
    """
    is_init = torch.tensor([[False, False, False, True, False]])
    inputs = gru_inputs(1, 5, 9)
    got = with_gradients(scan, inputs, is_init)["y"][0]
    first, second = [False, True, True, False, True], [False, False, True, False, False]
    assert got[:, :8].isnan().t().tolist() == [first] * 8
    assert got[:, 8].isnan().tolist() == second
    wanted = with_gradients(naive_gru, inputs, is_init)["y"][0]
    torch.testing.assert_close(got[~got.isnan()], wanted[~got.isnan()])
    check(gru_inputs(1, 5, 8), is_init)


def test_a_program_waits_in_vain_but_once(in_one_launch, monkeypatch):
    """Else a thousand steps would wait a thousand times. The control lacks nothing."""
    builder = importlib.import_module("triton.runtime.interpreter").InterpreterBuilder
    load, reads = builder.create_masked_load, []

    def counted(self, *arguments, **named):
        reads.append(named.get("is_volatile", arguments[-1]))
        return load(self, *arguments, **named)

    monkeypatch.setattr(builder, "create_masked_load", counted)

    def volatile_reads(H):
        reads.clear()
        inputs = {name: x.detach() for name, x in gru_inputs(1, 8, H).items()}
        scan(**inputs, is_init=torch.zeros(1, 8, dtype=torch.bool))
        return sum(reads)

    each = 2 * 7  # units of all and its own, at each step but the first
    assert volatile_reads(8) == each
    assert volatile_reads(9) == 2 * each + 10


def test_a_program_that_is_not_there_is_noticed(in_one_launch, monkeypatch):
    """As if one had not been given a multiprocessor: the others end, with NaN."""
    plan = GRU.launch_plan
    is_init = torch.zeros(2, 4, dtype=torch.bool)
    is_init[1] = True
    assert with_gradients(scan, gru_inputs(2, 4, 8), is_init)["y"].isfinite().all()
    monkeypatch.setattr(
        GRU, "launch_plan", lambda *sizes: plan(*sizes)._replace(programs=1)
    )
    results = with_gradients(scan, gru_inputs(2, 4, 9), is_init)
    assert results["y"][0, 1:].isnan().all() and results["last"][0].isnan().all()
    assert results["y"][1, :, :8].isfinite().all()  # needs nobody: starts at each step
    assert results["gates"][0].isnan().any() and results["weight_hh"].isnan().any()


def test_a_gradient_that_waits_in_vain_is_nan(in_one_launch):
    """As above, backwards: the last step of an episode needs no other program's."""
    is_init = torch.tensor([[False, False, False, True, False]])
    inputs = {name: x.detach() for name, x in gru_inputs(1, 5, 9).items()}
    y, _ = naive_gru(**inputs, is_init=is_init)
    weights = inputs["weight_hh"], inputs["bias_hh"]
    grad = torch.ones(1, 5, 9, dtype=torch.float64)
    gradient, *_ = GRU._backward(
        *(inputs["gates"], is_init, *weights, inputs["state"], y, grad, grad[:, 0])
    )
    missing = gradient[0, :, :9].isnan().t().tolist()
    assert missing[:8] == [[True, True, False, True, False]] * 8
    assert missing[8] == [True, False, False, False, False]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_an_input_that_looks_blank_is_nan_and_not_waited_for(dtype):
    integers, blank = GRU._BLANK[dtype]
    inputs, is_init = gru_inputs(2, 4, 9, dtype), torch.zeros(2, 4, dtype=torch.bool)
    with torch.no_grad():
        for name in ("gates", "state"):
            inputs[name].view(integers)[0] = blank
    results = with_gradients(scan, inputs, is_init)
    assert results["y"][0].isnan().all() and results["y"][1].isfinite().all()
    assert (results["y"].view(integers) != blank).all()
    assert results["gates"][0].isnan().all() and results["gates"][1].isfinite().all()


def test_weights_too_wide_for_the_gpu_go_through_plain_pytorch(monkeypatch):
    monkeypatch.setattr(GRU, "processors", lambda x: 1)
    assert GRU.launch_plan(2, 40, 1) is None
    monkeypatch.setattr(GRU, "_run", None)  # the kernels are not called
    check(gru_inputs(2, 5, 40, torch.float32), flags(2, 5), torch.float32)
    with pytest.raises(TypeError):  # the control: 32 units are one program's
        scan(**gru_inputs(2, 5, 32, torch.float32), is_init=flags(2, 5))


def test_keeps_what_its_docstring_says():
    """Outputs and start flags; the other inputs are leaves here."""
    inputs, is_init = gru_inputs(2, 5, 9), flags(2, 5)
    kept = saved_bytes(lambda: scan(**inputs, is_init=is_init))
    assert kept == 8 * 2 * 5 * 9 + is_init.numel()
    with torch.no_grad():
        assert saved_bytes(lambda: scan(**inputs, is_init=is_init)) == 0


def test_operator_is_registered_in_full():
    """Schema, fake tensors, autograd, and tracing with dynamic shapes."""
    inputs, is_init = gru_inputs(1, 2, 2, torch.float32), flags(1, 2)
    arguments = [inputs[name] for name in ("weight_hh", "bias_hh", "state")]
    torch.library.opcheck(GRU._forward, (inputs["gates"], is_init, *arguments))


def test_compiles_in_one_graph():
    inputs, is_init = gru_inputs(1, 3, 9, torch.float32), flags(1, 3)
    compiled = torch.compile(scan, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(
        with_gradients(compiled, inputs, is_init),
        with_gradients(scan, inputs, is_init),
    )
