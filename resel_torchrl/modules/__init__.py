"""Context encoders, their sequence cores, and the actor and critic heads."""

from resel_torchrl.modules.actor import TanhNormalActor
from resel_torchrl.modules.agent import Agent, make_agent
from resel_torchrl.modules.categorical_actor import CategoricalActor
from resel_torchrl.modules.context_encoder import (
    ContextEncoder,
    ContextTrunk,
    context_inputs,
)
from resel_torchrl.modules.cores import CORES, SequenceCore, make_core
from resel_torchrl.modules.deterministic_actor import DeterministicActor
from resel_torchrl.modules.ensemble_critic import DiscreteEnsembleCritic, EnsembleCritic
from resel_torchrl.modules.fused_step import FusedStep
from resel_torchrl.modules.policy import make_policy
from resel_torchrl.modules.previous_step import PreviousStep
from resel_torchrl.modules.tanh_normal import TanhNormal

__all__ = [
    "CORES",
    "Agent",
    "CategoricalActor",
    "ContextEncoder",
    "ContextTrunk",
    "DeterministicActor",
    "DiscreteEnsembleCritic",
    "EnsembleCritic",
    "FusedStep",
    "PreviousStep",
    "SequenceCore",
    "TanhNormal",
    "TanhNormalActor",
    "context_inputs",
    "make_agent",
    "make_core",
    "make_policy",
]
