"""Returns against a hidden factor: what is read, drawn and refused."""

import numpy as np
import pytest

from resel_torchrl.analysis import figures, plot_by_factor, read_evaluations
from resel_torchrl.cli import main
from tests.recipes.test_commands import recipe

HEADER = "episode,return,length,success,gravity,mass_torso"
#: As `evaluate` writes it: returns of 100 times the gravity, which comes in no order.
GRAVITIES = (1.5, 0.3, 3.0, 0.6, 1.2, 2.2, 0.4)


def write(path, gravities=GRAVITIES, slope=100.0, header=HEADER):
    rows = [
        f"{i},{slope * gravity!r},1000,0.0,{gravity},1.0"
        for i, gravity in enumerate(gravities)
    ]
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join([header, *rows, ""]))
    return path


@pytest.fixture
def drawn(monkeypatch, tmp_path):
    """Draws and gives the axes and what stands in the CSV file."""
    pytest.importorskip("matplotlib")
    pictures = []
    monkeypatch.setattr(figures, "_save_figure", lambda fig, _: pictures.append(fig))

    def draw(files, factor="gravity"):
        plot_by_factor(files, factor, tmp_path / "out.png")
        (ax,) = pictures.pop().axes
        return ax, (tmp_path / "out.csv").read_text()

    return draw


def lines(ax):
    """The lines of the legend by label, and the points in the order of the lines."""
    named = {
        line.get_label(): line
        for line in ax.get_lines()
        if not line.get_label().startswith("_")
    }
    points = [line for line in ax.get_lines() if line.get_label().startswith("_")]
    return named, points


def test_what_evaluate_writes_is_read(tmp_path):
    episodes = read_evaluations(write(tmp_path / "gru.csv"))
    assert list(episodes.gravity) == list(GRAVITIES)
    assert list(episodes["return"]) == [100 * g for g in GRAVITIES]
    first = episodes.loc[0].to_dict()
    assert first.pop("return") == 150
    assert first == {
        **{"episode": 0, "length": 1000, "agent": "gru"},
        **{"success": 0.0, "gravity": 1.5, "mass_torso": 1.0},
    }


def test_points_and_a_line_over_the_sorted_factor(tmp_path, drawn):
    ax, _ = drawn(write(tmp_path / "gru.csv"))
    named, (points,) = lines(ax)
    (line,) = named.values()
    gravities = sorted(GRAVITIES)
    assert list(points.get_xdata()) == list(line.get_xdata()) == gravities
    assert list(points.get_ydata()) == [100 * g for g in gravities]
    # 1, 3, 5, 5, 5, 3, 1 values around each.
    means = [
        np.mean(gravities[max(0, i - reach) : i + reach + 1])
        for i, reach in enumerate((0, 1, 2, 2, 2, 1, 0))
    ]
    np.testing.assert_allclose(line.get_ydata(), 100 * np.array(means), rtol=1e-12)
    assert ax.get_xscale() == "log"
    assert ax.get_xlabel() == "gravity (multiple of the robot's own)"


def test_episodes_of_one_task_make_one_value_of_the_line(tmp_path, drawn):
    path = tmp_path / "a.csv"
    path.write_text(
        "episode,return,length,gravity\n0,1,9,0.5\n1,10,9,2\n2,3,9,0.5\n3,20,9,2\n"
    )
    named, (points,) = lines(drawn(path)[0])
    (line,) = named.values()
    assert len(points.get_xdata()) == 4
    assert (list(line.get_xdata()), list(line.get_ydata())) == ([0.5, 2], [2, 15])
    assert line.get_label() == "a (4 episodes)"


def test_files_are_told_apart(tmp_path, drawn):
    one = write(tmp_path / "gru/test.csv")
    write(tmp_path / "lstm/test.csv", slope=50.0)
    single = write(tmp_path / "memoryless.csv", GRAVITIES[:1])
    ax, _ = drawn(f"{one},{tmp_path}/lstm/*.csv,{single}")
    named, points = lines(ax)
    assert list(named) == [
        f"{tmp_path}/gru/test (7 episodes)",
        f"{tmp_path}/lstm/test (7 episodes)",
        "memoryless (1 episode)",
    ]
    assert len({line.get_color() for line in named.values()}) == 3
    assert len({line.get_marker() for line in points}) == 3
    for line, marks in zip(named.values(), points, strict=True):
        assert line.get_color() == marks.get_color()


def test_the_csv_beside_a_figure_draws_it_again(tmp_path, drawn):
    write(tmp_path / "a.csv")
    write(tmp_path / "b.csv", slope=1 / 3)
    first, text = drawn([tmp_path / "a.csv", tmp_path / "b.csv"])
    assert text.splitlines()[:2] == [
        "agent,episode,return,length,gravity",
        "a,1,30.0,1000,0.3",
    ]
    again = tmp_path / "again.csv"
    again.write_text(text)
    second, text_again = drawn(again)
    assert text_again == text
    for one, other in zip(first.get_lines(), second.get_lines(), strict=True):
        assert list(one.get_ydata()) == list(other.get_ydata())


