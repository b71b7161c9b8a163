"""The Transformer against explicit attention, its cache and its limits."""

import itertools
import math

import pytest
import torch

from resel_torchrl.modules import make_core
from resel_torchrl.modules.cores import TransformerCore, transformer

SIZE, HEADS, CONTEXT = 12, 3, 40


@pytest.fixture
def core():
    torch.manual_seed(0)
    options = {"n_layers": 2, "n_heads": HEADS, "max_length": CONTEXT}
    return TransformerCore(SIZE, **options).double()


@pytest.fixture
def on_a_gpu(monkeypatch):
    """What runs where a look at the values would make the host wait."""
    monkeypatch.setattr(transformer, "_sync_is_free", lambda tensor: False)


def attention(block, x):
    """One episode [T, SIZE], query by query and head by head."""
    q, k, v = block.in_proj(block.norm(x)).chunk(3, -1)
    width, rows = SIZE // HEADS, []
    for t in range(len(x)):
        heads = []
        for j in range(HEADS):
            part = slice(j * width, (j + 1) * width)
            back = torch.arange(t, -1, -1, dtype=x.dtype)
            logits = k[: t + 1, part] @ q[t, part] / math.sqrt(width)
            weights = torch.softmax(logits - back * 2 ** (-8 * (j + 1) / HEADS), 0)
            heads.append(weights @ v[: t + 1, part])
        rows.append(torch.cat(heads))
    return block.out_proj(torch.stack(rows))


def reference(core, x):
    for block in core.blocks:
        x = x + attention(block, x)
        x = x + block.feedforward.layers(block.feedforward.norm(x))
    return core.out_proj(core.norm(x))


def batch(R=2, L=31, starts=((0, 9, 10), (0, 20))):
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(R, L, SIZE, dtype=torch.float64, generator=generator)
    is_init = torch.zeros(R, L, dtype=torch.bool)
    for row, places in enumerate(starts):
        is_init[row, list(places)] = True
    return x.requires_grad_(), is_init


def test_values_and_gradients_are_those_of_each_episode_on_its_own(core):
    x, is_init = batch()
    got, _ = core(x, is_init)
    rows = []
    for row in range(2):
        cuts = [*is_init[row].nonzero().flatten().tolist(), x.shape[1]]
        parts = [x[row, a:b] for a, b in itertools.pairwise(cuts)]
        rows.append(torch.cat([reference(core, part) for part in parts]))
    wanted = torch.stack(rows)
    torch.testing.assert_close(got, wanted, rtol=1e-10, atol=1e-10)
    mixture = torch.linspace(-1, 1, got.numel(), dtype=got.dtype).view_as(got)
    leaves = [x, *core.parameters()]
    torch.testing.assert_close(
        torch.autograd.grad((mixture * got).sum(), leaves),
        torch.autograd.grad((mixture * wanted).sum(), leaves),
        rtol=1e-9,
        atol=1e-9,
    )


def test_two_halves_make_the_whole(core):
    x, is_init = batch()
    y, last = core(x, is_init)
    for cut in (1, 9, 15, 20, 30):
        first, state = core(x[:, :cut], is_init[:, :cut])
        second, state = core(x[:, cut:], is_init[:, cut:], state)
        torch.testing.assert_close(torch.cat([first, second], 1), y)
        torch.testing.assert_close(state, last)


def test_rows_of_a_step_are_at_places_of_their_own(core):
    x, is_init = batch(3, 31, ((0, 9), (0, 20), (0, 30)))
    with torch.no_grad():
        wanted, _ = core(x, is_init)
        state = torch.zeros(3, core.state_size, dtype=x.dtype)
        for t in range(31):
            y, state = core.step(x[:, t], is_init[:, t], state)
            torch.testing.assert_close(y, wanted[:, t], rtol=1e-10, atol=1e-10)
    assert state[:, -1].tolist() == [22, 11, 1]
    cache = state[:, :-1].view(3, CONTEXT, -1)
    for row, count in enumerate((22, 11, 1)):
        assert cache[row, :count].any(-1).all()
        assert not cache[row, count:].any(), "a start has not cleared the cache"


