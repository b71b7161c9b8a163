"""Hooks: when they are called, what they may change, and what a resumed run keeps."""

import functools
import math

import pytest
import torch
from torch.optim.lr_scheduler import ExponentialLR

from recipes.benchmark.synthetic import synthetic_learner
from resel_torchrl.config import compose
from resel_torchrl.errors import RunError
from resel_torchrl.training import (
    CheckpointStore,
    Hook,
    Learner,
    SchedulerHook,
    set_learning_rate,
)
from resel_torchrl.training.checkpoint import write_checkpoint
from resel_torchrl.training.update_metrics import contexts
from tests.training.runs import assert_same_run, leaves, resume, rows, same, start
from tests.training.tape import record


class Diary(Hook):
    """Writes down each moment, with steps and updates made."""

    def __init__(self):
        self.entries = []

    def note(self, what, trainer):
        at = trainer.collector.steps, trainer.learner.updates
        self.entries.append((what, *at))

    def before_step(self, trainer, role, batch):
        assert batch is trainer.learner.batches.upcoming
        self.note(f"before {role}", trainer)

    def after_step(self, trainer, role, batch):
        self.note(f"after {role}", trainer)


def noting(event):
    return lambda self, trainer, *_: self.note(event, trainer)


for name in vars(Hook):
    if name.startswith("on_"):
        setattr(Diary, name, noting(name))


class Best(Hook):
    """The best return so far: a column, and a state."""

    columns = ("best_return",)
    best = -math.inf

    def on_episode(self, trainer, result):
        self.best = max(self.best, result.episode_return)

    def on_log(self, trainer, values):
        values["best_return"] = self.best

    def state_dict(self):
        return {"best": self.best}

    def load_state_dict(self, state):
        self.best = state["best"]


class HoldChange(Hook):
    """Sets the encoder's rate by how far its own step moves its output."""

    columns = ("own_change",)

    def __init__(self, wanted=1e-4, every=5):
        self.wanted, self.every, self.change = wanted, every, 0.0

    def wants_step(self, trainer, role):
        return role == "critic" and trainer.learner.updates % self.every == 0

    def before_step(self, trainer, role, batch):
        self.before = contexts(batch, trainer.learner.encoders[role])

    def after_step(self, trainer, role, batch):
        after = contexts(batch, trainer.learner.encoders[role])
        self.change = float((after - self.before).norm(dim=-1).mean())
        group = trainer.learner.groups[f"context_encoder_{role}"]
        factor = 1.5 if self.change < self.wanted else 1 / 1.5
        set_learning_rate(group, float(group["lr"]) * factor)

    def on_log(self, trainer, values):
        values["own_change"] = self.change

    def state_dict(self):
        return {"change": self.change}

    def load_state_dict(self, state):
        self.change = state["change"]


def test_moments_come_in_their_order(tmp_path):
    diary = Diary()
    options = ["steps=60", "train.updates_per_step=1", "log.checkpoint_interval=60"]
    start(tmp_path / "run", *options, hooks=[diary]).run()
    entries = diary.entries
    assert entries[:2] == [("on_start", 0, 0), ("on_step", 1, 0)]
    updates = entries[-1][-1]
    assert entries[-1] == ("on_end", 60, updates) and updates > 20
    last = [entry[0] for entry in entries if entry[1] == 60]
    with_policy = ["before actor", "after actor"] * (updates % 2)
    assert last == [
        *(["on_episode"] * (last[0] == "on_episode")),
        "on_step",
        *("before critic", "after critic", *with_policy),
        *("on_update", "on_log", "on_checkpoint", "on_end"),
    ]
    assert [e[1] for e in entries if e[0] == "on_evaluation"] == [40]
    assert [e[1] for e in entries if e[0] == "on_log"] == [20, 40, 60]
    steps = [e[2] for e in entries if e[0] == "before critic"]
    assert steps == list(range(updates))


def test_hooks_that_only_look_change_nothing(tmp_path):
    start(tmp_path / "with", "steps=70", hooks=[Diary()]).run()
    start(tmp_path / "without", "steps=70").run()
    assert_same_run(tmp_path / "with", tmp_path / "without")


def test_a_stopped_run_is_saved_and_goes_on(tmp_path):
    class Stop(Hook):
        def on_evaluation(self, trainer, result):
            trainer.stop("enough")

    stopped = start(tmp_path / "run", hooks=[Stop()])
    stopped.run()
    assert stopped.collector.steps == 40
    resume(tmp_path / "run").run()
    start(tmp_path / "whole").run()
    assert_same_run(tmp_path / "run", tmp_path / "whole")


def scheduler():
    return SchedulerHook(functools.partial(ExponentialLR, gamma=0.95))


