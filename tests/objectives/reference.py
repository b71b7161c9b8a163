"""The update of RESeL written to be obvious: episode by episode, step by step.

No packing, no masks, no batches, no TorchRL: contexts come from ``encode_step`` alone,
targets are kept in Python lists, each algorithm is written out by hand. Slow, and the
oracle.
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
    """One agent on its own copies of a loss's modules: soft actor-critic.

    ``noise`` of both terms is a list over episodes of tensors ``[T, A]``: standard
    normal numbers for the action drawn at each transition.
    """

    TARGETS = ("qvalue_network", "critic_encoder")
    DECAY = 0.999

    def __init__(
        self, modules, *, gamma, target_bound, target_entropy=0.0, alpha_init=1.0
    ):
        self.modules = copy.deepcopy(modules)
        self.actor = self.modules["actor_network"]
        self.critic = self.modules["qvalue_network"]
        self.actor_encoder = self.modules["actor_encoder"]
        self.critic_encoder = self.modules["critic_encoder"]
        self.slow = {name: copy.deepcopy(self.modules[name]) for name in self.TARGETS}
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
        actor_encoder = self.slow.get("actor_encoder", self.actor_encoder)
        out = []
        for episode, episode_noise in zip(episodes, noise, strict=True):
            actor_context = contexts(actor_encoder, episode)
            critic_context = contexts(self.slow["critic_encoder"], episode)
            out.append(
                [
                    self.bootstrap(
                        episode.observation[t + 1],
                        actor_context[t + 1],
                        critic_context[t + 1],
                        episode_noise[t],
                        subset,
                    )
                    for t in range(len(episode))
                ]
            )
        return out

    def bootstrap(self, observation, actor_context, critic_context, noise, subset):
        """The soft value of one observation under the target critics."""
        alpha = math.exp(self.log_alpha.item())
        action, log_prob = sample(self.actor, observation, actor_context, noise)
        values = self.slow["qvalue_network"].values(observation, action, critic_context)
        return min(values[j].item() for j in subset) - alpha * log_prob.item()

    def taken_values(self, observation, action, context):
        """Each critic's value of the action taken."""
        return self.critic.values(observation, action, context)

    def policy_terms(self, observation, actor_context, critic_context, noise):
        """What the actor minimises at one observation, and log pi, a number."""
        alpha = math.exp(self.log_alpha.item())
        action, log_prob = sample(self.actor, observation, actor_context, noise)
        value = self.critic.values(observation, action, critic_context).mean()
        return alpha * log_prob - value, log_prob.item()

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
            keep, take = self.DECAY, 1 - self.DECAY
            self.low = keep * min(self.low, min(flat)) + take * min(flat)
            self.high = keep * max(self.high, max(flat)) + take * max(flat)
        return out, clamped

    def critic_loss(self, episodes, noise, subset):
        targets, clamped = self.targets(episodes, noise, subset)
        total, count = 0.0, 0
        for episode, one in zip(episodes, targets, strict=True):
            context = contexts(self.critic_encoder, episode)
            for t, target in enumerate(one):
                values = self.taken_values(
                    episode.observation[t], episode.action[t], context[t]
                )
                for value in values:
                    total = total + (value - target) ** 2
                count += 1
        return total / count, clamped / count

    def policy_losses(self, episodes, noise):
        """Actor loss and temperature loss."""
        self.clamp_log_alpha()
        actor_total, alpha_total, count = 0.0, 0.0, 0
        for episode, episode_noise in zip(episodes, noise, strict=True):
            actor_context = contexts(self.actor_encoder, episode)
            critic_context = contexts(self.critic_encoder, episode)
            for t in range(len(episode)):
                term, log_prob = self.policy_terms(
                    episode.observation[t],
                    actor_context[t],
                    critic_context[t].detach(),
                    episode_noise[t],
                )
                actor_total = actor_total + term
                surplus = log_prob + self.target_entropy
                alpha_total = alpha_total - self.log_alpha * surplus
                count += 1
        return actor_total / count, alpha_total / count

    def polyak(self, tau):
        with torch.no_grad():
            for name, target in self.slow.items():
                source = self.modules[name]
                for old, new in zip(
                    target.parameters(), source.parameters(), strict=True
                ):
                    old.copy_((1 - tau) * old + tau * new)


class DiscreteReference(Reference):
    """Sums over the actions in Python; no noise is needed."""

    DECAY = 1.0

    def probabilities(self, observation, context):
        logits = self.actor.module[0].module.outputs(observation, context)
        weights = [torch.exp(x) / torch.exp(logits).sum() + 0.01 for x in logits]
        return [weight / sum(weights) for weight in weights]

    def bootstrap(self, observation, actor_context, critic_context, noise, subset):
        alpha = math.exp(self.log_alpha.item())
        values = self.slow["qvalue_network"].values(observation, critic_context)
        total = 0.0
        for a, p in enumerate(self.probabilities(observation, actor_context)):
            smallest = min(values[a, j].item() for j in subset)
            total += p.item() * (smallest - alpha * math.log(p.item()))
        return total

    def taken_values(self, observation, action, context):
        return self.critic.values(observation, context)[action.tolist().index(1.0)]

    def policy_terms(self, observation, actor_context, critic_context, noise):
        alpha = math.exp(self.log_alpha.item())
        values = self.critic.values(observation, critic_context).detach()
        term, log_prob = 0.0, 0.0
        for a, p in enumerate(self.probabilities(observation, actor_context)):
            term = term + p * (alpha * torch.log(p) - sum(values[a]) / len(values[a]))
            log_prob += p.item() * math.log(p.item())
        return term, log_prob


class TD3Reference(Reference):
    """Deterministic actions; ``noise`` smooths the target policy's."""

    TARGETS = ("actor_network", "actor_encoder", "qvalue_network", "critic_encoder")
    NOISE, CLIP = 0.5, 0.3

    def bootstrap(self, observation, actor_context, critic_context, noise, subset):
        action = self.slow["actor_network"].head(observation, actor_context)
        smoothed = [
            min(max(a + min(max(self.NOISE * n, -self.CLIP), self.CLIP), -1.0), 1.0)
            for a, n in zip(action.tolist(), noise.tolist(), strict=True)
        ]
        values = self.slow["qvalue_network"].values(
            observation, torch.tensor(smoothed), critic_context
        )
        return min(values[j].item() for j in subset)

    def policy_terms(self, observation, actor_context, critic_context, noise):
        action = self.actor.head(observation, actor_context)
        return -self.critic.values(observation, action, critic_context).mean(), 0.0
