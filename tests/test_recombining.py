"""The 40-line agent of docs/recombining.md is short, and it really learns.

It runs unchanged. TorchRL's SoftUpdate and PyTorch's AdamW are replaced by subclasses
that look at the tensors before and after each step.
"""

import re
from pathlib import Path

import pytest
import torch
import torchrl.objectives
from torchrl.collectors import Collector

PAGE = Path(__file__).parents[1] / "docs" / "recombining.md"
BLOCK = re.compile(r"^```python\n(.*?)^```", re.MULTILINE | re.DOTALL)
TAU = 0.005


def example() -> str:
    return BLOCK.findall(PAGE.read_text())[0]


def copies(loss, prefix):
    names = ("qvalue_network_params", "critic_encoder_params")
    return {
        (name, key): value.detach().clone()
        for name in names
        for key, value in getattr(loss, prefix + name).items(True, True)
    }


class WatchedSoftUpdate(torchrl.objectives.SoftUpdate):
    steps: list

    def __init__(self, loss, *args, **kwargs):
        super().__init__(loss, *args, **kwargs)
        self.watched = loss

    def step(self):
        before, online = copies(self.watched, "target_"), copies(self.watched, "")
        super().step()
        self.steps.append((before, online, copies(self.watched, "target_")))


class WatchedAdamW(torch.optim.AdamW):
    """Keeps the first values of its parameters, and each step's rates that moved."""

    made: list

    def __init__(self, groups):
        super().__init__(groups)
        self.before = [[p.clone() for p in g["params"]] for g in self.param_groups]
        self.step_rates = []
        self.made.append(self)

    def step(self):
        self.step_rates.append(
            {
                g["name"]
                for g in self.param_groups
                if any(p.grad is not None for p in g["params"])
            }
        )
        super().step()


@pytest.fixture(scope="module")
def run():
    """Names of the example after it ran, its target updates and its optimizer."""
    threads, steps, optimizers = torch.get_num_threads(), [], []
    WatchedSoftUpdate.steps, WatchedAdamW.made = steps, optimizers
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torchrl.objectives, "SoftUpdate", WatchedSoftUpdate)
        patch.setattr(torch.optim, "AdamW", WatchedAdamW)
        torch.set_num_threads(1)
        torch.manual_seed(0)
        names = {"__name__": "example"}
        exec(compile(example(), str(PAGE), "exec"), names)
    torch.set_num_threads(threads)
    return names, steps, optimizers[0]


def test_it_is_at_most_40_lines_of_88_columns():
    lines = example().splitlines()
    assert len(lines) <= 40
    assert max(map(len, lines)) <= 88


def test_it_uses_the_parts_it_promises(run):
    names, _, _ = run
    assert names["Collector"] is Collector
    assert "for data in Collector(env, policy" in example()
    assert type(names["buffer"]) is torchrl.data.TensorDictReplayBuffer
    assert type(names["sampler"]).__name__ == "EpisodeSampler"
    for module, name in [
        ("actor_encoder", "ContextEncoder"),
        ("critic_encoder", "ContextEncoder"),
        ("actor", "TanhNormalActor"),
        ("critic", "EnsembleCritic"),
    ]:
        assert type(names[module]).__name__ == name


def test_it_collects_whole_episodes_with_its_own_policy(run):
    names, _, _ = run
    stored = names["buffer"][:]
    assert len(stored) == 800
    ends = stored["next", "done"].flatten().nonzero().flatten()
    assert ends.tolist() == [199, 399, 599, 799]
    assert stored["next", "reward"].max() < 0
    assert stored["observation"].unique().numel() > 700
    # The policy that acted has the parameters that were trained.
    acting = {id(p) for p in names["policy"].parameters()}
    trained = {id(p) for p in names["loss"].parameters()}
    assert acting and acting <= trained


def test_batches_hold_whole_episodes(run):
    batch = run[0]["batch"]
    valid = batch["valid"].squeeze(-1)
    assert valid[:, :200].all() and not valid[:, 200].any()
    assert batch["is_init"].squeeze(-1)[:, 0].all()


def test_every_weight_moves_and_each_step_touches_its_own_side(run):
    _, _, optimizer = run
    for group, before in zip(optimizer.param_groups, optimizer.before, strict=True):
        for parameter, value in zip(group["params"], before, strict=True):
            assert not torch.equal(parameter, value), group["name"]
    assert optimizer.step_rates == 10 * [
        {"context_encoder_critic", "critic"},
        {"context_encoder_actor", "actor", "alpha"},
    ]


def moved_by_polyak(step, tau):
    before, online, after = step
    return all(
        torch.allclose(after[k], (1 - tau) * before[k] + tau * online[k], atol=1e-7)
        for k in before
    )


def test_targets_move_by_polyak_once_an_update(run):
    _, steps, _ = run
    assert len(steps) == 10
    assert all(moved_by_polyak(step, TAU) for step in steps)
    assert not any(moved_by_polyak(step, 2 * TAU) for step in steps[1:])
    moved = [
        name
        for name, value in steps[0][0].items()
        if value.ne(steps[-1][2][name]).any()
    ]
    assert {name for name, _ in moved} == {
        "qvalue_network_params",
        "critic_encoder_params",
    }
