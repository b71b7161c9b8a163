"""Losses under torch.compile: the updates are those made without."""

import copy
import functools
import shutil

import pytest
import torch
from tensordict import TensorDict

from recipes.benchmark.synthetic import synthetic_learner
from resel_torchrl.config import compose
from resel_torchrl.errors import ConfigError
from resel_torchrl.objectives import episode_loss
from resel_torchrl.ops import _backends
from resel_torchrl.training import CompiledFunction, compiler_problem
from tests.training.runs import assert_alike, leaves, resume, rows, start

SMALL = [
    "task=pendulum_p",
    "agent.embedding_size=4",
    "agent.hidden_size=8",
    "agent.context_size=4",
    "agent.head_sizes=[8]",
    "replay.batch_size=400",
]
# Episodes of one length: batches of one layout.
RUN = ["env.id=Pendulum-V-v0", "steps=1200", "replay.batch_size=400"]
RUN += ["replay.buffer_size=1600", "train.random_steps=400", "train.compile=true"]
RUN += ["train.updates_per_step=0.1", "eval.interval=0", "log.interval=400"]
CORES = {
    "mamba": ["core=mamba"],
    "gru": ["core=gru"],
    "memoryless": ["core=memoryless"],
    "one_step": ["core=one_step"],
    "transformer": ["core=transformer", "agent.core_kwargs.n_heads=2"],
    "td3": ["core=gru", "algorithm=td3_resel"],
}
# A loop over time that looks at the flags breaks their graph: slower, and as right.
BROKEN = {"lstm": ["core=lstm"], "lru": ["core=lru"], "min_gru": ["core=min_gru"]}
BROKEN |= {"torch": ["core=gru", "agent.core_kwargs.backend=torch"]}

needs_compiler = pytest.mark.skipif(
    compiler_problem(torch.device("cpu")) is not None,
    reason="torch.compile lacks its compiler here",
)


@pytest.fixture(autouse=True)
def fresh_compiler():
    torch._dynamo.reset()
    torch._dynamo.utils.counters.clear()
    yield
    torch._dynamo.reset()


def parts(learner):
    """The functions that an update calls, as they are compiled."""
    terms = learner.critic_loss, learner.policy_loss, learner.policy_context
    return [term for term in terms if isinstance(term, CompiledFunction)]


def some_updates(*overrides):
    """State after four updates, the temperature at its limit.

    By plain gradient descent: Adam makes whole steps of gradients that are rounding.
    """
    learner, _ = synthetic_learner(compose([*SMALL, *overrides]))
    groups = list(learner.groups.values())
    for group in groups:
        group["lr"] = 0.01
    learner.optimizer = torch.optim.SGD(groups)
    if hasattr(learner.loss, "log_alpha"):
        learner.loss.log_alpha.data.fill_(2.0)  # beyond it; the limit is 1
    torch.manual_seed(1)
    for _ in range(4):
        learner.update()
    if "train.compile=true" in overrides:
        assert parts(learner) and all(part.n_layouts for part in parts(learner))
    return dict(leaves(learner.state_dict()))


@needs_compiler
@pytest.mark.parametrize(
    "options",
    [
        pytest.param(options, id=name, marks=[] if name == "gru" else pytest.mark.slow)
        for name, options in (CORES | BROKEN).items()
    ],
)
def test_compiled_updates_are_those_made_without(options):
    plain = some_updates(*options)
    compiled = some_updates(*options, "train.compile=true")
    assert plain.keys() == compiled.keys()
    numbers = {
        name: value
        for name, value in plain.items()
        if torch.is_tensor(value) and value.is_floating_point()
    }
    assert_alike(compiled, numbers)


@pytest.mark.parametrize(
    "options",
    [
        pytest.param(
            options,
            id=name,
            marks=[] if name in ("mamba", "transformer", "td3") else pytest.mark.slow,
        )
        for name, options in CORES.items()
    ],
)
def test_each_term_is_one_graph(options):
    """Those with the policy's context in hand too, as in training."""
    learner, _ = synthetic_learner(compose([*SMALL, *options]))
    learner.update()
    loss, batch = learner.loss, learner.batches.upcoming

    def in_one_graph(function, *arguments):
        whole = {"fullgraph": True, "backend": "eager", "dynamic": False}
        return torch.compile(function, **whole)(*arguments)

    for term in (loss.critic_loss, loss.policy_loss):
        assert in_one_graph(term, batch).keys() == term(batch).keys()
    if learner.policy_context is not None:
        context = in_one_graph(loss.policy_context, batch)
        assert "loss_qvalue" in in_one_graph(loss.critic_loss, batch, context.detach())
        assert "loss_actor" in in_one_graph(loss.policy_loss, batch, context)


@needs_compiler
def test_what_is_imported_when_first_used_breaks_no_graph(monkeypatch):
    """The first call loads the kernels ahead; the control shows that it must."""
    learner, _ = synthetic_learner(compose([*SMALL, "core=gru"]))
    learner.batches.draw()
    batch = learner.batches.sample()
    monkeypatch.setattr(_backends, "_LOADED", {})
    whole = {"fullgraph": True, "backend": "eager", "dynamic": False}
    with pytest.raises(Exception, match="import_module"):
        torch.compile(learner.loss.policy_context, **whole)(batch)
    monkeypatch.setattr(
        "torch.compile",
        functools.partial(lambda compile, f, **_: compile(f, **whole), torch.compile),
    )
    assert CompiledFunction(learner.loss.policy_context)(batch).requires_grad


