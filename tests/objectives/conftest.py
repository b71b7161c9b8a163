"""Losses are compared in float64 and on one thread."""

import pytest
import torch

from tests.objectives.episodes import (
    LENGTHS,
    ROW_LENGTH,
    is_discrete,
    make_episodes,
    pack,
)


@pytest.fixture(autouse=True)
def float64_on_one_thread():
    dtype, threads = torch.get_default_dtype(), torch.get_num_threads()
    torch.set_default_dtype(torch.float64)
    torch.set_num_threads(1)
    yield
    torch.set_default_dtype(dtype)
    torch.set_num_threads(threads)


@pytest.fixture
def batch(float64_on_one_thread, request):
    """Several episodes in each row, packed; actions are the test's algorithm's."""
    named = "algorithm" in request.fixturenames
    algorithm = request.getfixturevalue("algorithm") if named else "resel"
    return pack(make_episodes(LENGTHS, discrete=is_discrete(algorithm)), ROW_LENGTH)
