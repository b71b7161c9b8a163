"""Updates that are recorded once and replayed are the updates that would be made.

A recorder that hands the function back stands in for CUDA graphs on a CPU: what is
replayed then is the function on the memory that was recorded, as on a GPU.
"""

import functools

import pytest
import torch
from tensordict import TensorDict

from resel_torchrl.analysis.synthetic import synthetic_learner
from resel_torchrl.config import ConfigError, compose
from resel_torchrl.training import CudaRecorder, set_matmul_precision
from resel_torchrl.training.cuda_graphs import GraphedFunction, StaticBatch
from tests.training.runs import leaves, resume, rows, start

OPTIONS = ["steps=120", "eval.interval=0", "log.interval=40"]


class Recorder:
    """Counts recordings and replays."""

    def __init__(self):
        self.recorded, self.replayed = 0, 0

    def __call__(self, function):
        self.recorded += 1

        def replay():
            self.replayed += 1
            return function()

        return replay


def start_recorded(folder, *options):
    training, recorder = start(folder, *OPTIONS, *options), Recorder()
    record(training.learner, recorder)
    return training, recorder


def record(learner, recorder):
    learner._record = recorder
    learner._forget_recorded()


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


def test_each_layout_is_recorded_once_after_its_warm_up():
    recorder, seen = Recorder(), []

    def function(batch):
        seen.append(float(batch["observation"].sum()))
        return {"sum": batch["observation"].sum() + batch["next", "reward"].sum()}

    graphed = GraphedFunction(function, recorder, warm_up=2)
    for number in range(1, 7):
        for height, length in ((2, 5), (3, 5), (2, 4)):
            outputs = graphed(make_batch(height, length, value=float(number)))
            assert outputs["sum"] == 5 * height * length * number
    assert (recorder.recorded, graphed.n_recorded) == (3, 3)
    assert recorder.replayed == 3 * 4
    assert seen[-1] == 4 * 2 * 4 * 6
    with pytest.raises(ValueError, match="warm_up: expected 1 call or more, got 0"):
        GraphedFunction(function, recorder, warm_up=0)


@pytest.mark.parametrize(
    "options",
    [
        [],
        ["agent.algorithm=td3_resel", "train.policy_delay=3"],
        ["env.id=tests.training.envs:DiscreteWalk-v0"],
        ["train.fixed_alpha=true"],
    ],
    ids=["resel", "td3", "discrete", "fixed temperature"],
)
def test_replayed_updates_are_those_made_one_by_one(tmp_path, options):
    eager = start(tmp_path / "eager", *OPTIONS, *options)
    eager.run()
    replayed, recorder = start_recorded(tmp_path / "replayed", *options)
    replayed.run()
    assert eager.learner.updates == replayed.learner.updates > 40
    assert recorder.recorded >= 2 and recorder.replayed > 20
    expected = dict(leaves(eager.learner.state_dict()))
    got = dict(leaves(replayed.learner.state_dict()))
    assert expected.keys() == got.keys()
    for name, value in expected.items():
        same = torch.equal(value, got[name]) if torch.is_tensor(value) else None
        assert same if same is not None else value == got[name], name
    paths = eager.run_directory.path, replayed.run_directory.path
    first, second = (rows(path / "metrics.csv") for path in paths)
    assert first == second


def test_a_recorder_that_forgets_the_batch_is_noticed(tmp_path, monkeypatch):
    """The control of the test above: replays on the batch of the recording."""
    eager = start(tmp_path / "eager", *OPTIONS)
    eager.run()
    monkeypatch.setattr(StaticBatch, "fill", lambda self, batch: None)
    replayed, recorder = start_recorded(tmp_path / "replayed")
    replayed.run()
    assert recorder.replayed > 20
    states = [t.learner.loss.state_dict() for t in (eager, replayed)]
    weights = [s for s in states[0] if s.startswith("qvalue_network_params")]
    assert not all(torch.equal(states[0][w], states[1][w]) for w in weights)


def test_a_resumed_run_records_anew(tmp_path):
    whole = start(tmp_path / "whole", *OPTIONS)
    whole.run()
    half, _ = start_recorded(tmp_path / "half", "steps=90")
    half.run()
    rest, recorder = resume(tmp_path / "half", "steps=120"), Recorder()
    record(rest.learner, recorder)
    rest.run()
    assert recorder.replayed > 0
    expected = whole.learner.loss.state_dict()
    for name, value in rest.learner.loss.state_dict().items():
        assert torch.equal(value, expected[name]), name


def test_graphs_need_a_gpu(tmp_path):
    with pytest.raises(ConfigError, match="cudagraph: expected false with dev"):
        start(tmp_path / "run", "train.cudagraph=true")


@pytest.mark.parametrize("precision", ["high", "highest"])
def test_a_run_sets_the_precision_of_matrix_products(tmp_path, precision):
    try:
        start(tmp_path / "run", f"train.matmul_precision={precision}")
        assert torch.get_float32_matmul_precision() == precision
        assert torch.backends.cudnn.allow_tf32 == (precision == "high")
    finally:
        set_matmul_precision("highest")


@pytest.mark.gpu
@pytest.mark.parametrize("core", ["mamba", "gru"])
@pytest.mark.parametrize("algorithm", ["resel", "td3_resel"])
def test_cuda_graphs_make_the_same_updates(core, algorithm):
    config = compose(
        [
            "task=pendulum_v",
            "device=cuda",
            f"core={core}",
            f"agent.algorithm={algorithm}",
            "agent.hidden_size=16",
        ]
    )
    learners = []
    for recorded in (False, True):
        torch.manual_seed(0)
        learner, _ = synthetic_learner(config)
        if recorded:
            record(learner, CudaRecorder(learner.device))
        for _ in range(20):
            learner.update()
        learner.check()
        learners.append(learner)
    assert {g.n_recorded for g in learners[1]._graphed.values()} == {1}
    expected, got = (learner.loss.state_dict() for learner in learners)
    close = functools.partial(torch.testing.assert_close, rtol=1e-3, atol=1e-5)
    for name, value in expected.items():
        close(got[name], value, msg=lambda text, name=name: f"{name}: {text}")
