"""Collecting beside learning: the ratio, the bound, the weights, resuming.

The process is a thread here, see `as_thread`; real ones are in
test_process_collector_ends.py.
"""

import itertools
import pickle
import time

import gymnasium
import numpy as np
import pytest
import torch

from resel_torchrl.collect import ProcessCollector, episode_seed
from resel_torchrl.collect.policy_weights import WeightReader
from resel_torchrl.modules.cores import CORES
from resel_torchrl.training import CheckpointStore
from tests.training import envs
from tests.training.runs import leaves, resume, rows, same, start
from tests.training.threads import as_thread  # noqa: F401

PROCESS = ["train.collection=process", "eval.interval=0"]
COUNTING = "env.id=tests.training.envs:KilledWalk-v0"

pytestmark = pytest.mark.usefixtures("as_thread")


def watch(training, look):
    """Calls `look` after each step of the loop."""
    make_step = training._step

    def step():
        make_step()
        look()

    training._step = step


def wait_until_ahead(collector, steps):
    """Waits until the process has made so many steps more than are counted."""
    hang = time.monotonic() + 600
    while envs.KilledWalk.steps - collector.steps < steps:
        assert time.monotonic() < hang
        time.sleep(0.001)


@pytest.mark.parametrize(("ratio", "ahead"), [(0.4, 10), (1, 1), (2.5, 4)])
def test_ratio_is_exact_at_every_step_and_row(tmp_path, ratio, ahead):
    options = [f"train.updates_per_step={ratio}", f"train.collect_ahead={ahead}"]
    training = start(tmp_path / "run", *PROCESS, *options, "steps=60")
    first = []

    def look():
        if training.learning and not first:
            first.append(training.collector.steps)
            assert not training.collector.in_random_phase
        due = int((training.collector.steps - first[0]) * ratio) if first else 0
        assert training.learner.updates == due

    watch(training, look)
    training.run()
    assert training.collector.steps == 60
    assert 25 <= first[0] <= 25 + envs.HORIZON
    table = rows(tmp_path / "run/metrics.csv")
    assert [row["step"] for row in table] == ["20", "40", "60"]
    for row in table:
        learned = max(0, int(row["step"]) - first[0])
        assert int(row["updates"]) == int(learned * ratio)


