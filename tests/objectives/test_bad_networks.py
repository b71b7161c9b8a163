"""What the losses for discrete actions and of TD3 refuse, and what their errors say."""

import pytest
import torch
from tensordict.nn import TensorDictModule
from torch import nn
from torch.distributions import Categorical
from torchrl.modules import Actor, OneHotCategorical, ProbabilisticActor
from torchrl.objectives import ValueEstimators

from resel_torchrl.modules import DiscreteEnsembleCritic, EnsembleCritic
from resel_torchrl.objectives import DiscreteRESeLLoss, TD3RESeLLoss
from tests.objectives.episodes import (
    ACTION,
    ALGORITHMS,
    CONTEXT,
    CRITICS,
    LOSSES,
    N_ACTIONS,
    OBSERVATION,
    flatten,
    make_episodes,
    make_loss,
    make_modules,
    total,
)

# Most tests build no target updater; TorchRL reminds of it.
pytestmark = pytest.mark.filterwarnings("ignore:No target network updater")
of_every_loss = pytest.mark.parametrize("algorithm", ALGORITHMS)


def build(algorithm, **changes):
    modules = make_modules(algorithm=algorithm)
    options = {key: changes.pop(key) for key in list(changes) if key not in modules}
    return LOSSES[algorithm](**{**modules, **changes}, **options)


def policy_of(distribution):
    """A ProbabilisticActor of TorchRL, without a spec."""
    return ProbabilisticActor(
        TensorDictModule(
            nn.Linear(CONTEXT, N_ACTIONS),
            in_keys=["context_actor"],
            out_keys=["logits"],
        ),
        in_keys=["logits"],
        distribution_class=distribution,
        distribution_kwargs={"validate_args": False},
    )


@of_every_loss
def test_flat_batch_names_pack_episodes(algorithm):
    with pytest.raises(ValueError, match=r"pack_episodes"):
        make_loss(algorithm=algorithm)(flatten(make_episodes([3, 2])))


@of_every_loss
@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"critic_subset_size": CRITICS + 1}, "critic_subset_size"),
        ({"reduction": "median"}, "reduction"),
    ],
)
def test_options_out_of_range_are_refused(algorithm, options, message):
    with pytest.raises(ValueError, match=message):
        build(algorithm, **options)


@of_every_loss
def test_other_value_estimators_are_refused(algorithm):
    with pytest.raises(NotImplementedError, match="one-step"):
        make_loss(algorithm=algorithm).make_value_estimator(ValueEstimators.TDLambda)


@of_every_loss
def test_modules_that_do_not_fit_are_refused(algorithm):
    modules = make_modules(algorithm=algorithm)
    with pytest.raises(ValueError, match="same key"):
        build(algorithm, critic_encoder=modules["actor_encoder"])


def test_discrete_loss_refuses_continuous_and_integer_actions():
    continuous = make_modules()["actor_network"]
    with pytest.raises(ValueError, match=r"one-hot categorical.*got TanhNormal.*RESeL"):
        build("discrete_resel", actor_network=continuous)
    with pytest.raises(ValueError, match=r"one-hot categorical.*got Categorical\."):
        build("discrete_resel", actor_network=policy_of(Categorical))
    with pytest.raises(TypeError, match="CategoricalActor"):
        build("discrete_resel", actor_network=nn.Linear(1, 1))


def test_td3_loss_refuses_discrete_actions_and_negative_noise():
    discrete = make_modules(algorithm="discrete_resel")["actor_network"]
    with pytest.raises(ValueError, match="Expected continuous actions, got OneHot"):
        build("td3_resel", actor_network=discrete)
    for name in ("target_noise", "target_noise_clip"):
        with pytest.raises(ValueError, match="of 0 or more, got"):
            build("td3_resel", **{name: -0.1})


@pytest.mark.parametrize("algorithm", ["discrete_resel"])
def test_critic_without_an_output_per_action_is_refused(batch, algorithm):
    sizes = (OBSERVATION, N_ACTIONS + 1, CONTEXT)
    critic = DiscreteEnsembleCritic(*sizes, n_critics=CRITICS)
    with pytest.raises(ValueError, match=r"3, 'n_critics'\].*DiscreteEnsembleCritic"):
        build(algorithm, qvalue_network=critic)(batch)


def test_critic_with_an_output_per_action_is_refused_by_td3(batch):
    critic = DiscreteEnsembleCritic(
        OBSERVATION, ACTION, CONTEXT, out_key="state_action_value"
    )
    with pytest.raises(ValueError, match=r"'n_critics'\].*modules.EnsembleCritic"):
        build("td3_resel", qvalue_network=critic)(batch)


@pytest.mark.parametrize("algorithm", ["discrete_resel"])
def test_one_hot_integers_as_torchrl_stores_them_give_the_same_loss(batch, algorithm):
    losses = [make_loss(algorithm=algorithm) for _ in range(2)]
    integers = batch.clone()
    for key in ("action", "prev_action"):
        integers[key] = batch[key].long()
    outputs = []
    for loss, data in zip(losses, (batch, integers), strict=True):
        torch.manual_seed(0)
        outputs.append(loss(data))
    assert (outputs[0] == outputs[1]).all()


def test_torchrls_own_policies_serve_as_actors(batch):
    """A ProbabilisticActor without a spec, and TD3's Actor."""
    categorical = policy_of(OneHotCategorical)
    with pytest.raises(ValueError, match="target_entropy as a number"):
        build("discrete_resel", actor_network=categorical)
    loss = build("discrete_resel", actor_network=categorical, target_entropy=0.5)
    assert isinstance(loss, DiscreteRESeLLoss)

    head = nn.Sequential(nn.Linear(CONTEXT, ACTION), nn.Tanh())
    plain = Actor(head, in_keys=["context_actor"], out_keys=["action"])
    loss = build("td3_resel", actor_network=plain)
    assert isinstance(loss, TD3RESeLLoss)
    total(loss(batch)).backward()
    assert all((p.grad != 0).any() for p in head.parameters())
    assert isinstance(loss.qvalue_network, EnsembleCritic)


def target_actions(batch, **options):
    """The actions that the target critics are asked about."""
    loss, seen = make_loss(algorithm="td3_resel", **options), []
    loss.qvalue_network.register_forward_pre_hook(
        lambda module, inputs: seen.append(inputs[0]["action"])
    )
    loss.critic_loss(batch)
    return seen[0]


def test_td3_smooths_the_target_policy_within_the_clip(batch):
    exact = target_actions(batch, target_noise=0.0)
    for clip in (0.05, 0.2):
        moved = target_actions(batch, target_noise=9.0, target_noise_clip=clip)
        assert (moved - exact).abs().max().item() == pytest.approx(clip)
        assert moved.abs().max() <= 1


@pytest.mark.parametrize(
    "algorithm", [name for name in ALGORITHMS if "td3" not in name]
)
def test_a_temperature_out_of_its_range_is_refused(algorithm):
    """It would be cut to the range without a word."""
    with pytest.raises(ValueError, match=r"alpha_init in \[0.0, 2.718.*got 5.0"):
        build(algorithm, alpha_init=5.0)
    build(algorithm, alpha_init=5.0, max_alpha=None)
