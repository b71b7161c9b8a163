"""The directory of one run: its files and its lock."""

from __future__ import annotations

import json
import os
import socket
from pathlib import Path

from resel_torchrl.errors import RunError

__all__ = ["RunDirectory"]

CONFIG = "config.yaml"


class RunDirectory:
    """Paths of a run: `config.yaml`, `metrics.csv`, `eval.csv`, `checkpoints`, `plots`.

    Make one with :meth:`create` or :meth:`open`.

    Args:
        path: The directory.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     run = RunDirectory.create(f"{folder}/run", "seed: 0")
    ...     RunDirectory.open(run.path).config.read_text()
    'seed: 0'
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self.config = self.path / CONFIG
        self.metrics = self.path / "metrics.csv"
        self.eval = self.path / "eval.csv"
        self.checkpoints = self.path / "checkpoints"
        self.plots = self.path / "plots"
        self._lock = self.path / "lock.json"

    @classmethod
    def create(cls, path: str | Path, config_text: str) -> RunDirectory:
        """Make a new run directory and store its configuration in it.

        Args:
            path: A directory that does not exist, or an empty one.
            config_text: The resolved configuration, as YAML.

        Raises:
            RunError: If something is there already.
        """
        run = cls(path)
        if run.path.exists() and (not run.path.is_dir() or any(run.path.iterdir())):
            wayout = (
                f"go on with it by resume={run.path}, "
                if run.config.exists()
                else "move it away, "
            )
            raise RunError(
                f"expected a run directory that does not exist yet, got {run.path}; "
                f"{wayout}or choose another by run_dir=PATH or another seed=NUMBER."
            )
        run.checkpoints.mkdir(parents=True)
        run.plots.mkdir()
        run.write_config(config_text)
        return run

    def write_config(self, text: str) -> None:
        """Store the configuration, whole or not at all."""
        beside = self.config.with_suffix(".part")
        beside.write_text(text)
        os.replace(beside, self.config)

    @classmethod
    def open(cls, path: str | Path) -> RunDirectory:
        """Return a run directory that is there already.

        Raises:
            RunError: If it is none.
        """
        run = cls(path)
        if not run.config.is_file():
            raise RunError(
                f"expected a run directory (one with a {CONFIG}), got {run.path}; "
                "give the path that the run printed at its start."
            )
        return run

    def lock(self) -> None:
        """Lock the directory for this process, until :meth:`unlock`.

        A lock that a process has left behind by dying is taken over.

        Raises:
            RunError: If another process that may still run holds it.
        """
        own = {"host": socket.gethostname(), "pid": os.getpid()}
        try:
            # Creating fails if it is there already: of two processes one gets it.
            with open(self._lock, "x") as stream:
                json.dump(own, stream)
            return
        except FileExistsError:
            pass
        try:
            holder = json.loads(self._lock.read_text())
            host, pid = holder["host"], int(holder["pid"])
        except (OSError, ValueError, KeyError, TypeError):
            host, pid = own["host"], None  # given up meanwhile, or cut short by a crash
        if host != own["host"] or _runs(pid):
            raise RunError(
                f"expected a run that no process is at work on, got {self.path}, which "
                f"process {pid} on {host} holds; wait for its end or stop it. If it is "
                f"dead, remove {self._lock}."
            )
        beside = self._lock.with_suffix(".part")
        beside.write_text(json.dumps(own))
        os.replace(beside, self._lock)

    def unlock(self) -> None:
        """Release the lock."""
        self._lock.unlink(missing_ok=True)


def _runs(pid: int | None) -> bool:
    """Whether a process other than this one runs."""
    if pid is None or pid == os.getpid():
        return False
    if os.name != "posix":
        return True  # there, asking by a signal would end it
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass
    return True
