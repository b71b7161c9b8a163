"""The benchmark of whole loops runs what it says. No test looks at a duration."""

import time

import pytest
import torch

from recipes.benchmark import acting, end_to_end, measurement
from recipes.benchmark.acting import time_collecting
from recipes.benchmark.end_to_end import time_end_to_end
from recipes.benchmark.replay import replay_memory
from resel_torchrl.collect import EpisodeCollector, RecurrentPolicy
from resel_torchrl.config import compose
from resel_torchrl.config.build import make_buffer
from resel_torchrl.envs import make_gym
from resel_torchrl.training import Learner
from tests.benchmark.test_benchmark import counting, small
from tests.training.threads import as_thread  # noqa: F401

SLOW = 0.002


class SlowEnv:
    """Pendulum with a step of at least two milliseconds."""

    def __init__(self):
        self.env = make_gym("Pendulum-V-v0")

    def reset(self, **kwargs):
        return self.env.reset(**kwargs)

    def step(self, action):
        time.sleep(SLOW)
        return self.env.step(action)

    def close(self):
        self.env.close()


def test_collecting_counts_the_environment_within_the_whole(monkeypatch):
    monkeypatch.setattr(acting, "make_gym", lambda *_, **__: SlowEnv())
    steps = counting(monkeypatch, EpisodeCollector, "step")
    policies = counting(monkeypatch, RecurrentPolicy, "act")
    generator = torch.get_rng_state()
    environment, whole = time_collecting(small("threads=2"), repetitions=2)
    assert torch.equal(generator, torch.get_rng_state())
    chunks = 2 + measurement.WARM_UP
    assert len(steps) == len(policies) == chunks * acting.CHUNK
    assert {threads for *_, threads in steps} == {1}
    assert len(steps[0][0][0].replay_buffer) == 2 * 200  # stored, whole episodes
    assert 1000 * SLOW <= environment.median < whole.median
    for row in (environment, whole):
        assert (row.benchmark, row.unit, row.repetitions) == ("acting", "ms", 2)
        assert row.case == "pendulum_v, gru"


@pytest.mark.usefixtures("as_thread")
def test_end_to_end_runs_both_ways_at_the_configured_ratio(monkeypatch):
    made = []
    make_training = end_to_end.make_training

    def watched(config, run):
        made.append((config, make_training(config, run)))
        return made[-1][1]

    monkeypatch.setattr(end_to_end, "make_training", watched)
    updates = counting(monkeypatch, Learner, "update")
    config = small("replay.batch_size=199", "train.updates_per_step=0.5", "threads=2")
    rows = time_end_to_end(config, repetitions=2, steps=6)
    assert [c.train.collection for c, _ in made] == ["sync", "process"]
    alone = 2 * (2 + measurement.WARM_UP)  # and their policy delay
    for run_config, training in made:
        same = {"train": config.train, "steps": config.steps, "eval": config.eval}
        anew = {"run_dir": "", "log": None}
        changed = run_config.model_copy(update={**same, **anew})
        assert changed == config.model_copy(update=anew)
        assert training.collector.steps == 18
        # The first step is without an update: learning begins after it.
        assert training.learner.updates == 8 + alone
    assert len(updates) == 2 * (8 + alone)
    assert {threads for *_, threads in updates} <= {1, 2}
    by_name = {row.quantity: row for row in rows}
    sync = by_name["whole loop, collection=sync"]
    share = by_name["share of the updates' speed, collection=sync"]
    full = by_name["updates alone, collection=sync"].median / 0.5
    assert share.median == pytest.approx(100 * sync.median / full)
    assert (sync.repetitions, share.unit) == (2, "%")
    assert by_name["updates alone, collection=process"].repetitions == 2
    assert sync.case == "pendulum_v, gru, updates on 2 and collecting on 1 thread"


def test_memory_is_that_of_every_entry_training_stores():
    """All of it counted by hand: what training stores, and 16 bytes per episode."""
    config = small("replay.buffer_size=400", "replay.batch_size=199")
    buffer = make_buffer(config)
    collector = EpisodeCollector(
        make_gym("Pendulum-V-v0"),
        acting.acting_policy(config),
        buffer,
        horizon=200,
        seed=0,
        random_steps=1000,
    )
    for _ in range(400):
        collector.step()
    entries = buffer.storage.get(slice(0, 400)).values(True, True)
    by_hand = sum(entry.nbytes for entry in entries) + 2 * 16
    [row] = replay_memory([400], [200], observation_size=1, action_size=1)
    assert row.median == by_hand / 1e6


def test_a_million_transitions_of_walker_take_at_most_120_mb():
    [row] = replay_memory()
    assert (
        row.case == "1,000,000 stored, episodes of 1000, 9 observations and 6 actions"
    )
    assert 100 < row.median <= 120


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: time_collecting(small(), repetitions=0), "repetitions: expected 1"),
        (lambda: time_end_to_end(small(), steps=0), "steps: expected 1 or more"),
        (
            lambda: time_end_to_end(small("device=cuda")),
            "PyTorch sees, got",
        ),
        (
            lambda: time_collecting(compose(["task=pendulum_v", "device=cuda"])),
            "PyTorch sees",
        ),
        (lambda: replay_memory([10], [20]), "stored: expected 1 or more, got 0"),
    ],
)
def test_mistakes_say_what_to_do(call, message):
    with pytest.raises(ValueError, match=message):
        call()
