"""Records what short runs leave behind, and compares it with other code's.

A change that moves or renames code must not change a number: metrics.csv (clock
columns apart), eval.csv and the tensors of the last checkpoint stay equal, bit for bit.
Numbers depend on the processor and on PyTorch, so no record is kept in the repository:

    python -m tests.guard record FOLDER     # with the code as it was
    python -m tests.guard compare FOLDER    # with the code as it is

Columns and tensors are compared by what they hold, so a new name is no difference.
Every run is also stopped half-way and resumed, and must end the same.
"""

import csv
import hashlib
import json
import sys
import tempfile
from collections import Counter
from pathlib import Path

import torch

from resel_torchrl.config import compose, make_training, open_run
from resel_torchrl.training.logging import TIME_COLUMNS

SMALL = (
    "agent.embedding_size=8",
    "agent.hidden_size=16",
    "agent.context_size=8",
    "agent.head_sizes=[16]",
    "agent.n_critics=3",
    "train.acting=eager",
    "eval.episodes=2",
    "log.console=false",
)
PENDULUM = (
    "task=pendulum_v",
    "steps=1600",
    "replay.batch_size=400",
    "train.random_steps=400",
    "train.updates_per_step=0.05",
    "optim.decay_steps=[800,1400]",
    "eval.interval=600",
    "log.interval=200",
    "log.checkpoint_interval=500",
)
FALLING_OVER = (
    "steps=500",
    "replay.batch_size=60",
    "train.random_steps=100",
    "train.updates_per_step=0.1",
    "eval.interval=200",
    "log.interval=100",
    "log.checkpoint_interval=200",
)
HOPPER = ("task=hopper_v", *FALLING_OVER)
SHORT_ROOMS = (
    "task=key_to_door_60",
    "steps=1500",
    "replay.batch_size=100",
    "train.random_steps=300",
    "eval.interval=500",
    "log.interval=250",
    "log.checkpoint_interval=500",
    "optim.decay_steps=null",
)
RUNS = {
    "pendulum_v": (*PENDULUM, "core=lstm"),
    "pendulum_v_fused": (*PENDULUM, "core=gru", "train.acting=fused"),
    "hopper_v_mamba": (*HOPPER, "core=mamba", "agent.core_kwargs.d_state=8"),
    "hopper_v_gru": (*HOPPER, "core=gru"),
    "cartpole_p": ("task=cartpole_p", *FALLING_OVER),
    "key_to_door_60": (*SHORT_ROOMS, "curriculum.option=null", "curriculum.values=[]"),
    "pendulum_v_td3": (
        *(*PENDULUM, "core=gru"),
        "algorithm=td3_resel",
    ),
    "segments": (
        *(*PENDULUM, "core=gru", "replay.segment_length=40"),
        *("replay.burn_in=10", "replay.start_state=stored"),
    ),
    "several_environments": (*PENDULUM, "core=gru", "env.copies=4"),
    "curriculum": (
        *(*SHORT_ROOMS, "curriculum.at_steps=[400,800]"),
        "curriculum.values=[5,20,60]",
    ),
}


def start(folder: Path, *overrides: str) -> Path:
    """A run from its first step to its last."""
    run, config = open_run(compose([*overrides, f"run_dir={folder}"]))
    make_training(config, run).run()
    return folder


def resume(folder: Path, *overrides: str) -> Path:
    """The rest of a run."""
    config = compose(["task=pendulum_v", f"resume={folder}"])
    make_training(*reversed(open_run(config, overrides))).run()
    return folder


def tensors(tree, found: list[str]) -> list[str]:
    """A digest of each tensor in nested containers."""
    if isinstance(tree, torch.Tensor):
        data = tree.detach().cpu().contiguous().flatten().view(torch.uint8).numpy()
        kind = f"{tree.dtype} {list(tree.shape)}"
        found.append(f"{kind} {hashlib.sha256(data.tobytes()).hexdigest()[:16]}")
    elif isinstance(tree, dict):
        for value in tree.values():
            tensors(value, found)
    elif isinstance(tree, list | tuple):
        for value in tree:
            tensors(value, found)
    return found


def columns(path: Path) -> list[str]:
    """A digest of each column of a CSV file, the clock's left out."""
    with open(path, newline="") as stream:
        rows = list(csv.DictReader(stream))
    return [
        hashlib.sha256("\n".join(row[name] for row in rows).encode()).hexdigest()[:16]
        for name in rows[0]
        if name not in TIME_COLUMNS
    ]


def left_by(folder: Path) -> dict[str, list[str]]:
    """What a run leaves behind, whatever its names."""
    last = max((folder / "checkpoints").iterdir())
    found: list[str] = []
    for file in sorted(last.glob("*.pt")):
        tensors(torch.load(file, weights_only=True), found)
    return {
        "metrics.csv": sorted(columns(folder / "metrics.csv")),
        "eval.csv": sorted(columns(folder / "eval.csv")),
        "checkpoint": sorted(found),
    }


def differences(wanted: dict[str, list[str]], got: dict[str, list[str]]) -> list[str]:
    """In words, what is not the same."""
    told = []
    for part, values in wanted.items():
        lost = Counter(values) - Counter(got[part])
        if lost:
            told.append(f"{part}: {lost.total()} of {len(values)} differ")
    return told


def main(command: str, folder: Path, *names: str) -> int:
    """Record the runs in `folder`, or compare with what is there."""
    status = 0
    for name in names or RUNS:
        overrides = (*RUNS[name][:1], *SMALL, *RUNS[name][1:])
        steps = int(next(o for o in overrides if o.startswith("steps=")).split("=")[1])
        with tempfile.TemporaryDirectory() as place:
            whole = left_by(start(Path(place, "whole"), *overrides))
            half = steps // 2 // 4 * 4
            start(Path(place, "parts"), *overrides, f"steps={half}")
            parts = left_by(resume(Path(place, "parts"), f"steps={steps}"))
        told = [f"resumed, {text}" for text in differences(whole, parts)]
        record = folder / f"{name}.json"
        if command == "record":
            folder.mkdir(parents=True, exist_ok=True)
            record.write_text(json.dumps(whole, indent=1))
        else:
            told += differences(json.loads(record.read_text()), whole)
        print(f"{name}: {'; '.join(told) or 'the same'}")
        status = status or bool(told)
    return int(status)


if __name__ == "__main__":
    torch.set_num_threads(1)
    if len(sys.argv) < 3 or sys.argv[1] not in ("record", "compare"):
        sys.exit(__doc__)
    sys.exit(main(sys.argv[1], Path(sys.argv[2]), *sys.argv[3:]))
