import math

import pytest
import torch
from tensordict import TensorDict
from tensordict.nn import ProbabilisticTensorDictSequential, TensorDictModule
from torch import nn
from torchrl.data import Bounded, Composite
from torchrl.envs import ExplorationType, set_exploration_type
from torchrl.modules import TanhNormal as TorchRLTanhNormal
from torchrl.objectives import SACLoss

from resel_torchrl.modules import TanhNormal, TanhNormalActor


def make_data(batch=(7,), seed=0):
    generator = torch.Generator().manual_seed(seed)
    return TensorDict(
        {
            "observation": torch.randn(*batch, 4, generator=generator),
            "context_actor": torch.randn(*batch, 5, generator=generator),
        },
        batch_size=batch,
    )


def make_actor(**kwargs):
    torch.manual_seed(0)
    return TanhNormalActor(4, 2, context_size=5, hidden_sizes=(16, 16), **kwargs)


def reference_log_prob(loc, log_scale, noise):
    """Log density of tanh(loc + exp(log_scale) noise), in float64, per definition."""
    loc, log_scale, noise = loc.double(), log_scale.double(), noise.double()
    u = loc + log_scale.exp() * noise
    normal = -0.5 * noise.square() - log_scale - 0.5 * math.log(2 * math.pi)
    # 1 - tanh(u)^2 = 1 / cosh(u)^2, exact in float64 up to |u| of 300
    return (normal + 2 * u.cosh().log()).sum(-1)


def tail_cases():
    """Return loc, log_scale and noise that put pre-tanh values from -12 to 12."""
    loc = torch.linspace(-12, 12, 49).unsqueeze(-1)
    log_scale = torch.linspace(-6, -1, 49).unsqueeze(-1)
    noise = torch.linspace(-1.5, 1.5, 49).roll(17).unsqueeze(-1)
    return loc, log_scale, noise


def reparameterised(distribution, loc, log_scale, noise, monkeypatch):
    """Return log density of a sample with fixed noise, and its gradients."""
    loc = loc.clone().requires_grad_()
    log_scale = log_scale.clone().requires_grad_()
    monkeypatch.setattr(torch, "randn", lambda *a, **k: noise.to(loc.dtype))
    monkeypatch.setattr(
        torch.distributions.normal, "_standard_normal", lambda *a, **k: noise
    )
    dist = distribution(loc, log_scale.exp())
    action = dist.rsample()
    log_prob = dist.log_prob(action)
    grads = torch.autograd.grad(log_prob.sum(), [loc, log_scale])
    return log_prob.detach(), grads


def test_log_prob_and_gradients_are_exact_in_the_tails(monkeypatch):
    loc, log_scale, noise = tail_cases()
    leaves = [x.double().requires_grad_() for x in (loc, log_scale)]
    expected = reference_log_prob(*leaves, noise)
    expected_grads = torch.autograd.grad(expected.sum(), leaves)
    log_prob, grads = reparameterised(TanhNormal, loc, log_scale, noise, monkeypatch)
    torch.testing.assert_close(
        log_prob.double(), expected.detach(), atol=1e-5, rtol=1e-6
    )
    for grad, reference in zip(grads, expected_grads, strict=True):
        torch.testing.assert_close(grad.double(), reference, atol=1e-5, rtol=1e-6)
    # The control: inverting the rounded action loses the tails.
    clipped, _ = reparameterised(TorchRLTanhNormal, loc, log_scale, noise, monkeypatch)
    assert (clipped.double() - expected).abs().max() > 1.0


def test_the_density_integrates_to_one():
    dist = TanhNormal(torch.full((1,), 0.7).double(), torch.full((1,), 0.9).double())
    action = torch.linspace(-1, 1, 200_001, dtype=torch.float64)[1:-1]
    density = dist.log_prob(action.unsqueeze(-1)).exp()
    assert torch.trapezoid(density, action) == pytest.approx(1.0, abs=1e-4)


def test_actions_from_elsewhere_are_scored_even_at_the_bounds():
    dist = TanhNormal(torch.zeros(3, 1), torch.ones(3, 1))
    log_prob = dist.log_prob(torch.tensor([[-1.0], [0.3], [1.0]]))
    assert log_prob.isfinite().all()
    # In float32 an action near a bound has too few digits to be inverted.
    dist = TanhNormal(dist.loc.double(), dist.scale.double())
    action = dist.rsample()
    torch.testing.assert_close(dist.log_prob(action.clone()), dist.log_prob(action))


def test_score_function_gradient_of_a_detached_sample():
    loc = torch.tensor([[0.4]], requires_grad=True)
    dist = TanhNormal(loc, torch.full((1, 1), 0.5))
    action, log_prob = dist.sample_and_log_prob()
    assert not action.requires_grad
    (grad,) = torch.autograd.grad(log_prob.sum(), loc)
    expected = (action.atanh() - loc) / 0.25
    torch.testing.assert_close(grad, expected.detach(), atol=1e-4, rtol=1e-4)


