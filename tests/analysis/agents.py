"""Small agents with random weights, and episodes of random numbers."""

import numpy as np
import torch

from resel_torchrl.objectives import RESeLLoss
from resel_torchrl.replay import pack_episodes
from resel_torchrl.training import flat_episode, make_agent


def random_episodes(lengths, row_length, seed=0):
    """Packed episodes of two normal observations and one uniform action."""
    rng = np.random.default_rng(seed)
    flat = []
    for length in lengths:
        observations = rng.normal(size=(length + 1, 2)).astype(np.float32)
        actions = rng.uniform(-1, 1, (length, 1)).astype(np.float32)
        rewards = rng.normal(size=length).astype(np.float32)
        flat.append(flat_episode(observations, actions, rewards, False, True))
    return pack_episodes(torch.cat(flat), row_length)


def random_agent(core, seed=0):
    """The networks and a loss on them."""
    torch.manual_seed(seed)
    agent = make_agent(
        2,
        1,
        core=core,
        embedding_size=8,
        hidden_size=32,
        context_size=8,
        head_sizes=(16,),
        n_critics=2,
    )
    loss = RESeLLoss(
        agent.actor,
        agent.critic,
        actor_encoder=agent.actor_encoder,
        critic_encoder=agent.critic_encoder,
    )
    return agent, loss
