"""A core's options: checked with its width, and against the task's horizon."""

import pytest
import torch

from resel_torchrl.config import compose, open_run
from resel_torchrl.errors import ConfigError
from resel_torchrl.modules.cores import CORES, make_core


def test_values_of_the_cores_options_are_checked_with_the_width():
    for override, message in (
        (
            "agent.core_kwargs.n_heads=7",
            r"n_heads to divide the width 256, got 7",
        ),
        ("agent.hidden_size=60", r"agent.hidden_size=60: Expected n_heads to divide"),
        ("agent.core_kwargs.max_length=0", r"Expected max_length to be an integer"),
    ):
        with pytest.raises(ConfigError, match=message):
            compose(["task=walker_v", "core=transformer", override])
    with pytest.raises(ConfigError, match=r"0 <= r_min < r_max < 1"):
        compose(["task=walker_v", "core=lru", "agent.core_kwargs.r_max=1.5"])


def test_checking_a_core_draws_nothing_and_lets_unusual_ones_pass(monkeypatch):
    class Looks(CORES["gru"]):
        def __init__(self, size, backend="auto", max_memory=None):
            super().__init__(size, backend, max_memory)
            self.scale = self.bias_hh_l0.sum().item()

    monkeypatch.setitem(CORES, "gru", Looks)
    before = torch.get_rng_state()
    assert compose(["core=gru"]).agent.core == "gru"
    compose(["core=transformer"])
    assert torch.equal(torch.get_rng_state(), before)


def test_a_horizon_beyond_the_context_is_refused_before_there_is_a_run(tmp_path):
    folder = tmp_path / "run"
    options = ["task=pendulum_v", "core=transformer", f"run_dir={folder}"]
    message = r"max_length: expected at least 201.*got 200; write agent.core_kwarg"
    with pytest.raises(ConfigError, match=message):
        open_run(compose([*options, "agent.core_kwargs.max_length=200"]))
    assert not folder.exists()
    open_run(compose([*options, "agent.core_kwargs.max_length=201"]))
    assert folder.exists()


def test_a_backend_whose_package_is_absent_is_told_before_there_is_a_run(monkeypatch):
    compose(["core=mamba", "agent.core_kwargs.backend=torch"])
    monkeypatch.setattr("resel_torchrl.ops._backends.is_usable", lambda name: False)
    with pytest.raises(ConfigError, match=r"core_kwargs.*numba.*resel_torchrl\[cpu\]"):
        compose(["core=gru", "agent.core_kwargs.backend=cpu"])


@pytest.mark.parametrize("core", ["gru", "mamba"])
def test_a_backend_for_another_device_is_told_before_there_is_a_run(core, tmp_path):
    pytest.importorskip("triton")
    folder = tmp_path / "run"
    options = ["task=pendulum_v", f"core={core}", f"run_dir={folder}"]
    message = r"backend: expected one for device=cpu, got triton, which runs on cuda"
    with pytest.raises(ConfigError, match=message):
        open_run(compose([*options, "agent.core_kwargs.backend=triton"]))
    assert not folder.exists()


def test_fused_acting_that_cannot_be_is_told_before_there_is_a_run(tmp_path):
    options = ["task=pendulum_v", "core=lru", f"run_dir={tmp_path / 'run'}"]
    _, config = open_run(compose([*options, "train.acting=auto"]))
    assert config.train.acting == "eager"  # what auto is stands in the stored file
    refused = [*options[:2], f"run_dir={tmp_path / 'other'}", "train.acting=fused"]
    with pytest.raises(
        ConfigError, match=r"with core=lru expected .* train.acting=auto"
    ):
        open_run(compose(refused))
    assert not (tmp_path / "other").exists()


def test_a_renamed_option_is_told_its_new_name():
    with pytest.raises(ConfigError, match=r"context: .* renamed to max_length\."):
        compose(["core=transformer", "+agent.core_kwargs.context=200"])
    with pytest.raises(ValueError, match=r"'context' .* renamed to max_length\."):
        make_core("transformer", 16, context=200)
