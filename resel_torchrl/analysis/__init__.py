"""What is measured beyond returns, and figures of both.

Figures need the extra `plot`; everything else works without it.
"""

from resel_torchrl.analysis.benchmark import time_acting, time_replay, time_update
from resel_torchrl.analysis.bounds import amplification_bound, mean_amplification_bound
from resel_torchrl.analysis.by_factor import (
    EvaluatedEpisode,
    plot_by_factor,
    read_evaluations,
)
from resel_torchrl.analysis.compare_updates import compare_updates
from resel_torchrl.analysis.core_benchmark import core_table, time_cores
from resel_torchrl.analysis.matrix_products import MatrixProducts, record_products
from resel_torchrl.analysis.measurements import (
    Measurement,
    describe_machine,
    measurement_table,
    write_measurements,
)
from resel_torchrl.analysis.operations import time_operations
from resel_torchrl.analysis.output_variation import (
    deterministic_actions,
    output_variation,
    rollout_steps,
)
from resel_torchrl.analysis.peers import time_torchrl_update
from resel_torchrl.analysis.plot import MeanPoint, mean_curve, plot_curves, plot_runs
from resel_torchrl.analysis.plot_variation import plot_output_variation
from resel_torchrl.analysis.replay_memory import replay_memory
from resel_torchrl.analysis.results import Result, read_results, write_results
from resel_torchrl.analysis.run_variation import run_output_variation
from resel_torchrl.analysis.runs import find_runs, read_runs
from resel_torchrl.analysis.update_memory import update_memory
from resel_torchrl.analysis.variations import (
    OutputVariation,
    read_variations,
    write_variations,
)
from resel_torchrl.analysis.whole_loop import time_collecting, time_end_to_end

__all__ = [
    "EvaluatedEpisode",
    "MatrixProducts",
    "MeanPoint",
    "Measurement",
    "OutputVariation",
    "Result",
    "amplification_bound",
    "compare_updates",
    "core_table",
    "describe_machine",
    "deterministic_actions",
    "find_runs",
    "mean_amplification_bound",
    "mean_curve",
    "measurement_table",
    "output_variation",
    "plot_by_factor",
    "plot_curves",
    "plot_output_variation",
    "plot_runs",
    "read_evaluations",
    "read_results",
    "read_runs",
    "read_variations",
    "record_products",
    "replay_memory",
    "rollout_steps",
    "run_output_variation",
    "time_acting",
    "time_collecting",
    "time_cores",
    "time_end_to_end",
    "time_operations",
    "time_replay",
    "time_torchrl_update",
    "time_update",
    "update_memory",
    "write_measurements",
    "write_results",
    "write_variations",
]
