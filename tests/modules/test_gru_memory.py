"""What a GRU keeps before any training, with and without `max_memory`."""

import pytest
import torch

from resel_torchrl.config import compose
from resel_torchrl.errors import ConfigError
from resel_torchrl.modules import make_core
from resel_torchrl.modules.cores import GRUCore


def core(max_memory, size=64):
    torch.manual_seed(0)
    return GRUCore(size, max_memory=max_memory).double()


def kept(gru):
    """The share of each unit's state that is left after a step without any input."""
    with torch.no_grad():
        gru.weight_ih_l0.zero_(), gru.weight_hh_l0.zero_()
        ones = torch.ones(1, gru.state_size, dtype=torch.float64)
        x, is_init = torch.zeros(1, 1, gru.input_size).double(), torch.zeros(1, 1)
        return gru(x, is_init.bool(), ones)[1][0]


def test_units_keep_their_state_for_as_long_as_asked():
    shares = kept(core(100))
    lasts = 1 / (1 - shares)  # steps until a share of 1/e is left, nearly
    assert 2 <= lasts.min() < 10 and 90 < lasts.max() <= 100
    assert 40 < lasts.mean() < 62  # uniform between 2 and 100
    assert (kept(core(None)) == 0.5).all()  # the control
    assert (kept(core(2)) == 0.5).all()


def test_nothing_else_is_initialized_in_another_way():
    without, long = core(None).state_dict(), core(100).state_dict()
    changed = {name for name in long if not torch.equal(long[name], without[name])}
    assert changed == {"bias_ih_l0"}
    reset, update, new = long["bias_ih_l0"].chunk(3)
    assert not reset.any() and not new.any() and (update >= 0).all()


def gradient_through(gru, steps):
    torch.manual_seed(1)
    x = torch.randn(1, steps, gru.input_size, dtype=torch.float64, requires_grad=True)
    y, _ = gru(x, torch.zeros(1, steps, dtype=torch.bool))
    y[:, -1].square().sum().backward()
    return x.grad[0, 0].norm()


def test_what_is_seen_first_still_moves_the_last_output_after_75_steps():
    assert gradient_through(core(85), 75) > 1e6 * gradient_through(core(None), 75)


@pytest.mark.parametrize("wrong", [1, 0, -5, 2.0, True, "85"])
def test_other_values_are_refused(wrong):
    with pytest.raises(ValueError, match="max_memory to be a whole number of 2 steps"):
        make_core("gru", 8, max_memory=wrong)


def test_configuration_takes_it():
    options = ["task=pendulum_v", "core=gru"]
    assert compose(options).agent.core_kwargs["max_memory"] is None
    config = compose([*options, "agent.core_kwargs.max_memory=200"])
    assert config.agent.core_kwargs["max_memory"] == 200
    with pytest.raises(ConfigError, match=r"agent\.core_kwargs .* max_memory"):
        compose([*options, "agent.core_kwargs.max_memory=1"])