def test_seeds_of_a_file_have_lines_of_their_own(tmp_path, drawn):
    path = tmp_path / "a.csv"
    rows = ("gru,0,0,1,9,2", "gru,1,0,3,9,2", "lstm,1,0,5,9,2")
    path.write_text("\n".join(["agent,seed,episode,return,length,gravity", *rows]))
    ax, text = drawn(path)
    assert list(lines(ax)[0]) == [
        "gru, seed 0 (1 episode)",
        "gru, seed 1 (1 episode)",
        "lstm, seed 1 (1 episode)",
    ]
    again = tmp_path / "again.csv"
    again.write_text(text)
    assert list(lines(drawn(again)[0])[0]) == list(lines(ax)[0])


def test_other_factors_have_a_linear_axis(tmp_path, drawn):
    header = "episode,return,length,return_1,target_speed,x"
    path = write(tmp_path / "a.csv", header=header)
    ax, _ = drawn(path, "target_speed")
    assert (ax.get_xscale(), ax.get_xlabel()) == ("linear", "target_speed")
    ax, _ = drawn(write(tmp_path / "a.csv"), "mass_torso")
    assert ax.get_xscale() == "log"


def test_what_is_not_of_that_form_is_refused_and_nothing_written(tmp_path):
    good, bad = write(tmp_path / "good.csv"), tmp_path / "bad.csv"
    output = tmp_path / "plots" / "out.png"
    for text, message in (
        ("", "got an empty file; add episode, return, length"),
        ("episode,return,gravity\n0,1,1\n", "add length"),
        ("episode,return,length,gravity\n", "one row or more, got a header only"),
        (
            "episode,return,length,gravity\n0,1,9,nan\n",
            "line 2: expected a finite gravity",
        ),
        ("episode,return,length,gravity\n0,1,9\n", "line 2: expected a finite gravity"),
        (
            "episode,return,length,gravity\n0,1,9,\n",
            "line 2: expected a finite gravity",
        ),
        (
            "episode,return,length,wind_x\n0,1,9,1\n",
            "column gravity, got wind_x beside",
        ),
        ("episode,return,length\n0,1,9\n", "got no factor beside"),
        ("agent,episode,return,length,gravity\ngood,0,1,9,1\n", "got a second, .*bad"),
    ):
        bad.write_text(text)
        with pytest.raises(ValueError, match=message):
            plot_by_factor([good, bad], "gravity", output)
    with pytest.raises(FileNotFoundError, match="evaluate run=RUN_DIR output="):
        plot_by_factor([good, tmp_path / "none.csv"], "gravity", output)
    with pytest.raises(FileNotFoundError, match="got none"):
        plot_by_factor(f"{tmp_path}/none*", "gravity", output)
    with pytest.raises(ValueError, match="got none"):
        plot_by_factor([], "gravity", output)
    with pytest.raises(ValueError, match=r"ending in .png, .pdf, .svg"):
        plot_by_factor(good, "gravity", tmp_path / "a.txt")
    assert not output.parent.exists()


def test_on_the_command_line(tmp_path, capsys):
    pytest.importorskip("matplotlib")
    files = f"evaluations={write(tmp_path / 'a.csv')},{write(tmp_path / 'b.csv')}"
    output = tmp_path / "new/gravity.png"
    assert recipe("plot", files, "factor=gravity", f"output={output}") == 0
    assert f"wrote {output}" in capsys.readouterr().out
    assert output.read_bytes().startswith(b"\x89PNG")
    assert len(read_evaluations(output.with_suffix(".csv"))) == 14
    for arguments, message in (
        (
            [files],
            "[measure=NAME], or evaluations=FILE,FILE factor=NAME",
        ),
        ([files, "factor=gravity", "runs=a"], "expected other names together"),
        (["factor=gravity"], "factor=: expected other names together"),
        ([files, "factor=wind"], "choose one of these as factor"),
        (["evaluations=no.csv", "factor=gravity"], "which is no file"),
        ([files, "factr=gravity"], "Nearest: factor"),
    ):
        assert main(["plot", *arguments]) == 2
        text = capsys.readouterr().err
        assert message in text and "Traceback" not in text


def test_what_is_read_is_not_overwritten(tmp_path):
    text = "episode,return,length,gravity,mass_torso\n0,1.0,9,0.5,1.5\n"
    (tmp_path / "gru.csv").write_text(text)
    with pytest.raises(ValueError, match="do not overwrite what is read"):
        plot_by_factor(tmp_path / "gru.csv", "gravity", tmp_path / "gru.png")
    assert (tmp_path / "gru.csv").read_text() == text
