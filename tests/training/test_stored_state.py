"""Runs that keep the memory of the acting policy, and start segments from it."""

import subprocess
import sys
import warnings

import gymnasium
import numpy as np
import pytest
import torch
from torchrl.data import LazyTensorStorage, TensorDictReplayBuffer
from torchrl.modules import set_recurrent_mode

from resel_torchrl.config import ConfigError, compose
from resel_torchrl.replay import SegmentSampler, pack_episodes
from resel_torchrl.training import (
    CheckpointStore,
    Collector,
    RecurrentPolicy,
    make_agent,
)
from tests.training import envs
from tests.training.runs import assert_same_run, resume, rows, start, tiny
from tests.training.threads import as_thread  # noqa: F401

SIZES = {"embedding_size": 4, "hidden_size": 6, "context_size": 5, "head_sizes": [8]}
KEY = "context_actor_state"
STORED = [
    "replay.segment_length=4",
    "replay.burn_in=2",
    "replay.start_state=stored",
]
LEARNER = ["steps=70", "eval.interval=0"]


@pytest.fixture(autouse=True)
def small_buffers_at_the_start():
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "The buffer holds")
        yield


def collected(core, steps=60, random_steps=0, mode="auto", sampler=None, **options):
    """A collector after some steps, and the encoder that acted."""
    torch.manual_seed(1)
    agent = make_agent(2, 1, core=core, n_critics=2, reward_input=True, **SIZES)
    policy = RecurrentPolicy(agent.actor_encoder, agent.actor, 2, 1, mode=mode)
    buffer = TensorDictReplayBuffer(
        storage=LazyTensorStorage(3000), sampler=sampler, batch_size=10**6
    )
    options = {"store_memory": True, **options}
    env = gymnasium.make("Walk-v0")
    limits = {"horizon": envs.HORIZON, "seed": 3, "random_steps": random_steps}
    collector = Collector(env, policy, buffer, **limits, **options)
    for _ in range(steps):
        collector.step()
    return collector, agent.actor_encoder


@torch.no_grad()
def recomputed(encoder, flat):
    """The memory before each transition, one step at a time."""
    packed = pack_episodes(flat[:], len(flat) * 2)
    order = packed["valid"].squeeze(-1)
    inputs = [packed[key][0] for key in encoder.input_keys]
    start = packed["is_init"][0, :, 0]
    state, found = torch.zeros(1, encoder.state_size), {}
    for t in range(packed.shape[1]):
        before = torch.where(start[t], 0.0, state)
        if order[0, t]:
            found[tuple(packed["observation"][0, t].tolist())] = before[0]
        _, state = encoder.encode_step(
            [x[t : t + 1] for x in inputs], start[t : t + 1], state
        )
    return torch.stack([found[tuple(o.tolist())] for o in flat["observation"]])


@pytest.mark.parametrize("core", ["gru", "lstm", "mamba", "lru"])
@pytest.mark.parametrize("random_steps", [0, 1000])
@pytest.mark.parametrize("mode", ["auto", "eager"])
def test_the_memory_before_each_step_is_stored(core, random_steps, mode):
    """The random phase included. Control: the one after the step is another."""
    collector, encoder = collected(core, random_steps=random_steps, mode=mode)
    flat = collector.replay_buffer[:]
    assert flat[KEY].dtype == torch.float32
    starts = flat["is_init"].squeeze(-1)
    assert starts.sum() > 2
    assert not flat[KEY][starts].any() and flat[KEY][~starts].any(-1).all()
    expected = recomputed(encoder, flat)
    torch.testing.assert_close(flat[KEY], expected, atol=1e-5, rtol=1e-5)
    after = expected.roll(-1, 0)
    inner = ~flat["next", "done"].squeeze(-1)
    assert (flat[KEY] - after)[inner].abs().amax(-1).min() > 1e-4


def test_watching_in_the_random_phase_draws_nothing_and_changes_no_step():
    state = None
    for store_memory in (False, True):
        collector, _ = collected("gru", 0, 10_000, store_memory=store_memory)
        before = torch.get_rng_state()
        for _ in range(60):
            collector.step()
        assert torch.equal(before, torch.get_rng_state())
        flat = collector.replay_buffer[:].exclude(KEY)
        assert state is None or (flat == state).all()
        state = flat


def test_nothing_is_stored_unless_asked_and_without_memory_it_is_an_error():
    collector, _ = collected("gru", store_memory=False)
    assert collector.replay_buffer[:].get(KEY, None) is None
    assert "memories" not in collector.state_dict()
    with pytest.raises(ValueError, match="expected an encoder with a memory to store"):
        collected("memoryless")


@torch.no_grad()
def contexts(encoder, batch):
    """Context at each transition learned from, by its observation."""
    with set_recurrent_mode(True):
        inputs = batch.select(*encoder.in_keys, strict=False)
        found = encoder(inputs)["context_actor"]
    mask = batch.get("learning_mask", batch["valid"]).squeeze(-1)
    return {
        tuple(key.tolist()): value
        for key, value in zip(batch["observation"][mask], found[mask], strict=True)
    }


