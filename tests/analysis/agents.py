"""Small agents with random weights, and episodes of random numbers."""

import numpy as np
import torch

from resel_torchrl.collect import flat_episode
from resel_torchrl.modules import make_agent
from resel_torchrl.objectives import make_loss
from resel_torchrl.replay import pack_episodes


def random_episodes(lengths, row_length, seed=0, *, discrete=False):
    """Packed episodes of two normal observations and one uniform action.

    With ``discrete`` the action is one of two, one-hot.
    """
    rng = np.random.default_rng(seed)
    flat = []
    for length in lengths:
        observations = rng.normal(size=(length + 1, 2)).astype(np.float32)
        actions = rng.uniform(-1, 1, (length, 1)).astype(np.float32)
        if discrete:
            actions = np.concatenate([actions > 0, actions <= 0], -1).astype(np.float32)
        rewards = rng.normal(size=length).astype(np.float32)
        flat.append(flat_episode(observations, actions, rewards, False, True))
    return pack_episodes(torch.cat(flat), row_length)


def random_agent(core, seed=0, algorithm="resel"):
    """The networks and a loss on them."""
    torch.manual_seed(seed)
    agent = make_agent(
        2,
        2 if algorithm == "discrete_resel" else 1,
        core=core,
        algorithm=algorithm,
        embedding_size=8,
        hidden_size=32,
        context_size=8,
        head_sizes=(16,),
        n_critics=2,
    )
    return agent, make_loss(agent)
