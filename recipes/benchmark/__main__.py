"""How fast replay, updates, acting, whole runs and cores are on this machine.

    python -m recipes.benchmark replay
    python -m recipes.benchmark update core=gru task=hopper_v threads=2
    python -m recipes.benchmark compare core=mamba with='train.compile=true'
    python -m recipes.benchmark acting core=mamba task=hopper_v
    python -m recipes.benchmark end_to_end core=gru task=pendulum_v
    python -m recipes.benchmark cores width=64 length=200 rows=4
    python -m recipes.benchmark operations operation=selective_scan threads=2
    python -m recipes.benchmark all output=speed.csv

`replay`: milliseconds per draw of 2,000 transitions from 1e5 and 1e6 stored, with and
without packing, beside TorchRL's SliceSampler, and the memory of a full buffer.
`update`: updates per second at the task's configured sizes, on random episodes of full
length (two of 1,000 steps for the usual batch of 1,999), and the peak memory over the
idle process. `compare`: updates as configured and with the values named after `with`,
in turns, and their ratio. `acting`: milliseconds per step of the policy, of the
environment, and of both with storing, on one thread. `end_to_end`: environment steps
per second of whole runs that collect in turn with the updates and in a process beside
them, and what share of the updates' own speed that is. Several cores: core=gru,mamba,
the default.
`cores`: parameters, state, time of forward and backward pass and of a step of each
core by itself (all of them, or core=gru,lru), beside PyTorch's GRU layer.
`operations`: milliseconds of scan, convolution and GRU over a row of time, for each
implementation that is installed; results are compared before anything is timed.

Numbers that can be given: `threads` (1 is the default), `repetitions`, `memory_runs`
(processes that measure memory; 0 for none), `stored=100000,1000000` and
`lengths=20,1000` of replay, `steps` (environment steps per repetition of end_to_end),
`width`, `length` and `rows` of cores, `rows`, `length`, `channels` and `states` of
operations. `device=cuda` measures update, compare and operations on a GPU; `peers=1`
adds updates by TorchRL's own SACLoss and GRUModule. Values of the configuration can be
given to update, compare, acting and end_to_end: agent.hidden_size=64. How to read the
tables: docs/speed.md and docs/cores.md.
"""

import sys

from recipes.benchmark.acting import time_acting, time_collecting
from recipes.benchmark.cores import core_table, time_cores
from recipes.benchmark.end_to_end import time_end_to_end
from recipes.benchmark.measurement import (
    Measurement,
    describe_machine,
    measurement_table,
    write_measurements,
)
from recipes.benchmark.operations import time_operations
from recipes.benchmark.peers import time_torchrl_update
from recipes.benchmark.replay import replay_memory, time_replay
from recipes.benchmark.update import compare_updates, time_update
from resel_torchrl._nearest import suggestion
from resel_torchrl.cli.arguments import at_least, read_arguments
from resel_torchrl.config import Config, compose
from resel_torchrl.envs import task_info
from resel_torchrl.errors import ConfigError
from resel_torchrl.training import quiet_storages


def numbers(text: str) -> list[int]:
    """Whole numbers from `20,1000`."""
    return [at_least(1)(word) for word in text.split(",")]


def names(text: str) -> list[str]:
    """Names from `gru,mamba`."""
    return text.split(",")


def configurations(
    task="hopper_v", core=("gru", "mamba"), threads=1, device="cpu", overrides=()
) -> list[Config]:
    """One configuration per core; mistakes are told before anything is measured."""
    words = [f"task={task}", f"threads={threads}", f"device={device}"]
    return [compose([*words, f"core={name}", *overrides]) for name in core]


def with_simulator(configs: list[Config]) -> list[Config]:
    """The same, after a look at whether the environment can be made at all."""
    env = configs[0].env
    task_info(env.id, horizon=env.horizon, **env.kwargs)
    return configs


def pick(values: dict, *keys: str) -> dict:
    """The values given under these names."""
    return {key: values[key] for key in keys if key in values}


def replay(values: dict) -> list[Measurement]:
    """Rows of sampling and packing, then of memory."""
    rows = time_replay(**pick(values, "stored", "lengths", "repetitions", "threads"))
    return rows + replay_memory(**pick(values, "stored", "lengths"))


def update(values: dict) -> list[Measurement]:
    """Rows of updates, core by core."""
    options = pick(values, "repetitions", "memory_runs")
    configs = configurations(**pick(values, *CONFIGURED))
    rows = [row for config in configs for row in time_update(config, **options)]
    if values.get("peers"):
        rows += time_torchrl_update(configs[0])
    return rows


