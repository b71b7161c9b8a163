"""torch.export takes cores that do not loop over time in Python, for any length."""

import pytest
import torch
from torch.fx.experimental.symbolic_shapes import GuardOnDataDependentSymNode

from resel_torchrl.modules import make_core

SIZE = 16
ANY = torch.export.Dim.AUTO


def inputs(core, length):
    is_init = torch.rand(2, length) < 0.2
    return torch.randn(2, length, SIZE), is_init, torch.randn(2, core.state_size)


@pytest.mark.parametrize(
    "name", ["gru", "mamba", "transformer", "memoryless", "one_step"]
)
def test_an_exported_core_serves_for_other_lengths_and_flags(name):
    if name in ("gru", "mamba"):
        pytest.importorskip("numba")  # its operations are registered with PyTorch
    torch.manual_seed(0)
    core = make_core(name, SIZE)
    with torch.no_grad():
        program = torch.export.export(
            core, inputs(core, 20), dynamic_shapes=({1: ANY}, {1: ANY}, None)
        )
        for length in (20, 33):
            given = inputs(core, length)
            torch.testing.assert_close(program.module()(*given), core(*given))
    names = {str(node.target) for node in program.graph.nodes}
    own = {name for name in names if name.startswith("resel_torchrl.")}
    assert bool(own) == (name in ("gru", "mamba"))


@pytest.mark.parametrize(
    ("name", "options"),
    [
        *(("lstm", {}), ("lru", {}), ("min_gru", {})),
        *(("gru", {"backend": "torch"}), ("mamba", {"backend": "torch"})),
    ],
)
def test_a_loop_that_looks_at_start_flags_cannot_be_exported(name, options):
    core = make_core(name, SIZE, **options)
    with torch.no_grad(), pytest.raises(GuardOnDataDependentSymNode):
        torch.export.export(core, inputs(core, 20))
