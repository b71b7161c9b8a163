"""Checkpoints that are whole or not there, and that know what they belong to.

`torchrl.checkpoint` writes beside and renames too, but keeps no checksums, does not
sync to the disk, and loads a changed file without a word.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from tensordict import TensorDict
from torch import Tensor
from torchrl import torchrl_logger
from torchrl.data import ReplayBuffer

from resel_torchrl.errors import DamagedCheckpointError, RunError

__all__ = [
    "CheckpointStore",
    "buffer_state",
    "check_storable",
    "load_buffer_state",
    "write_checkpoint",
]

MANIFEST = "manifest.json"
FORMAT = 1


def write_checkpoint(
    path: Path, parts: Mapping[str, Any], description: Mapping[str, Any]
) -> None:
    """Write a checkpoint directory beside its place, then rename it there.

    Args:
        path: The directory to be.
        parts: File stem to content: tensors, numbers, text and containers of these.
        description: What the manifest says beside the files' sizes and checksums.
    """
    beside = path.with_name(f".part-{path.name}")
    shutil.rmtree(beside, ignore_errors=True)
    beside.mkdir(parents=True)
    files = {}
    for stem, content in parts.items():
        file = beside / f"{stem}.pt"
        with open(file, "wb") as stream:
            torch.save(content, stream)
            stream.flush()
            os.fsync(stream.fileno())
        files[file.name] = {"bytes": file.stat().st_size, "sha256": _digest(file)}
    manifest = {"format": FORMAT, **description, "files": files}
    with open(beside / MANIFEST, "w") as stream:
        json.dump(manifest, stream, indent=1)
        stream.flush()
        os.fsync(stream.fileno())
    if path.exists():
        shutil.rmtree(path)
    os.replace(beside, path)


def check_storable(tree: Any, where: str) -> None:
    """Raise a TypeError that names what could be written and not be read again.

    Args:
        tree: Nested containers.
        where: What they are, for the message.
    """
    if isinstance(tree, dict):
        for key, value in tree.items():
            check_storable(key, where)
            check_storable(value, f"{where}[{key!r}]")
    elif type(tree) in (list, tuple):
        for number, value in enumerate(tree):
            check_storable(value, f"{where}[{number}]")
    elif tree is not None and type(tree) not in (Tensor, bool, int, float, str):
        raise TypeError(
            f"expected tensors, numbers, text and containers of these, got a "
            f"{type(tree).__name__} in {where}; turn it into one of them."
        )


def _digest(file: Path) -> str:
    digest = hashlib.sha256()
    with open(file, "rb") as stream:
        while block := stream.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


class CheckpointStore:
    """The checkpoints of one run.

    Args:
        folder: Directory of the checkpoints.
        belongs_to: What a checkpoint must have been written with: the configuration.
            None reads any.
        kept: Checkpoints kept.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     store = CheckpointStore(folder, {"seed": 0}, kept=2)
    ...     for step in (10, 20, 30):
    ...         _ = store.save(step, {"state": {"weight": torch.ones(2)}})
    ...     print(store.steps())
    ...     state = store.load(store.newest(), "state")
    [30, 20]
    >>> state["weight"]
    tensor([1., 1.])
    """

    def __init__(
        self, folder: str | Path, belongs_to: Mapping[str, Any] | None, *, kept: int = 2
    ) -> None:
        self.folder = Path(folder)
        # As the manifest gives it back: JSON has no tuples.
        self.belongs_to = json.loads(json.dumps(belongs_to))
        self.kept = kept

    def path(self, step: int) -> Path:
        """Return where the checkpoint of a step lies."""
        return self.folder / f"step_{step:010d}"

    def steps(self) -> list[int]:
        """Return the steps with a checkpoint, newest first."""
        names = (entry.name for entry in self.folder.glob("step_*"))
        return sorted((int(name.split("_")[1]) for name in names), reverse=True)

    def save(self, step: int, parts: Mapping[str, Any], **description: Any) -> Path:
        """Write a checkpoint, then remove those beyond the number kept."""
        for leftover in self.folder.glob(".part-*"):
            shutil.rmtree(leftover, ignore_errors=True)
        description = {"step": step, "belongs_to": self.belongs_to, **description}
        write_checkpoint(self.path(step), parts, description)
        for old in self.steps()[self.kept :]:
            shutil.rmtree(self.path(old))
        return self.path(step)

    def newest(self) -> int | None:
        """Return the newest whole checkpoint's step, or None if there is none at all.

        A damaged one is passed over; TorchRL's logger warns and names the older one.

        Raises:
            RunError: If all are damaged, or the one found is of another configuration.
        """
        steps = self.steps()
        for step, older in zip(steps, [*steps, None][1:], strict=True):
            try:
                self.check(step)
                return step
            except DamagedCheckpointError as error:
                if older is None:
                    raise DamagedCheckpointError(
                        error.fault,
                        "No checkpoint of the run is whole: put one back from a copy, "
                        "or start a new run with another run_dir.",
                    ) from None
                torchrl_logger.warning(
                    f"{error.fault} Falling back on the older {self.path(older)}."
                )
        return None

    def manifest(self, step: int) -> dict[str, Any]:
        """Return what a checkpoint says of itself.

        Raises:
            RunError: If there is none of this step.
            DamagedCheckpointError: If its manifest is not there or not readable.
        """
        path = self.path(step)
        if not path.is_dir():
            have = ", ".join(map(str, self.steps())) or "none"
            raise RunError(
                f"expected a checkpoint of step {step} in {self.folder}, got none; "
                f"steps with one: {have}."
            )
        try:
            manifest = json.loads((path / MANIFEST).read_text())
        except (OSError, ValueError) as error:
            raise self._damaged(
                step, f"{path} is damaged: expected a readable {MANIFEST}, got: {error}"
            ) from None
        try:
            entries = manifest["files"].values()
            _ = manifest["format"], manifest["belongs_to"]
            _ = [(entry["bytes"], entry["sha256"]) for entry in entries]
        except (TypeError, KeyError, AttributeError):
            raise self._damaged(
                step,
                f"{path} is damaged: expected format, belongs_to and the size and "
                f"checksum of each file in {MANIFEST}, got less",
            ) from None
        return manifest

    def check(self, step: int) -> None:
        """Compare a checkpoint with its manifest and with the configuration.

        Raises:
            DamagedCheckpointError: If a file is missing, cut short or changed.
            RunError: If it is of another configuration or format.
        """
        path, manifest = self.path(step), self.manifest(step)
        if manifest["format"] != FORMAT:
            raise RunError(
                f"{path}: expected checkpoint format {FORMAT}, got "
                f"{manifest['format']}; use the version of resel_torchrl that wrote it."
            )
        for name, entry in manifest["files"].items():
            file = path / name
            size = file.stat().st_size if file.exists() else 0
            if size != entry["bytes"]:
                raise self._damaged(
                    step,
                    f"{file} is cut short: expected {entry['bytes']} bytes, got {size}",
                )
            if _digest(file) != entry["sha256"]:
                raise self._damaged(
                    step,
                    f"{file} is damaged: its checksum is not the one of its manifest",
                )
        if self.belongs_to is None:
            return
        if differences := list(_differences(self.belongs_to, manifest["belongs_to"])):
            raise RunError(
                f"{path} was written with another configuration: "
                f"{'; '.join(differences)}. Put the run's own config.yaml back, or "
                "start a new run with another run_dir."
            )

    def load(self, step: int, part: str) -> Any:
        """Return the content of one part, on the CPU.

        Raises:
            DamagedCheckpointError: If it cannot be read.
        """
        file = self.path(step) / f"{part}.pt"
        try:
            return torch.load(file, map_location="cpu", weights_only=True)
        except (OSError, RuntimeError, EOFError) as error:
            raise self._damaged(step, f"{file} is damaged: {error}") from None

    def _damaged(self, step: int, fault: str) -> DamagedCheckpointError:
        others = ", ".join(str(other) for other in self.steps() if other != step)
        cure = "start a new run with another run_dir"
        if others:
            cure = f"load another (steps with one: {others})"
        return DamagedCheckpointError(
            f"{fault}.", f"Put the checkpoint back from a copy, or {cure}."
        )


def _differences(expected: Any, got: Any, prefix: str = "") -> Iterator[str]:
    if isinstance(expected, dict) and isinstance(got, dict):
        for key in sorted({*expected, *got}):
            name = f"{prefix}.{key}" if prefix else key
            yield from _differences(expected.get(key), got.get(key), name)
    elif expected != got:
        yield f"{prefix}: expected {expected!r}, got {got!r}"


def buffer_state(replay_buffer: ReplayBuffer) -> dict[str, Any]:
    """Return the entries written so far, the writer's place, the sampler's index.

    Args:
        replay_buffer: Buffer on a TensorStorage, such as LazyTensorStorage.

    >>> from torchrl.data import LazyTensorStorage, TensorDictReplayBuffer
    >>> full, empty = (
    ...     TensorDictReplayBuffer(storage=LazyTensorStorage(3)) for _ in range(2)
    ... )
    >>> _ = full.extend(TensorDict({"a": torch.arange(2)}, [2]))
    >>> load_buffer_state(empty, buffer_state(full))
    >>> _ = empty.extend(TensorDict({"a": torch.tensor([7])}, [1]))
    >>> empty[:]["a"].tolist()
    [0, 1, 7]
    """
    filled = len(replay_buffer)
    entries: dict[str, Any] = {}
    if filled:
        stored = replay_buffer.storage.get(slice(0, filled))
        # A clone: torch.save would write the whole memory that a slice views.
        entries = {k: v.clone() for k, v in stored.flatten_keys(".").items()}
    return {
        "entries": entries,
        "size": filled,
        "writer": replay_buffer.writer.state_dict(),
        "sampler": replay_buffer.sampler.state_dict(),
    }


def load_buffer_state(replay_buffer: ReplayBuffer, state: Mapping[str, Any]) -> None:
    """Fill an empty buffer from :func:`buffer_state`.

    Args:
        replay_buffer: Buffer made with the same arguments as the one that was saved.
        state: From :func:`buffer_state`.

    >>> from torchrl.data import LazyTensorStorage, TensorDictReplayBuffer
    >>> buffer = TensorDictReplayBuffer(storage=LazyTensorStorage(3))
    >>> load_buffer_state(buffer, buffer_state(buffer))
    """
    if state["size"]:
        entries = TensorDict(dict(state["entries"]), [state["size"]])
        replay_buffer.storage.set(range(state["size"]), entries.unflatten_keys("."))
    replay_buffer.writer.load_state_dict(state["writer"])
    replay_buffer.sampler.load_state_dict(state["sampler"])
