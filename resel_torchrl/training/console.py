"""The progress line, and stopping when asked to."""

from __future__ import annotations

import contextlib
import signal
import sys
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from types import FrameType

from torchrl import torchrl_logger
from tqdm import tqdm

__all__ = ["Progress", "StopRequest", "stop_on_signal"]

# Updates after which the rest of a run is estimated.
_TIMED_UPDATES = 100


class Progress:
    """A line with return, environment steps and updates per second, and time left.

    After its first hundred updates a run also says how long this machine will need.

    Args:
        total: Environment steps of the run.
        done: Environment steps made before.
        eval_interval: Environment steps between evaluations; 0 for none.
        shown: Whether there is a line at all.

    >>> with Progress(10, shown=False) as progress:
    ...     progress.step(3, 0, 0.1)
    """

    def __init__(
        self, total: int, *, done: int = 0, eval_interval: int = 0, shown: bool = True
    ) -> None:
        live = sys.stderr.isatty()
        self._bar = tqdm(
            total=total,
            initial=done,
            disable=not shown,
            unit=" steps",
            dynamic_ncols=True,
            mininterval=0.5 if live else 60.0,
            bar_format=(
                "{percentage:3.0f}% {n_fmt}/{total_fmt} [{elapsed}, {remaining} left] "
                "{rate_fmt}{postfix}"
            ),
        )
        self._return: float | None = None
        self._updates = 0
        self._left = total - done
        self._eval_interval = eval_interval
        self._eval_seconds = 0.0
        # Steps and seconds since the first update, until the estimate is given.
        self._timed: list[float] | None = [0, 0.0]

    def step(self, steps: int, updates: int, seconds: float) -> None:
        """Counts environment steps, updates, and the time both took."""
        self._updates += updates
        self._left -= steps
        if self._timed is not None and self._updates:
            self._timed[0] += steps
            self._timed[1] += seconds
            if self._updates >= _TIMED_UPDATES:
                self._estimate(*self._timed)
                self._timed = None
        if self._bar.disable or not self._bar.update(steps):
            return
        seconds = self._bar.format_dict["elapsed"]
        shown = f"{self._updates / max(seconds, 1e-9):.1f} updates/s"
        if self._return is not None:
            shown += f", return {self._return:.1f}"
        self._bar.set_postfix_str(shown, refresh=False)

    def evaluation(self, seconds: float) -> None:
        """Takes the time of an evaluation."""
        self._eval_seconds = seconds

    def _estimate(self, steps: float, seconds: float) -> None:
        if self._bar.disable:
            return
        left = self._left * seconds / steps
        if self._eval_interval:
            left += self._left // self._eval_interval * self._eval_seconds
        torchrl_logger.info(
            f"This machine makes {self._updates / seconds:.0f} updates per second "
            f"and needs about {_duration(left)} more."
        )

    def episode(self, episode_return: float) -> None:
        """Takes the return of the last finished episode."""
        self._return = episode_return

    def __enter__(self) -> Progress:
        return self

    def __exit__(self, *error: object) -> None:
        self._bar.close()


def _duration(seconds: float) -> str:
    if seconds < 90:
        return f"{max(round(seconds, -1), 10):.0f} seconds"
    if seconds < 90 * 60:
        return f"{seconds / 60:.0f} minutes"
    return f"{seconds / 3600:.1f} hours"


@dataclass
class StopRequest:
    """Whether somebody has asked the run to stop."""

    signal: str | None = None


@contextlib.contextmanager
def stop_on_signal() -> Iterator[StopRequest]:
    """Turns the first Ctrl-C or SIGTERM into a request; a second one interrupts.

    Outside of the main thread, where signals cannot be caught, nothing is changed.

    >>> import os, signal
    >>> with stop_on_signal() as request:
    ...     os.kill(os.getpid(), signal.SIGINT)
    >>> request.signal
    'SIGINT'
    """
    request = StopRequest()
    if threading.current_thread() is not threading.main_thread():
        yield request
        return
    watched = (signal.SIGINT, signal.SIGTERM)
    before = {number: signal.getsignal(number) for number in watched}

    def restore() -> None:
        for number, handler in before.items():
            signal.signal(number, handler)

    def ask(number: int, frame: FrameType | None) -> None:
        request.signal = signal.Signals(number).name
        restore()

    for number in watched:
        signal.signal(number, ask)
    try:
        yield request
    finally:
        restore()
