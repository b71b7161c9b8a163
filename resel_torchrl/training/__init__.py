"""Training runs that can be trusted: collect, update, evaluate, log, save, resume.

Everything here takes plain arguments and knows neither a task nor the configuration.
"""

from resel_torchrl.training.acting import RecurrentPolicy
from resel_torchrl.training.agent import Agent, make_agent, make_loss
from resel_torchrl.training.buffer_state import buffer_state, load_buffer_state
from resel_torchrl.training.checkpoint import (
    CheckpointStore,
    DamagedCheckpointError,
)
from resel_torchrl.training.collect import Collector
from resel_torchrl.training.collect_process import ProcessCollector
from resel_torchrl.training.compiled import CompiledFunction, compiler_problem
from resel_torchrl.training.console import Progress, stop_on_signal
from resel_torchrl.training.cuda_graphs import CudaRecorder
from resel_torchrl.training.curriculum import Curriculum
from resel_torchrl.training.episode import EpisodeResult, episode_seed, flat_episode
from resel_torchrl.training.evaluate import (
    Evaluation,
    evaluate,
    evaluate_vector,
    write_evaluation,
)
from resel_torchrl.training.finite import NonFiniteLossError
from resel_torchrl.training.generators import (
    generator_states,
    restore_generators,
    seed_generators,
    untouched_generators,
)
from resel_torchrl.training.log import CsvLog, open_loggers, quiet_storages
from resel_torchrl.training.loop import Training
from resel_torchrl.training.memory import keep_freed_memory
from resel_torchrl.training.policy import load_policy
from resel_torchrl.training.policy_copy import PolicyCopy
from resel_torchrl.training.precision import matmul_precision, set_matmul_precision
from resel_torchrl.training.records import Records
from resel_torchrl.training.run_directory import RunDirectory, RunError
from resel_torchrl.training.schedule import LearningRateDecay, UpdateSchedule
from resel_torchrl.training.shared_weights import SharedWeights
from resel_torchrl.training.update import Learner
from resel_torchrl.training.vector_acting import VectorPolicy
from resel_torchrl.training.vector_collect import VectorCollector

__all__ = [
    "Agent",
    "CheckpointStore",
    "Collector",
    "CompiledFunction",
    "CsvLog",
    "CudaRecorder",
    "Curriculum",
    "DamagedCheckpointError",
    "EpisodeResult",
    "Evaluation",
    "Learner",
    "LearningRateDecay",
    "NonFiniteLossError",
    "PolicyCopy",
    "ProcessCollector",
    "Progress",
    "Records",
    "RecurrentPolicy",
    "RunDirectory",
    "RunError",
    "SharedWeights",
    "Training",
    "UpdateSchedule",
    "VectorCollector",
    "VectorPolicy",
    "buffer_state",
    "compiler_problem",
    "episode_seed",
    "evaluate",
    "evaluate_vector",
    "flat_episode",
    "generator_states",
    "keep_freed_memory",
    "load_buffer_state",
    "load_policy",
    "make_agent",
    "make_loss",
    "matmul_precision",
    "open_loggers",
    "quiet_storages",
    "restore_generators",
    "seed_generators",
    "set_matmul_precision",
    "stop_on_signal",
    "untouched_generators",
    "write_evaluation",
]
