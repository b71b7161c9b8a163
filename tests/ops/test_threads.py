"""The work of a kernel is shared out whole, on PyTorch's own threads."""

import os
import subprocess
import sys
import threading
import weakref
from pathlib import Path
from types import SimpleNamespace

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
    run_items(2, lambda first, last: met.wait(timeout=600))


def test_what_a_part_raises_is_raised(threads_of):
    def run(first, last):
        raise ValueError(f"items {first} to {last - 1}")

    with pytest.raises(ValueError, match=r"items \d to \d"):
        run_items(3, run)
    seen = []
    run_items(3, _count, seen)  # and the threads live on
    assert len(seen) == 3


def test_a_smaller_team_than_asked_for_does_all(monkeypatch):
    """OpenMP may give fewer threads: the caller's alone, at least."""
    monkeypatch.setattr(_threads, "_openmp_team", lambda: lambda work, *_: work(None))
    monkeypatch.setattr(torch, "get_num_threads", lambda: 3)
    seen = []
    run_items(7, _count, seen)
    assert sorted(item for item, _ in seen) == list(range(7))


def test_a_signal_that_kept_the_caller_out_is_not_lost(monkeypatch):
    monkeypatch.setattr(_threads, "_openmp_team", lambda: lambda *_: None)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 3)
    with pytest.raises(KeyboardInterrupt):
        run_items(7, _count, [])


def test_a_failure_holds_on_to_nothing(threads_of):
    class Argument:
        pass

    def fail(first, last, argument):
        raise ValueError("it failed")

    argument = Argument()
    alive = weakref.ref(argument)
    with pytest.raises(ValueError, match="it failed"):
        run_items(3, fail, argument)
    del argument
    if threads_of == "team":
        assert alive() is None


_TEAM = """
import os, sys, threading, torch
from resel_torchrl.ops import _threads

torch.set_num_threads(2)
torch.rand(1_000_000).tanh()  # PyTorch makes its team
threads = len(os.listdir("/proc/self/task"))
if sys.argv[1] == "control":
    _threads._openmp_team = lambda: None
met = threading.Barrier(2)
_threads.run_items(2, lambda first, last: met.wait(timeout=600))
print(len(os.listdir("/proc/self/task")) > threads)
"""


@needs_team
@pytest.mark.skipif(not Path("/proc/self/task").is_dir(), reason="counts by /proc")
@pytest.mark.parametrize(("way", "more"), [("team", "False"), ("control", "True")])
def test_the_team_is_pytorchs(way, more):
    """A thread beside PyTorch's would have to share its core with one that waits."""
    command = [sys.executable, "-c", _TEAM, way]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == more


@needs_team
@pytest.mark.parametrize("preloaded", [True, False])
def test_what_the_process_shares_comes_before_what_pytorch_is_linked_to(
    monkeypatch, preloaded
):
    def open_library(scope):
        entries = SimpleNamespace(GOMP_parallel=SimpleNamespace(of=scope))
        return SimpleNamespace() if scope is None and not preloaded else entries

    monkeypatch.setattr(_threads.ctypes, "CDLL", open_library)
    found = _threads._openmp_team.__wrapped__().of
    assert found is None if preloaded else found.endswith("libtorch_cpu.so")


_FORK = """
import os, signal, sys, torch
import resel_torchrl.ops

torch.set_num_threads(3)
torch.rand(1_000_000).tanh()  # the parent has a team
if sys.argv[1] != "before the first use":
    from resel_torchrl.ops import _threads
    if sys.argv[1] == "pool":
        _threads._openmp_team = lambda: None

def use():
    from resel_torchrl.ops._threads import run_items

    def double(first, last, numbers):
        for item in range(first, last):
            numbers[item] *= 2

    numbers = [1, 2, 3, 4]
    run_items(4, double, numbers)
    return numbers == [2, 4, 6, 8]

if sys.argv[1] != "before the first use":
    assert use()
child = os.fork()
if child == 0:
    signal.alarm(600)
    os._exit(not use())
assert os.waitpid(child, 0)[1] == 0
assert use()
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no forks here")
@pytest.mark.parametrize("way", ["team", "pool", "before the first use"])
def test_a_fork_has_threads_of_its_own(way):
    """A child that waited for its parent's threads would wait for ever."""
    subprocess.run(
        [sys.executable, "-W", "ignore", "-c", _FORK, way], check=True, timeout=1200
    )
