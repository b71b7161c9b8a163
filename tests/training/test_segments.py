"""Runs that learn from segments: shapes, the loss's mask, resuming, configuration."""

import warnings

import pytest

from resel_torchrl.config import compose
from resel_torchrl.errors import ConfigError
from resel_torchrl.replay import EpisodeSampler, SegmentSampler
from tests.training.runs import assert_same_run, resume, rows, start, tiny

SEGMENTS = ["replay.segment_length=4", "replay.burn_in=3"]


@pytest.fixture(autouse=True)
def small_buffers_at_the_start():
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "The buffer holds")
        yield


@pytest.mark.parametrize("algorithm", ["resel", "td3_resel", "discrete_resel"])
def test_a_run_on_segments_resumes(tmp_path, algorithm):
    name = "DiscreteWalk" if algorithm == "discrete_resel" else "Walk"
    options = [f"env.id=tests.training.envs:{name}-v0", f"algorithm={algorithm}"]
    options += SEGMENTS
    start(tmp_path / "whole", *options, "steps=70").run()
    start(tmp_path / "parts", *options, "steps=50").run()
    resume(tmp_path / "parts", "steps=70").run()
    assert_same_run(tmp_path / "parts", tmp_path / "whole")


def test_batches_of_a_run_have_the_shapes_of_its_layout(tmp_path):
    training = start(tmp_path / "run", *SEGMENTS, "steps=70")
    learner, shapes = training.learner, set()
    pack = learner.batches.pack

    def watched(flat):
        batch = pack(flat)
        shapes.add(batch.shape)
        assert batch["learning_mask"].sum() < batch["valid"].sum()
        return batch

    learner.batches.pack = watched
    training.run()
    # 12 segments of 7 transitions and one more observation fit in 100 columns and more.
    assert {length for _, length in shapes} == {13 * 8}
    assert {count for count, _ in shapes} <= set(pack.keywords["row_counts"])
    assert "padding_fraction" in rows(tmp_path / "run/metrics.csv")[-1]


def test_segments_of_the_horizon_give_the_run_on_whole_episodes(tmp_path):
    """Bit for bit, and another one with shorter segments."""
    for name, options in {
        "whole": [],
        "horizon": ["replay.segment_length=12"],
        "short": ["replay.segment_length=5"],
    }.items():
        start(tmp_path / name, *options, "steps=70", "eval.interval=0").run()
    columns = [
        rows(tmp_path / n / "metrics.csv") for n in ("whole", "horizon", "short")
    ]
    assert columns[0] == columns[1] != columns[2]


def test_the_sampler_is_the_configured_one(tmp_path):
    whole = start(tmp_path / "whole").learner.batches.replay_buffer.sampler
    segments = start(
        tmp_path / "segments", *SEGMENTS
    ).learner.batches.replay_buffer.sampler
    assert type(whole) is EpisodeSampler
    assert type(segments) is SegmentSampler
    assert (segments.segment_length, segments.burn_in) == (4, 3)


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["replay.burn_in=8"], r"burn_in: expected 0 with whole episodes.*got 8; set"),
        (["replay.segment_length=0"], r"segment_length: expected null or a number abo"),
        (["replay.segment_length=4", "replay.burn_in=-1"], r"burn_in: expected a num"),
        (["replay.segment_length=2.5"], r"a whole number or null, got 2.5"),
    ],
)
def test_bad_values_are_named(overrides, message):
    with pytest.raises(ConfigError, match=message):
        compose(["task=pendulum_v", *overrides])


def test_a_segment_longer_than_the_horizon_is_refused_before_the_run(tmp_path):
    start(tmp_path / "fits", "replay.segment_length=12")
    with pytest.raises(ConfigError, match=r"at most the horizon of 12 steps, got 13"):
        start(tmp_path / "run", "replay.segment_length=13")
    assert not (tmp_path / "run").exists()
    assert compose(tiny(tmp_path / "run")).replay.segment_length is None
