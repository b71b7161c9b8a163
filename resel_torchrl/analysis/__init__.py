"""What is measured beyond returns, and figures of both.

Figures need the extra `plot`; everything else works without it.
"""

from resel_torchrl.analysis.amplification import (
    amplification_bound,
    mean_amplification_bound,
)
from resel_torchrl.analysis.figures import (
    EvaluatedEpisode,
    MeanPoint,
    mean_curve,
    plot_by_factor,
    plot_curves,
    plot_runs,
    read_evaluations,
)
from resel_torchrl.analysis.output_variation import (
    OutputVariation,
    deterministic_actions,
    output_variation,
    plot_output_variation,
    read_variations,
    rollout_steps,
    run_output_variation,
    write_variations,
)
from resel_torchrl.analysis.runs import (
    Result,
    find_runs,
    read_results,
    read_runs,
    write_results,
)

__all__ = [
    "EvaluatedEpisode",
    "MeanPoint",
    "OutputVariation",
    "Result",
    "amplification_bound",
    "deterministic_actions",
    "find_runs",
    "mean_amplification_bound",
    "mean_curve",
    "output_variation",
    "plot_by_factor",
    "plot_curves",
    "plot_output_variation",
    "plot_runs",
    "read_evaluations",
    "read_results",
    "read_runs",
    "read_variations",
    "rollout_steps",
    "run_output_variation",
    "write_results",
    "write_variations",
]
