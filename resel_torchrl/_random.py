"""The global random generators of PyTorch, NumPy and Python, together."""

from __future__ import annotations

import contextlib
import random
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import torch

__all__ = [
    "generator_states",
    "restore_generators",
    "seed_generators",
    "untouched_generators",
]


def seed_generators(seed: int) -> None:
    """Seeds all of them.

    >>> seed_generators(0)
    >>> first = random.random(), np.random.rand(), torch.rand(())
    >>> seed_generators(0)
    >>> first == (random.random(), np.random.rand(), torch.rand(()))
    True
    """
    torch.manual_seed(seed)
    np.random.seed(seed % 2**32)
    random.seed(seed)


def generator_states() -> dict[str, Any]:
    """The states of all global random generators, as tensors and numbers.

    >>> sorted(generator_states())
    ['cuda', 'numpy', 'python', 'torch']
    """
    kind, keys, position, has_gauss, gauss = np.random.get_state()
    version, internal, gauss_next = random.getstate()
    return {
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state_all() if torch.cuda.is_initialized() else [],
        "numpy": [kind, keys.tolist(), position, has_gauss, gauss],
        "python": [version, list(internal), gauss_next],
    }


def restore_generators(states: Mapping[str, Any]) -> None:
    """Puts the global generators back where :func:`generator_states` found them.

    >>> import torch
    >>> states = generator_states()
    >>> first = torch.rand(2)
    >>> restore_generators(states)
    >>> torch.equal(first, torch.rand(2))
    True
    """
    torch.set_rng_state(states["torch"])
    if states["cuda"]:
        torch.cuda.set_rng_state_all(states["cuda"])
    kind, keys, position, has_gauss, gauss = states["numpy"]
    np.random.set_state((kind, np.array(keys, "u4"), position, has_gauss, gauss))
    version, internal, gauss_next = states["python"]
    random.setstate((version, tuple(internal), gauss_next))


@contextlib.contextmanager
def untouched_generators() -> Iterator[None]:
    """Leaves the global random generators as they were, whatever happens inside.

    >>> import torch
    >>> before = torch.get_rng_state()
    >>> with untouched_generators():
    ...     _ = torch.rand(3)
    >>> torch.equal(before, torch.get_rng_state())
    True
    """
    states = generator_states()
    try:
        yield
    finally:
        restore_generators(states)
