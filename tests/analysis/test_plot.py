"""Learning curves: what is read, grouped and drawn, and what is refused."""

import subprocess
import sys

import pytest

from resel_torchrl.analysis import (
    figures,
    find_runs,
    plot_curves,
    plot_output_variation,
    plot_runs,
    read_metrics,
    read_results,
    read_runs,
    write_results,
)
from resel_torchrl.errors import RunError

pd = pytest.importorskip("pandas")

CONFIG = """task: {task}
seed: {seed}
run_dir: {folder}
agent:
  core: {core}
optim:
  lr_context_encoder: {lr}
"""


def make_run(folder, returns, *, seed=0, core="gru", task="pendulum_v", lr=1e-5):
    """A run directory with evaluations every 100 steps."""
    folder.mkdir()
    (folder / "config.yaml").write_text(
        CONFIG.format(task=task, seed=seed, folder=folder, core=core, lr=lr)
    )
    rows = [
        f"{100 * (i + 1)},{seed},{mean},0.5,2,{mean} {mean}\n"
        for i, mean in enumerate(returns)
    ]
    header = "step,seed,mean,standard_error,episodes,returns\n"
    (folder / "eval.csv").write_text(header + "".join(rows))
    return folder


def drawn(monkeypatch, draw, *arguments):
    """The axes that a function draws, by title."""
    pytest.importorskip("matplotlib")
    pictures = []
    monkeypatch.setattr(figures, "_save_figure", lambda fig, path: pictures.append(fig))
    draw(*arguments)
    (fig,) = pictures
    return {ax.get_title(): ax for ax in fig.axes}


def labelled(ax):
    """The y values of the lines in the legend."""
    return {
        line.get_label(): line.get_ydata()
        for line in ax.get_lines()
        if not line.get_label().startswith("_")
    }


def test_runs_of_a_task_and_core_become_one_curve_with_each_seed_behind(
    tmp_path, monkeypatch
):
    make_run(tmp_path / "a", [-10, -4], seed=0)
    make_run(tmp_path / "b", [-6, -2], seed=1)
    make_run(tmp_path / "c", [-20, -20], core="memoryless")
    make_run(tmp_path / "d", [1, 2], task="walker_v")
    axes = drawn(monkeypatch, plot_runs, f"{tmp_path}/*", tmp_path / "out.png")
    assert sorted(axes) == ["pendulum_v", "walker_v"]
    lines = labelled(axes["pendulum_v"])
    assert list(lines) == ["gru (2 seeds, IQM, 95 % interval)", "memoryless (1 seed)"]
    assert lines["gru (2 seeds, IQM, 95 % interval)"] == pytest.approx([-8, -3])
    faint = [x for x in axes["pendulum_v"].get_lines() if x.get_alpha() is not None]
    assert sorted(list(line.get_ydata()) for line in faint) == [[-10, -4], [-6, -2]]
    (band,) = axes["pendulum_v"].collections
    corners = band.get_paths()[0].vertices[:, 1]
    assert (corners.min(), corners.max()) == (-10, -2)
    assert axes["walker_v"].collections[:] == []
    data = read_results(tmp_path / "out.csv")
    assert set(zip(data.task, data.agent, strict=True)) == {
        ("pendulum_v", "gru"),
        ("pendulum_v", "memoryless"),
        ("walker_v", "gru"),
    }


def test_files_of_results_draw_as_the_runs_did(tmp_path, monkeypatch):
    make_run(tmp_path / "a", [-10.1, -4], seed=0)
    make_run(tmp_path / "b", [-6, -2 / 3], seed=1)
    of_runs = drawn(monkeypatch, plot_runs, tmp_path / "*", tmp_path / "out.png")
    again = drawn(monkeypatch, plot_curves, tmp_path / "out.csv", tmp_path / "b.png")
    first, second = (labelled(axes["pendulum_v"]) for axes in (of_runs, again))
    assert first.keys() == second.keys()
    assert all((first[key] == second[key]).all() for key in first)


