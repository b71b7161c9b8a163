"""How much memory the updates of a training run need."""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys

import torch

from recipes.benchmark.synthetic import synthetic_learner, task_sizes
from resel_torchrl.config import Config, to_dict, validate
from resel_torchrl.training import keep_freed_memory, set_matmul_precision

MEASURE = "from recipes.benchmark.memory import measure; measure()"
# On Linux ru_maxrss of a new process starts at what its parent held, so it is started
# by a process that holds next to nothing.
RELAY = "import subprocess, sys; sys.exit(subprocess.call(sys.argv[1:]))"


def update_memory(config: Config, *, updates: int | None = None) -> float:
    """Peak memory of a training run's updates, in MiB.

    On a GPU that is the most that PyTorch had allocated there, with CUDA graphs the
    most that it had reserved: a graph keeps what it was recorded on. On a CPU it is
    what a fresh process held at its peak over the same process when idle, the library
    imported: weights, Adam moments, targets, batch and everything kept for the backward
    pass, and of the replay buffer the few episodes stored.

    Args:
        config: As `compose` returns it.
        updates: Updates to make; None makes twice `train.policy_delay`, and with CUDA
            graphs eight times.

    Raises:
        ValueError: If there is no update to make, the task has discrete actions, or the
            device is not there.
        RuntimeError: If the process fails, or the system has no module `resource`.
    """
    if updates is None:
        rounds = 8 if config.train.cudagraph else 2
        updates = rounds * config.train.policy_delay
    if updates < 1:
        raise ValueError(f"updates: expected 1 or more, got {updates}.")
    idle, peak, _ = run_process(config, updates)
    return peak - idle


def run_process(config: Config, updates: int) -> tuple[float, float, int]:
    """Idle and peak memory of a fresh process in MiB, and the updates it made."""
    task_sizes(config)  # a mistake is told here, not by the process
    if importlib.util.find_spec("resource") is None:
        raise RuntimeError(
            "expected Python's module resource, which this system lacks; measure on "
            "Linux or macOS, or leave memory out: memory_runs=0."
        )
    arguments = json.dumps(to_dict(config)), str(updates)
    python = sys.executable
    command = [python, "-c", RELAY, python, "-c", MEASURE, *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(
            f"expected a process that makes {updates} updates, got exit status "
            f"{done.returncode}:\n{done.stderr[-2000:]}"
        )
    idle, peak, made = json.loads(done.stdout.splitlines()[-1])
    return idle, peak, made


def measure() -> None:
    """What the process does: print idle and peak memory and the updates made."""
    config_json, updates = sys.argv[1:]
    config = validate(json.loads(config_json))
    torch.set_num_threads(config.threads)
    set_matmul_precision(config.train.matmul_precision)
    keep_freed_memory()
    reserved = config.train.cudagraph
    idle = peak_memory(config.device, reserved=reserved)
    learner, _ = synthetic_learner(config)
    for _ in range(int(updates)):
        learner.update()
    peak = peak_memory(config.device, reserved=reserved)
    print(json.dumps([idle, peak, learner.updates]))


def peak_memory(device: str, *, reserved: bool) -> float:
    """The most that this process has held so far, in MiB."""
    if torch.device(device).type == "cuda":
        if reserved:
            return torch.cuda.max_memory_reserved(device) / 2**20
        return torch.cuda.max_memory_allocated(device) / 2**20
    import resource  # Unix only

    usage = resource.getrusage(resource.RUSAGE_SELF)
    return mebibytes(usage.ru_maxrss, sys.platform)


def mebibytes(maxrss: int, platform: str) -> float:
    """MiB from ru_maxrss, which counts bytes on macOS and kibibytes elsewhere."""
    return maxrss / (2**20 if platform == "darwin" else 2**10)
