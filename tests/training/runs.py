"""Tiny runs for tests: a few hundred steps in about a second."""

import csv
from collections.abc import Sequence
from pathlib import Path

import torch

from resel_torchrl.config import compose, make_training, open_run
from resel_torchrl.training import CheckpointStore, Hook, Trainer
from resel_torchrl.training.logging import TIME_COLUMNS

TINY = [
    "task=pendulum_v",
    "core=gru",
    "env.id=tests.training.envs:Walk-v0",
    "optim.lr_context_encoder=3e-4",
    "optim.decay_steps=null",
    "optim.decay_to=0.0",
    "steps=130",
    "agent.embedding_size=4",
    "agent.hidden_size=6",
    "agent.context_size=5",
    "agent.head_sizes=[8]",
    "agent.n_critics=3",
    "replay.batch_size=30",
    "replay.buffer_size=70",
    "train.random_steps=25",
    "train.updates_per_step=0.5",
    "train.tau=0.005",
    "train.acting=eager",
    "eval.interval=40",
    "eval.episodes=2",
    "log.interval=20",
    "log.checkpoint_interval=30",
    "log.console=false",
]
#: The loss's own, in place of the task's.
TEMPERATURE = ["resel.alpha_init=1.0", "resel.target_entropy=auto"]


def tiny(folder: Path, *overrides: str) -> list[str]:
    """Overrides of a tiny run that is kept in `folder`."""
    others = {"algorithm=discrete_resel", "algorithm=td3_resel"}
    temperature = [] if others & set(overrides) else TEMPERATURE
    return [*TINY, *temperature, f"run_dir={folder}", *overrides]


def start(folder: Path, *overrides: str, hooks: Sequence[Hook] = ()) -> Trainer:
    """A tiny run, ready to run."""
    run, config = open_run(compose(tiny(folder, *overrides)))
    return make_training(config, run, hooks)


def resume(folder: Path, *overrides: str, hooks: Sequence[Hook] = ()) -> Trainer:
    """The rest of the run in `folder`."""
    config = compose(["task=pendulum_v", f"resume={folder}"])
    run, config = open_run(config, overrides)
    return make_training(config, run, hooks)


def rows(path: Path) -> list[dict[str, str]]:
    """The rows of a CSV file without the columns of the clock."""
    with open(path, newline="") as stream:
        return [
            {key: value for key, value in row.items() if key not in TIME_COLUMNS}
            for row in csv.DictReader(stream)
        ]


def leaves(tree, prefix=""):
    """Every tensor and number of nested containers, by path."""
    if isinstance(tree, dict):
        for key, value in tree.items():
            yield from leaves(value, f"{prefix}/{key}")
    elif isinstance(tree, (list, tuple)):
        for index, value in enumerate(tree):
            yield from leaves(value, f"{prefix}/{index}")
    else:
        yield prefix, tree


def same(a, b) -> bool:
    """Bit for bit; NaN equals NaN."""
    if isinstance(a, torch.Tensor):
        nan = a.is_floating_point() and a.isnan() & b.isnan()
        return a.dtype == b.dtype and bool(((a == b) | nan).all())
    return a == b or (a != a and b != b)


def assert_same_run(folder: Path, other: Path) -> None:
    """Metrics, evaluations and the whole of the last checkpoint, bit for bit."""
    assert rows(folder / "metrics.csv") == rows(other / "metrics.csv")
    assert rows(folder / "eval.csv") == rows(other / "eval.csv")
    stores = [CheckpointStore(f / "checkpoints", None) for f in (folder, other)]
    steps = [store.newest() for store in stores]
    assert steps[0] == steps[1]
    for part in ("learner", "progress", "replay"):
        first, second = (
            dict(leaves(store.load(step, part)))
            for store, step in zip(stores, steps, strict=True)
        )
        first.pop("/seconds", None), second.pop("/seconds", None)
        if part == "progress":
            # Bytes of a file whose clock columns vary in width.
            first.pop("/positions/metrics"), second.pop("/positions/metrics")
        assert first.keys() == second.keys()
        different = [key for key in first if not same(first[key], second[key])]
        assert not different, (part, different)


def assert_alike(got, wanted):
    """Tensors by name, equal but for rounding that grew over many updates."""
    for name, value in wanted.items():
        torch.testing.assert_close(
            got[name],
            value,
            rtol=1e-3,
            atol=1e-5,
            msg=lambda text, name=name: f"{name}: {text}",
        )
