"""A collecting process that is a thread: started in no time, and open to inspection."""

import os
import threading
from multiprocessing.connection import Connection

import pytest
import torch


class ThreadProcess:
    """What `ProcessCollector` needs of a process. It cannot be killed."""

    exitcode = None

    def __init__(self, target, args, **_):
        self.target, self.args = target, args

    def start(self):
        # The other side closes its handle of this end, as it may with a process.
        connection = Connection(os.dup(self.args[0].fileno()))
        self.thread = threading.Thread(
            target=self.target, args=(connection, *self.args[1:]), daemon=True
        )
        self.thread.start()

    def join(self, timeout=None):
        # A thread cannot be killed, so however busy the machine is it may finish.
        self.thread.join(timeout and max(timeout, 600))

    def is_alive(self):
        return self.thread.is_alive()

    def close(self):
        assert not self.is_alive()


class ThreadContext:
    Pipe = staticmethod(torch.multiprocessing.get_context("spawn").Pipe)
    Process = ThreadProcess


@pytest.fixture
def as_thread(monkeypatch):
    """Lets collecting processes of the test be threads."""
    monkeypatch.setattr(torch.multiprocessing, "get_context", lambda _: ThreadContext)
