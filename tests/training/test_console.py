"""What a run says of its progress."""

import logging
from types import SimpleNamespace

import pytest
from torchrl import torchrl_logger

from resel_torchrl.training import Progress
from tests.training.runs import start


@pytest.fixture
def said():
    """Messages of the library's logger."""
    messages, handler = [], logging.Handler()
    handler.emit = lambda record: messages.append(record.getMessage())
    torchrl_logger.addHandler(handler)
    yield messages
    torchrl_logger.removeHandler(handler)


class Run(SimpleNamespace):
    """What the line reads of a trainer, and its steps."""

    def __init__(self):
        super().__init__(
            steps=10_000,
            eval_interval=1000,
            evaluation_seconds=0.0,
            collector=SimpleNamespace(steps=0),
            learner=SimpleNamespace(updates=0),
            records=SimpleNamespace(seconds=0.0),
        )

    def step(self, hook, steps, updates, seconds):
        self.collector.steps += steps
        hook.on_step(self)
        self.learner.updates += updates
        self.records.seconds += seconds


def test_after_a_hundred_updates_the_rest_of_the_run_is_estimated(said):
    run, progress = Run(), Progress()
    progress.on_start(run)
    run.step(progress, 1000, 0, 1.0)  # random steps do not count
    run.evaluation_seconds = 3.0
    for _ in range(100):
        run.step(progress, 2, 1, 0.05)
        assert said == []
    run.step(progress, 2, 1, 0.05)
    # 8,800 steps at 0.025 s and 8 evaluations of 3 s.
    assert said == [
        "This machine makes 20 updates per second and needs about 4 minutes more."
    ]
    run.step(progress, 200, 100, 5.0)
    assert len(said) == 1
    progress.on_end(run)


@pytest.mark.parametrize("shown", [True, False])
def test_a_quiet_run_gives_no_estimate(tmp_path, said, shown):
    options = ["train.updates_per_step=2", "steps=100", "eval.interval=0"]
    training = start(tmp_path / "run", *options, f"log.console={str(shown).lower()}")
    training.run()
    assert training.learner.updates > 100
    assert any("updates per second" in text for text in said) == shown
