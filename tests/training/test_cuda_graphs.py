"""Updates that are recorded once and replayed are the updates that would be made.

Tapes of operations stand in for CUDA graphs on a CPU, see `tests.training.tape`.
"""

import copy

import pytest
import torch
from tensordict import TensorDict

from recipes.benchmark.synthetic import synthetic_learner
from resel_torchrl.config import build, compose
from resel_torchrl.errors import ConfigError
from resel_torchrl.training import CudaRecorder, matmul_precision
from resel_torchrl.training.cuda_graphs import GraphedFunction, StaticBatch, layout
from tests.training.runs import assert_alike, leaves, resume, rows, start
from tests.training.tape import record

OPTIONS = ["steps=120", "eval.interval=0", "log.interval=40"]
DISCRETE = "env.id=tests.training.envs:DiscreteWalk-v0"


def make_batch(rows=2, length=5, value=1.0):
    column = torch.full((rows, 1, 3), value)
    return TensorDict(
        observation=torch.full((rows, length, 4), value),
        state=column.expand(rows, length, 3),
        next=TensorDict(
            reward=torch.full((rows, length), value), batch_size=[rows, length]
        ),
        batch_size=[rows, length],
    )


def test_a_static_batch_takes_values_over_and_keeps_its_memory():
    static = StaticBatch(make_batch())
    entries = dict(static.batch.items(True, True))
    assert static.batch["state"].stride(1) == 0
    other = make_batch(value=2.0)
    other["observation"][0, 3] = 7.0
    static.fill(other)
    assert dict(static.batch.items(True, True)).keys() == entries.keys()
    for key, value in static.batch.items(True, True):
        assert value is entries[key] and torch.equal(value, other[key])
    other["observation"].zero_()
    assert static.batch["observation"].abs().sum() > 0


def test_the_order_of_entries_is_no_part_of_a_layout():
    """A batch from a checkpoint has another one."""
    batch = make_batch()
    entries = reversed(list(batch.items()))
    assert layout(TensorDict(dict(entries), batch_size=batch.batch_size)) == layout(
        batch
    )
    assert layout(make_batch(length=4)) != layout(batch)


def test_each_layout_is_recorded_once_after_its_warm_up():
    counts, seen = {"recorded": 0, "replayed": 0}, []

    def recorder(function):
        counts["recorded"] += 1

        def replay():
            counts["replayed"] += 1
            return function()

        return replay

    def function(batch):
        seen.append(float(batch["observation"].sum()))
        return {"sum": batch["observation"].sum() + batch["next", "reward"].sum()}

    graphed = GraphedFunction(function, recorder, warm_up=2)
    for number in range(1, 7):
        for height, length in ((2, 5), (3, 5), (2, 4)):
            outputs = graphed(make_batch(height, length, value=float(number)))
            assert outputs["sum"] == 5 * height * length * number
    assert (counts["recorded"], graphed.n_recorded) == (3, 3)
    assert counts["replayed"] == 3 * 4
    assert seen[-1] == 4 * 2 * 4 * 6
    with pytest.raises(ValueError, match="warm_up: expected 1 call or more, got 0"):
        GraphedFunction(function, recorder, warm_up=0)


def assert_same(first, second):
    """The same state of two learners, to the last bit."""
    expected, got = (dict(leaves(x.state_dict())) for x in (first, second))
    assert expected.keys() == got.keys()
    for name, value in expected.items():
        same = torch.equal(value, got[name]) if torch.is_tensor(value) else None
        assert same if same is not None else value == got[name], name


@pytest.mark.parametrize(
    "options",
    [
        [],
        ["core=mamba", "agent.core_kwargs.d_state=4"],
        ["algorithm=td3_resel", "train.policy_delay=3"],
        [DISCRETE],
        ["resel.fixed_alpha=true", "train.target_bound=false"],
    ],
    ids=["resel", "mamba", "td3", "discrete", "fixed temperature"],
)
def test_replayed_updates_are_those_made_one_by_one(tmp_path, options):
    """With rows of the log, and so measured updates, in between."""
    eager = start(tmp_path / "eager", *OPTIONS, *options)
    eager.run()
    replayed = start(tmp_path / "replayed", *OPTIONS, *options)
    (recorder,) = record(replayed.learner)
    replayed.run()
    assert eager.learner.updates == replayed.learner.updates > 40
    assert recorder.recorded >= 2 and recorder.replayed > 20
    assert_same(eager.learner, replayed.learner)
    paths = eager.run_directory.path, replayed.run_directory.path
    first, second = (rows(path / "metrics.csv") for path in paths)
    assert first == second


