"""Every example a reader can copy is run: docstrings, README and the pages of docs/."""

import doctest
import importlib
import pkgutil
import re
import warnings
from pathlib import Path

import pytest
import torch

import resel_torchrl
from resel_torchrl.training.log import EVAL_COLUMNS, METRIC_COLUMNS

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


def library_modules() -> list[str]:
    found = pkgutil.walk_packages(resel_torchrl.__path__, "resel_torchrl.")
    return sorted(m.name for m in found if not m.name.endswith("__main__"))


@pytest.mark.parametrize("name", library_modules())
def test_docstring_examples_run(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    torch.manual_seed(0)
    module = importlib.import_module(name)
    options = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        result = doctest.testmod(module, optionflags=options)
    assert result.failed == 0


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


def test_links_between_pages_and_files_lead_somewhere():
    broken = []
    pages = [*PAGES, ROOT / "CONTRIBUTING.md"]
    for page in pages:
        for target in re.findall(r"\]\(([^)\s]+)\)", page.read_text()):
            path, _, anchor = target.partition("#")
            to = (page.parent / path) if path else page
            drawn = to.suffix == ".png"  # figures: their own test draws them
            if target.startswith("http") or drawn:
                continue
            known = f"({anchor})=" if anchor else ""
            if (
                not to.exists()
                and not re.search(rf"^\({path}\)=", page.read_text(), re.M)
            ) or (
                anchor and known not in to.read_text() and not _has_heading(to, anchor)
            ):
                broken.append((page.name, target))
    assert broken == []


def _has_heading(page: Path, anchor: str) -> bool:
    headings = re.findall(r"^#+ (.*)$", page.read_text(), re.MULTILINE)
    return anchor in {h.lower().replace(" ", "-").strip("`") for h in headings}
