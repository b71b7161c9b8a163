"""Rows of CSV files, read with complaints that name file and line."""

from __future__ import annotations

import contextlib
import csv
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TypeVar

__all__ = ["read_numbers", "read_rows"]

Row = TypeVar("Row")


def read_rows(
    path: str | Path,
    needed: Sequence[str],
    parse: Callable[[dict[str, str | None], str], Row],
    advice: str,
) -> list[Row]:
    r"""Reads every row of a CSV file with a header.

    Args:
        path: The file.
        needed: Columns that it must have.
        parse: From a row, text by column, and its place, to what is wanted of it.
        advice: What to do about a file that is missing or holds no row.

    Returns:
        What `parse` made of the rows, in order.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If a column is missing or there is no row, or from `parse`.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = Path(folder, "a.csv")
    ...     _ = path.write_text("seed,note\n3,fast\n")
    ...     read_rows(path, ["seed"], lambda row, place: int(row["seed"]), "write it")
    [3]
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(
            f"expected a CSV file with the columns {', '.join(needed)}, got {path}, "
            f"which is no file; {advice}."
        )
    with open(path, newline="") as stream:
        reader = csv.DictReader(stream)
        columns = reader.fieldnames or []
        missing = [name for name in needed if name not in columns]
        if missing:
            raise ValueError(
                f"{path}: expected the columns {', '.join(needed)}, got "
                f"{', '.join(columns) or 'an empty file'}; add {', '.join(missing)}."
            )
        rows = [parse(row, f"{path}, line {reader.line_num}") for row in reader]
    if not rows:
        raise ValueError(
            f"{path}: expected one row or more, got a header only; {advice}."
        )
    return rows


def read_numbers(
    row: dict[str, str | None], left_out: Sequence[str]
) -> dict[str, float]:
    """The finite numbers of a row, by column.

    Args:
        row: Text by column.
        left_out: Columns that are something else.

    >>> read_numbers({"step": "5", "success": "0.5", "note": "fast"}, ["step"])
    {'success': 0.5}
    """
    numbers = {}
    for name, text in row.items():
        with contextlib.suppress(TypeError, ValueError):
            if name not in left_out and math.isfinite(float(text)):
                numbers[name] = float(text)
    return numbers
