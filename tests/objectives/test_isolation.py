"""Episodes that share a row do not touch each other, and padding touches none."""

import pytest
import torch
from tensordict import TensorDict
from tensordict.nn import TensorDictModule, TensorDictSequential
from torch import nn
from torchrl.data import Bounded
from torchrl.modules import (
    GRUModule,
    NormalParamExtractor,
    ProbabilisticActor,
    TanhNormal,
    ValueOperator,
)
from torchrl.objectives import SACLoss

from resel_torchrl.modules import CORES
from tests.objectives.episodes import (
    ACTION,
    ALGORITHMS,
    LENGTHS,
    OBSERVATION,
    ROW_LENGTH,
    is_discrete,
    locate,
    make_episodes,
    make_loss,
    pack,
    targets,
    total,
)

# Most tests build no target updater; TorchRL reminds of it.
pytestmark = pytest.mark.filterwarnings("ignore:No target network updater")
# Every core under the first loss; the others run the same encoders.
of_every_loss = pytest.mark.parametrize(
    ("algorithm", "core"),
    [
        *(("resel", core) for core in CORES),
        *((name, core) for name in ALGORITHMS[1:] for core in ("gru", "mamba")),
    ],
)


def without_bound(algorithm, core, **options):
    """A loss in which the bounds of the bootstrap do not join all transitions."""
    if algorithm == "resel":
        options["alpha_init"] = 0.5
    return make_loss(
        core, algorithm=algorithm, reduction="none", target_bound=False, **options
    )


def resel_terms(loss):
    """Every per-transition quantity of a loss with ``reduction="none"``."""

    def terms(batch):
        torch.manual_seed(0)
        target = targets(loss, batch)
        torch.manual_seed(0)
        terms = loss.critic_loss(batch).update(loss.policy_loss(batch))
        losses = {key: x for key, x in terms.items() if key.startswith("loss_")}
        return {"target": target, **losses}

    return terms


def stock_terms():
    """The same from TorchRL's SACLoss with a GRUModule actor."""
    torch.manual_seed(0)
    gru = GRUModule(
        OBSERVATION,
        5,
        in_keys=["observation", "memory", "is_init"],
        out_keys=["context", ("next", "memory")],
    )
    head = nn.Sequential(nn.Linear(5, 2 * ACTION), NormalParamExtractor())
    actor = ProbabilisticActor(
        TensorDictSequential(
            gru, TensorDictModule(head, in_keys=["context"], out_keys=["loc", "scale"])
        ),
        in_keys=["loc", "scale"],
        spec=Bounded(-1.0, 1.0, (ACTION,)),
        distribution_class=TanhNormal,
    )

    class Critic(nn.Module):
        def __init__(self):
            super().__init__()
            self.net = nn.Linear(OBSERVATION + ACTION, 1)

        def forward(self, observation, action):
            return self.net(torch.cat([observation, action], -1))

    critic = ValueOperator(Critic(), in_keys=["observation", "action"])
    loss = SACLoss(
        actor, critic, alpha_init=0.5, reduction="none", scalar_output_mode="exclude"
    )

    def terms(batch):
        following = batch[:, 1:]
        data = batch[:, :-1].select("observation", "action", "is_init", "next").clone()
        data["next", "observation"] = following["observation"]
        data["next", "is_init"] = torch.zeros_like(data["is_init"])
        torch.manual_seed(0)
        return loss(data)

    return terms


def leak(terms, *, discrete=False):
    """Largest change of another episode's terms when one episode is redrawn.

    Also asserts that the redrawn episode's own terms do change.
    """
    episodes = make_episodes(LENGTHS, seed=1, discrete=discrete)
    others = make_episodes(LENGTHS, seed=2, discrete=discrete)
    batch = pack(episodes, ROW_LENGTH)
    positions = locate(batch, episodes)
    before = terms(batch)
    largest = 0.0
    for changed, other in enumerate(others):
        mixed = [*episodes]
        mixed[changed] = other
        mixed[changed].terminated = episodes[changed].terminated
        batch = pack(mixed, ROW_LENGTH)
        assert locate(batch, mixed) == positions
        after = terms(batch)
        for name in list(before.keys()):
            for index, (row, column) in enumerate(positions):
                where = (row, slice(column, column + LENGTHS[index]))
                change = (after[name][where] - before[name][where]).abs().max().item()
                if index == changed:
                    assert change > 1e-6, f"{name} does not depend on its own episode"
                else:
                    largest = max(largest, change)
    return largest


@of_every_loss
def test_one_episode_changes_nothing_of_another(algorithm, core):
    loss = without_bound(algorithm, core)
    assert leak(resel_terms(loss), discrete=is_discrete(algorithm)) < 1e-12


