"""The update of RESeL written to be obvious: episode by episode, step by step.

No packing, no masks, no batches, no TorchRL: contexts come from ``encode_step`` alone,
targets are kept in Python lists, SAC is written out by hand. Slow, and the oracle.
"""

from __future__ import annotations

import copy
import math

import torch

from tests.objectives.episodes import Episode


def contexts(encoder, episode: Episode):
    """e_0 .. e_T of one episode, one call of the encoder per step."""
    state = torch.zeros(1, encoder.state_size)
    out = []
    for t in range(len(episode) + 1):
        previous_observation, previous_action, previous_reward = episode.previous(t)
        by_name = {
            "observation": episode.observation[t],
            "prev_observation": previous_observation,
            "prev_action": previous_action,
            "prev_reward": previous_reward,
        }
        inputs = [by_name[key].unsqueeze(0) for key in encoder.input_keys]
        context, state = encoder.encode_step(inputs, torch.tensor([t == 0]), state)
        out.append(context[0])
    return out


def sample(actor, observation, context, noise):
    """A squashed Gaussian action from given standard normal noise, and its log pi."""
    loc, scale = actor.head(observation, context)
    pre_tanh = loc + scale * noise
    gaussian = -0.5 * noise**2 - torch.log(scale) - 0.5 * math.log(2 * math.pi)
    # d tanh(u)/du = 1 - tanh(u)^2 = cosh(u)^-2
    log_prob = gaussian + 2 * torch.log(torch.cosh(pre_tanh))
    return torch.tanh(pre_tanh), log_prob.sum()


class Reference:
    """One agent on its own copies of a loss's modules.

    ``noise`` of both terms is a list over episodes of tensors ``[T, A]``: standard
    normal numbers for the action drawn at each transition.
    """

    def __init__(self, modules, *, gamma, target_entropy, target_bound, alpha_init):
        self.modules = copy.deepcopy(modules)
        self.actor = self.modules["actor_network"]
        self.critic = self.modules["qvalue_network"]
        self.actor_encoder = self.modules["actor_encoder"]
        self.critic_encoder = self.modules["critic_encoder"]
        self.target_critic = copy.deepcopy(self.critic)
        self.target_critic_encoder = copy.deepcopy(self.critic_encoder)
        self.log_alpha = torch.tensor(math.log(alpha_init), requires_grad=True)
        self.gamma = gamma
        self.target_entropy = target_entropy
        self.target_bound = target_bound
        self.low = self.high = None

    def clamp_log_alpha(self):
        with torch.no_grad():
            if self.log_alpha > 1.0:
                self.log_alpha.fill_(1.0)

    @torch.no_grad()
    def bootstraps(self, episodes, noise, subset):
        """One list per episode: the soft value of every transition's next step."""
        self.clamp_log_alpha()
        alpha = math.exp(self.log_alpha.item())
        out = []
        for episode, episode_noise in zip(episodes, noise, strict=True):
            actor_context = contexts(self.actor_encoder, episode)
            critic_context = contexts(self.target_critic_encoder, episode)
            out.append([])
            for t in range(len(episode)):
                following = episode.observation[t + 1]
                action, log_prob = sample(
                    self.actor, following, actor_context[t + 1], episode_noise[t]
                )
                values = self.target_critic.values(
                    following, action, critic_context[t + 1]
                )
                smallest = min(values[j].item() for j in subset)
                out[-1].append(smallest - alpha * log_prob.item())
        return out

    def targets(self, episodes, noise, subset):
        """One list of targets per episode, and how many bootstraps were clamped."""
        bootstraps = self.bootstraps(episodes, noise, subset)
        flat = [b for one in bootstraps for b in one]
        clamped = 0
        if self.target_bound:
            if self.low is None:
                self.low, self.high = min(flat), max(flat)
            clamped = sum(not self.low <= b <= self.high for b in flat)
            bootstraps = [
                [min(max(b, self.low), self.high) for b in one] for one in bootstraps
            ]
        out = []
        for episode, one in zip(episodes, bootstraps, strict=True):
            out.append([])
            for t, bootstrap in enumerate(one):
                ended = episode.terminated and t == len(episode) - 1
                future = 0.0 if ended else self.gamma * bootstrap
                out[-1].append(episode.reward[t].item() + future)
        if self.target_bound:
            flat = [y for one in out for y in one]
            self.low = 0.999 * min(self.low, min(flat)) + 0.001 * min(flat)
            self.high = 0.999 * max(self.high, max(flat)) + 0.001 * max(flat)
        return out, clamped

    def critic_loss(self, episodes, noise, subset):
        targets, clamped = self.targets(episodes, noise, subset)
        total, count = 0.0, 0
        for episode, one in zip(episodes, targets, strict=True):
            context = contexts(self.critic_encoder, episode)
            for t, target in enumerate(one):
                values = self.critic.values(
                    episode.observation[t], episode.action[t], context[t]
                )
                for value in values:
                    total = total + (value - target) ** 2
                count += 1
        return total / count, clamped / count

    def policy_losses(self, episodes, noise):
        """Actor loss and temperature loss."""
        self.clamp_log_alpha()
        alpha = math.exp(self.log_alpha.item())
        actor_total, alpha_total, count = 0.0, 0.0, 0
        for episode, episode_noise in zip(episodes, noise, strict=True):
            actor_context = contexts(self.actor_encoder, episode)
            critic_context = contexts(self.critic_encoder, episode)
            for t in range(len(episode)):
                observation = episode.observation[t]
                action, log_prob = sample(
                    self.actor, observation, actor_context[t], episode_noise[t]
                )
                value = self.critic.values(
                    observation, action, critic_context[t].detach()
                ).mean()
                actor_total = actor_total + alpha * log_prob - value
                surplus = log_prob.item() + self.target_entropy
                alpha_total = alpha_total - self.log_alpha * surplus
                count += 1
        return actor_total / count, alpha_total / count

    def polyak(self, tau):
        pairs = [
            (self.target_critic, self.critic),
            (self.target_critic_encoder, self.critic_encoder),
        ]
        with torch.no_grad():
            for target, source in pairs:
                for old, new in zip(
                    target.parameters(), source.parameters(), strict=True
                ):
                    old.copy_((1 - tau) * old + tau * new)
