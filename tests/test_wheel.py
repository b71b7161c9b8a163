"""What a user installs: the wheel holds the library and its YAML, and trains."""

import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
COPIED = ("pyproject.toml", "README.md", "LICENSE", "resel_torchrl", "tests", "recipes")
LEFT_OUT = shutil.ignore_patterns("__pycache__", "*.egg-info")
# One episode at random, then two updates.
TINY = (
    "task=pendulum_v",
    "core=gru",
    "steps=220",
    "agent.hidden_size=8",
    "agent.head_sizes=[8]",
    "replay.batch_size=100",
    "train.random_steps=200",
    "train.updates_per_step=0.1",
    "eval.episodes=1",
    "eval.interval=220",
    "log.interval=220",
    "log.console=false",
    "run_dir=run",
)


def python(*arguments, cwd, path) -> str:
    """Output of a Python that finds the package in ``path``, started in ``cwd``."""
    variables = {**os.environ, "PYTHONPATH": str(path), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, *arguments],
        cwd=cwd,
        env=variables,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def unpacked(tmp_path_factory) -> Path:
    """Folder of a wheel's contents, built from a copy: the checkout stays as it is."""
    folder = tmp_path_factory.mktemp("wheel")
    source = folder / "source"
    source.mkdir()
    for name in COPIED:
        if (ROOT / name).is_dir():
            shutil.copytree(ROOT / name, source / name, ignore=LEFT_OUT)
        else:
            shutil.copy(ROOT / name, source)
    options = ("--no-deps", "--no-build-isolation", "--no-index", "--quiet")
    build = ("-m", "pip", "wheel", *options, "--wheel-dir", "dist", "./source")
    python(*build, cwd=folder, path="")
    (wheel,) = (folder / "dist").iterdir()
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(folder / "unpacked")
    return folder / "unpacked"


def files(folder: Path, pattern: str) -> set[str]:
    return {path.relative_to(folder).as_posix() for path in folder.glob(pattern)}


def test_it_holds_every_module_and_every_configuration(unpacked):
    for pattern in ("resel_torchrl/**/*.py", "resel_torchrl/config/**/*.yaml"):
        expected = files(unpacked.parent / "source", pattern)
        assert len(expected) > 10
        assert files(unpacked, pattern) == expected


def test_it_installs_no_other_package(unpacked):
    (metadata,) = unpacked.glob("*.dist-info")
    assert {path.name for path in unpacked.iterdir()} == {
        "resel_torchrl",
        metadata.name,
    }


def test_it_trains_on_its_own(unpacked, tmp_path):
    where = "import resel_torchrl; print(resel_torchrl.__file__)"
    found = python("-c", where, cwd=tmp_path, path=unpacked).strip()
    assert Path(found) == unpacked / "resel_torchrl" / "__init__.py"
    assert Path(python("-c", where, cwd=tmp_path, path="").strip()) != Path(found)
    python("-m", "resel_torchrl", "train", *TINY, cwd=tmp_path, path=unpacked)
    last = (tmp_path / "run/metrics.csv").read_text().splitlines()[-1]
    assert [int(number) for number in last.split(",")[:4]] == [220, 0, 1, 2]