def test_stock_sac_loss_fails_the_leak_test():
    assert leak(stock_terms()) > 1e-4


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_an_encoder_that_ignores_start_flags_fails_the_leak_test(algorithm):
    loss = without_bound(algorithm, "gru")
    for encoder in (loss.actor_encoder, loss.critic_encoder):
        unroll = encoder.core.forward
        encoder.core.forward = lambda x, is_init, state=None, unroll=unroll: unroll(
            x, torch.zeros_like(is_init), state
        )
    assert leak(resel_terms(loss), discrete=is_discrete(algorithm)) > 1e-4


@pytest.mark.parametrize("term", ["loss_qvalue", "loss_actor"])
@of_every_loss
def test_gradient_stays_inside_its_episode(algorithm, core, term):
    loss = without_bound(algorithm, core)
    episodes = make_episodes(LENGTHS, seed=1, discrete=is_discrete(algorithm))
    batch = pack(episodes, ROW_LENGTH)
    positions = locate(batch, episodes)
    inputs = [batch[key].requires_grad_() for key in loss.row_keys]
    out = (loss.critic_loss if term == "loss_qvalue" else loss.policy_loss)(batch)[term]
    for (row, column), length in zip(positions, LENGTHS, strict=True):
        total = out[row, column : column + length].sum()
        gradients = torch.autograd.grad(
            total, inputs, retain_graph=True, allow_unused=True
        )
        observation = gradients[loss.row_keys.index("observation")]
        assert (observation[row, column : column + length] != 0).any()
        for gradient in gradients:
            if gradient is not None:
                gradient[row, column : column + length] = 0
                assert (gradient == 0).all()


def poison(batch: TensorDict) -> TensorDict:
    """NaN, or the opposite flag, wherever a row holds nothing.

    The row after an episode's last transition keeps its observation and previous
    inputs; all that describes a transition is garbage there.
    """
    valid = batch["valid"]
    observed = valid.clone()
    observed[:, 1:] |= valid[:, :-1]
    bad = batch.clone()
    for key in bad.keys(True, True):
        value = bad[key]
        rows = valid if key == "action" or isinstance(key, tuple) else observed
        if key != "valid":
            garbage = ~value if value.dtype is torch.bool else value * torch.nan
            bad[key] = torch.where(rows, value, garbage)
    return bad


def losses_and_gradients(loss, batch):
    torch.manual_seed(0)
    loss.zero_grad()
    terms = loss(batch)
    total(terms).backward()
    gradients = {name: p.grad.clone() for name, p in loss.named_parameters()}
    bounds = {"low": loss.bootstrap_low.clone(), "high": loss.bootstrap_high.clone()}
    return {**terms.detach().to_dict(), **gradients, **bounds}


@of_every_loss
def test_nan_in_padding_changes_neither_loss_nor_gradient(algorithm, core):
    discrete = is_discrete(algorithm)
    batch = pack(make_episodes(LENGTHS, discrete=discrete), ROW_LENGTH)
    poisoned = poison(batch)
    for key in ("observation", "prev_action", "action", ("next", "reward")):
        assert poisoned[key].isnan().any()
    losses = [make_loss(core, algorithm=algorithm) for _ in range(2)]
    clean = losses_and_gradients(losses[0], batch)
    for name, value in losses_and_gradients(losses[1], poisoned).items():
        assert value.isfinite().all(), name
        assert torch.equal(value, clean[name]), name


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_masking_by_multiplication_would_not_survive_nan(monkeypatch, algorithm):
    monkeypatch.setattr(
        "resel_torchrl.objectives.packed.fill_outside",
        lambda x, rows, value=0: x * rows.reshape(rows.shape[:2] + (1,) * (x.ndim - 2)),
    )
    episodes = make_episodes(LENGTHS, discrete=is_discrete(algorithm))
    loss = make_loss(algorithm=algorithm)
    out = losses_and_gradients(loss, poison(pack(episodes, ROW_LENGTH)))
    assert any(value.isnan().any() for value in out.values())


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_a_batch_of_padding_alone_gives_zero_loss_and_leaves_the_bounds(algorithm):
    episodes = make_episodes(LENGTHS, discrete=is_discrete(algorithm))
    batch = pack(episodes, ROW_LENGTH)
    batch["valid"].zero_()
    out = losses_and_gradients(make_loss(algorithm=algorithm), poison(batch))
    assert out.pop("low") == torch.inf and out.pop("high") == -torch.inf
    assert out.pop("alpha", 1.0) in (1.0, pytest.approx(0.2))
    assert all((value == 0).all() for value in out.values())
