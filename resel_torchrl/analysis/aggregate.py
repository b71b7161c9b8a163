"""Aggregate statistics over seeds and tasks.

As in Agarwal et al. 2021 (arXiv 2108.13264), "Deep Reinforcement Learning at the Edge
of the Statistical Precipice": the interquartile mean over all runs, with percentile
intervals of a bootstrap that is stratified by task.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from resel_torchrl.analysis._extra import pandas as pd

if TYPE_CHECKING:
    from pandas import DataFrame

__all__ = [
    "aggregate",
    "interquartile_mean",
]


def interquartile_mean(scores: np.ndarray, axis: int = -1) -> np.ndarray:
    """Mean of the values between the quartiles.

    A quarter of the values, rounded down, is left out at either end; of three values or
    fewer it is the mean.

    Args:
        scores: Values of runs.
        axis: The axis of runs, which the result lacks.

    >>> float(interquartile_mean([0.0, 2.0, 4.0, 1000.0]))
    3.0
    """
    ordered = np.moveaxis(np.sort(np.asarray(scores, float), axis), axis, 0)
    cut = len(ordered) // 4
    return ordered[cut : len(ordered) - cut].mean(0)


def aggregate(
    results: DataFrame,
    by: str | Sequence[str] = "agent",
    value: str = "return",
    *,
    confidence: float = 0.95,
    resamples: int = 2000,
    seed: int = 0,
) -> DataFrame:
    """Interquartile mean of runs, with its bootstrap interval, at each step.

    Runs are resampled with replacement within each task, all steps of a run together.
    Where one run has gone further than another, the curve ends with the shorter: a mean
    over those that are left would jump. Over several tasks the values must be
    comparable, such as rates of success or normalised returns.

    Args:
        results: Rows with the columns task, seed, step, the value and those of `by`, as
            :func:`~resel_torchrl.analysis.read_runs` gives them.
        by: Columns whose values are aggregated apart: `"agent"` for one curve per agent
            over all tasks, `["task", "agent"]` for one per task.
        value: The column that is aggregated.
        confidence: Probability that the interval covers.
        resamples: Bootstrap samples.
        seed: Of the resampling.

    Returns:
        A row per group and step that all its runs have, with the columns of `by`, step,
        iqm, low, high and runs. Without two seeds of a task low and high are NaN.

    Raises:
        ValueError: If a run has two values at a step.
        ModuleNotFoundError: If pandas is not installed.

    >>> from pandas import DataFrame
    >>> rows = {"task": "a", "agent": "gru", "seed": [0, 1], "return": [1.0, 3.0]}
    >>> print(aggregate(DataFrame(rows).assign(step=5)).to_csv(index=False), end="")
    agent,step,iqm,low,high,runs
    gru,5,2.0,1.0,3.0,2
    """
    by = [by] if isinstance(by, str) else list(by)
    _check_unique(results, [*dict.fromkeys([*by, "task", "seed", "step"])], value)
    rng = np.random.default_rng(seed)
    tails = (1 - confidence) / 2, (1 + confidence) / 2
    curves = []
    for names, group in results.groupby(by):
        runs = group.pivot(index=["task", "seed"], columns="step", values=value)
        runs = runs.dropna(axis=1)
        scores = runs.to_numpy()  # [run, step]
        tasks = runs.index.get_level_values("task")
        strata = [np.flatnonzero(tasks == task) for task in tasks.unique()]
        low = high = np.full(len(runs.columns), np.nan)
        if len(runs) > len(strata):
            drawn = [rng.choice(rows, (resamples, len(rows))) for rows in strata]
            resampled = scores[np.concatenate(drawn, axis=1)]  # [resample, run, step]
            low, high = np.quantile(interquartile_mean(resampled, 1), tails, axis=0)
        curve = {
            **dict(zip(by, names, strict=True)),
            "step": runs.columns,
            "iqm": interquartile_mean(scores, 0),
            "low": low,
            "high": high,
            "runs": len(runs),
        }
        curves.append(pd.DataFrame(curve))
    return pd.concat(curves, ignore_index=True)


def _check_unique(results: DataFrame, key: list[str], value: str) -> None:
    twice = results[results.duplicated(key)]
    if len(twice):
        place = ", ".join(f"{name} {twice.iloc[0][name]}" for name in key)
        raise ValueError(
            f"expected one {value} at {place}, got two; name the agents apart in the "
            "column agent."
        )
