"""RESeL in one loop: learn Pendulum-V-v0, where only the angular speed is visible.

Everything that `resel_torchrl.training` adds (run directories, logs, checkpoints) is
left out, so that the method can be read top to bottom:

    python recipes/plain_loop.py --core lstm          # the recurrent agent
    python recipes/plain_loop.py --core memoryless    # control: sees the present only
    python recipes/plain_loop.py --core one_step      # control: and the step before

One line per 1,000 environment steps: mean return of 20 deterministic episodes.
"""

import argparse
import time

import numpy as np
import torch
from torchrl.data import LazyTensorStorage, TensorDictReplayBuffer
from torchrl.objectives import SoftUpdate

from resel_torchrl.collect import RecurrentPolicy, flat_episode
from resel_torchrl.envs import make_gym, task_info
from resel_torchrl.modules import (
    ContextEncoder,
    EnsembleCritic,
    TanhNormalActor,
    context_inputs,
)
from resel_torchrl.objectives import RESeLLoss
from resel_torchrl.optim import parameter_groups
from resel_torchrl.replay import EpisodeSampler, pack_episodes

TASK = "Pendulum-V-v0"
RANDOM_EPISODES = 10
BATCH_SIZE = 800  # transitions: 4 episodes
REWARD_SCALE = 0.1


def play(env, act, seed):
    """One episode as a flat TensorDict, and its return."""
    observation, _ = env.reset(seed=seed)
    observations, actions, rewards = [observation], [], []
    terminated = truncated = False
    while not (terminated or truncated):
        actions.append(act(observation, first=not actions))
        observation, reward, terminated, truncated, _ = env.step(actions[-1])
        observations.append(observation)
        rewards.append(reward)
    arrays = (np.array(x, np.float32) for x in (observations, actions, rewards))
    return flat_episode(*arrays, terminated, truncated), sum(rewards)


def main(core: str, seed: int, steps: int) -> float:
    """Train for `steps` environment steps; return the last evaluation."""
    torch.manual_seed(seed)
    torch.set_num_threads(1)
    task = task_info(TASK)
    sizes = task.observation_size, task.action_size
    env = make_gym(TASK)

    # Actor and critic each own an encoder; heads read its context.
    width = {"embedding_size": 32, "hidden_size": 64, "context_size": 32}
    inputs = context_inputs(*sizes)
    actor_encoder = ContextEncoder(inputs, core, **width, out_key="context_actor")
    critic_encoder = ContextEncoder(inputs, core, **width, out_key="context_critic")
    head = {"context_size": 32, "embedding_size": 32, "hidden_sizes": (64, 64)}
    actor = TanhNormalActor(*sizes, **head)
    critic = EnsembleCritic(*sizes, **head, n_critics=4)

    loss = RESeLLoss(
        actor, critic, actor_encoder=actor_encoder, critic_encoder=critic_encoder
    )
    polyak = SoftUpdate(loss, tau=0.005)
    # The point of the method: the encoders' trunks learn more slowly than the rest.
    groups = parameter_groups(
        loss, lr_context_encoder=3e-4, lr_actor=1e-3, lr_critic=2e-3, lr_alpha=1e-3
    )
    optimizer = torch.optim.AdamW(groups, fused=True)  # skips groups without gradient
    buffer = TensorDictReplayBuffer(
        storage=LazyTensorStorage(steps + task.horizon),
        sampler=EpisodeSampler(seed=seed),
        batch_size=BATCH_SIZE,
    )

    policy = RecurrentPolicy(actor_encoder, actor, *sizes)
    rng = np.random.default_rng(seed)
    started, updates, evaluation = time.monotonic(), 0, float("nan")
    for episode in range(steps // task.horizon):
        if episode < RANDOM_EPISODES:
            data, _ = play(env, lambda *_, **__: rng.uniform(-1, 1, 1), seed=episode)
            buffer.extend(data)
            continue
        data, _ = play(env, policy, seed=episode)
        buffer.extend(data)

        for _ in range(len(data)):  # one update per environment step
            batch = pack_episodes(buffer.sample(), row_length=task.horizon + 1)
            batch["next", "reward"] = batch["next", "reward"] * REWARD_SCALE
            loss.critic_loss(batch)["loss_qvalue"].backward()
            optimizer.step()
            optimizer.zero_grad()
            polyak.step()
            if updates % 2 == 0:
                terms = loss.policy_loss(batch)
                (terms["loss_actor"] + terms["loss_alpha"]).backward()
                optimizer.step()
                optimizer.zero_grad()
            updates += 1

        if (episode + 1) * task.horizon % 1000 == 0:
            returns = [
                play(env, lambda *a, **k: policy(*a, **k, deterministic=True), s)[1]
                for s in range(10**6, 10**6 + 20)
            ]
            evaluation = float(np.mean(returns))
            print(
                f"step {(episode + 1) * task.horizon:6d}   return {evaluation:7.0f}   "
                f"{updates / (time.monotonic() - started):4.0f} updates/s",
                flush=True,
            )
    return evaluation


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--core", default="lstm")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--steps", type=int, default=16_000)
    main(**vars(parser.parse_args()))
