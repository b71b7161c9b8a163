import pytest
import torch
from torchrl.collectors import Collector
from torchrl.envs import (
    Compose,
    ExplorationType,
    GymEnv,
    InitTracker,
    SerialEnv,
    StepCounter,
    TransformedEnv,
    set_exploration_type,
)
from torchrl.envs.utils import check_env_specs
from torchrl.modules import set_recurrent_mode
from torchrl.modules.utils import get_env_transforms_from_module
from torchrl.modules.utils.utils import _compute_missing_env_transforms

from resel_torchrl.modules import (
    CORES,
    ContextEncoder,
    PreviousStep,
    TanhNormalActor,
    context_inputs,
    make_policy,
)


def make_parts(core="gru", reward=True):
    torch.manual_seed(0)
    encoder = ContextEncoder(
        context_inputs(3, 1, reward=reward),
        core,
        embedding_size=8,
        hidden_size=8,
        context_size=4,
    )
    return encoder, TanhNormalActor(3, 1, context_size=4, hidden_sizes=(16,))


def pendulum(horizon=5, *transforms):
    env = TransformedEnv(
        GymEnv("Pendulum-v1"), Compose(StepCounter(horizon), *transforms)
    )
    env.set_seed(0)
    return env


def types_of(transform):
    return [type(t) for t in transform]


def actions_in_recurrent_mode(encoder, actor, data):
    """Return the deterministic actions for ``data`` ``[R, L]``, unrolled at once."""
    data = data.exclude("action", encoder.state_key)
    with set_recurrent_mode(True):
        encoder(data)
    loc, _ = actor.head(data["observation"], data["context_actor"])
    return loc.tanh()


@pytest.mark.parametrize("core", sorted(CORES))
def test_a_collector_given_only_the_policy_acts_as_recurrent_mode_does(core):
    encoder, actor = make_parts(core)
    collector = Collector(
        pendulum(),
        make_policy(encoder, actor),
        frames_per_batch=23,
        total_frames=46,
        exploration_type=ExplorationType.DETERMINISTIC,
        auto_register_policy_transforms=True,
    )
    batches = list(collector)
    collector.shutdown()
    data = torch.cat(batches)
    assert data["is_init"].sum() == 10  # resets in mid-batch, and across batches
    actions = actions_in_recurrent_mode(encoder, actor, data[None])[0]
    torch.testing.assert_close(data["action"], actions, atol=1e-5, rtol=0)
    if encoder.state_size:
        data["is_init"][1:] = False
        leaked = actions_in_recurrent_mode(encoder, actor, data[None])[0]
        assert not torch.allclose(data["action"], leaked, atol=1e-5)


def test_a_collector_of_torchrl_0_14_registers_only_when_told_to():
    policy = make_policy(*make_parts())
    frames = {"frames_per_batch": 4, "total_frames": 4}
    with (
        pytest.warns(FutureWarning, match=r"InitTracker, PreviousStep.*v0\.15"),
        pytest.raises(KeyError) as error,
    ):
        list(Collector(pendulum(), policy, **frames))
    for part in (
        "expected an entry 'prev_observation'",
        "encoder.make_tensordict_primer()",
        "auto_register_policy_transforms=True",
    ):
        assert part in str(error.value)
    collector = Collector(
        pendulum(), policy, **frames, auto_register_policy_transforms=True
    )
    (data,) = collector
    collector.shutdown()
    assert data.shape == (4,)


@pytest.mark.parametrize("placement", ["around", "inside"])
def test_batched_environments_act_as_recurrent_mode_does(placement):
    encoder, actor = make_parts()
    policy = make_policy(encoder, actor)
    if placement == "around":
        env = SerialEnv(2, [lambda: pendulum(3), lambda: pendulum(4)])
        env = TransformedEnv(env, get_env_transforms_from_module(policy))
    else:
        env = SerialEnv(
            2,
            [
                lambda: pendulum(3, get_env_transforms_from_module(policy)),
                lambda: pendulum(4, get_env_transforms_from_module(policy)),
            ],
        )
    check_env_specs(env)
    with set_exploration_type(ExplorationType.DETERMINISTIC), torch.no_grad():
        data = env.rollout(15, policy, break_when_any_done=False)
    assert data.shape == (2, 15)
    assert data["is_init"].sum() == 5 + 4
    actions = actions_in_recurrent_mode(encoder, actor, data)
    torch.testing.assert_close(data["action"], actions, atol=1e-5, rtol=0)
    assert not _compute_missing_env_transforms(env, policy)


@pytest.mark.parametrize("core", ["gru", "one_step", "memoryless"])
def test_a_second_registration_changes_nothing(core):
    encoder, actor = make_parts(core)
    policy = make_policy(encoder, actor)
    env = pendulum()
    for _ in range(2):
        collector = Collector(
            env, policy, frames_per_batch=4, auto_register_policy_transforms=True
        )
        env = collector.env
    check_env_specs(env)
    kinds = types_of(env.transform)
    assert kinds.count(InitTracker) == 1
    assert kinds.count(PreviousStep) == (core != "memoryless")
    assert len(kinds) == (2 if core == "memoryless" else 3)


def test_a_module_with_both_encoders_supplies_each_entry_once():
    actor_encoder, actor = make_parts(reward=False)
    critic_encoder = ContextEncoder(
        context_inputs(3, 1, reward=True), "gru", out_key="context_critic"
    )
    module = torch.nn.ModuleList([make_policy(actor_encoder, actor), critic_encoder])
    env = TransformedEnv(GymEnv("Pendulum-v1"), get_env_transforms_from_module(module))
    check_env_specs(env)
    first, second = env.transform[1]
    assert set(first.primers.keys()) == {
        "prev_observation",
        "prev_action",
        "context_actor_state",
    }
    assert set(second.primers.keys()) == {"prev_reward", "context_critic_state"}
    assert not _compute_missing_env_transforms(env, module)


def test_the_policy_exposes_action_and_next_memory_only():
    encoder, actor = make_parts()
    policy = make_policy(encoder, actor)
    env = pendulum(5, get_env_transforms_from_module(policy))
    data = env.rollout(3, policy)
    written = {"context_actor", "loc", "scale", "sample_log_prob"}
    assert not written & set(data.keys())
    assert policy.out_keys == ["action", ("next", "context_actor_state")]
    assert data["next", "context_actor_state"].shape == (3, 8)


def test_the_policy_shares_its_parameters():
    encoder, actor = make_parts()
    parts = {id(p) for p in [*encoder.parameters(), *actor.parameters()]}
    assert {id(p) for p in make_policy(encoder, actor).parameters()} == parts


def test_exploration_type_chooses_between_noise_and_the_mean():
    encoder, actor = make_parts()
    policy = make_policy(encoder, actor)
    data = pendulum(5, get_env_transforms_from_module(policy)).reset()
    with set_exploration_type(ExplorationType.DETERMINISTIC):
        assert torch.equal(
            policy(data.clone())["action"], policy(data.clone())["action"]
        )
    with set_exploration_type(ExplorationType.RANDOM):
        assert not torch.equal(
            policy(data.clone())["action"], policy(data.clone())["action"]
        )


def test_mismatched_keys_are_refused():
    encoder, _ = make_parts()
    actor = TanhNormalActor(3, 1, context_size=4, context_key="memory")
    with pytest.raises(ValueError, match=r"context_key='context_actor'"):
        make_policy(encoder, actor)
