"""Training runs that can be trusted: collect, update, evaluate, log, save, resume.

Everything here takes plain arguments and knows neither a task nor the configuration.
"""

from resel_torchrl.errors import DamagedCheckpointError, NonFiniteLossError, RunError
from resel_torchrl.training.batches import PackedBatches
from resel_torchrl.training.checkpoint import (
    CheckpointStore,
    buffer_state,
    load_buffer_state,
)
from resel_torchrl.training.cuda_graphs import (
    CompiledFunction,
    CudaRecorder,
    compiler_problem,
)
from resel_torchrl.training.hooks import (
    Hook,
    LearningRateDecay,
    PolicySync,
    SchedulerHook,
    set_learning_rate,
)
from resel_torchrl.training.learner import Learner
from resel_torchrl.training.load_policy import load_policy
from resel_torchrl.training.logging import LoggerHook, Progress, open_loggers
from resel_torchrl.training.process import (
    keep_freed_memory,
    matmul_precision,
    quiet_storages,
    set_matmul_precision,
)
from resel_torchrl.training.run_directory import RunDirectory
from resel_torchrl.training.trainer import Trainer, UpdateSchedule

__all__ = [
    "CheckpointStore",
    "CompiledFunction",
    "CudaRecorder",
    "DamagedCheckpointError",
    "Hook",
    "Learner",
    "LearningRateDecay",
    "LoggerHook",
    "NonFiniteLossError",
    "PackedBatches",
    "PolicySync",
    "Progress",
    "RunDirectory",
    "RunError",
    "SchedulerHook",
    "Trainer",
    "UpdateSchedule",
    "buffer_state",
    "compiler_problem",
    "keep_freed_memory",
    "load_buffer_state",
    "load_policy",
    "matmul_precision",
    "open_loggers",
    "quiet_storages",
    "set_learning_rate",
    "set_matmul_precision",
]
