"""Output variations as values and as rows of a CSV file."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

__all__ = ["OutputVariation", "read_variations", "write_variations"]

COLUMNS = ("lr_context_encoder", "lr_other", "step", "variation", "episodes")


@dataclass(frozen=True, eq=False)
class OutputVariation:
    """The change of the actions after one step with one pair of learning rates.

    Attributes:
        lr_context_encoder: Learning rate of the actor encoder's trunk.
        lr_other: Learning rate of the rest of the actor.
        variation: `[T]`, at each rollout step the Euclidean norm of the change of the
            deterministic action, mean over episodes. Actions lie in [−1, 1].
        episodes: int `[T]`, the episodes that reached the step.

    >>> change, episodes = torch.tensor([0.1, 0.2]), torch.tensor([2, 1])
    >>> OutputVariation(1e-5, 3e-4, change, episodes).variation.argmax().item()
    1
    """

    lr_context_encoder: float
    lr_other: float
    variation: Tensor
    episodes: Tensor


def write_variations(path: str | Path, variations: Sequence[OutputVariation]) -> None:
    """Writes one row per pair of learning rates and rollout step.

    Args:
        path: The CSV file; its folder is made, an older file replaced.
        variations: From :func:`output_variation`.

    >>> import tempfile
    >>> change, episodes = torch.tensor([0.5, 0.25]), torch.tensor([2, 1])
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = Path(folder, "new", "variation.csv")
    ...     write_variations(path, [OutputVariation(1e-5, 3e-4, change, episodes)])
    ...     print(path.read_text(), end="")
    lr_context_encoder,lr_other,step,variation,episodes
    1e-05,0.0003,0,0.5,2
    1e-05,0.0003,1,0.25,1
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "w", newline="") as stream:
        writer = csv.writer(stream, lineterminator="\n")
        writer.writerow(COLUMNS)
        for v in variations:
            rows = zip(v.variation.tolist(), v.episodes.tolist(), strict=True)
            for step, (value, episodes) in enumerate(rows):
                pair = v.lr_context_encoder, v.lr_other
                writer.writerow([*pair, step, repr(value), episodes])


def read_variations(path: str | Path) -> list[OutputVariation]:
    """Reads what :func:`write_variations` wrote.

    Args:
        path: The CSV file.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If it has other columns or holds something else than numbers.

    >>> import tempfile
    >>> change, episodes = torch.tensor([0.1, 0.2]), torch.tensor([2, 1])
    >>> value = OutputVariation(1e-5, 3e-4, change, episodes)
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     write_variations(f"{folder}/a.csv", [value])
    ...     again = read_variations(f"{folder}/a.csv")[0]
    >>> again.lr_other, again.episodes.tolist()
    (0.0003, [2, 1])
    """
    with open(path, newline="") as stream:
        header, *rows = list(csv.reader(stream)) or [[]]
    if tuple(header) != COLUMNS or not rows:
        raise ValueError(
            f"{path}: expected the columns {', '.join(COLUMNS)} and at least one row, "
            f"got {', '.join(header) or 'an empty file'}; "
            "recipes/output_variation.py writes such a file."
        )
    curves: dict[tuple[float, float], list[tuple[float, int]]] = {}
    for number, row in enumerate(rows, 2):
        try:
            lr_context_encoder, lr_other, _, variation, episodes = map(float, row)
        except ValueError:
            raise ValueError(
                f"{path}, line {number}: expected {len(COLUMNS)} numbers, got {row}; "
                "correct or remove the line."
            ) from None
        curve = curves.setdefault((lr_context_encoder, lr_other), [])
        curve.append((variation, int(episodes)))
    return [
        OutputVariation(
            *pair,
            torch.tensor([variation for variation, _ in curve], dtype=torch.float64),
            torch.tensor([episodes for _, episodes in curve]),
        )
        for pair, curve in curves.items()
    ]
