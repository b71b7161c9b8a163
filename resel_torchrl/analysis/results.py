"""Tables of results: one format for docs/results and for the data beside figures.

A row is one evaluation, one episode of an evaluation, or one rollout step. The columns
`task`, `agent` (its name in a legend), `seed` and `step` (environment steps trained)
say what was evaluated; all others are numbers: `return`, further measures such as
`success`, and hidden factors of the task such as `gravity`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from resel_torchrl.analysis._extra import pandas as pd

if TYPE_CHECKING:
    from pandas import DataFrame

__all__ = [
    "CURVE",
    "EPISODE",
    "IDENTIFIERS",
    "read_evaluations",
    "read_results",
    "write_results",
]

IDENTIFIERS = ("task", "agent", "seed", "step")
#: Columns of a learning curve, and of the single episodes of an evaluation.
CURVE, EPISODE = ("step", "return", "seed"), ("episode", "return", "length")
TEXT = ("task", "agent")
WHOLE = ("seed", "step", "episode", "length", "episodes", "rollout_step")


def read_results(
    path: str | Path,
    needed: Sequence[str] = CURVE,
    defaults: Mapping[str, str] | None = None,
) -> DataFrame:
    r"""Read a CSV file of results.

    Columns of text other than `task` and `agent` (or `core`) are left out; numbers are
    read bit for bit.

    Args:
        path: The file.
        needed: Columns of numbers that every row must have.
        defaults: `task` and `agent` of a file without such columns; None takes the
            file's name without its ending, as in docs/results/<family>/<task>.csv, and
            "RESeL".

    Returns:
        Its rows, in order.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If a needed column or number is missing, or there is no row.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = Path(folder, "pendulum_v.csv")
    ...     _ = path.write_text("step,return,seed\n1000,-900.5,0\n")
    ...     print(read_results(path).to_csv(index=False), end="")
    task,agent,seed,step,return
    pendulum_v,RESeL,0,1000,-900.5
    """
    path, needed = Path(path), list(needed)
    columns = ", ".join(needed)
    advice = (
        "check the path, or write such a file first: `plot runs=RUN_DIR` and `evaluate "
        "run=RUN_DIR output=FILE.csv` do"
    )
    if not path.is_file():
        raise FileNotFoundError(
            f"expected a CSV file with the columns {columns}, got {path}, which is no "
            f"file; {advice}."
        )
    table = _read_csv(path)
    if missing := [name for name in needed if name not in table]:
        raise ValueError(
            f"{path}: expected the columns {columns}, got "
            f"{', '.join(table) or 'an empty file'}; add {', '.join(missing)}."
        )
    if table.empty:
        raise ValueError(
            f"{path}: expected one row or more, got a header only; {advice}."
        )
    if "agent" not in table:
        table = table.rename(columns={"core": "agent", "label": "agent"})
    values = {}
    for name, cells in table.items():
        try:
            # Exact, which read_csv is not before pandas 3.1.
            values[name] = cells if name in TEXT else cells.astype(float)
        except ValueError:
            if name in needed:
                values[name] = pd.to_numeric(cells, errors="coerce")
    table = pd.DataFrame(values).replace([math.inf, -math.inf], math.nan)
    check_numbers(path, table, needed)
    whole = [n for n in WHOLE if n in table and (table[n] % 1 == 0).all()]
    table[whole] = table[whole].astype("int64")
    if defaults is None:
        defaults = {"task": path.stem, "agent": "RESeL"}
    for name, default in defaults.items():
        table[name] = table[name].fillna(default) if name in table else default
    return in_order(table)


def read_evaluations(path: str | Path) -> DataFrame:
    r"""Read what `python -m resel_torchrl evaluate run=DIR output=FILE` wrote.

    That is :func:`read_results` for files of single episodes: the columns `episode`,
    `return` and `length`, and one for each measure and factor. Without a column `agent`
    the agent is the file's name without its ending.

    Args:
        path: The file.

    Returns:
        A row per episode, in order.

    Raises:
        FileNotFoundError: As there.
        ValueError: As there.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = Path(folder, "gru.csv")
    ...     _ = path.write_text("episode,return,length,gravity\n0,512.5,1000,1.2\n")
    ...     print(read_evaluations(path).to_csv(index=False), end="")
    agent,episode,return,length,gravity
    gru,0,512.5,1000,1.2
    """
    return read_results(path, EPISODE, {"agent": Path(path).stem})


def write_results(path: str | Path, *tables: DataFrame) -> None:
    """Write tables, one below the other; :func:`read_results` gives every number back.

    Args:
        path: The CSV file; its folder is made, an older file replaced.
        tables: The rows. `run` and `core` are not written: paths of this machine, and
            what `agent` says already.


    >>> import tempfile
    >>> from pandas import DataFrame
    >>> table = DataFrame({"task": "a", "agent": "gru", "seed": 3, "return": [-0.1]})
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     write_results(f"{folder}/new/a.csv", table, table.assign(seed=4))
    ...     Path(folder, "new/a.csv").read_text().split()
    ['task,agent,seed,return', 'a,gru,3,-0.1', 'a,gru,4,-0.1']
    """
    table = in_order(pd.concat(tables).drop(columns=["run", "core"], errors="ignore"))
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    table.to_csv(path, index=False, lineterminator="\n")


def in_order(table: DataFrame, *first: str) -> DataFrame:
    """The same columns, `first` and those that identify a row before the others."""
    names = dict.fromkeys([*first, *IDENTIFIERS, *table])
    return table[[name for name in names if name in table]]


def check_numbers(path: Path, table: DataFrame, columns: Sequence[str]) -> None:
    """Raise a ValueError that names the first row without finite numbers there."""
    whole = [name for name in columns if name in WHOLE]
    finite = [name for name in columns if name not in WHOLE]
    bad = table[columns].isna().any(axis=1) | (table[whole] % 1 != 0).any(axis=1)
    if bad.any():
        line = int(bad.idxmax())
        wanted = [f"a whole {' and '.join(whole)}"] if whole else []
        wanted += [f"a finite {' and '.join(finite)}"] if finite else []
        got = ", ".join(f"{name}={table[name][line]}" for name in columns)
        raise ValueError(
            f"{path}, line {line + 2}: expected {' and '.join(wanted)}, got {got}; "
            "correct or remove the row."
        )


def _read_csv(path: Path) -> DataFrame:
    """The cells of a CSV file as text."""
    try:
        return pd.read_csv(path, dtype=str, index_col=False)
    except pd.errors.EmptyDataError:
        return pd.DataFrame()
    except pd.errors.ParserError as error:
        raise ValueError(f"{path}: {error}; correct or remove the row.") from None