@pytest.mark.parametrize("core", ["gru", "lstm", "mamba"])
@pytest.mark.parametrize("random_steps", [0, 30])
@pytest.mark.parametrize("burn_in", [0, 2])
def test_contexts_from_stored_memories_are_those_of_whole_episodes(
    core, random_steps, burn_in
):
    """With the weights that acted. Controls: from zero, and with other weights."""
    sampler = SegmentSampler(3, burn_in=burn_in, seed=0)
    collector, encoder = collected(core, 60, random_steps, sampler=sampler)
    buffer = collector.replay_buffer
    whole = pack_episodes(buffer[:], envs.HORIZON + 1)
    segments = buffer.sample()
    stored = pack_episodes(segments, 4 + burn_in, state_key=KEY)
    from_zero = pack_episodes(segments, 4 + burn_in)

    def largest(batch):
        found, expected = contexts(encoder, batch), contexts(encoder, whole)
        assert found.keys() == expected.keys() and len(found) == len(buffer)
        return max((found[key] - expected[key]).abs().max() for key in expected)

    assert largest(stored) < 1e-5
    assert largest(from_zero) > 1e-3
    for parameter in encoder.parameters():
        parameter.data += 0.1 * torch.randn_like(parameter)
    assert largest(stored) > 1e-3


@pytest.mark.parametrize("algorithm", ["resel", "td3_resel", "discrete_resel"])
def test_a_run_resumes_bit_for_bit(tmp_path, algorithm):
    name = "DiscreteWalk" if algorithm == "discrete_resel" else "Walk"
    options = [f"env.id=tests.training.envs:{name}-v0", f"agent.algorithm={algorithm}"]
    options += [*STORED, "core=lstm"]
    start(tmp_path / "whole", *options, "steps=70").run()
    for stop in (16, 50):  # in the random phase, and past it
        folder = tmp_path / f"parts-{stop}"
        first = start(folder, *options, f"steps={stop}")
        first.run()
        assert first.collector.counters().t > 0  # an episode was in flight
        resume(folder, "steps=70").run()
        assert_same_run(folder, tmp_path / "whole")


def test_memories_of_the_episode_in_flight_are_the_old_weights(tmp_path):
    """The checkpoint has them; replayed with the weights of now they are others."""
    first = start(tmp_path / "run", *STORED, "steps=57", "train.updates_per_step=1")
    first.run()
    t = first.collector.counters().t
    assert t > 3
    had = first.collector._memories[:t]
    store = CheckpointStore(tmp_path / "run/checkpoints", None)
    kept = store.load(57, "progress")["collector"]["memories"]
    assert np.array_equal(kept.numpy(), had)
    again = resume(tmp_path / "run", "steps=70").collector
    assert np.array_equal(again._memories[:t], had)
    policy, latest = again.policy, []
    for step in range(t):
        latest.append(policy.memory.copy() if step else 0.0 * had[0])
        reward = again._rewards[step - 1] if step else None
        policy.observe(
            again._observations[step], reward, step == 0, again._actions[step]
        )
    assert np.abs(np.stack(latest) - had).max() > 1e-6


def test_rows_of_a_run_are_segments(tmp_path):
    training = start(tmp_path / "run", *STORED, *LEARNER)
    learner, seen = training.learner, []
    pack = learner.pack

    def watched(flat):
        batch = pack(flat)
        seen.append(batch)
        return batch

    learner.pack = watched
    training.run()
    assert {batch.shape[1] for batch in seen} == {4 + 2 + 1}
    assert {len(batch) for batch in seen} <= set(pack.keywords["row_counts"])
    inside = torch.cat([~batch["is_init"][:, 0, 0] for batch in seen])
    state = torch.cat([batch[KEY][:, 0] for batch in seen])
    assert 0.2 < inside.float().mean() < 1
    assert state[inside].any(-1).all() and not state[~inside].any()
    assert float(rows(tmp_path / "run/metrics.csv")[-1]["context_actor_change"]) > 0


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
    flat = training.learner.replay_buffer[:]
    expected = recomputed(training.collector.policy.encoder, flat)
    torch.testing.assert_close(flat[KEY], expected, atol=1e-5, rtol=1e-5)
    options += ["train.collect_ahead=1"]
    for stop in (16, 55):
        folder = tmp_path / f"run-{stop}"
        start(folder, *options, f"steps={stop}").run()
        store = CheckpointStore(folder / "checkpoints", None)
        kept = store.load(stop, "progress")["collector"]["process"]["memories"]
        again = resume(folder, "steps=70")
        begun = again.collector._memories[: len(kept)]
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
    buffers = ["replay.buffer_size=1000", "replay.batch_size=64"]
    overrides = [*tiny(tmp_path / "run"), *task, *short, *buffers, *STORED]
    command = [sys.executable, "-m", "resel_torchrl", "train"]
    done = subprocess.run(
        [*command, *overrides, "log.interval=100"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    last = rows(tmp_path / "run/metrics.csv")[-1]
    assert last["step"] == "400" and float(last["loss_qvalue"]) > 0
