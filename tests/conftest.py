"""What holds for every test."""

import pytest
import torch

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
