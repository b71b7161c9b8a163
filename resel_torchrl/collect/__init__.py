"""Acting and collecting: policies, episode collectors, evaluation, curricula."""

from resel_torchrl.collect.acting import PolicyCopy, RecurrentPolicy, VectorPolicy
from resel_torchrl.collect.curriculum import Curriculum
from resel_torchrl.collect.episode import EpisodeResult, episode_seed, flat_episode
from resel_torchrl.collect.episode_collector import Collector, VectorCollector
from resel_torchrl.collect.evaluate import (
    Evaluation,
    evaluate,
    evaluate_vector,
    write_evaluation,
)
from resel_torchrl.collect.process_collector import ProcessCollector, SharedWeights

__all__ = [
    "Collector",
    "Curriculum",
    "EpisodeResult",
    "Evaluation",
    "PolicyCopy",
    "ProcessCollector",
    "RecurrentPolicy",
    "SharedWeights",
    "VectorCollector",
    "VectorPolicy",
    "episode_seed",
    "evaluate",
    "evaluate_vector",
    "flat_episode",
    "write_evaluation",
]
