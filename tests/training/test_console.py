"""What a run says of its progress."""

import logging

import pytest
from torchrl import torchrl_logger

from resel_torchrl.training.logging import Progress


@pytest.fixture
def said():
    """Messages of the library's logger."""
    messages, handler = [], logging.Handler()
    handler.emit = lambda record: messages.append(record.getMessage())
    torchrl_logger.addHandler(handler)
    yield messages
    torchrl_logger.removeHandler(handler)


def test_after_a_hundred_updates_the_rest_of_the_run_is_estimated(said):
    with Progress(10_000, eval_interval=1000) as progress:
        progress.step(1000, 0, 1.0)  # random steps do not count
        progress.evaluation(3.0)
        for _ in range(99):
            progress.step(2, 1, 0.05)
        assert said == []
        progress.step(2, 1, 0.05)
        # 8,800 steps at 0.025 s and 8 evaluations of 3 s.
        assert said == [
            "This machine makes 20 updates per second and needs about 4 minutes more."
        ]
        progress.step(200, 100, 5.0)
        assert len(said) == 1


def test_a_quiet_run_gives_no_estimate(said):
    with Progress(10_000, shown=False) as progress:
        progress.step(200, 100, 5.0)
    assert said == []
