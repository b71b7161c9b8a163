"""The benchmark runs what it says it runs. No test looks at how long something took."""

import csv
import sys
from importlib.util import find_spec

import numpy as np
import pytest
import torch

from recipes.benchmark import measurement, memory, replay, update
from recipes.benchmark.acting import time_acting
from recipes.benchmark.measurement import (
    Measurement,
    describe_machine,
    measurement_table,
    write_measurements,
)
from recipes.benchmark.memory import update_memory
from recipes.benchmark.replay import time_replay
from recipes.benchmark.synthetic import synthetic_learner, task_sizes
from recipes.benchmark.update import time_update
from resel_torchrl.collect import RecurrentPolicy
from resel_torchrl.config import compose
from resel_torchrl.envs import task_info
from resel_torchrl.errors import ConfigError
from resel_torchrl.objectives import RESeLLoss
from resel_torchrl.training import Learner
from tests.recipes.test_commands import recipe
from tests.training.threads import as_thread  # noqa: F401

SMALL = ["agent.hidden_size=8", "agent.embedding_size=4", "agent.n_critics=2"]


def small(*overrides, task="pendulum_v", core="gru"):
    return compose([f"task={task}", f"core={core}", *SMALL, *overrides])


def counting(monkeypatch, owner, name):
    """Lets a method run as before and keeps what each call took and returned."""
    calls, method = [], getattr(owner, name)

    def counted(*args, **kwargs):
        result = method(*args, **kwargs)
        calls.append((args, kwargs, result, torch.get_num_threads()))
        return result

    monkeypatch.setattr(owner, name, counted)
    return calls


def test_quantiles_are_those_of_the_repetitions():
    labels = {"benchmark": "a", "case": "b", "quantity": "c", "unit": "ms"}
    row = Measurement.of(list(range(11))[::-1], **labels, threads=2)
    assert (row.p10, row.median, row.p90) == (1, 5, 9)
    assert (row.repetitions, row.threads) == (11, 2)
    with pytest.raises(ValueError, match="expected one value or more"):
        Measurement.of([], **labels, threads=1)