def test_runs_that_differ_in_a_setting_are_not_averaged(tmp_path):
    make_run(tmp_path / "a", [-1], lr=1e-5)
    make_run(tmp_path / "b", [-2], lr=1e-5, seed=1)
    make_run(tmp_path / "c", [-3], lr=1e-3)
    results = read_runs(f"{tmp_path}/*")
    assert list(results.agent) == [
        "gru, lr_context_encoder=1e-05",
        "gru, lr_context_encoder=1e-05",
        "gru, lr_context_encoder=0.001",
    ]
    make_run(tmp_path / "d", [-4], lr=1e-3)
    with pytest.raises(RunError, match="configured the same; leave one out"):
        read_runs(f"{tmp_path}/*")


def test_a_task_is_named_with_the_environment_it_was_given(tmp_path):
    for name, env_id in (("own", "Ant-v5"), ("other", "Ant-v4")):
        run = make_run(tmp_path / name, [-1], task="ant_mdp")
        with open(run / "config.yaml", "a") as stream:
            stream.write(f"env:\n  id: {env_id}\n")
    results = read_runs(f"{tmp_path}/*")
    assert set(results.task) == {"ant_mdp", "ant_mdp on Ant-v4"}


def test_a_row_of_a_run_says_which_run_it_is_of(tmp_path):
    run = make_run(tmp_path / "a", [-10.5, -4], seed=3)
    metrics = "step,seed,return,loss_actor\n50,3,,0.5\n100,3,-7.0,nan\n"
    (run / "metrics.csv").write_text(metrics)
    evaluations = read_runs(run)
    columns = ["run", "task", "core", "agent", "seed", "step", "return"]
    assert list(evaluations) == columns
    assert evaluations.loc[0].tolist() == [
        *(str(run), "pendulum_v", "gru", "gru"),
        *(3, 100, -10.5),
    ]
    rows = read_metrics(run)
    assert list(rows) == [*columns, "loss_actor"]
    assert rows.loc[0].dropna().tolist() == [
        *(str(run), "pendulum_v", "gru", "gru"),
        *(3, 50, 0.5),
    ]
    assert rows.loc[1, "return"] == -7
    (run / "metrics.csv").unlink()
    with pytest.raises(RunError, match=r"expected metrics in .*csv, got none"):
        read_metrics(run)


