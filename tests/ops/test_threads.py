"""The work of a kernel is shared out whole, on PyTorch's own threads."""

import os
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch

from resel_torchrl.ops import _threads
from resel_torchrl.ops._threads import run_items

needs_team = pytest.mark.skipif(
    _threads._openmp_team() is None, reason="PyTorch's OpenMP cannot be reached here"
)


@pytest.fixture(params=["team", "pool"])
def threads_of(request, monkeypatch):
    """Both ways, and three threads."""
    if request.param == "pool":
        monkeypatch.setattr(_threads, "_openmp_team", lambda: None)
    elif _threads._openmp_team() is None:
        pytest.skip("PyTorch's OpenMP cannot be reached here")
    before = torch.get_num_threads()
    torch.set_num_threads(3)
    yield request.param
    torch.set_num_threads(before)


def _count(first, last, seen):
    for item in range(first, last):
        seen.append((item, threading.get_ident()))


@pytest.mark.parametrize("items", [0, 1, 2, 3, 7, 64])
def test_every_item_is_run_once(threads_of, items):
    seen = []
    run_items(items, _count, seen)
    assert sorted(item for item, _ in seen) == list(range(items))


def test_several_threads_take_part(threads_of):
    met = threading.Barrier(2)  # passed by two threads at once, or never
    run_items(2, lambda first, last: met.wait(timeout=60))


def test_what_a_part_raises_is_raised(threads_of):
    def run(first, last):
        raise ValueError(f"items {first} to {last - 1}")

    with pytest.raises(ValueError, match="items 0 to 0"):
        run_items(3, run)
    seen = []
    run_items(3, _count, seen)  # and the threads live on
    assert len(seen) == 3


def test_a_smaller_team_than_asked_for_does_all(monkeypatch):
    """OpenMP may give fewer threads; a signal may end one before it begins."""
    monkeypatch.setattr(_threads, "_openmp_team", lambda: lambda *_: None)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 3)
    seen = []
    run_items(7, _count, seen)
    assert sorted(item for item, _ in seen) == list(range(7))


@needs_team
@pytest.mark.skipif(not Path("/proc/self/task").is_dir(), reason="counts by /proc")
@pytest.mark.parametrize("control", [False, True])
def test_the_team_is_pytorchs(monkeypatch, control):
    """A thread beside PyTorch's would have to share its core with one that waits."""
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        torch.rand(1_000_000).tanh()  # PyTorch makes its team
        threads, pool = len(os.listdir("/proc/self/task")), ThreadPoolExecutor(2)
        if control:
            monkeypatch.setattr(_threads, "_openmp_team", lambda: None)
            monkeypatch.setattr(_threads, "_pool", lambda _, new=pool: new)
        met = threading.Barrier(2)
        run_items(2, lambda first, last: met.wait(timeout=60))
        assert (len(os.listdir("/proc/self/task")) > threads) == control
    finally:
        torch.set_num_threads(before)


_FORK = """
import os, sys, torch
from resel_torchrl.ops import _threads

if sys.argv[1] == "pool":
    _threads._openmp_team = lambda: None
torch.set_num_threads(3)

def double(first, last, numbers):
    for item in range(first, last):
        numbers[item] *= 2

numbers = [1, 2, 3, 4]
_threads.run_items(4, double, numbers)
child = os.fork()
_threads.run_items(4, double, numbers)
if child == 0:
    os._exit(numbers != [4, 8, 12, 16])
assert os.waitpid(child, 0)[1] == 0
assert numbers == [4, 8, 12, 16]
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no forks here")
@pytest.mark.parametrize("way", ["team", "pool"])
def test_a_fork_has_threads_of_its_own(way):
    """A child that waited for its parent's threads would wait for ever."""
    subprocess.run(
        [sys.executable, "-W", "ignore", "-c", _FORK, way], check=True, timeout=120
    )
