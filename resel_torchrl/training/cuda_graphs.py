"""CUDA graphs of a function of batches: launched as a whole, without Python."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping
from typing import Any

import torch
from tensordict import TensorDict
from torch import Tensor

__all__ = ["CudaRecorder", "GraphedFunction", "StaticBatch"]

Outputs = Mapping[str, Tensor]
#: Takes a function down and returns what runs it again, on the same memory.
Recorder = Callable[[Callable[[], Outputs]], Callable[[], Outputs]]


class StaticBatch:
    """A batch whose entries stay where they are while their values change.

    Args:
        batch: ``[R, L]``; it is copied. An entry that stores one column for all, as
            :func:`~resel_torchrl.replay.pack_episodes` makes them, keeps doing so.

    >>> static = StaticBatch(TensorDict(reward=torch.zeros(1, 3), batch_size=[1, 3]))
    >>> entry = static.batch["reward"]
    >>> static.fill(TensorDict(reward=torch.ones(1, 3), batch_size=[1, 3]))
    >>> entry
    tensor([[1., 1., 1.]])
    """

    def __init__(self, batch: TensorDict) -> None:
        self._stored = {
            key: _stored(value).clone() for key, value in batch.items(True, True)
        }
        self.batch = TensorDict({}, batch.batch_size, device=batch.device)
        for key, value in batch.items(True, True):
            self.batch.set(key, self._stored[key].expand_as(value))

    def fill(self, batch: TensorDict) -> None:
        """Copies the values of a batch of the same layout."""
        for key, value in batch.items(True, True):
            self._stored[key].copy_(_stored(value))


def layout(batch: TensorDict) -> Hashable:
    """What two batches share if one fits into the memory of the other.

    >>> layout(TensorDict(reward=torch.zeros(1, 3), batch_size=[1, 3]))
    (('reward', torch.Size([1, 3]), torch.float32, torch.Size([1, 3])),)
    """
    entries = sorted(batch.items(True, True), key=lambda entry: str(entry[0]))
    return tuple(
        (key, value.shape, value.dtype, _stored(value).shape) for key, value in entries
    )


def _stored(value: Tensor) -> Tensor:
    """The part of an entry ``[R, L, *]`` that is in memory."""
    return value if value.stride(1) else value[:, :1]


class CudaRecorder:
    """Records as CUDA graphs, which share their memory: they never run side by side.

    A replay may overwrite what the one before returned, of whichever graph. A new round
    of graphs wants a new recorder: the memory ends with the last graph on it.

    Args:
        device: The GPU.

    >>> if torch.cuda.is_available():
    ...     x = torch.zeros((), device="cuda")
    ...     again = CudaRecorder(x.device)(lambda: {"x": x.add_(1)})
    ...     assert x == 0 and again()["x"] == 1 and again()["x"] == 2
    """

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self._pool: Any = None

    def __call__(self, function: Callable[[], Outputs]) -> Callable[[], Outputs]:
        """Records the launches of `function`, which runs none of them yet."""
        with torch.cuda.device(self.device):
            if self._pool is None:
                self._pool = torch.cuda.graph_pool_handle()
            graph = torch.cuda.CUDAGraph()
            with torch.cuda.graph(graph, pool=self._pool):
                outputs = function()

        def replay() -> Outputs:
            graph.replay()
            return outputs

        return replay


class GraphedFunction:
    """A function of batches that is recorded once for each layout of them.

    The first calls with a layout run as they are: they build what is built once, such
    as the moments of an optimizer and compiled kernels. The next call records, and it
    and all later ones replay. What the function changes besides its outputs it must
    change in place, and it must not look at a value.

    Args:
        function: From a batch to tensors by name.
        record: How; :class:`CudaRecorder` on a GPU.
        warm_up: Calls with each layout that run as they are, at least 1.

    Raises:
        ValueError: If there is no call to warm up.

    >>> def run_again(function):
    ...     return function
    >>> total = torch.zeros(())
    >>> def add(batch):
    ...     return {"total": total.add_(batch["reward"].sum())}
    >>> graphed = GraphedFunction(add, run_again, warm_up=1)
    >>> for value in (1.0, 2.0, 3.0):
    ...     reward = torch.full((1, 2), value)
    ...     outputs = graphed(TensorDict(reward=reward, batch_size=[1, 2]))
    >>> outputs["total"], graphed.n_recorded
    (tensor(12.), 1)
    """

    def __init__(
        self,
        function: Callable[[TensorDict], Outputs],
        record: Recorder,
        *,
        warm_up: int = 3,
    ) -> None:
        if warm_up < 1:
            raise ValueError(
                f"warm_up: expected 1 call or more, got {warm_up}; what is built once "
                "must not be recorded."
            )
        self.function = function
        self.record = record
        self.warm_up = warm_up
        self._calls: dict[Hashable, int] = {}
        self._recorded: dict[Hashable, tuple[StaticBatch, Callable[[], Outputs]]] = {}

    @property
    def n_recorded(self) -> int:
        """Number of layouts that are replayed."""
        return len(self._recorded)

    def __call__(self, batch: TensorDict) -> Outputs:
        """Runs the function; what it returns is overwritten by later calls."""
        key = layout(batch)
        if key not in self._recorded:
            calls = self._calls[key] = self._calls.get(key, 0) + 1
            if calls <= self.warm_up:
                return self.function(batch)
            static = StaticBatch(batch)
            replay = self.record(lambda: self.function(static.batch))
            self._recorded[key] = static, replay
        static, replay = self._recorded[key]
        static.fill(batch)
        return replay()
