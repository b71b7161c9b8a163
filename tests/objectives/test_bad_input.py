"""What RESeLLoss refuses, and what its errors say."""

import copy

import pytest
from tensordict.nn import TensorDictModule
from torch import nn
from torchrl.data import Bounded, Categorical, OneHot
from torchrl.modules import OneHotCategorical, ProbabilisticActor
from torchrl.objectives import ValueEstimators
from torchrl.objectives.value import TD0Estimator

from resel_torchrl.modules import EnsembleCritic
from resel_torchrl.objectives import RESeLLoss
from resel_torchrl.replay import pack_episodes
from tests.objectives.episodes import (
    ACTION,
    ALGORITHMS,
    CONTEXT,
    CRITICS,
    LOSSES,
    OBSERVATION,
    flatten,
    is_discrete,
    make_episodes,
    make_loss,
    make_modules,
)

# Most tests build no target updater; TorchRL reminds of it.
pytestmark = pytest.mark.filterwarnings("ignore:No target network updater")


def test_flat_batch_names_pack_episodes():
    with pytest.raises(ValueError, match=r"pack_episodes"):
        make_loss()(flatten(make_episodes([3, 2])))


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda b: b.exclude("valid"), "'valid.*pack_episodes"),
        (lambda b: b.exclude("prev_action"), "'prev_action.*writes it where 'action'"),
        (lambda b: b.exclude("observation"), "'observation'.*Store it"),
        (lambda b: b.set("valid", b["valid"].double()), "'valid' of dtype torch.bool"),
        (lambda b: b.set("is_init", b["is_init"].squeeze(-1)), "'is_init' of shape"),
        (
            lambda b: b.set(("next", "reward"), b["next", "reward"].expand(-1, -1, 2)),
            "'reward'.*of shape",
        ),
        (
            lambda b: b.set(("next", "reward"), b["next", "reward"].float()),
            "'reward'.*action's dtype torch.float64, got torch.float32.*DoubleToFloat",
        ),
        (lambda b: b[:, :1], r"\[R, L\], L at least 2"),
    ],
    ids=[
        "no-valid",
        "no-previous-action",
        "no-observation",
        "float-valid",
        "no-trailing",
        "wide",
        "mixed-dtypes",
        "one-column",
    ],
)
def test_bad_batch_is_refused_with_what_to_do(batch, spoil, message):
    with pytest.raises((ValueError, KeyError), match=message):
        make_loss()(spoil(batch))


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_previous_reward_as_an_input_that_the_batch_lacks(algorithm):
    modules = make_modules(reward=True, algorithm=algorithm)
    loss = LOSSES[algorithm](**modules)
    flat = flatten(make_episodes([3, 2], discrete=is_discrete(algorithm)))
    loss(pack_episodes(flat, 8))
    flat.rename_key_(("next", "reward"), ("next", "gain"))
    batch = pack_episodes(flat, 8, reward_key="gain")
    loss.set_keys(reward="gain")
    with pytest.raises(KeyError, match=r"'prev_reward' in .*prev_gain.*reward_key"):
        loss(batch)
    with pytest.raises(
        KeyError, match=r"'reward'.* in the batch of .*'gain'.*store it"
    ):
        pack_episodes(flat, 8)


@pytest.mark.parametrize("spec", [OneHot(ACTION), Categorical(ACTION)])
def test_discrete_action_spec_is_refused(spec):
    with pytest.raises(ValueError, match="continuous actions"):
        make_loss(action_spec=spec)


def test_discrete_actor_is_refused():
    modules = make_modules()
    modules["actor_network"] = ProbabilisticActor(
        TensorDictModule(
            nn.Linear(CONTEXT, ACTION), in_keys=["context_actor"], out_keys=["logits"]
        ),
        in_keys=["logits"],
        distribution_class=OneHotCategorical,
    )
    with pytest.raises(ValueError, match="continuous actions, got OneHotCategorical"):
        RESeLLoss(**modules, action_spec=Bounded(-1, 1, (ACTION,)))


def test_modules_that_do_not_fit_are_refused():
    modules = make_modules()
    with pytest.raises(TypeError, match="TanhNormalActor"):
        RESeLLoss(**{**modules, "actor_network": nn.Linear(1, 1)})
    with pytest.raises(ValueError, match="same key"):
        RESeLLoss(**{**modules, "critic_encoder": modules["actor_encoder"]})
    shared = copy.copy(modules["actor_encoder"])
    shared.out_keys = ["context_critic", ("next", "context_critic_state")]
    with pytest.raises(ValueError, match="parameters of their own"):
        RESeLLoss(**{**modules, "critic_encoder": shared})
    with pytest.raises(ValueError, match="critic_subset_size"):
        RESeLLoss(**modules, critic_subset_size=CRITICS + 1)
    with pytest.raises(ValueError, match="reduction"):
        RESeLLoss(**modules, reduction="median")


@pytest.mark.parametrize(
    "arguments",
    [
        {"value_type": ValueEstimators.TDLambda},
        {"value_type": TD0Estimator(gamma=0.9, value_network=None)},
        {"average_rewards": True},
    ],
    ids=["lambda", "instance", "option"],
)
def test_value_estimators_without_a_place_in_the_target_are_refused(arguments):
    with pytest.raises(NotImplementedError, match="one-step"):
        make_loss().make_value_estimator(**arguments)


def test_critic_with_values_in_another_layout_is_refused(batch):
    class OneByOne(EnsembleCritic):
        def values(self, observation, action, context):
            return super().values(observation, action, context).unsqueeze(-1)

    modules = make_modules()
    modules["qvalue_network"] = OneByOne(OBSERVATION, ACTION, CONTEXT, n_critics=3)
    with pytest.raises(ValueError, match="n_critics"):
        RESeLLoss(**modules)(batch)