def test_replay_draws_whole_batches_from_buffers_of_the_sizes_asked(monkeypatch):
    times = counting(monkeypatch, replay, "seconds_of")
    packs = counting(monkeypatch, replay, "pack_episodes")
    generator = torch.get_rng_state()
    rows = time_replay([125, 400], [20, 30], batch_size=50, repetitions=4)
    assert torch.equal(generator, torch.get_rng_state())
    assert [row.case for row in rows[::4]] == [
        "120 stored, episodes of 20, batch of 60",
        "120 stored, episodes of 30, batch of 60",
        "400 stored, episodes of 20, batch of 60",
        "390 stored, episodes of 30, batch of 60",
    ]
    assert [row.quantity for row in rows[:4]] == [
        "EpisodeSampler",
        "EpisodeSampler + pack_episodes",
        "SliceSampler",
        "SliceSampler(cache_values=True)",
    ]
    assert len(packs) == 4 * (4 + measurement.WARM_UP)
    for args, _, packed, _ in packs:
        assert len(args[0]) == 60
        assert int(packed["valid"].sum()) == 60
    for number, ((call, repetitions), _, seconds, _) in enumerate(times):
        assert repetitions == len(seconds) == 4
        batch = call()
        if number % 4 != 1:
            assert len(batch) == 60
            length = (20, 30)[number // 4 % 2]
            done = batch["next", "done"].flatten().nonzero().flatten().tolist()
            assert done == list(range(length - 1, 60, length))
    for row in rows:
        assert (row.benchmark, row.unit, row.repetitions) == ("replay", "ms", 4)
        assert 0 < row.p10 <= row.median <= row.p90


def test_the_synthetic_buffer_holds_full_episodes_of_the_task():
    learner, horizon = synthetic_learner(small())
    stored = learner.batches.replay_buffer[:]
    assert horizon == 200
    assert stored["next", "truncated"].nonzero()[:, 0].tolist() == [
        *range(199, 1600, 200)
    ]
    assert not stored["next", "terminated"].any()
    assert stored["observation"].std() > 0.5


@pytest.mark.parametrize("delay", [1, 3])
def test_updates_are_counted_with_their_policy_steps(monkeypatch, delay):
    updates = counting(monkeypatch, Learner, "update")
    policy_steps = counting(monkeypatch, RESeLLoss, "policy_loss")
    before = torch.get_num_threads()
    config = small("replay.batch_size=199", f"train.policy_delay={delay}", "threads=2")
    rows = time_update(config, repetitions=4, memory_runs=0)
    made = 4 + measurement.WARM_UP + 2  # and twice for the matrix products
    assert len(policy_steps) == made
    assert [call[0][0].updates for call in updates] == [made * delay] * made * delay
    assert {threads for *_, threads in updates} == {2}
    assert torch.get_num_threads() == before
    row, products = rows
    assert products.quantity == "updates' matrix products alone"
    assert (
        row.case == "pendulum_v, gru, batch of 1 full episodes of 200 packed [1, 201]"
    )
    assert (row.unit, row.repetitions, row.threads) == ("updates/s", 4, 2)


def test_updates_per_second_count_updates_not_repetitions(monkeypatch):
    seconds = [0.5, 0.5]
    monkeypatch.setattr(update, "seconds_of", lambda call, n, device: seconds)
    row, _ = time_update(small("train.policy_delay=4"), repetitions=2, memory_runs=0)
    assert row.median == 8


def test_the_warm_up_is_not_counted():
    calls = []
    assert len(measurement.seconds_of(lambda: calls.append(1), 5)) == 5
    assert len(calls) == 5 + measurement.WARM_UP


def test_the_usual_batch_is_two_full_episodes_of_1000():
    config = small("replay.buffer_size=5000", task="hopper_v")
    learner, horizon = synthetic_learner(config)
    batch = learner.batches.sample()
    assert (learner.batches.batch_size, horizon) == (1999, 1000)
    assert batch["next", "done"].sum() == 2
    assert batch["valid"].sum() == 2000


@pytest.mark.parametrize("core", ["gru", "mamba"])
def test_acting_steps_on_one_thread(monkeypatch, core):
    steps = counting(monkeypatch, RecurrentPolicy, "__call__")
    [row] = time_acting(small("threads=2", core=core), repetitions=6)
    assert len(steps) == 6 + measurement.WARM_UP
    assert {threads for *_, threads in steps} == {1}
    actions = np.stack([action for _, _, action, _ in steps])
    assert len(np.unique(actions)) == len(actions)  # sampled, with a memory
    assert (row.benchmark, row.case) == ("acting", f"pendulum_v, {core}")
    assert (row.unit, row.repetitions, row.threads) == ("ms", 6, 1)


@pytest.mark.parametrize("task", ["walker_v", "hopper_p", "ant_p", "halfcheetah_v"])
def test_sizes_of_a_bullet_task_are_those_of_its_environment(task):
    pytest.importorskip("pybullet_envs_gymnasium")
    config = compose([f"task={task}"])
    info = task_info(config.env.id)
    assert task_sizes(config) == (info.observation_size, info.action_size, info.horizon)


def test_memory_is_that_of_a_process_of_its_own():
    """Without the process between, Linux would show this one's memory as idle."""
    held = np.ones(2**26)  # 512 MiB beside PyTorch, which the other process has too
    idle, peak, made = memory.run_process(small(), 3)
    assert made == 3
    assert (
        10 < idle < memory.peak_memory("cpu", reserved=False) - held.nbytes / 2**20 / 2
    )
    assert idle < peak < idle + 500


def test_memory_row(monkeypatch):
    peaks = iter([5.0, 3.0, 4.0])
    monkeypatch.setattr(update, "update_memory", lambda config: next(peaks))
    *_, row = time_update(small(), repetitions=1, memory_runs=3)
    assert (row.quantity, row.unit) == ("peak memory over idle", "MiB")
    assert (row.median, row.repetitions) == (4.0, 3)


def test_compiled_updates_are_named_and_have_no_row_of_memory(monkeypatch):
    """The compiler's memory would be in it."""
    learner = sys.modules["resel_torchrl.training.learner"]
    monkeypatch.setattr(learner, "CompiledFunction", lambda function: function)
    monkeypatch.setattr(update, "compiler_problem", lambda device: None)
    rows = time_update(small("train.compile=true"), repetitions=1, memory_runs=3)
    assert [row.unit for row in rows] == ["updates/s"] * 2
    assert all(row.case.endswith(", compiled") for row in rows)


@torch._inductor.config.patch({"cpp.cxx": ("no-such-compiler",)})
def test_without_a_compiler_nothing_is_measured():
    with pytest.raises(ValueError, match=r"without a C\+\+ compiler; install g\+\+"):
        time_update(small("train.compile=true"), repetitions=1, memory_runs=0)


def test_units_of_maxrss():
    assert memory.mebibytes(3 * 2**10, "linux") == 3
    assert memory.mebibytes(3 * 2**20, "darwin") == 3


def test_a_process_that_fails_is_an_error(monkeypatch):
    monkeypatch.setattr(memory, "MEASURE", "raise SystemExit('no luck')")
    with pytest.raises(RuntimeError, match="got exit status 1:\nno luck"):
        update_memory(small())


def test_csv_has_a_line_per_row_and_the_machine(tmp_path):
    rows = time_acting(small(), repetitions=2)
    path = tmp_path / "new" / "speed.csv"
    write_measurements(path, rows)
    with open(path, newline="") as stream:
        [line] = csv.DictReader(stream)
    assert float(line["median"]) == rows[0].median
    assert line["torch"] == torch.__version__
    assert set(describe_machine()) < set(line)
    assert all(describe_machine().values())
    assert measurement_table(rows).count("\n") == 2


def test_the_gpu_is_named_and_a_missing_package_is_none(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda: "NVIDIA H100")
    monkeypatch.setattr(measurement, "PACKAGES", ("torchrl", "no-such-package"))
    machine = describe_machine()
    assert machine["gpu"] == "NVIDIA H100"
    assert machine["torchrl"] != "none" and machine["no-such-package"] == "none"


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: time_replay([100], [20]), "stored: expected room for a batch of 2000"),
        (lambda: time_replay([100], [0]), "length: expected 1 or more, got 0"),
        (lambda: time_replay(repetitions=0), "repetitions: expected 1 or more"),
        (lambda: time_replay(threads=0), "threads: expected 1 or more"),
        (lambda: time_update(small(), repetitions=0), "repetitions: expected 1"),
        (lambda: time_update(small(), memory_runs=-1), "memory_runs: expected 0"),
        (lambda: time_acting(small(), repetitions=0), "repetitions: expected 1"),
        (
            lambda: time_acting(small("device=cuda")),
            "PyTorch sees, got cuda",
        ),
        (lambda: update_memory(small(), updates=0), "updates: expected 1 or more"),
        (
            lambda: time_acting(small("env.id=CartPole-P-v0")),
            "expected a task with continuous actions, got CartPole-P-v0",
        ),
        (lambda: small(core="gruu"), "core=gruu: no such core. Nearest: gru"),
    ],
)
def test_mistakes_say_what_to_do(call, message):
    with pytest.raises((ValueError, ConfigError)) as caught:
        call()
    assert message in str(caught.value)


