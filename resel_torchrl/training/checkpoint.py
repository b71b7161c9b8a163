"""Checkpoints that are whole or not there, and that know what they belong to."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torchrl._utils import logger as torchrl_logger

from resel_torchrl.training.run_directory import RunError

__all__ = [
    "CheckpointStore",
    "DamagedCheckpointError",
    "write_checkpoint",
]

MANIFEST = "manifest.json"
FORMAT = 1


class DamagedCheckpointError(RunError):
    """A checkpoint whose files are not what they were when written.

    Args:
        fault: What is wrong with it.
        cure: What to do about it.

    >>> raise DamagedCheckpointError("a.pt is cut short.", "Put it back from a copy.")
    Traceback (most recent call last):
    ...
    resel_torchrl.training.checkpoint.DamagedCheckpointError: a.pt is cut short. Put \
it back from a copy.
    """

    def __init__(self, fault: str, cure: str) -> None:
        super().__init__(f"{fault} {cure}")
        self.fault = fault


def write_checkpoint(
    path: Path, parts: Mapping[str, Any], description: Mapping[str, Any]
) -> None:
    """Writes a checkpoint directory beside its place, then renames it there.

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


def _digest(file: Path) -> str:
    digest = hashlib.sha256()
    with open(file, "rb") as stream:
        while block := stream.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


class CheckpointStore:
    """The checkpoints of one run, newest first.

    Args:
        folder: Directory of the checkpoints.
        belongs_to: What a checkpoint must have been written with: the configuration.
            None reads any.
        kept: Checkpoints kept.

    >>> import tempfile, torch
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
        """Where the checkpoint of a step lies."""
        return self.folder / f"step_{step:010d}"

    def steps(self) -> list[int]:
        """Steps with a checkpoint, newest first."""
        if not self.folder.is_dir():
            return []
        names = (entry.name for entry in self.folder.glob("step_*"))
        return sorted((int(name.split("_")[1]) for name in names), reverse=True)

    def save(self, step: int, parts: Mapping[str, Any], **description: Any) -> Path:
        """Writes a checkpoint, then removes those beyond the number kept."""
        for leftover in self.folder.glob(".part-*"):
            shutil.rmtree(leftover, ignore_errors=True)
        write_checkpoint(
            self.path(step),
            parts,
            {"step": step, "belongs_to": self.belongs_to, **description},
        )
        for old in self.steps()[self.kept :]:
            shutil.rmtree(self.path(old))
        return self.path(step)

    def newest(self) -> int | None:
        """The newest whole checkpoint, or None if there is none at all.

        A damaged one is passed over; TorchRL's logger warns and names the older one.

        Raises:
            RunError: If all are damaged, or the one found is of another configuration.
        """
        steps = self.steps()
        for step, older in zip(steps, [*steps, None][1:], strict=True):
            try:
                self.check(step)
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
            else:
                return step
        return None

    def manifest(self, step: int) -> dict[str, Any]:
        """What a checkpoint says of itself.

        Raises:
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
        if not _is_whole(manifest):
            raise self._damaged(
                step,
                f"{path} is damaged: expected format, belongs_to and the size and "
                f"checksum of each file in {MANIFEST}, got less",
            )
        return manifest

    def check(self, step: int) -> None:
        """Compares a checkpoint with its manifest and with the configuration.

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
        differences = []
        if self.belongs_to is not None:
            found = manifest["belongs_to"]
            differences = list(_differences(self.belongs_to, found, ""))
        if differences:
            raise RunError(
                f"{path} was written with another configuration: "
                f"{'; '.join(differences)}. Put the run's own config.yaml back, or "
                "start a new run with another run_dir."
            )

    def load(self, step: int, part: str) -> Any:
        """The content of one part, on the CPU.

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
        cure = (
            f"load another (steps with one: {others})"
            if others
            else "start a new run with another run_dir"
        )
        return DamagedCheckpointError(
            f"{fault}.", f"Put the checkpoint back from a copy, or {cure}."
        )


def _is_whole(manifest: Any) -> bool:
    return (
        isinstance(manifest, dict)
        and {"format", "belongs_to", "files"} <= manifest.keys()
        and isinstance(manifest["files"], dict)
        and all(
            isinstance(entry, dict) and {"bytes", "sha256"} <= entry.keys()
            for entry in manifest["files"].values()
        )
    )


def _differences(expected: Any, got: Any, prefix: str) -> Iterator[str]:
    if isinstance(expected, dict) and isinstance(got, dict):
        for key in sorted({*expected, *got}):
            yield from _differences(
                expected.get(key), got.get(key), f"{prefix}.{key}" if prefix else key
            )
    elif expected != got:
        yield f"{prefix}: expected {expected!r}, got {got!r}"
