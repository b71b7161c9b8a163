"""The memory that the policy had is stored with each step, and gives its contexts."""

import functools

import gymnasium
import pytest
import torch
from torchrl.data import LazyTensorStorage, TensorDictReplayBuffer
from torchrl.envs import GymWrapper, InitTracker, TransformedEnv
from torchrl.modules import set_recurrent_mode

from resel_torchrl.collect import EpisodeCollector, RecurrentPolicy
from resel_torchrl.envs import vectorize
from resel_torchrl.modules import make_agent, make_policy
from resel_torchrl.replay import SegmentSampler, pack_episodes
from tests.training import envs
from tests.training.memories import recomputed

SIZES = {"embedding_size": 4, "hidden_size": 6, "context_size": 5, "head_sizes": [8]}
KEY = "context_actor_state"
pytestmark = pytest.mark.filterwarnings("ignore:The buffer holds")


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
    collector = EpisodeCollector(env, policy, buffer, **limits, **options)
    for _ in range(steps):
        collector.step()
    return collector, agent.actor_encoder


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


@pytest.mark.parametrize(
    ("random_steps", "starts"), [(0, 0), (50, 0), (1000, 0), (0, 5)]
)
def test_several_environments_store_each_its_own_memory(random_steps, starts):
    """Also where some act already and others are in their last random episode."""
    torch.manual_seed(1)
    agent = make_agent(2, 1, core="gru", n_critics=2, reward_input=True, **SIZES)
    encoder = agent.actor_encoder
    policy = RecurrentPolicy(encoder, agent.actor, 2, 1, num_envs=3)
    buffer = TensorDictReplayBuffer(storage=LazyTensorStorage(3000))
    walks = vectorize([functools.partial(gymnasium.make, "Walk-v0")] * 3)
    limits = {"horizon": envs.HORIZON, "seed": 3, "random_steps": random_steps}
    limits["random_start_steps"] = starts
    collector = EpisodeCollector(walks, policy, buffer, store_memory=True, **limits)
    mixed, began = 0, [0, 0, 0]
    for _ in range(50):
        steps, _, t = collector.counters()
        began = [steps if t[i] < 0 else began[i] for i in range(3)]
        collector.step()
        at_random = [step < random_steps for step in began]
        mixed += any(at_random) and not all(at_random)
    assert (mixed > 0) == (random_steps == 50)
    flat = buffer[:]
    assert flat["is_init"].sum() > 6
    expected = recomputed(encoder, flat)
    torch.testing.assert_close(flat[KEY], expected, atol=1e-5, rtol=1e-5)
    assert flat[KEY][~flat["is_init"].squeeze(-1)].any(-1).all()
    memoryless = make_agent(2, 1, core="memoryless", n_critics=2, **SIZES)
    policy = RecurrentPolicy(
        memoryless.actor_encoder, memoryless.actor, 2, 1, num_envs=3
    )
    with pytest.raises(ValueError, match="expected an encoder with a memory to store"):
        EpisodeCollector(walks, policy, buffer, store_memory=True, **limits)


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
    assert "memories" not in collector.state_dict()["in_flight"][0]
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


def test_the_entry_that_torchrl_writes_while_acting_is_the_memory_too():
    torch.manual_seed(0)
    agent = make_agent(2, 1, core="gru", **SIZES)
    encoder = agent.actor_encoder
    env = TransformedEnv(GymWrapper(gymnasium.make("Walk-v0")), InitTracker())
    env.append_transform(encoder.make_tensordict_primer())
    with torch.no_grad():
        policy = make_policy(encoder, agent.actor)
        data = env.rollout(50, policy, break_when_any_done=False)
    last = int(data["next", "done"].flatten().nonzero().max())
    buffer = TensorDictReplayBuffer(
        storage=LazyTensorStorage(100), sampler=SegmentSampler(3), batch_size=last + 1
    )
    buffer.extend(data[: last + 1])
    stored = pack_episodes(buffer.sample(), 4, state_key=encoder.state_key)
    found = contexts(encoder, stored)
    whole = contexts(encoder, pack_episodes(data[: last + 1], envs.HORIZON + 1))
    assert found.keys() == whole.keys() and len(whole) == last + 1
    for key, context in whole.items():
        torch.testing.assert_close(found[key], context)
