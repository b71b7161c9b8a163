"""Every public name of every public package is on a page of docs/api."""

import importlib
import pkgutil
import re
from pathlib import Path

import pytest

import resel_torchrl

PAGES = Path(__file__).parents[1] / "docs" / "api"
CURRENT = re.compile(r"^\.\. currentmodule:: (\S+)$")
ENTRY = re.compile(r"^\.\. auto(?:class|function|data|exception):: (\S+)$")


def public_packages() -> list[str]:
    found = pkgutil.walk_packages(resel_torchrl.__path__, "resel_torchrl.")
    return [module.name for module in found if module.ispkg]


def entries(page: str) -> list[tuple[str, str]]:
    """(module, name) of each object that a page describes."""
    module, found = "", []
    for line in page.splitlines():
        if match := CURRENT.match(line):
            module = match[1]
        elif match := ENTRY.match(line):
            found.append((module, match[1]))
    return found


def described() -> dict[int, str]:
    """Id of each object described, with its name: a re-export is the same object."""
    objects = {}
    for path in PAGES.glob("*.rst"):
        for module, name in entries(path.read_text()):
            objects[id(getattr(importlib.import_module(module), name))] = name
    return objects


def missing(package: str, objects: dict[int, str]) -> list[str]:
    module = importlib.import_module(package)
    pages = {f"{package}.{path.stem}" for path in PAGES.glob("*.rst")}
    return [
        name
        for name in getattr(module, "__all__", [])
        if id(getattr(module, name)) not in objects and f"{package}.{name}" not in pages
    ]


@pytest.mark.parametrize("package", public_packages())
def test_every_public_name_is_in_the_reference(package):
    assert missing(package, described()) == []


def test_a_name_left_out_is_noticed():
    objects = described()
    sampler = importlib.import_module("resel_torchrl.replay").EpisodeSampler
    del objects[id(sampler)]
    assert missing("resel_torchrl.replay", objects) == ["EpisodeSampler"]


def test_every_subpackage_says_what_is_public():
    packages = [importlib.import_module(name) for name in public_packages()]
    assert [p.__name__ for p in packages if not getattr(p, "__all__", None)] == []


def test_every_function_of_the_maths_is_in_the_reference():
    functional = importlib.import_module("resel_torchrl.objectives.functional")
    own = {
        name
        for name, value in vars(functional).items()
        if callable(value)
        and getattr(value, "__module__", None) == functional.__name__
        and not name.startswith("_")
    }
    page = entries((PAGES / "functional.rst").read_text())
    assert own - {"Rows"} == {name for _, name in page}