@pytest.mark.parametrize("hook", [Best, HoldChange, scheduler])
def test_a_resumed_run_keeps_columns_and_states(tmp_path, hook):
    start(tmp_path / "whole", hooks=[hook()]).run()
    start(tmp_path / "parts", "steps=67", hooks=[hook()]).run()
    resume(tmp_path / "parts", "steps=130", hooks=[hook()]).run()
    assert_same_run(tmp_path / "parts", tmp_path / "whole")
    last = rows(tmp_path / "parts/metrics.csv")[-1]
    for column in hook().columns:
        assert float(last[column]) not in (0.0, -math.inf)


def test_two_schedules_of_the_rates_are_refused(tmp_path):
    falling = ["optim.decay_steps=[10,20]"]
    with pytest.raises(ValueError, match=r"write optim\.decay_steps=null"):
        start(tmp_path / "run", *falling, hooks=[scheduler()])
    start(tmp_path / "decay", *falling, "steps=40")


def test_a_state_too_many_or_too_few_is_refused(tmp_path):
    start(tmp_path / "with", "steps=40", hooks=[Best()]).run()
    for hooks in [(), (HoldChange(),)]:
        with pytest.raises(RunError, match=r"hooks whose state .* holds \(Best\), got"):
            resume(tmp_path / "with", hooks=hooks)
    start(tmp_path / "without", "steps=40").run()
    with pytest.raises(RunError, match=r"holds \(none\), got Best; give the resumed"):
        resume(tmp_path / "without", hooks=[Best()])
    assert not (tmp_path / "without/lock.json").exists()


def test_other_columns_in_a_resumed_run_are_refused(tmp_path):
    class Column(Hook):
        columns = ("other",)

    start(tmp_path / "run", "steps=40", hooks=[Column()]).run()
    with pytest.raises(RunError, match=r"metrics\.csv to be those .* difference in ot"):
        resume(tmp_path / "run")


def test_mistakes_of_a_hook_are_named(tmp_path):
    with pytest.raises(ValueError, match="different names, got Best, Best"):
        start(tmp_path / "twice", hooks=[Best(), Best()])

    class Undeclared(Best):
        columns = ()

    with pytest.raises(ValueError, match="got best_return; a hook names"):
        start(tmp_path / "column", hooks=[Undeclared()]).run()

    class NumPy(Hook):
        def state_dict(self):
            return {"values": [torch.ones(1).numpy()[0]]}

    message = r"got a float32 in the state of the hook NumPy\['values'\]\[0\]"
    with pytest.raises(TypeError, match=message):
        start(tmp_path / "state", "steps=20", hooks=[NumPy()]).run()


def test_a_checkpoint_from_before_there_were_hooks_is_resumed(tmp_path):
    start(tmp_path / "run", "steps=67").run()
    store = CheckpointStore(tmp_path / "run/checkpoints", None)
    parts = {name: store.load(67, name) for name in ("learner", "progress", "replay")}
    del parts["progress"]["hooks"]
    parts["progress"]["policy_copy"] = None
    manifest = store.manifest(67)
    write_checkpoint(store.path(67), parts, manifest)
    resume(tmp_path / "run", "steps=130").run()
    start(tmp_path / "whole").run()
    assert_same_run(tmp_path / "run", tmp_path / "whole")


@pytest.mark.parametrize("hook", [HoldChange, scheduler])
def test_rates_change_in_replayed_updates_as_in_those_made_one_by_one(tmp_path, hook):
    """HoldChange looks at every fifth update; the others are replayed."""
    options = ["steps=120", "eval.interval=0", "log.interval=40"]
    states = []
    for name in ("eager", "replayed"):
        training = start(tmp_path / name, *options, hooks=[hook()])
        recorders = record(training.learner) if name == "replayed" else []
        training.run()
        assert all(recorder.replayed > 10 for recorder in recorders)
        states.append(dict(leaves(training.learner.state_dict())))
    assert states[0].keys() == states[1].keys()
    assert all(same(value, states[1][name]) for name, value in states[0].items())


def test_any_optimizer_takes_the_groups():
    learner, _ = synthetic_learner(compose(["task=pendulum_v", "core=gru"]))
    groups = [
        {name: group[name] for name in ("params", "name", "lr")}
        for group in learner.groups.values()
    ]
    for make in (torch.optim.RMSprop, torch.optim.SGD):
        other = Learner(learner.loss, make(groups), learner.batches)
        before = [p.detach().clone() for p in learner.loss.parameters()]
        other.update()
        after = learner.loss.parameters()
        assert not any(map(torch.equal, before, after))
    nameless = torch.optim.SGD(learner.loss.parameters(), lr=1e-3)
    with pytest.raises(ValueError, match=r"optimizer: .* got groups named None\. Pass"):
        Learner(learner.loss, nameless, learner.batches)
    with pytest.raises(ValueError, match=r"got groups named .* and none for \w+"):
        Learner(learner.loss, torch.optim.SGD(groups[1:]), learner.batches)