def test_runs_are_found_by_path_list_text_and_glob(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    a, b, odd = (make_run(tmp_path / n, [-1]).name for n in ("a", "b", "o[d],d"))
    (tmp_path / "no_run").mkdir()
    for form in (f"{a},{b}", f"[{a}, '{b}']", [a, b], [a, "[b]", a]):
        assert [path.name for path in find_runs(form)] == [a, b]
    assert [path.name for path in find_runs("*")] == [a, b, odd]
    assert [path.name for path in find_runs(odd)] == [odd]
    assert [path.name for path in find_runs([odd])] == [odd]


def test_what_is_no_run_is_refused_and_nothing_written(tmp_path):
    good = make_run(tmp_path / "good", [-1])
    empty = make_run(tmp_path / "empty", [])
    no_file = make_run(tmp_path / "no_file", [-1])
    (no_file / "eval.csv").unlink()
    blank = make_run(tmp_path / "blank", [-1])
    (blank / "eval.csv").write_text("")
    cut = make_run(tmp_path / "cut", [-1])
    (cut / "eval.csv").write_text("step,seed,mean\n100,0\n")
    no_config = make_run(tmp_path / "no_config", [-1])
    (no_config / "config.yaml").write_text("[1, 2")
    partial = make_run(tmp_path / "partial", [-1])
    (partial / "config.yaml").write_text("seed: 1")
    (tmp_path / "folder").mkdir()
    output = tmp_path / "plots" / "out.png"
    for path, message in (
        (empty, "expected evaluations in .*eval.csv, got none"),
        (no_file, "expected evaluations"),
        (blank, "expected evaluations"),
        (cut, "line 2: expected a whole step and seed and a finite mean"),
        (no_config, "expected the YAML of a run"),
        (partial, "without task and agent.core"),
        (tmp_path / "folder", "expected a run directory"),
        (tmp_path / "none*", "got none"),
        (good / "eval.csv", "expected a run directory"),
        ("", "at least one run directory"),
    ):
        paths = [good, path] if path else []
        with pytest.raises(RunError, match=message):
            plot_runs(paths, output)
    with pytest.raises(ValueError, match=r"ending in .png, .pdf, .svg, got .*a.txt"):
        plot_runs(good, tmp_path / "a.txt")
    assert not output.parent.exists()


def test_results_files_of_another_form_are_refused(tmp_path):
    path = tmp_path / "walker_v.csv"
    for text, message in (
        ("", "got an empty file; add step, return, seed"),
        ("step,mean,seed\n1,2,3\n", "add return"),
        ("step,return,seed\n", "expected one row or more"),
        ("step,return,seed\n1,nan,3\n", "line 2: expected a whole step"),
        ("step,return,seed\n1,2\n", "line 2: expected a whole step"),
        ("step,return,seed\n1.5,2,0\n", "line 2: expected a whole step"),
    ):
        path.write_text(text)
        with pytest.raises(ValueError, match=message):
            read_results(path)
    with pytest.raises(FileNotFoundError, match="expected a CSV file with the columns"):
        read_results(tmp_path / "missing.csv")
    row = pd.DataFrame({"step": [1], "return": 2.0, "seed": 0, "agent": "gru"})
    write_results(path, row, row)
    with pytest.raises(ValueError, match="got two; name the agents apart"):
        plot_curves(path, tmp_path / "a.png")
    with pytest.raises(ValueError, match="expected results to draw, got none"):
        plot_curves([], tmp_path / "a.png")


def test_published_columns_are_enough(tmp_path):
    path = tmp_path / "walker_v.csv"
    path.write_text("core,step,return,seed,note\nmamba,1e3,2.5,1,x\n")
    table = read_results(path)
    assert list(table) == ["task", "agent", "seed", "step", "return"]
    assert table.loc[0].tolist() == ["walker_v", "mamba", 1, 1000, 2.5]


@pytest.mark.parametrize("module", ["matplotlib.figure", "pandas"])
def test_without_a_package_the_error_names_the_extra(tmp_path, monkeypatch, module):
    run = make_run(tmp_path / "a", [-1])
    monkeypatch.setitem(sys.modules, module, None)
    package = module.partition(".")[0]
    with pytest.raises(ModuleNotFoundError, match=rf"'{package}'.*resel_torchrl\[plot"):
        plot_runs(run, tmp_path / "out.png")
    assert not (tmp_path / "out.csv").exists()


def test_the_package_is_imported_without_the_extra():
    blocked = "import sys; sys.modules |= dict.fromkeys(('pandas', 'matplotlib'))"
    code = f"{blocked}; import resel_torchrl.analysis, resel_torchrl.cli"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_drawing_leaves_matplotlib_as_it_was(tmp_path):
    matplotlib = pytest.importorskip("matplotlib")

    def settings():
        # Not by rcParams[key], which picks a backend when it is asked for it.
        params = matplotlib.rcParams
        return {key: dict.__getitem__(params, key) for key in params}

    had_pyplot = "matplotlib.pyplot" in sys.modules
    before = settings()
    output = plot_runs(make_run(tmp_path / "a", [-1, -2]), tmp_path / "out.png")
    assert output.read_bytes().startswith(b"\x89PNG")
    assert settings() == before
    assert ("matplotlib.pyplot" in sys.modules) is had_pyplot
    with pytest.raises(ValueError, match="expected one or more"):
        plot_output_variation(pd.DataFrame(), tmp_path / "b.png")


def test_a_measure_is_drawn_in_place_of_the_return(tmp_path, monkeypatch):
    row = {"task": "maze", "agent": "gru", "seed": 0, "step": 10, "return": -5.0}
    rows = pd.DataFrame([row | {"success": 0.5, "apples": 7.0}])
    write_results(tmp_path / "maze.csv", rows)
    pd.testing.assert_frame_equal(read_results(tmp_path / "maze.csv"), rows)
    drawn = []
    points = figures.aggregate
    monkeypatch.setattr(
        figures, "aggregate", lambda *a: drawn.append(points(*a)) or drawn[-1]
    )
    for measure, value in ((None, -5.0), ("success", 0.5), ("apples", 7.0)):
        plot_curves(tmp_path / "maze.csv", tmp_path / "a.png", measure)
        assert drawn[-1].iqm[0] == value
    with pytest.raises(ValueError, match=r"\(success, apples\), got 'sucess'"):
        plot_curves(tmp_path / "maze.csv", tmp_path / "b.png", "sucess")
    assert not (tmp_path / "b.png").exists()
