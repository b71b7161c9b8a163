"""Runs on segments that start from the stored memory of the acting policy."""

import numpy as np
import pytest
import torch

from resel_torchrl.cli import main
from resel_torchrl.config import compose
from resel_torchrl.errors import ConfigError
from resel_torchrl.training import CheckpointStore
from tests.training.memories import recomputed
from tests.training.runs import assert_same_run, resume, rows, start, tiny
from tests.training.threads import as_thread  # noqa: F401

KEY = "context_actor_state"
STORED = [
    "replay.segment_length=4",
    "replay.burn_in=2",
    "replay.start_state=stored",
]
LEARNER = ["steps=70", "eval.interval=0"]
pytestmark = pytest.mark.filterwarnings("ignore:The buffer holds")


@pytest.mark.parametrize("copies", [1, 2])
def test_a_run_resumes_bit_for_bit(tmp_path, copies):
    options = [*STORED, "core=lstm", "eval.interval=60", f"env.copies={copies}"]
    start(tmp_path / "whole", *options, "steps=70").run()
    for stop in (16, 50):  # in the random phase, and past it
        folder = tmp_path / f"parts-{stop}"
        first = start(folder, *options, f"steps={stop}")
        first.run()
        assert max(first.collector.counters().t) > 0  # an episode was in flight
        resume(folder, "steps=70").run()
        assert_same_run(folder, tmp_path / "whole")


def test_memories_of_the_episode_in_flight_are_the_old_weights(tmp_path):
    """The checkpoint has them; replayed with the weights of now they are others."""
    first = start(tmp_path / "run", *STORED, "steps=57", "train.updates_per_step=1")
    first.run()
    (t,) = first.collector.counters().t
    assert t > 3
    (had,) = first.collector.state_dict()["in_flight"]
    store = CheckpointStore(tmp_path / "run/checkpoints", None)
    (kept,) = store.load(57, "progress")["collector"]["in_flight"]
    assert torch.equal(kept["memories"], had["memories"]) and len(had["memories"]) == t
    again = resume(tmp_path / "run", "steps=70").collector
    (replayed,) = again.state_dict()["in_flight"]
    assert torch.equal(replayed["memories"], had["memories"])
    policy, latest = again.policy, []
    episode, had = again.abandon_episode(), had["memories"].numpy()
    for step in range(t):
        latest.append(policy.memory[0].copy() if step else 0.0 * had[0])
        reward = episode["rewards"][step - 1] if step else None
        policy.act(episode["observations"][step], reward, first=step == 0)
        policy.replace_action(episode["actions"][step])
    assert np.abs(np.stack(latest) - had).max() > 1e-6


def test_rows_of_a_run_are_segments(tmp_path):
    training = start(tmp_path / "run", *STORED, *LEARNER)
    learner, seen = training.learner, []
    pack = learner.batches.pack

    def watched(flat):
        batch = pack(flat)
        seen.append(batch)
        return batch

    learner.batches.pack = watched
    training.run()
    assert {batch.shape[1] for batch in seen} == {4 + 2 + 1}
    assert {len(batch) for batch in seen} <= set(pack.keywords["row_counts"])
    inside = torch.cat([~batch["is_init"][:, 0, 0] for batch in seen])
    state = torch.cat([batch[KEY][:, 0] for batch in seen])
    assert 0.2 < inside.float().mean() < 1
    assert state[inside].any(-1).all() and not state[~inside].any()
    assert float(rows(tmp_path / "run/metrics.csv")[-1]["context_actor_change"]) > 0


def test_the_next_batch_is_saved_and_taken_back_in_the_storage_of_one_column(tmp_path):
    start(tmp_path / "run", *STORED, *LEARNER).run()
    learner = resume(tmp_path / "run", "steps=80").learner
    saved = learner.state_dict()["batch"]["entries"]
    for memory in (learner.batches.upcoming[KEY], saved[KEY]):
        assert memory.shape[1:] == (7, 6)
        assert memory.untyped_storage().nbytes() == 4 * 6 * len(memory)
    assert saved["observation"].untyped_storage().nbytes() == 4 * 2 * 7 * len(memory)


def test_another_start_state_gives_another_run(tmp_path):
    start(tmp_path / "stored", *STORED, *LEARNER).run()
    zero = [*STORED[:2], "replay.start_state=zero"]
    start(tmp_path / "zero", *zero, *LEARNER).run()
    tables = [rows(tmp_path / name / "metrics.csv") for name in ("stored", "zero")]
    assert tables[0][:1] == tables[1][:1]  # the random phase is the same
    assert tables[0] != tables[1]


@pytest.mark.usefixtures("as_thread")
def test_a_collecting_process_stores_and_resumes_too(tmp_path):
    """In the random phase, with the weights of the start; and past it, resumed."""
    options = [*STORED, "train.collection=process", "eval.interval=0"]
    training = start(tmp_path / "random", *options, "steps=60", "train.random_steps=99")
    training.run()
    flat = training.learner.batches.replay_buffer[:]
    expected = recomputed(training.collector.policy.encoder, flat)
    torch.testing.assert_close(flat[KEY], expected, atol=1e-5, rtol=1e-5)
    options += ["train.collect_ahead=1"]
    for stop in (16, 55):
        folder = tmp_path / f"run-{stop}"
        start(folder, *options, f"steps={stop}").run()
        store = CheckpointStore(folder / "checkpoints", None)
        kept = store.load(stop, "progress")["collector"]["process"]["in_flight"][0][
            "memories"
        ]
        again = resume(folder, "steps=70")
        begun = again.collector._arrays["memories"][0, : len(kept)]
        assert np.array_equal(begun, kept.numpy())
        assert stop > 25 or len(kept) > 1  # the random phase repeats itself
        again.run()
        assert again.collector.steps == 70 and again.learner.updates > 0


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["replay.start_state=stored"], r"start_state: expected zero with whole epis"),
        (
            ["replay.start_state=old"],
            r"start_state: expected zero or stored, got 'ol",
        ),
    ],
)
def test_bad_values_are_named(overrides, message):
    with pytest.raises(ConfigError, match=message):
        compose(["task=pendulum_v", *overrides])


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["core=one_step"], r"core one_step, which has no memory, got stored"),
        (
            ["agent.hidden_size=256", "core=mamba", "replay.buffer_size=1_000_000"],
            r"at most 32 GB in all, got 145.4 GB \(36352 numbers.*buffer_size=220070",
        ),
    ],
)
def test_what_cannot_be_kept_is_refused_before_the_run(tmp_path, overrides, message):
    with pytest.raises(ConfigError, match=message):
        start(tmp_path / "run", *STORED, *overrides)
    assert not (tmp_path / "run").exists()
    start(tmp_path / "fits", *STORED, *overrides[:-1], "core=gru")
    start(tmp_path / "zero", "replay.segment_length=4", *overrides)


def test_the_command_line(tmp_path):
    task = ["task=pendulum_v", "core=lstm", "env.id=Pendulum-V-v0", "eval.interval=0"]
    short = ["steps=460", "train.random_steps=200", "train.updates_per_step=0.02"]
    buffers = ["replay.buffer_size=1000", "replay.batch_size=64", "log.interval=100"]
    overrides = [*tiny(tmp_path / "run"), *task, *short, *buffers, *STORED]
    assert main(["train", *overrides]) == 0
    last = rows(tmp_path / "run/metrics.csv")[-1]
    assert last["step"] == "400" and float(last["loss_qvalue"]) > 0