@pytest.mark.parametrize("ahead", [1, 7])
def test_process_is_ahead_by_no_more_than_it_may(tmp_path, monkeypatch, ahead):
    monkeypatch.setattr(envs.KilledWalk, "steps", 0)
    options = [COUNTING, "steps=60", f"train.collect_ahead={ahead}"]
    training = start(tmp_path / "run", *PROCESS, *options)
    leads = []

    def look():
        # The control: it does run ahead, as far as its credit reaches.
        wait_until_ahead(training.collector, ahead - max(1, ahead // 2) + 1)
        time.sleep(0.003)  # in which it might go too far
        leads.append(envs.KilledWalk.steps - training.collector.steps)

    watch(training, look)
    training.run()
    assert min(leads) >= 0 and max(leads) <= ahead


def test_a_resumed_process_is_ahead_by_no_more_than_it_may(tmp_path, monkeypatch):
    monkeypatch.setattr(envs.KilledWalk, "steps", 0)
    options = [COUNTING, "steps=40", "train.collect_ahead=7"]
    training = start(tmp_path / "run", *PROCESS, *options)
    watch(training, lambda: wait_until_ahead(training.collector, 5))
    training.run()
    again = resume(tmp_path / "run", "steps=60")
    collector = again.collector
    waiting = len(collector.state_dict()["inbox"])
    assert waiting > 0  # steps made and not counted came along
    envs.KilledWalk.steps = collector.steps + waiting  # those replayed apart
    leads = []

    def look():
        time.sleep(0.003)
        leads.append(envs.KilledWalk.steps - collector.steps)

    watch(again, look)
    again.run()
    assert min(leads) >= 0 and max(leads) <= 7


def test_same_episodes_as_in_the_same_process(tmp_path):
    """With random actions all along, rows and buffer are equal bit for bit."""
    options = ["train.random_steps=1000", "steps=100", "eval.interval=30"]
    start(tmp_path / "sync", *options).run()
    start(tmp_path / "process", *options, "train.collection=process").run()
    for name in ("metrics.csv", "eval.csv"):
        assert rows(tmp_path / "sync" / name) == rows(tmp_path / "process" / name)
    stores = (
        CheckpointStore(tmp_path / name / "checkpoints", None)
        for name in ("sync", "process")
    )
    first, second = (dict(leaves(store.load(100, "replay"))) for store in stores)
    assert first.keys() == second.keys()
    assert all(same(first[key], second[key]) for key in first)


def starts_of_episodes(collector) -> list[torch.Tensor]:
    data = collector.replay_buffer[:]
    return list(data["observation"][data["is_init"].squeeze(-1)])


def assert_seeded_in_order(collector, episodes) -> None:
    env = gymnasium.make("Walk-v0")
    starts = starts_of_episodes(collector)
    assert len(starts) == len(episodes)
    for number, first in zip(episodes, starts, strict=True):
        expected, _ = env.reset(seed=episode_seed(collector.seed, 0, number))
        assert torch.equal(torch.from_numpy(expected), first), number


def test_episodes_come_in_order_and_whole(tmp_path):
    training = start(tmp_path / "run", *PROCESS, "replay.buffer_size=1000")
    sizes = []

    def look():
        collector = training.collector
        under_way = max(collector.counters().t[0], 0)
        sizes.append(len(collector.replay_buffer) + under_way == collector.steps)

    watch(training, look)
    training.run()
    assert len(sizes) == 130 and all(sizes)
    assert_seeded_in_order(training.collector, range(training.collector.episodes))


@pytest.mark.parametrize(("sync", "ahead"), [(1, 10), (6, 10), (6, 1)])
def test_weights_are_at_most_policy_sync_updates_old(tmp_path, sync, ahead):
    options = [f"train.policy_sync={sync}", "train.updates_per_step=1"]
    options += [f"train.collect_ahead={ahead}"]
    training = start(tmp_path / "run", *PROCESS, *options, "steps=80")
    ages = []
    watch(training, lambda: ages.append(training.hooks[0].copy.age))
    training.run()
    assert min(ages) >= 0 and max(ages) <= sync
    logged = [int(row["weight_age"]) for row in rows(tmp_path / "run/metrics.csv")]
    assert logged == ages[19::20]
    if ahead == 1:  # so that it cannot make all steps right after new weights
        assert max(ages) > 1  # the control: they do age


def test_process_acts_on_what_was_learned(tmp_path, monkeypatch):
    seen = []
    load = WeightReader.load

    def watched(self):
        age = load(self)
        seen.append(next(self.modules[0].parameters()).clone())
        return age

    monkeypatch.setattr(WeightReader, "load", watched)
    options = [*PROCESS, "train.collect_ahead=1"]  # it cannot miss many
    training = start(tmp_path / "run", *options, "steps=90")
    training.run()
    assert torch.equal(seen[0], seen[10])  # the random phase
    assert len({tuple(x.flatten().tolist()) for x in seen}) > 8


@pytest.mark.parametrize("stop_at", [7, 97])
def test_stopped_and_resumed(tmp_path, stop_at):
    """No step is lost or made twice, and the ratio is that of one run."""
    options = [*PROCESS, "replay.buffer_size=1000", "train.random_steps=30"]
    training = start(tmp_path / "run", *options, f"steps={stop_at}")
    training.run()
    before = training.collector.counters()
    again = resume(tmp_path / "run", "steps=130")
    assert again.collector.counters() == before
    store = CheckpointStore(tmp_path / "run/checkpoints", None)
    saved = store.load(stop_at, "progress")["collector"]["inbox"]
    restored = again.collector.state_dict()["inbox"]
    assert [s["counters"] for s in restored] == [s["counters"] for s in saved]
    seen = []
    watch(again, lambda: seen.append(again.collector.counters()))
    again.run()
    assert [c.steps for c in seen] == list(range(stop_at + 1, 131))
    collector = again.collector
    assert_seeded_in_order(collector, range(collector.episodes))
    assert len(collector.replay_buffer) + max(seen[-1].t[0], 0) == 130
    table = rows(tmp_path / "run/metrics.csv")
    assert [row["step"] for row in table] == [str(n) for n in range(20, 121, 20)]
    updates = [int(row["updates"]) for row in table]
    assert [b - a for a, b in itertools.pairwise(updates[3:])] == [10, 10]


def test_memory_and_episode_under_way_are_those_of_the_process(tmp_path):
    training = start(tmp_path / "run", *PROCESS, "steps=97")
    training.run()
    stored = CheckpointStore(tmp_path / "run/checkpoints", None).load(97, "progress")
    process, inbox = stored["collector"]["process"], stored["collector"]["inbox"]
    assert process["steps"] == 97 + len(inbox)
    again = resume(tmp_path / "run", "steps=98")
    replayed = again.collector.state_dict()["process"]
    assert replayed.keys() == process.keys()
    for key, value in leaves(process):
        assert same(value, dict(leaves(replayed))[key]), key
    again.run()


@pytest.mark.parametrize("core", CORES)
def test_every_core_can_be_sent_to_a_process(tmp_path, core):
    options = [f"core={core}", "agent.reward_input=true"]
    if core == "mamba":
        options += ["agent.core_kwargs.d_state=4", "agent.core_kwargs.d_conv=3"]
    elif core == "transformer":
        options += ["agent.core_kwargs.n_heads=2", "agent.core_kwargs.max_length=64"]
    training = start(tmp_path / "run", *PROCESS, *options)
    collector = training.collector
    sent = collector.make_env, collector.make_policy, collector.weights.reader()
    make_env, make_policy, reader = pickle.loads(pickle.dumps(sent))
    observation, _ = make_env().reset(seed=1)
    assert reader.load() == 0
    there, here = make_policy(*reader.modules), collector.policy
    for reward in (None, 0.5, -0.25):
        actions = [p(observation, reward, deterministic=True) for p in (there, here)]
        assert np.array_equal(*actions)


def test_changed_simulator_is_noticed_on_resume(tmp_path, monkeypatch):
    step = envs.Walk.step

    def stands(self, action):
        observation, reward, *_ = step(self, action)
        return observation, reward, False, False, {}

    # Whatever the actions, step 97 is in the middle of an episode.
    monkeypatch.setattr(envs.Walk, "step", stands)
    training = start(tmp_path / "run", *PROCESS, "steps=97", "train.collect_ahead=1")
    training.run()
    resume(tmp_path / "run")
    observe = envs.Walk._observation
    monkeypatch.setattr(envs.Walk, "_observation", lambda self: observe(self) + 1)
    with pytest.raises(RuntimeError, match="not the one of the stored run"):
        resume(tmp_path / "run")


def test_arguments_and_a_closed_collector(tmp_path):
    training = start(tmp_path / "run", *PROCESS, "steps=30")
    collector = training.collector
    assert isinstance(collector, ProcessCollector)
    training.run()
    for call in (collector.step, collector.state_dict):
        with pytest.raises(RuntimeError, match="expected a collecting process at work"):
            call()
    with pytest.raises(ValueError, match="expected ahead of 1 step or more, got 0"):
        ProcessCollector(
            None, lambda: None, training.hooks[0].copy, None, horizon=1, seed=0, ahead=0
        )
