"""What a context encoder refuses, and what its errors say."""

import pytest
import torch
from torch import nn

from resel_torchrl.modules import CORES, ContextEncoder
from tests.modules.encoders import make_data, make_encoder, run_recurrent


def test_all_faults_of_the_arguments_are_listed_at_once():
    with pytest.raises(ValueError) as error:
        ContextEncoder(
            {"observation": 0, "pixels": (3, 4, 4)},
            "grru",
            hidden_size=0,
            pre_encoders={"image": nn.Identity()},
        )
    for part in (
        "'observation'",
        "'pixels'",
        "'image'",
        "'grru'",
        "'gru'",
        "hidden_size",
    ):
        assert part in str(error.value)


def test_a_built_core_must_fit():
    core = CORES["gru"](8)
    ContextEncoder({"observation": 3}, core, hidden_size=8)
    with pytest.raises(ValueError, match=r"Pass hidden_size=8"):
        ContextEncoder({"observation": 3}, core)
    with pytest.raises(ValueError, match=r"core_kwargs"):
        ContextEncoder({"observation": 3}, core, hidden_size=8, core_kwargs={"a": 1})
    with pytest.raises(ValueError, match=r"SequenceCore, got Linear"):
        ContextEncoder({"observation": 3}, nn.Linear(8, 8), hidden_size=8)
    with pytest.raises(ValueError, match=r"sees the present only"):
        ContextEncoder({"prev_action": 3}, "memoryless")


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        (lambda d: d.exclude("prev_action"), KeyError, "make_tensordict_primer"),
        (lambda d: d.exclude("context_actor_state"), KeyError, "context_actor_state"),
        (lambda d: d.exclude("is_init"), KeyError, "InitTracker"),
        (
            lambda d: d.set("observation", torch.zeros(3, 5)),
            ValueError,
            r"\[3, 4\].*got \[3, 5\]",
        ),
        (
            lambda d: d.set("is_init", torch.zeros(3, 1)),
            ValueError,
            r"torch.bool.*torch.float32",
        ),
        (
            lambda d: d.set("observation", torch.zeros(3, 4).double()),
            ValueError,
            "DoubleToFloat",
        ),
    ],
)
def test_faulty_data_is_named(change, error, message):
    encoder = make_encoder()
    data = make_data()[:, 0].clone()
    data[encoder.state_key] = torch.zeros(3, encoder.state_size)
    encoder(data.clone())
    with pytest.raises(error, match=message):
        encoder(change(data))


def test_recurrent_mode_needs_a_time_dimension():
    with pytest.raises(ValueError, match=r"sequential mode"):
        run_recurrent(make_encoder(), make_data()[0, 0])
