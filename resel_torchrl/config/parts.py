"""The parts of a run, made from its configuration."""

from __future__ import annotations

import copy
import functools
from typing import Any

import torch
from torchrl.data import LazyTensorStorage, TensorDictReplayBuffer

from resel_torchrl.config.algorithms import (
    loss_of,
)
from resel_torchrl.config.curriculum import make_curriculum
from resel_torchrl.config.environments import (
    eval_copies,
    make_run_env,
    make_run_envs,
)
from resel_torchrl.config.schema import Config
from resel_torchrl.envs import TaskInfo
from resel_torchrl.replay import (
    EpisodeSampler,
    SegmentSampler,
    pack_episodes,
    row_layout,
)
from resel_torchrl.training import (
    Agent,
    Collector,
    CudaRecorder,
    Learner,
    PolicyCopy,
    ProcessCollector,
    RecurrentPolicy,
    SharedWeights,
    VectorCollector,
    VectorPolicy,
)

__all__ = ["agent_options", "make_acting", "make_buffer", "make_learner"]


def agent_options(config: Config) -> dict[str, Any]:
    """Arguments of `make_agent` beside the sizes of observation and action."""
    agent = config.agent
    noise, floor = agent.exploration_noise, agent.probability_floor
    return {
        "algorithm": agent.algorithm,
        "exploration_noise": None if noise == "auto" else noise,
        "probability_floor": None if floor == "auto" else floor,
        "core": agent.core,
        "core_kwargs": agent.core_kwargs,
        "reward_input": agent.reward_input,
        "embedding_size": agent.embedding_size,
        "hidden_size": agent.hidden_size,
        "context_size": agent.context_size,
        "head_sizes": agent.head_sizes,
        "n_critics": agent.n_critics,
    }


def make_buffer(config: Config) -> TensorDictReplayBuffer:
    """An empty buffer of whole episodes, from which these or segments are drawn."""
    replay = config.replay
    if replay.segment_length is None:
        sampler = EpisodeSampler(seed=config.seed)
    else:
        sampler = SegmentSampler(
            replay.segment_length, burn_in=replay.burn_in, seed=config.seed
        )
    return TensorDictReplayBuffer(
        storage=LazyTensorStorage(replay.buffer_size),
        sampler=sampler,
        batch_size=replay.batch_size,
    )


def make_acting(
    config: Config, agent: Agent, task: TaskInfo, replay_buffer: TensorDictReplayBuffer
) -> tuple[
    Collector | VectorCollector,
    RecurrentPolicy | VectorPolicy,
    PolicyCopy | SharedWeights | None,
]:
    """The collector, the evaluating policy, and the copy of the weights they act on.

    The two policies act on the same weights, each with its own memory. Evaluation is
    done by the learner's process, on the learner's own weights where these are on the
    CPU.
    """
    learning = acting = [agent.actor_encoder, agent.actor]
    on_cpu = torch.device(config.device).type == "cpu"
    sizes = {
        "observation_size": task.observation_size,
        "action_size": task.action_size,
    }
    make_policy = functools.partial(RecurrentPolicy, mode=config.train.acting, **sizes)
    options = {
        "horizon": task.horizon,
        "seed": config.seed,
        "random_steps": config.train.random_steps,
        "random_start_steps": config.train.random_start_steps,
        "store_memory": config.replay.start_state == "stored",
    }
    if config.env.copies == 1:
        options["curriculum"] = make_curriculum(config)
    if config.train.collection == "process":
        weights = SharedWeights(learning, config.train.policy_sync)
        collector = ProcessCollector(
            functools.partial(make_run_env, config),
            make_policy,
            weights,
            replay_buffer,
            ahead=config.train.collect_ahead,
            **options,
        )
        eval_policy = make_policy(*(learning if on_cpu else weights.copies))
        return collector, eval_policy, weights
    policy_copy = None
    if not on_cpu:
        acting = [copy.deepcopy(module).to("cpu") for module in learning]
        policy_copy = PolicyCopy(learning, acting, config.train.policy_sync)
    copies = config.env.copies
    if copies > 1:
        make_policy = functools.partial(VectorPolicy, *acting, **sizes)
        collector = VectorCollector(
            make_run_envs(config, copies),
            make_policy(copies=copies),
            replay_buffer,
            **options,
        )
        eval_policy = make_policy(copies=eval_copies(config, config.eval.episodes))
        return collector, eval_policy, policy_copy
    policy, eval_policy = make_policy(*acting), make_policy(*acting)
    collector = Collector(make_run_env(config), policy, replay_buffer, **options)
    return collector, eval_policy, policy_copy


def make_learner(
    config: Config, agent: Agent, buffer: TensorDictReplayBuffer, horizon: int
) -> Learner:
    """The updates of an agent from a buffer of episodes of at most `horizon` steps."""
    settings = config.train
    loss = loss_of(config, agent)
    loss.to(config.device)
    loss.parallel_passes = settings.parallel_passes
    replay = config.replay
    longest = horizon  # of what is packed
    if replay.segment_length is not None:
        longest = min(replay.segment_length + replay.burn_in, horizon)
    encoders = agent.actor_encoder, agent.critic_encoder
    gap = max(encoder.core.blank_rows for encoder in encoders)
    packing: dict[str, Any] = {"gap": gap}
    if replay.start_state == "stored":  # each segment in a row of its own
        layout = row_layout(replay.batch_size, longest, gap=gap, min_row_length=1)
        packing["state_key"] = agent.actor_encoder.state_key
    else:
        layout = row_layout(replay.batch_size, longest, gap=gap)
    return Learner(
        agent,
        loss,
        buffer,
        functools.partial(pack_episodes, **layout._asdict(), **packing),
        batch_size=replay.batch_size,
        lr_context_encoder=config.optim.lr_context_encoder,
        lr_actor=config.optim.lr_actor,
        lr_critic=config.optim.lr_critic,
        lr_alpha=config.optim.lr_alpha,
        tau=settings.tau,
        policy_delay=settings.policy_delay,
        reward_scale=settings.reward_scale,
        reuse_policy_context=settings.reuse_policy_context,
        autocast=settings.autocast,
        compile=settings.compile,
        make_recorder=functools.partial(CudaRecorder, torch.device(config.device))
        if settings.cudagraph
        else None,
    )