def test_a_loop_over_time_is_not_written_out():
    def graphs_of(name):
        graphs = []

        def take(graph, _inputs):
            graphs.append(len(graph.graph.nodes))
            return graph.forward

        options = [*SMALL, "core=gru", f"agent.core_kwargs.backend={name}"]
        learner, _ = synthetic_learner(compose(options))
        learner.update()
        compiled = torch.compile(learner.loss.policy_context, backend=take)
        compiled(learner.batches.upcoming)
        return graphs

    kernel, loop = graphs_of("cpu"), graphs_of("torch")
    assert len(kernel) == 1 < len(loop)
    assert sum(loop) < 2 * sum(kernel)


@pytest.mark.parametrize(
    ("kept", "limited"), [(True, True), (True, False), (False, False)]
)
def test_what_changes_in_place_is_not_worked_out_again(monkeypatch, kept, limited):
    """The control: the backward pass would read log_alpha as it has become.

    It has no limit: with one, PyTorch 2.15 keeps the temperature, as a single number,
    where 2.13 keeps the two that it is made of.
    """
    learner, _ = synthetic_learner(compose([*SMALL, "core=memoryless"]))
    learner.update()
    if not limited:
        learner.loss.max_log_alpha = None
    if not kept:
        monkeypatch.setattr(episode_loss, "clone_if_compiling", lambda x: x)
    policy_loss = torch.compile(
        learner.loss.policy_loss, backend="aot_eager_decomp_partition", dynamic=False
    )
    loss = policy_loss(learner.batches.upcoming)["loss_actor"]
    with torch.no_grad():
        learner.loss.log_alpha.sub_(1.0)
    if kept:
        loss.backward()
    else:
        with pytest.raises(RuntimeError, match="modified by an inplace operation"):
            loss.backward()


@needs_compiler
def test_each_layout_is_compiled_however_many_there_are():
    """By itself PyTorch stops at eight and goes on without compiling."""

    def is_compiled(batch):
        flag = torch.full((), float(torch.compiler.is_compiling()))
        return TensorDict(flag=flag + 0 * batch["valid"].sum())

    def is_compiled_by_itself(batch):  # what is kept is kept by code
        flag = torch.full((), float(torch.compiler.is_compiling()))
        return TensorDict(flag=flag + 0 * batch["valid"].sum())

    function = CompiledFunction(is_compiled)
    stock = torch.compile(is_compiled_by_itself, dynamic=False)
    flags = []
    for number in range(2, 12):
        batch = TensorDict(valid=torch.ones(number, 3), batch_size=[number, 3])
        assert function(batch)["flag"] == 1
        flags.append(float(stock(batch)["flag"]))
    assert function.n_layouts == 10
    assert flags[0] == 1 and flags[-1] == 0


@needs_compiler
@pytest.mark.slow
def test_a_resumed_run_is_the_run_that_never_stopped(tmp_path):
    whole = start(tmp_path / "whole", *RUN)
    whole.run()
    # The critic's term with and without the policy's context.
    assert [part.n_layouts for part in parts(whole.learner)] == [2, 1, 1]
    start(tmp_path / "half", *RUN, "steps=700").run()
    rest = resume(tmp_path / "half", "steps=1200")
    rest.run()
    assert [part.n_layouts for part in parts(rest.learner)] == [2, 1, 1]
    expected, got = (dict(leaves(x.learner.state_dict())) for x in (whole, rest))
    assert expected.keys() == got.keys()
    for name, value in expected.items():
        if torch.is_tensor(value):
            assert torch.equal(got[name], value), name
    paths = tmp_path / "whole", tmp_path / "half"
    first, second = (rows(path / "metrics.csv") for path in paths)
    assert first == second


@needs_compiler
@pytest.mark.slow
def test_discrete_actions_are_compiled(tmp_path):
    run = start(tmp_path / "run", *RUN, "env.id=CartPole-V-v0", "train.compile=false")
    run.run()
    loss, batch = run.learner.loss, run.learner.batches.upcoming

    def terms(way):
        torch.manual_seed(0)
        one = copy.deepcopy(loss)
        values = way(one.critic_loss)(batch)
        values.update(way(one.policy_loss)(batch))
        (values["loss_qvalue"] + values["loss_actor"]).backward()
        return {
            **values.detach().to_dict(),
            **{name: p.grad for name, p in one.named_parameters()},
        }

    plain, compiled = terms(lambda function: function), terms(CompiledFunction)
    torch.testing.assert_close(compiled, plain, rtol=1e-4, atol=1e-6)
    assert not torch._dynamo.utils.counters["graph_break"]


@torch._inductor.config.patch({"cpp.cxx": ("no-such-compiler",)})
def test_without_a_compiler_the_configuration_says_so(tmp_path):
    assert shutil.which("no-such-compiler") is None
    with pytest.raises(ConfigError, match=r"train.compile: .* install g\+\+"):
        start(tmp_path / "run", "train.compile=true")
    start(tmp_path / "run")


def test_missing_headers_are_named(tmp_path, monkeypatch):
    monkeypatch.setattr("sysconfig.get_path", lambda name: str(tmp_path))
    monkeypatch.setattr(
        "torch._inductor.cpp_builder.get_cpp_compiler", lambda: "some compiler"
    )
    assert "Python.h" in compiler_problem(torch.device("cpu"))
