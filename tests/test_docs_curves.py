"""The pictures of docs/results that the documentation's build draws."""

import importlib.util
import os
from pathlib import Path

import pytest

from resel_torchrl.analysis import write_results

pytest.importorskip("matplotlib")
pd = pytest.importorskip("pandas")

DOCS = Path(__file__).parents[1] / "docs"


@pytest.fixture(scope="module")
def curves():
    spec = importlib.util.spec_from_file_location("docs_curves", DOCS / "curves.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def docs(tmp_path):
    """A folder of documentation with two learning curves and a file of another kind."""
    rows = pd.DataFrame({"step": [10, 20], "return": [-10.0, -20.0]})
    rows = rows.assign(seed=0, agent="gru", task="walk")
    for name in ("light/walk", "other/run"):
        write_results(tmp_path / "results" / f"{name}.csv", rows)
    other = tmp_path / "results" / "light" / "walk_variation.csv"
    other.write_text("episode,return,length,gravity\n0,512.5,1000,1.2\n")
    return tmp_path


def drawn(curves, docs):
    """What is drawn, by its path below docs/generated."""
    pictures = curves.draw_curves(docs)
    return [path.relative_to(docs / "generated").as_posix() for path in pictures]


def age(path, seconds):
    """Makes a file older."""
    time = path.stat().st_mtime - seconds
    os.utime(path, (time, time))


def test_learning_curves_are_drawn_once_and_again_when_they_change(
    curves, docs, monkeypatch
):
    assert drawn(curves, docs) == ["light/walk.png", "other/run.png"]
    pictures = sorted((docs / "generated").rglob("*"))
    assert [path.name for path in pictures if path.is_file()] == ["walk.png", "run.png"]
    assert drawn(curves, docs) == []
    age(docs / "generated" / "other" / "run.png", 1e6)  # older than its file
    assert drawn(curves, docs) == ["other/run.png"]
    # What draws them is newer than one of them.
    code = docs / "plot.py"
    code.touch()
    age(code, 1000)
    for name in ("light/walk", "other/run"):
        age(docs / "results" / f"{name}.csv", 3000)
    age(docs / "generated" / "light" / "walk.png", 2000)
    monkeypatch.setattr(curves, "DRAWN_BY", [code])
    assert drawn(curves, docs) == ["light/walk.png"]


def test_a_picture_goes_with_its_file(curves, docs):
    drawn(curves, docs)
    (docs / "results" / "other" / "run.csv").unlink()
    assert drawn(curves, docs) == []
    assert not (docs / "generated" / "other" / "run.png").exists()
    assert (docs / "generated" / "light" / "walk.png").exists()


def test_a_curve_with_a_mistake_is_not_drawn_in_part(curves, docs):
    with open(docs / "results" / "other" / "run.csv", "a") as stream:
        stream.write("walk,gru,0,30,many\n")
    with pytest.raises(ValueError, match=r"run\.csv, line 4"):
        curves.draw_curves(docs)


@pytest.mark.parametrize(
    ("shown", "status"),
    [("light/walk", 0), ("light/walked", 1), ("light/walk_by_gravity", 1)],
)
def test_a_page_that_shows_no_learning_curve_fails_the_build(
    docs, capsys, shown, status
):
    pytest.importorskip("myst_parser")
    build = pytest.importorskip("sphinx.cmd.build")
    (docs / "conf.py").write_text(
        f"import sys\nsys.path.insert(0, {str(DOCS)!r})\n"
        "extensions = ['curves', 'myst_parser']\nexclude_patterns = ['out']\n"
    )
    (docs / "index.md").write_text(f"# Page\n\n![curve](generated/{shown}.png)\n")
    words = ["-W", "-q", "-b", "html", str(docs), str(docs / "out")]
    assert build.main(words) == status
    assert ("image file not readable" in capsys.readouterr().err) is bool(status)
    if not status:
        assert (docs / "out" / "_images" / "walk.png").is_file()


def test_returns_against_a_factor_are_drawn_too(curves, docs):
    rows = "agent,episode,return,length,gravity\ngru,0,512.5,1000,1.2\n"
    (docs / "results" / "light" / "walk_by_gravity.csv").write_text(rows)
    assert "light/walk_by_gravity.png" in drawn(curves, docs)
    assert drawn(curves, docs) == []
