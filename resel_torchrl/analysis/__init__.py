"""What is measured beyond returns, and figures of both.

Figures need the extra `plot`; everything else works without it.
"""

from resel_torchrl.analysis.bounds import amplification_bound, mean_amplification_bound
from resel_torchrl.analysis.output_variation import (
    deterministic_actions,
    output_variation,
    rollout_steps,
)
from resel_torchrl.analysis.plot import MeanPoint, mean_curve, plot_curves, plot_runs
from resel_torchrl.analysis.plot_variation import plot_output_variation
from resel_torchrl.analysis.results import Result, read_results, write_results
from resel_torchrl.analysis.run_variation import run_output_variation
from resel_torchrl.analysis.runs import find_runs, read_runs
from resel_torchrl.analysis.variations import (
    OutputVariation,
    read_variations,
    write_variations,
)

__all__ = [
    "MeanPoint",
    "OutputVariation",
    "Result",
    "amplification_bound",
    "deterministic_actions",
    "find_runs",
    "mean_amplification_bound",
    "mean_curve",
    "output_variation",
    "plot_curves",
    "plot_output_variation",
    "plot_runs",
    "read_results",
    "read_runs",
    "read_variations",
    "rollout_steps",
    "run_output_variation",
    "write_results",
    "write_variations",
]