def test_step_equals_forward_at_the_papers_width():
    torch.manual_seed(0)
    core = make_core("transformer", 256, max_length=300)
    x, is_init = torch.randn(1, 300, 256), torch.zeros(1, 300).bool()
    with torch.no_grad():
        wanted, last = core(x, is_init)
        state, steps = torch.zeros(1, core.state_size), []
        for t in range(300):
            y, state = core.step(x[:, t], is_init[:, t], state)
            steps.append(y)
    torch.testing.assert_close(torch.stack(steps, 1), wanted, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(state, last, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("held", [0, 7])
def test_the_path_of_a_gpu_gives_the_same(core, held, monkeypatch):
    x, is_init = batch(starts=((), (20,)))
    state = torch.zeros(2, core.state_size, dtype=x.dtype)
    if held:
        _, state = core(x[:, :held], torch.zeros(2, held).bool())
    before, wanted = core(x, is_init), core(x, is_init, state)
    monkeypatch.setattr(transformer, "_sync_is_free", lambda tensor: False)
    torch.testing.assert_close(core(x, is_init, state), wanted)
    torch.testing.assert_close(core(x, is_init), before)


class TestLength:
    def test_an_episode_may_have_context_steps(self, core):
        x = torch.zeros(1, 2 * CONTEXT, SIZE, dtype=torch.float64)
        is_init = torch.zeros(1, 2 * CONTEXT).bool()
        is_init[0, CONTEXT] = True
        y, state = core(x, is_init)
        assert y.isfinite().all()
        assert state[0, -1] == CONTEXT
        expected = "of at most max_length=40 steps, got one of"
        with pytest.raises(ValueError, match=expected):
            core.step(x[:, 0], torch.tensor([False]), state)
        core.step(x[:, 0], torch.tensor([True]), state)
        is_init[0, CONTEXT] = False
        with pytest.raises(ValueError, match="got one of 80 or more"):
            core(x, is_init)

    def test_elsewhere_it_turns_to_nan_and_back(self, core, on_a_gpu):
        length = CONTEXT + 5
        x = torch.zeros(1, length, SIZE, dtype=torch.float64)
        is_init = torch.zeros(1, length).bool()
        y, state = core(x, is_init)
        assert y[0, :CONTEXT].isfinite().all()
        assert y[0, CONTEXT:].isnan().all()
        y, state = core.step(x[:, 0], torch.tensor([False]), state)
        assert y.isnan().all()
        y, state = core.step(x[:, 0], torch.tensor([True]), state)
        assert y.isfinite().all()
        assert state[0, -1] == 1

    def test_it_says_its_limit(self, core):
        assert core.max_length == CONTEXT
        assert core.state_size == 2 * CONTEXT * 2 * SIZE + 1


def test_an_input_of_nan_spoils_the_rest_of_its_episode_and_nothing_else(core):
    x, is_init = batch()
    clean, _ = core(x, is_init)
    spoilt = x.detach().clone()
    spoilt[0, 12] = torch.inf
    y, last = core(spoilt, is_init)
    assert y[0, 12:].isnan().all()
    assert torch.equal(y[0, :12], clean[0, :12])
    assert torch.equal(y[1], clean[1])
    state, steps = torch.zeros_like(last), []
    for t in range(31):
        step, state = core.step(spoilt[:, t], is_init[:, t], state)
        steps.append(step)
    torch.testing.assert_close(torch.stack(steps, 1), y, equal_nan=True)
    torch.testing.assert_close(state[1], last[1])
    assert state[0, -1].isnan() and last[0, -1].isnan()


@pytest.mark.parametrize("noise", [1.0, torch.nan])
def test_a_state_of_noise_does_not_pass_a_start(core, noise):
    x, is_init = batch()
    wanted = core(x, is_init)
    state = torch.full((2, core.state_size), noise, dtype=x.dtype)
    torch.testing.assert_close(core(x, is_init, state), wanted)
    without = is_init.clone()
    without[:, 0] = False
    assert not torch.allclose(core(x, without, state)[0], wanted[0], equal_nan=True)


def test_past_keys_are_told_by_their_distance():
    """Without ALiBi the order of two past inputs would make no difference."""
    core = TransformerCore(SIZE, n_layers=1, n_heads=HEADS, max_length=3).double()
    x, is_init = batch(1, 3, ((0,),))
    swapped = x[:, [1, 0, 2]]

    def third(x):
        return core(x, is_init)[0][:, 2]

    assert not torch.allclose(third(x), third(swapped))
    core._bias = lambda x, *rest: torch.zeros(1, HEADS, 3, 3, dtype=x.dtype)
    torch.testing.assert_close(third(x), third(swapped))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"n_heads": 8},
            r"to divide the width 12, got 8. Choose one of \[1, 2",
        ),
        ({"n_heads": 0}, "n_heads to be an integer >= 1, got 0"),
        ({"n_layers": 0}, "n_layers to be an integer >= 1"),
        ({"max_length": 0}, "max_length to be an integer >= 1, got 0"),
        ({"max_length": -5}, "max_length to be an integer >= 1, got -5"),
        ({"n_heads": 4, "feedforward_size": 0}, "feedforward_size to be an integer"),
    ],
)
def test_mistakes_say_what_to_do(options, message):
    with pytest.raises(ValueError, match=message):
        make_core("transformer", 12, **options)
