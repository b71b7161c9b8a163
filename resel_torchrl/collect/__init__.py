"""Acting and collecting: policy, episode collectors, evaluation, curricula."""

from resel_torchrl.collect.acting import RecurrentPolicy
from resel_torchrl.collect.curriculum import Curriculum
from resel_torchrl.collect.episode import EpisodeResult, episode_seed, flat_episode
from resel_torchrl.collect.episode_collector import EpisodeCollector
from resel_torchrl.collect.evaluate import Evaluation, evaluate, write_evaluation
from resel_torchrl.collect.policy_weights import PolicyCopy, SharedWeights
from resel_torchrl.collect.process_collector import ProcessCollector

__all__ = [
    "Curriculum",
    "EpisodeCollector",
    "EpisodeResult",
    "Evaluation",
    "PolicyCopy",
    "ProcessCollector",
    "RecurrentPolicy",
    "SharedWeights",
    "episode_seed",
    "evaluate",
    "flat_episode",
    "write_evaluation",
]
