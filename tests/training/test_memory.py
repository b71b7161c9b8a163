"""Memory that is freed stays with the process."""

import os
import platform
import subprocess
import sys

import pytest

from resel_torchrl.training import keep_freed_memory

# Five blocks at a time, as an update holds several; a fault is a page that the system
# had to clear.
COUNT = """
import resource, sys, torch
from resel_torchrl.training import keep_freed_memory
if sys.argv[1] == "kept":
    assert keep_freed_memory()
def use():
    blocks = [torch.ones(5_000_000) for _ in range(5)]
for _ in range(3):
    use()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(10):
    use()
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


def faults(way):
    command = [sys.executable, "-c", COUNT, way]
    # Blocks above 1 MiB are handed back. By itself glibc moves that limit, and keeps
    # or returns more than this according to what lies where.
    env = os.environ | {"MALLOC_MMAP_THRESHOLD_": str(1 << 20)}
    done = subprocess.run(command, capture_output=True, text=True, check=True, env=env)
    return int(done.stdout)


@pytest.mark.skipif(
    platform.libc_ver()[0] != "glibc", reason="another C library, left as it is"
)
def test_the_system_need_not_clear_it_again():
    """The control: what glibc hands back is cleared anew, page by page."""
    assert faults("kept") < 100 < 10_000 < faults("left alone")


def test_another_library_is_left_alone(monkeypatch):
    monkeypatch.setattr(platform, "libc_ver", lambda: ("", ""))
    assert keep_freed_memory() is False