def test_nothing_is_read_back_to_the_host():
    # Meta tensors have no values: reading one raises.
    actor = make_actor().to("meta")
    data = make_data().to("meta")
    action, log_prob = actor.get_dist(data).rsample_and_log_prob()
    log_prob.sum().backward()
    assert action.is_meta
    with pytest.raises(RuntimeError):
        TorchRLTanhNormal(data["loc"], data["scale"])


def test_sample_shape_is_prepended():
    dist = TanhNormal(torch.zeros(3, 2), torch.ones(3, 2))
    action, log_prob = dist.rsample_and_log_prob((4, 5))
    assert action.shape == (4, 5, 3, 2)
    assert log_prob.shape == (4, 5, 3)
    assert dist.batch_shape == (3,)
    assert dist.event_shape == (2,)


def test_log_scale_is_clamped_to_minus_20_and_2():
    actor = make_actor()
    data = make_data()
    final = actor.module[0].module.layers[-1]
    for bias, expected in ((1e4, math.exp(2)), (-1e4, math.exp(-20))):
        final.bias.data.fill_(bias)
        _, scale = actor.head(data["observation"], data["context_actor"])
        torch.testing.assert_close(scale, torch.full_like(scale, expected))


def test_deterministic_action_is_tanh_of_the_mean():
    actor, data = make_actor(), make_data()
    with set_exploration_type(ExplorationType.DETERMINISTIC):
        actor(data)
    torch.testing.assert_close(data["action"], data["loc"].tanh())


@pytest.mark.parametrize("batch", [(), (3,), (2, 5)])
def test_writes_parameters_action_and_log_prob(batch):
    actor, data = make_actor(return_log_prob=True), make_data(batch)
    actor(data)
    assert data["action"].shape == (*batch, 2)
    assert data["sample_log_prob"].shape == batch
    assert data["action"].abs().max() <= 1
    loc, scale = actor.head(data["observation"], data["context_actor"])
    assert torch.equal(loc, data["loc"])
    assert torch.equal(scale, data["scale"])
    assert "sample_log_prob" not in make_actor()(make_data(batch))


def test_parameters_swapped_in_are_used_by_head():
    actor, data = make_actor(), make_data()
    params = TensorDict.from_module(actor).data.clone().zero_()
    with params.to_module(actor):
        loc, scale = actor.head(data["observation"], data["context_actor"])
    assert not loc.any()
    assert (scale == 1).all()


def test_initialisation_is_xavier_with_zero_bias():
    actor = TanhNormalActor(9, 6)
    linears = [m for m in actor.modules() if isinstance(m, nn.Linear)]
    assert [tuple(m.weight.shape) for m in linears] == [
        (128, 9),
        (256, 256),
        (256, 256),
        (12, 256),
    ]
    for layer in linears:
        bound = math.sqrt(6 / (layer.in_features + layer.out_features))
        assert 0.97 * bound < layer.weight.abs().max() <= bound
        assert not layer.bias.any()


@pytest.mark.filterwarnings("ignore:No target network updater")
def test_sac_loss_takes_it():
    class Value(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = nn.Linear(4 + 5 + 2, 1)

        def forward(self, *inputs):
            return self.layer(torch.cat(inputs, -1))

    actor = make_actor()
    value = TensorDictModule(
        Value(),
        in_keys=["observation", "context_actor", "action"],
        out_keys=["state_action_value"],
    )
    loss = SACLoss(actor, value, num_qvalue_nets=2)
    loss.make_value_estimator(gamma=0.9)
    assert loss.target_entropy == -2
    data = make_data()
    data["action"] = torch.rand(7, 2) * 2 - 1
    data["next"] = make_data(seed=1)
    data["next", "reward"] = torch.randn(7, 1)
    for key in ("done", "terminated"):
        data["next", key] = torch.zeros(7, 1, dtype=torch.bool)
    out = loss(data)
    (out["loss_actor"] + out["loss_qvalue"] + out["loss_alpha"]).backward()
    for name, p in actor.named_parameters():
        assert p.grad is not None and p.grad.any(), name
    assert isinstance(actor, ProbabilisticTensorDictSequential)


@pytest.mark.parametrize(
    "spec",
    [Bounded(-2.0, 2.0, (2,)), Bounded(-1.0, 1.0, (3,)), Composite(action=None)],
)
def test_a_spec_that_does_not_fit_is_refused(spec):
    with pytest.raises(ValueError, match=r"in \[-1, 1\] with 2 entries, got"):
        make_actor(spec=spec)


def test_a_spec_that_fits_is_kept():
    spec = Bounded(-1.0, 1.0, (2,))
    for given in (None, spec, Composite(action=spec)):
        assert make_actor(spec=given).spec["action"] == spec


def test_wrong_sizes_are_named():
    actor = make_actor()
    with pytest.raises(ValueError, match=r"context of shape \[\*B, 5\], got \[7, 6\]"):
        actor.head(torch.zeros(7, 4), torch.zeros(7, 6))
