"""What is measured beyond returns, tables of results, and figures of both.

Tables and figures need the extra `plot` (pandas and matplotlib), at their first use.
"""

from resel_torchrl.analysis.aggregate import aggregate, interquartile_mean
from resel_torchrl.analysis.amplification import (
    amplification_bound,
    mean_amplification_bound,
)
from resel_torchrl.analysis.figures import (
    plot_by_factor,
    plot_curves,
    plot_output_variation,
    plot_runs,
)
from resel_torchrl.analysis.output_variation import (
    deterministic_actions,
    output_variation,
    run_output_variation,
)
from resel_torchrl.analysis.results import (
    read_evaluations,
    read_results,
    write_results,
)
from resel_torchrl.analysis.runs import find_runs, read_metrics, read_runs

__all__ = [
    "aggregate",
    "amplification_bound",
    "deterministic_actions",
    "find_runs",
    "interquartile_mean",
    "mean_amplification_bound",
    "output_variation",
    "plot_by_factor",
    "plot_curves",
    "plot_output_variation",
    "plot_runs",
    "read_evaluations",
    "read_metrics",
    "read_results",
    "read_runs",
    "run_output_variation",
    "write_results",
]
