"""Every example a reader can copy is run: docstrings, README and the pages of docs/."""

import doctest
import importlib
import inspect
import os
import pkgutil
import re
import warnings
from pathlib import Path

import pytest
import torch

import resel_torchrl
from resel_torchrl.training.logging import EVAL_COLUMNS, METRIC_COLUMNS

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
BLOCK = re.compile(r"^```python\n(.*?)^```", re.MULTILINE | re.DOTALL)


@pytest.fixture(autouse=True)
def one_thread():
    """Networks of examples are small: threads would only get in each other's way."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def library_modules(*, packages_only: bool = False) -> list[str]:
    found = pkgutil.walk_packages(resel_torchrl.__path__, "resel_torchrl.")
    modules = [m for m in found if m.ispkg or not packages_only]
    return sorted(m.name for m in modules if not m.name.endswith("__main__"))


def import_or_skip(name: str):
    """Kernels written in Triton are modules that need it; it is an optional package."""
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name != "triton":
            raise
        pytest.skip("needs triton")


@pytest.mark.parametrize("name", library_modules())
def test_docstring_examples_run(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    torch.manual_seed(0)
    module = import_or_skip(name)
    options = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        result = doctest.testmod(module, optionflags=options)
    assert result.failed == 0


def needs_example(value: object) -> bool:
    """Classes and functions do; constants, modules and exceptions do not."""
    if inspect.isclass(value):
        return not issubclass(value, Exception)
    return inspect.isroutine(value)


def without_example(package: str) -> list[str]:
    """Public classes and functions with no example, in a method neither."""
    module = importlib.import_module(package)
    values = {name: getattr(module, name) for name in getattr(module, "__all__", [])}
    return [
        name
        for name, value in values.items()
        if needs_example(value)
        and not any(t.examples for t in doctest.DocTestFinder().find(value, name))
    ]


@pytest.mark.parametrize("package", library_modules(packages_only=True))
def test_every_public_class_and_function_has_an_example(package):
    assert without_example(package) == []


def test_a_missing_example_is_noticed(monkeypatch):
    replay = importlib.import_module("resel_torchrl.replay")
    monkeypatch.setattr(replay.pack_episodes, "__doc__", "Like ``>>> row_layout``.")
    assert without_example("resel_torchrl.replay") == ["pack_episodes"]


@pytest.mark.parametrize("page", PAGES, ids=lambda p: p.relative_to(ROOT).as_posix())
def test_code_blocks_of_a_page_run_in_order(page, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    torch.manual_seed(0)
    namespace = {"__name__": "documentation"}
    for number, block in enumerate(BLOCK.findall(page.read_text())):
        code = compile(block, f"{page.name}, python block {number}", "exec")
        exec(code, namespace)


def test_the_columns_of_the_log_are_described_in_their_order():
    page = (ROOT / "docs" / "training.md").read_text().split("## Columns")[1]
    described = re.findall(r"^\| `(\w+)` \|", page, re.MULTILINE)
    assert described == [*METRIC_COLUMNS, *EVAL_COLUMNS]


def anchors(page: Path) -> set[str]:
    """Anchors of a page's headings, as GitHub and MyST make them."""
    headings = re.findall(r"^#+ (.*)$", page.read_text(), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", h.lower()).replace(" ", "-") for h in headings}


def in_the_checkout(path: Path) -> Path:
    """Where a link leads to; for a picture that the build draws, the data it is of."""
    path = Path(os.path.normpath(path))
    if not path.is_relative_to(ROOT / "docs" / "generated"):
        return path
    data = path.relative_to(ROOT / "docs" / "generated").with_suffix(".csv")
    return ROOT / "docs" / "results" / data


def broken_links(page: Path, text: str) -> list[str]:
    """Targets in ``text``, as part of ``page``, that lead nowhere."""
    broken = []
    for target in re.findall(r"\]\(([^)\s]+)\)", text):
        path, _, anchor = target.partition("#")
        to = in_the_checkout(page.parent / path) if path else page
        if target.startswith("http"):
            continue
        if not to.exists() or (anchor and anchor not in anchors(to)):
            broken.append(target)
    return broken


@pytest.mark.parametrize("page", PAGES, ids=lambda p: p.relative_to(ROOT).as_posix())
def test_links_between_pages_and_files_lead_somewhere(page):
    assert broken_links(page, page.read_text()) == []


def test_a_broken_link_is_noticed():
    text = "[a](recipe.md) [b](recipe.md#no-such) [c](no_such.md) [d](#the-row-table)"
    text += "![e](generated/light/pendulum_v.png) ![f](generated/light/no_such.png)"
    page = ROOT / "docs" / "packing.md"
    assert broken_links(page, text) == [
        *("recipe.md#no-such", "no_such.md", "generated/light/no_such.png"),
    ]
