"""The linear recurrences and the Transformer on a GPU."""

import pytest
import torch

from tests.modules.test_cores import _batch as make_batch
from tests.modules.test_cores import _core as make_small


@pytest.mark.gpu
@pytest.mark.parametrize("name", ["lru", "min_gru", "transformer"])
def test_cuda_matches_cpu_and_never_waits(name):
    core = make_small(name, 8)
    x, is_init, state = make_batch(core, 3, 63)
    wanted = core(x, is_init, state)
    parameters = list(core.parameters())
    gradients = torch.autograd.grad(wanted[0].square().sum(), parameters)
    core.cuda()
    x, is_init, state = x.cuda(), is_init.cuda(), state.cuda()
    core(x, is_init, state)  # libraries may wait when they are first used
    torch.cuda.set_sync_debug_mode("error")
    try:
        got = core(x, is_init, state)
        loss = got[0].square().sum()
        on_device = torch.autograd.grad(loss, list(core.parameters()))
        core.step(x[:, 0], is_init[:, 0], state)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    torch.testing.assert_close([t.cpu() for t in got], list(wanted))
    torch.testing.assert_close([g.cpu() for g in on_device], list(gradients))
