"""What holds for every test."""

import os
import tempfile

import pytest
import torch

# Code that another version of PyTorch compiled to the same file would end the process.
_USER = os.getuid() if hasattr(os, "getuid") else "user"
_CACHE = os.path.join(tempfile.gettempdir(), f"inductor_{_USER}_{torch.__version__}")
os.environ.setdefault("TORCHINDUCTOR_CACHE_DIR", _CACHE)

# Tests run side by side on few cores; small problems are fastest on one thread each.
torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def seeded():
    """A test draws the same numbers alone and among others, in any order."""
    torch.manual_seed(0)


def pytest_collection_modifyitems(items):
    if torch.cuda.is_available():
        return
    for item in items:
        if item.get_closest_marker("gpu"):
            item.add_marker(pytest.mark.skip(reason="needs a CUDA device"))
