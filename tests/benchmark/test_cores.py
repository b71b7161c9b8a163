"""The benchmark of the cores by themselves, and its table."""

import csv

import pytest
import torch

from recipes.benchmark import cores
from recipes.benchmark.cores import core_table, time_cores
from resel_torchrl.modules import CORES, make_core
from tests.recipes.test_commands import recipe

SMALL = {"width": 8, "length": 7, "rows": 2, "repetitions": 2}


def test_every_core_and_the_reference_have_their_four_rows():
    generator, threads = torch.get_rng_state(), torch.get_num_threads()
    rows = time_cores(**SMALL)
    assert torch.equal(generator, torch.get_rng_state())
    assert torch.get_num_threads() == threads
    names = list(dict.fromkeys(row.case.split(",")[0] for row in rows))
    assert names == ["torch.nn.GRU", *CORES]
    assert len(rows) == 4 * len(names)
    assert all(row.p10 <= row.median <= row.p90 for row in rows)
    found = {(r.case.split(",")[0], r.quantity): r for r in rows}
    for name in CORES:
        options = {"max_length": 7} if name == "transformer" else {}
        core = make_core(name, 8, **options)
        count = sum(p.numel() for p in core.parameters())
        assert found[name, "parameters"].median == count
        assert found[name, "state"].median == core.state_size
        assert found[name, "forward + backward a token"].repetitions == 2
        assert found[name, "one step"].repetitions == 2 * cores.ACTING_STEPS


def test_time_is_per_token_and_in_microseconds(monkeypatch):
    monkeypatch.setattr(cores, "seconds_of", lambda call, n: [0.28e-3] * n)
    rows = time_cores(["gru"], **SMALL)
    medians = {row.quantity: row.median for row in rows[4:]}
    assert medians["forward + backward a token"] == pytest.approx(280 / (2 * 7))
    assert medians["one step"] == pytest.approx(280)


def test_the_reference_is_the_gru_without_start_flags():
    torch.manual_seed(0)
    reference, core = cores.TorchGRU(5), make_core("gru", 5)
    core.load_state_dict(reference.layer.state_dict())
    x, is_init = torch.randn(2, 6, 5), torch.zeros(2, 6).bool()
    wanted, last = core(x, is_init)
    y, state = reference(x, is_init)
    torch.testing.assert_close((y, state), (wanted, last))
    step, _ = reference.step(x[:, 0], is_init[:, 0], torch.zeros(2, 5))
    torch.testing.assert_close(step, wanted[:, 0])


@pytest.mark.parametrize("length", [1, 2])
def test_shortest_rows(length):
    assert len(time_cores(**SMALL | {"length": length})) == 4 * (1 + len(CORES))


def test_recipe_prints_a_line_for_each_core(tmp_path, capsys):
    output = tmp_path / "cores.csv"
    sizes = [f"{name}={value}" for name, value in SMALL.items()]
    arguments = ["core=lru,min_gru", *sizes, f"output={output}"]
    assert recipe("benchmark", "cores", *arguments) == 0
    lines = [t for t in capsys.readouterr().out.splitlines() if t.startswith("|")]
    assert [line.split("`")[1] for line in lines[2:]] == [
        "torch.nn.GRU",
        "lru",
        "min_gru",
    ]
    assert all(line.count("|") == 6 for line in lines)
    with open(output, newline="") as stream:
        assert len(list(csv.DictReader(stream))) == 12


def test_table_groups_thousands_and_leaves_gaps():
    rows = time_cores(["gru", "memoryless"], **SMALL | {"width": 40})
    kept = [row for row in rows if row.quantity == "parameters"]
    states = [row for row in rows if row.quantity == "state"]
    lines = core_table(kept + states[:2]).splitlines()
    assert lines == [
        "| core | parameters, numbers | state, numbers |",
        "|---|---|---|",
        "| `torch.nn.GRU` | 9,840 | 40 |",
        "| `gru` | 9,840 | 40 |",
        "| `memoryless` | 1,640 |  |",
    ]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["core=lrv"], "Unknown core 'lrv'"),
        (["core=transformer", "width=12"], "n_heads to divide the width 12"),
        (["width=0"], "width: expected"),
        (["lengths=7"], "lengths=7: expected NAME=VALUE"),
    ],
)
def test_recipe_ends_mistakes_in_a_sentence(capsys, arguments, message):
    assert recipe("benchmark", "cores", *arguments) == 2
    assert message in capsys.readouterr().err
