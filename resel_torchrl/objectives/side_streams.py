"""Passes without gradient beside others, on CUDA streams of their own."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeVar

import torch
from torch import Tensor

if TYPE_CHECKING:
    from resel_torchrl.objectives.episode_networks import Pass
    from resel_torchrl.objectives.packed import PackedBatch

__all__ = ["ParallelPasses", "SideStreams"]

Result = TypeVar("Result")


class SideStreams:
    """Streams that take turns in running what is started beside the current one.

    What is started sees all that the current stream was given before, and is finished
    for what the current stream is given after its result was asked for. All starts must
    come from one stream, or from streams that have waited for each other, and each
    result must have been asked for before its stream is used again, as a loss does
    within one term: then no memory is given away while a stream still works on it.
    Each has memory and workspaces of its own.

    Args:
        device: the GPU.
        count: most that run at the same time.

    Examples:
        >>> if torch.cuda.is_available():
        ...     x = torch.ones(3, device="cuda")
        ...     double = SideStreams(x.device).start(lambda: 2 * x)
        ...     assert (x + 1).sum() == double().sum()
    """

    def __init__(self, device: torch.device, count: int = 2) -> None:
        self.device, self.count = device, count
        self._streams: list[torch.cuda.Stream] = []
        self._started = 0

    def __getstate__(self) -> dict[str, Any]:
        # A copy, or another process, has streams of its own.
        return self.__dict__ | {"_streams": [], "_started": 0}

    def start(self, function: Callable[[], Result]) -> Callable[[], Result]:
        """Launches a function's work.

        Args:
            function: makes tensors on the device, without gradient.

        Returns:
            What has the current stream wait for that work and gives the result.
        """
        if not self._streams:
            self._streams = [torch.cuda.Stream(self.device) for _ in range(self.count)]
        stream = self._streams[self._started % self.count]
        self._started += 1
        stream.wait_stream(torch.cuda.current_stream(self.device))
        with torch.cuda.stream(stream):
            result = function()

        def finished() -> Result:
            torch.cuda.current_stream(self.device).wait_stream(stream)
            return result

        return finished


class ParallelPasses:
    """For a loss with ``_networks``: passes begun together, on streams if wanted."""

    def _start_target(
        self, batch: PackedBatch, policy_context: Tensor | None = None
    ) -> tuple[Pass, Pass]:
        """Begins the target's passes: the policy's and the target critic's."""
        target = self.target_critic_encoder_params
        return (
            self._networks.start("actor_encoder", batch.rows, known=policy_context),
            self._networks.start("critic_encoder", batch.rows, target),
        )

    @property
    def parallel_passes(self) -> bool:
        """Whether passes without gradient run on CUDA streams beside the others.

        False at first. The encoders of a term do not depend on each other, and alone
        none of them fills a large GPU. What they compute stays the same; the streams
        take memory. It holds for the device that the loss is on when it is set.

        Raises:
            ValueError: when set for a loss on another device than a GPU.
        """
        return self._networks.side_streams is not None

    @parallel_passes.setter
    def parallel_passes(self, wanted: bool) -> None:
        device = next(self.parameters()).device
        if wanted and device.type != "cuda":
            raise ValueError(
                f"parallel_passes: expected a loss on a CUDA device, got {device}. "
                "Move the networks there, or leave it False."
            )
        self._networks.side_streams = SideStreams(device) if wanted else None