def compare(values: dict) -> list[Measurement]:
    """Rows of updates as configured and with other values, core by core."""
    if "with" not in values:
        raise ConfigError(["with: missing; write with='train.compile=true'."])
    chosen = pick(values, *CONFIGURED)
    changed = [*chosen.get("overrides", ()), *values["with"].split()]
    pairs = zip(
        configurations(**chosen),
        configurations(**chosen | {"overrides": changed}),
        strict=True,
    )
    options = pick(values, "repetitions")
    return [row for pair in pairs for row in compare_updates(*pair, **options)]


def acting(values: dict) -> list[Measurement]:
    """Rows of the policy, the environment and both, core by core."""
    options = pick(values, "repetitions")
    configs = with_simulator(configurations(**pick(values, *CONFIGURED)))
    return [
        row
        for config in configs
        for measure in (time_acting, time_collecting)
        for row in measure(config, **options)
    ]


def end_to_end(values: dict) -> list[Measurement]:
    """Rows of whole runs, core by core."""
    options = pick(values, "repetitions", "steps")
    configs = with_simulator(configurations(**pick(values, *CONFIGURED)))
    return [row for config in configs for row in time_end_to_end(config, **options)]


def cores(values: dict) -> list[Measurement]:
    """Rows of the cores by themselves."""
    sizes = pick(values, "width", "length", "rows", "repetitions", "threads")
    return time_cores(values.get("core"), **sizes)


def operations(values: dict) -> list[Measurement]:
    """Rows of the operations, implementation by implementation."""
    sizes = pick(values, "rows", "length", "channels", "states", "device")
    options = pick(values, "repetitions", "threads")
    return time_operations(
        values.get("operation"), values.get("backend"), **sizes, **options
    )


def everything(values: dict) -> list[Measurement]:
    """All rows."""
    with_simulator(configurations(**pick(values, *CONFIGURED)))
    return [
        row
        for measure in (replay, update, acting, end_to_end, cores, operations)
        for row in measure(values)
    ]


COUNT = at_least(1)
CONFIGURED = ("task", "core", "threads", "device", "overrides")
COMMON = {"repetitions": COUNT, "output": str}
NETWORKS = {"core": names, "task": str, **COMMON}
REPLAY = {"stored": numbers, "lengths": numbers, "threads": COUNT, **COMMON}
ON_DEVICE = {"threads": COUNT, "device": str}
UPDATE = {"memory_runs": at_least(0), "peers": at_least(0), **ON_DEVICE}
LOOP = {"threads": COUNT, "steps": COUNT}
SIZES = dict.fromkeys(("rows", "length", "threads"), COUNT)
CORES = {"core": names, "width": COUNT, **SIZES, **COMMON}
OPERATIONS = dict.fromkeys(("operation", "backend"), names) | SIZES | COMMON
OPERATIONS |= {"channels": COUNT, "states": COUNT, "device": str}
COMMANDS = {
    "replay": (replay, REPLAY),
    "update": (update, NETWORKS | UPDATE),
    "compare": (compare, NETWORKS | ON_DEVICE | {"with": str}),
    "acting": (acting, NETWORKS),
    "end_to_end": (end_to_end, NETWORKS | LOOP),
    "cores": (cores, CORES),
    "operations": (operations, OPERATIONS),
    "all": (everything, REPLAY | NETWORKS | UPDATE | LOOP),
}


def measure(arguments: list[str]) -> None:
    """Measure, print, write."""
    name, *rest = arguments or [""]
    if name not in COMMANDS:
        raise ConfigError([f"{name or 'nothing'}: {suggestion(name, COMMANDS)}"])
    run, known = COMMANDS[name]
    overrides = [word for word in rest if "." in word.partition("=")[0]]
    values = read_arguments([word for word in rest if word not in overrides], known)
    if overrides and known.keys() >= NETWORKS.keys():
        values["overrides"] = overrides
    elif overrides:
        raise ConfigError([f"{overrides[0]}: {name} has no use for it; leave it out."])
    quiet_storages()
    machine = describe_machine()  # first, as the load is to be that of others
    rows = run(values)
    print(", ".join(f"{name} {value}" for name, value in machine.items()))
    table = core_table if name == "cores" else measurement_table
    print(f"\n{table(rows)}")
    if "output" in values:
        write_measurements(values["output"], rows, machine)
        print(f"\nwrote {values['output']}")


def main(arguments: list[str]) -> int:
    """Exit status: 0, or 2 after a mistake, which is printed in a sentence."""
    if arguments and arguments[0] in ("-h", "--help"):
        print(__doc__)
        return 0
    try:
        measure(arguments)
    except (ConfigError, ValueError, ModuleNotFoundError, RuntimeError) as error:
        print(error, file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
