"""Training runs that can be trusted: collect, update, evaluate, log, save, resume.

Everything here takes plain arguments and knows neither a task nor the configuration.
"""

from resel_torchrl.errors import DamagedCheckpointError, NonFiniteLossError, RunError
from resel_torchrl.training.checkpoint import (
    CheckpointStore,
    buffer_state,
    load_buffer_state,
)
from resel_torchrl.training.cuda_graphs import (
    CompiledFunction,
    CudaRecorder,
    compiler_problem,
    keep_freed_memory,
    matmul_precision,
    set_matmul_precision,
)
from resel_torchrl.training.hooks import LearningRateDecay, UpdateSchedule
from resel_torchrl.training.learner import Learner
from resel_torchrl.training.load_policy import load_policy
from resel_torchrl.training.logging import (
    CsvLog,
    Progress,
    Records,
    open_loggers,
    quiet_storages,
    stop_on_signal,
)
from resel_torchrl.training.run_directory import RunDirectory
from resel_torchrl.training.trainer import Training

__all__ = [
    "CheckpointStore",
    "CompiledFunction",
    "CsvLog",
    "CudaRecorder",
    "DamagedCheckpointError",
    "Learner",
    "LearningRateDecay",
    "NonFiniteLossError",
    "Progress",
    "Records",
    "RunDirectory",
    "RunError",
    "Training",
    "UpdateSchedule",
    "buffer_state",
    "compiler_problem",
    "keep_freed_memory",
    "load_buffer_state",
    "load_policy",
    "matmul_precision",
    "open_loggers",
    "quiet_storages",
    "set_matmul_precision",
    "stop_on_signal",
]
