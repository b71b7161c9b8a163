"""A run that ends before what was planned for it says so, and runs."""

import pytest

from tests.training.runs import start

MAZE = [
    "env.id=TMaze-Passive-v0",
    "env.kwargs.length=8",
    "curriculum.option=length",
    "curriculum.values=[2,4,8]",
]


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ([*MAZE, "curriculum.at_steps=[30,129]"], ()),
        (
            [*MAZE, "curriculum.at_steps=[30,130]"],
            ("begin at steps [130], and the run ends",),
        ),
        (
            [*MAZE, "curriculum.at_steps=[200,300]"],
            ("begin at steps [200, 300], and the run ends",),
        ),
        (["optim.decay_steps=[0,130]"], ()),
        (["optim.decay_steps=[0,131]"], ("fall from step 0 to 131, and the run ends",)),
    ],
)
def test_what_begins_or_ends_after_the_last_step_is_told(
    tmp_path, caplog, options, told
):
    caplog.set_level("WARNING", "torchrl")
    training = start(tmp_path / "run", *options)
    warnings = [m for m in caplog.messages if "the run ends at step 130" in m]
    assert len(warnings) == len(told)
    assert all(part in text for part, text in zip(told, warnings, strict=True))
    training.run()