@pytest.mark.parametrize("fault", ["batch", "targets", "look"])
def test_what_a_graph_would_get_wrong_is_noticed(tmp_path, monkeypatch, fault):
    """The control of the test above."""
    eager = start(tmp_path / "eager", *OPTIONS)
    eager.run()
    replayed = start(tmp_path / "replayed", *OPTIONS)
    learner = replayed.learner
    if fault == "batch":  # the one of the recording for ever
        monkeypatch.setattr(StaticBatch, "fill", lambda self, batch: None)
    elif fault == "targets":  # a number that Python works out

        def step():
            learner.target_update.eps = 1 - 0.005 * (1 + learner.updates % 2)
            type(learner.target_update).step(learner.target_update)

        monkeypatch.setattr(learner.target_update, "step", step)
    (recorder,) = record(learner)
    if fault == "look":
        learner._sync_is_free = True
        with pytest.raises(AssertionError, match="looks at a value"):
            replayed.run()
        return
    replayed.run()
    assert recorder.replayed > 20
    with pytest.raises(AssertionError):
        assert_same(eager.learner, learner)


def test_loaded_state_is_recorded_anew(tmp_path):
    """Loading puts other tensors in the place of the optimizer's moments."""
    one_by_one, replayed = (
        start(tmp_path / name, *OPTIONS).learner for name in ("eager", "replayed")
    )
    source = start(tmp_path / "source", *OPTIONS)
    source.run()
    for learner in (one_by_one, replayed):
        learner.batches.replay_buffer = source.learner.batches.replay_buffer
    sampler = source.learner.batches.replay_buffer.sampler
    recorders, drawn = record(replayed), copy.deepcopy(sampler.state_dict())
    state = copy.deepcopy(source.learner.state_dict())
    for _ in range(2):
        for learner in (one_by_one, replayed):
            torch.manual_seed(3)
            sampler.load_state_dict(copy.deepcopy(drawn))
            learner.load_state_dict(copy.deepcopy(state))
            for _ in range(32):
                learner.update()
        assert_same(one_by_one, replayed)
    assert [r.recorded > 1 and r.replayed > 8 for r in recorders[1:]] == [True, True]


def test_a_resumed_run_is_the_run_that_never_stopped(tmp_path):
    whole = start(tmp_path / "whole", *OPTIONS)
    whole.run()
    half = start(tmp_path / "half", *OPTIONS, "steps=90")
    record(half.learner)
    half.run()
    rest = resume(tmp_path / "half", "steps=120")
    recorders = record(rest.learner)
    rest.run()
    assert recorders[-1].replayed > 0
    assert_same(whole.learner, rest.learner)


def test_graphs_need_a_gpu(tmp_path):
    with pytest.raises(ConfigError, match="cudagraph: expected false with device=cpu"):
        start(tmp_path / "run", "train.cudagraph=true")


def test_the_configuration_chooses_graphs(monkeypatch):
    made = []
    monkeypatch.setattr(build, "CudaRecorder", lambda device: made.append(device))
    config = compose(["task=pendulum_v", "core=gru"])
    synthetic_learner(config)
    assert made == []
    config.train.cudagraph = True
    synthetic_learner(config)
    assert made == [torch.device("cpu")]


@pytest.mark.parametrize("precision", ["high", "highest"])
def test_a_run_sets_the_precision_of_matrix_products(tmp_path, precision):
    with matmul_precision("highest"):
        start(tmp_path / "run", f"train.matmul_precision={precision}")
        assert torch.get_float32_matmul_precision() == precision
        assert torch.backends.cudnn.allow_tf32 == (precision == "high")
    assert torch.get_float32_matmul_precision() == "highest"


@pytest.mark.gpu
@pytest.mark.parametrize("core", ["mamba", "gru"])
@pytest.mark.parametrize("algorithm", ["resel", "td3_resel"])
@pytest.mark.parametrize("option", [None, "compile", "parallel_passes"])
def test_cuda_graphs_make_the_same_updates(core, algorithm, option):
    """Two layouts, a measured update between replays, and a state that is loaded."""
    options = [
        "task=pendulum_p",
        "device=cuda",
        f"core={core}",
        f"algorithm={algorithm}",
        "agent.hidden_size=16",
    ]
    learners = []
    for recorded in (False, True):
        torch.manual_seed(0)
        more = [f"train.{option}=true"] if recorded and option else []
        learner, _ = synthetic_learner(compose([*options, *more]))
        if recorded:
            learner.record_with(lambda: CudaRecorder(torch.device("cuda")))
        for number in range(60):
            learner.batches.batch_size = (800, 400)[number // 2 % 2]
            learner.update()
            if number == 30:
                learner.metrics()
            if number == 40:
                learner.load_state_dict(learner.state_dict())
        learner.check()
        learners.append(learner)
    eager, graphed = learners
    # Of updates with and without a step of the policy.
    assert [f.n_recorded for f in graphed._recorded.values()] == [2, 2]
    states = [
        {**x.loss.state_dict(), **x.state_dict()["sums"]} for x in (eager, graphed)
    ]
    assert_alike(states[1], states[0])