@pytest.mark.usefixtures("as_thread")
def test_recipe_prints_one_table_and_writes_it(tmp_path, capsys):
    output = tmp_path / "speed.csv"
    arguments = ["task=pendulum_v", "core=gru,lstm", "repetitions=1", "memory_runs=0"]
    arguments += ["steps=2"]
    buffers = ["stored=4000", "lengths=20", f"output={output}"]
    assert recipe("benchmark", "all", *arguments, *buffers) == 0
    text = capsys.readouterr().out
    assert text.count("\n|---|") == 1
    assert f"torch {torch.__version__}" in text
    lines = [line for line in text.splitlines() if line.startswith("| ")]
    with open(output, newline="") as stream:
        rows = list(csv.DictReader(stream))
    assert len(lines) == 1 + len(rows)
    assert [row["benchmark"] for row in rows] == (
        ["replay"] * 5
        + ["update"] * 4
        + ["acting"] * 6
        + ["end_to_end"] * 14
        + ["cores"] * 12
        + ["operations"] * (12 if find_spec("numba") else 6)
    )
    cores = [row["case"].split(", ")[1] for row in rows[5:9]]
    assert cores == ["gru", "gru", "lstm", "lstm"]


def test_recipe_measures_a_configuration_of_ones_own(capsys):
    arguments = ["task=pendulum_v", "core=gru", "repetitions=1", "memory_runs=0"]
    own = ["agent.n_critics=2", "replay.batch_size=600"]
    assert recipe("benchmark", "update", *arguments, *own) == 0
    assert "batch of 3 full episodes of 200" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            [],
            "Known: acting, all, compare, cores, end_to_end, operations",
        ),
        (["updat"], "Nearest: update"),
        (["replay", "core=gru"], "core=gru: expected NAME=VALUE"),
        (["update", "threads=two"], "threads: expected a whole number"),
        (["replay", "lengths=20,x"], "lengths: expected a whole number"),
        (["all", "task=hoper_v"], "Nearest: hopper_v"),
        (["acting", "core=gruu"], "Nearest: gru"),
        (["replay", "stored=10"], "stored: expected room"),
        (["replay", "agent.n_critics=2"], "agent.n_critics=2: replay has no use"),
        (["operations", "operation=gur"], "operations: expected some of"),
        (["compare", "core=gru"], "with: missing"),
        (["compare", "with=train.taw=1"], "train.taw: "),
    ],
)
def test_recipe_ends_mistakes_in_a_sentence(capsys, arguments, message):
    assert recipe("benchmark", *arguments) == 2
    assert message in capsys.readouterr().err
