"""The parts of a run, made from its configuration."""

from __future__ import annotations

import copy
import functools
import inspect
from collections.abc import Callable, Iterator
from typing import Any

import gymnasium
import torch
from gymnasium.vector import VectorEnv
from torchrl.data import LazyTensorStorage, TensorDictReplayBuffer

from resel_torchrl._nearest import suggestion
from resel_torchrl.collect import (
    Curriculum,
    EpisodeCollector,
    Evaluation,
    PolicyCopy,
    ProcessCollector,
    RecurrentPolicy,
    SharedWeights,
    evaluate,
)
from resel_torchrl.config.schema import ALGORITHM_SECTIONS, Config
from resel_torchrl.envs import TaskInfo, make_gym, task_info, vectorize
from resel_torchrl.modules import CORES, Agent, FusedStep
from resel_torchrl.modules.cores import SequenceCore
from resel_torchrl.objectives import make_loss
from resel_torchrl.objectives.make_loss import Loss
from resel_torchrl.optim import parameter_groups
from resel_torchrl.replay import (
    EpisodeSampler,
    SegmentSampler,
    pack_episodes,
    row_layout,
)
from resel_torchrl.training import (
    CudaRecorder,
    Learner,
    LearningRateDecay,
    PackedBatches,
    compiler_problem,
)

__all__ = [
    "agent_options",
    "constructor_problems",
    "eval_copies",
    "for_evaluation",
    "loss_of",
    "make_acting",
    "make_buffer",
    "make_curriculum",
    "make_decay",
    "make_evaluation",
    "make_learner",
    "make_run_env",
    "memory_problems",
    "meta_core",
    "read_tasks",
    "recorded_facts",
    "resolve_algorithm",
    "task_problems",
    "unreached",
]


#: Values of an algorithm that are its actor's; the others are its loss's.
OF_THE_ACTOR = ("exploration_noise", "probability_floor")


def agent_options(config: Config) -> dict[str, Any]:
    """Arguments of `make_agent` beside the sizes of observation and action."""
    section = getattr(config, config.algorithm)
    return {
        "algorithm": config.algorithm,
        **{name: getattr(section, name, None) for name in OF_THE_ACTOR},
        **config.agent.model_dump(),
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
    EpisodeCollector | ProcessCollector,
    RecurrentPolicy,
    PolicyCopy | SharedWeights | None,
]:
    """The collector, the evaluating policy, and the copy of the weights they act on.

    The two policies act on the same weights, each with its own hidden state. Evaluation
    is done by the learner's process, on the learner's own weights where these are on
    the CPU.
    """
    learning = acting = [agent.actor_encoder, agent.actor]
    on_cpu = torch.device(config.device).type == "cpu"
    num_envs = config.env.copies
    make_policy = functools.partial(
        RecurrentPolicy,
        observation_size=task.observation_size,
        action_size=task.action_size,
        mode=config.train.acting,
    )
    make_env = functools.partial(make_run_env, config, num_envs)
    options = {
        "horizon": task.horizon,
        "seed": config.seed,
        "random_steps": config.train.random_steps,
        "random_start_steps": config.train.random_start_steps,
        "store_memory": config.replay.start_state == "stored",
        "curriculum": make_curriculum(config),
    }
    collector: EpisodeCollector | ProcessCollector
    policy_copy: PolicyCopy | SharedWeights | None = None
    if config.train.collection == "process":
        policy_copy = SharedWeights(learning, config.train.policy_sync)
        collector = ProcessCollector(
            make_env,
            functools.partial(make_policy, num_envs=num_envs),
            policy_copy,
            replay_buffer,
            ahead=config.train.collect_ahead,
            **options,
        )
        acting = learning if on_cpu else policy_copy.copies
    else:
        if not on_cpu:
            acting = [copy.deepcopy(module).to("cpu") for module in learning]
            policy_copy = PolicyCopy(learning, acting, config.train.policy_sync)
        policy = make_policy(*acting, num_envs=num_envs)
        collector = EpisodeCollector(make_env(), policy, replay_buffer, **options)
    evaluating = eval_copies(config, config.eval.episodes)
    return collector, make_policy(*acting, num_envs=evaluating), policy_copy


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
    rates = config.optim
    groups = parameter_groups(
        loss,
        lr_context_encoder=rates.lr_context_encoder,
        lr_actor=rates.lr_actor,
        lr_critic=rates.lr_critic,
        lr_alpha=rates.lr_alpha,
    )
    batches = PackedBatches(
        buffer,
        functools.partial(pack_episodes, **layout._asdict(), **packing),
        batch_size=replay.batch_size,
        reward_scale=settings.reward_scale,
        device=config.device,
    )
    record = functools.partial(CudaRecorder, torch.device(config.device))
    return Learner(
        loss,
        torch.optim.AdamW(groups, fused=True),
        batches,
        policy_delay=settings.policy_delay,
        target_update=settings.tau,
        reuse_policy_context=settings.reuse_policy_context,
        autocast=settings.autocast,
        compile=settings.compile,
        make_recorder=record if settings.cudagraph else None,
    )


def resolve_algorithm(config: Config, *, discrete: bool) -> Config:
    """The configuration with `algorithm` and `train.acting` in place of `auto`.

    An algorithm goes by the actions; acting by the core, the packages that are there,
    and the number of environments that are stepped together.
    """
    name, acting = config.algorithm, config.train.acting
    if name == "auto":
        name = "discrete_resel" if discrete else "resel"
    if acting == "auto":
        several = config.env.copies > 1
        obstacle = FusedStep.core_obstacle(CORES[config.agent.core])
        acting = "eager" if several or obstacle else "fused"
    return config.model_copy(
        update={
            **dict.fromkeys(ALGORITHM_SECTIONS - {name}),
            "algorithm": name,
            "train": config.train.model_copy(update={"acting": acting}),
        }
    )


def loss_of(config: Config, agent: Agent) -> Loss:
    """The loss of a resolved configuration on the agent's networks."""
    section = getattr(config, config.algorithm)
    return make_loss(
        agent,
        gamma=config.train.gamma,
        critic_subset_size=config.train.critic_subset_size,
        target_bound=config.train.target_bound,
        **section.model_dump(exclude=set(OF_THE_ACTOR)),
    )


def make_run_env(config: Config, num_envs: int = 1) -> gymnasium.Env | VectorEnv:
    """One environment, or several put together as `env.vectorization` says.

    >>> from resel_torchrl.config import compose
    >>> config = compose(["task=pendulum_v"])
    >>> make_run_env(config).observation_space.shape, make_run_env(config, 2).num_envs
    ((1,), 2)
    """
    make = functools.partial(
        make_gym, config.env.id, horizon=config.env.horizon, **config.env.kwargs
    )
    if num_envs == 1:
        return make()
    return vectorize([make] * num_envs, config.env.vectorization)


def for_evaluation(config: Config) -> Config:
    """The configuration with `eval.kwargs` among the environment's."""
    kwargs = {**config.env.kwargs, **config.eval.kwargs}
    env = config.env.model_copy(update={"kwargs": kwargs})
    return config.model_copy(update={"env": env})


def read_tasks(config: Config) -> tuple[TaskInfo, TaskInfo]:
    """Sizes and further facts of the environments of training and of evaluation."""
    envs = config.env, for_evaluation(config).env
    train, test = (task_info(e.id, horizon=e.horizon, **e.kwargs) for e in envs)
    return train, test


def recorded_facts(task: TaskInfo, test: TaskInfo) -> dict[str, Any]:
    """What a run keeps of its environments beside its configuration.

    The facts of training; where evaluation has another set of tasks, that is under
    ``evaluation``.
    """
    sets = {
        name: test.facts[name]
        for name in ("train_tasks", "test_tasks")
        if name in test.facts and test.facts[name] != task.facts.get(name)
    }
    return {**task.facts, **({"evaluation": sets} if sets else {})}


def eval_copies(config: Config, episodes: int) -> int:
    """How many environments evaluate: `env.copies`, but no more than episodes.

    >>> from resel_torchrl.config import compose
    >>> eval_copies(compose(["env.copies=8", "steps=800"]), 5)
    5
    """
    return min(config.env.copies, max(episodes, 1))


def make_evaluation(
    config: Config, policy: RecurrentPolicy, *, episodes: int, seed: int
) -> Callable[[], Evaluation]:
    """What evaluates a policy, in as many environments as it is for.

    Args:
        config: The configuration.
        policy: Acts in them.
        episodes: Number of episodes.
        seed: Their seed.

    >>> from resel_torchrl.config import compose
    >>> from resel_torchrl.modules import make_agent
    >>> agent = make_agent(1, 1, core="gru", hidden_size=8, n_critics=2)
    >>> policy = RecurrentPolicy(agent.actor_encoder, agent.actor, 1, 1, num_envs=2)
    >>> config = compose(["task=pendulum_v"])
    >>> make_evaluation(config, policy, episodes=2, seed=0)().lengths
    (200, 200)
    """
    return functools.partial(
        evaluate,
        make_run_env(for_evaluation(config), policy.num_envs),
        policy,
        episodes=episodes,
        seed=seed,
        n_tasks=read_tasks(config)[1].n_tasks,
    )


def make_curriculum(config: Config) -> Curriculum | None:
    """The curriculum, if there is one.

    >>> from resel_torchrl.config import compose
    >>> make_curriculum(compose(["task=pendulum_v"])) is None
    True
    """
    options = config.curriculum.model_dump()
    option, values = options.pop("option"), options.pop("values")
    return None if option is None else Curriculum(option, values, **options)


def make_decay(config: Config) -> LearningRateDecay | None:
    """How the learning rates fall, if they do.

    >>> from resel_torchrl.config import compose
    >>> make_decay(compose(["task=hopper_v"])) is None
    True
    >>> decay = make_decay(compose(["task=hopper_v", "optim.decay_steps=[0,100]"]))
    >>> decay.share(75)
    0.25
    """
    if config.optim.decay_steps is None:
        return None
    return LearningRateDecay(*config.optim.decay_steps, to=config.optim.decay_to)


def unreached(config: Config) -> list[str]:
    """What begins or ends after the run's last step, in sentences.

    A run that is only shorter than planned, as to try it out, is no mistake.
    """
    found = []
    begins = config.curriculum.at_steps or []
    late = sum(begin >= config.steps for begin in begins)
    if config.curriculum.option is not None and late:
        found.append(
            f"curriculum.at_steps: the last stages would begin at steps "
            f"{begins[-late:]}, and the run ends at step {config.steps}: training does "
            "not reach the whole task."
        )
    decay = config.optim.decay_steps
    if decay is not None and decay[1] > config.steps:
        found.append(
            f"optim.decay_steps: the learning rates would fall from step {decay[0]} to "
            f"{decay[1]}, and the run ends at step {config.steps}."
        )
    return found


def constructor_problems(config: Config) -> list[str]:
    """What the constructors of core, curriculum and decay say, in sentences.

    The core is made on the meta device: nothing is computed or drawn.
    """
    agent, problems = config.agent, _unknown_core_options(config)
    if not problems:
        try:
            meta_core(config)
        except (ValueError, TypeError, ModuleNotFoundError) as error:
            problems.append(
                f"agent.core_kwargs with agent.hidden_size={agent.hidden_size}: {error}"
            )
    try:
        make_decay(config)
    except ValueError as error:
        problems.append(
            f"optim.decay_steps: {error}; write optim.decay_steps=[FIRST,LAST], or "
            "optim.decay_steps=null for none."
        )
    planned = config.curriculum
    absent = planned.option is None
    if absent and not planned.values and planned.at_steps is None:
        return problems
    rest = planned.model_dump(exclude={"option", "values"})
    try:
        Curriculum(str(planned.option), planned.values, **rest)
    except ValueError as error:
        none = (
            "Leave it out: curriculum.option is null"
            if absent
            else "Write curriculum.option=null for no curriculum"
        )
        problems.append(f"curriculum.{error} {none}.")
    return problems


def meta_core(config: Config) -> SequenceCore | None:
    """The core without memory for its parameters: nothing is computed or drawn.

    None for a core of one's own that looks at values while it is made.
    """
    agent = config.agent
    try:
        with torch.device("meta"):
            return CORES[agent.core](agent.hidden_size, **agent.core_kwargs)
    except RuntimeError:
        return None


def _unknown_core_options(config: Config) -> list[str]:
    core = config.agent.core
    options = {
        name: list(inspect.signature(kind.__init__).parameters)[2:]
        for name, kind in CORES.items()
    }
    known = options[core]
    wrong = [name for name in config.agent.core_kwargs if name not in known]
    if wrong and set(wrong) <= set().union(*options.values()):
        # The core was changed alone, and the options of the former one are left.
        return [
            f"agent.core: the core {core!r} does not take the options "
            f"{', '.join(wrong)}. Choose it with core={core}, which sets its options."
        ]
    hint = {
        name: suggestion(name, known) if known else "It has none." for name in wrong
    }
    for name in set(wrong) & set(CORES[core].renamed):
        hint[name] = f"It was renamed to {CORES[core].renamed[name]}."
    return [
        f"agent.core_kwargs.{name}: the core {core!r} has no such option. {hint[name]}"
        for name in wrong
    ]


def task_problems(config: Config, task: TaskInfo, test: TaskInfo) -> list[str]:
    """What does not go together in a configuration and its environments, in sentences.

    Args:
        config: The configuration.
        task: The environment of training.
        test: That of evaluation.
    """
    core = meta_core(config)
    return [
        *_environment_problems(config, task, test),
        *_curriculum_problems(config, task),
        *_algorithm_problems(config, task),
        *_length_problems(config, core, task.horizon),
        *_device_problems(config, core),
        *memory_problems(config),
    ]


def _environment_problems(
    config: Config, task: TaskInfo, test: TaskInfo
) -> Iterator[str]:
    """A horizon below the task's own, and an evaluation of another kind."""
    own_limit = _own_limit(config)
    if own_limit is not None and task.horizon < own_limit:
        yield (
            f"env.horizon: expected at least {own_limit}, the time limit of "
            f"{config.env.id}, got {task.horizon}; a shorter horizon is another task. "
            "Write env.horizon=null to take its own limit."
        )
    for name in ("observation_size", "action_size", "discrete", "measures"):
        had, got = getattr(task, name), getattr(test, name)
        if had != got:
            yield (
                f"eval.kwargs: expected an environment as the one of training, whose "
                f"{name} is {had}, got {got}; leave out what changes it."
            )
    trained, tested = task.facts, test.facts
    if tested.get("split") != "test" or "split" not in trained:
        return
    known = trained[f"{trained['split']}_tasks"]
    both = [task for task in tested["test_tasks"] if task in known]
    if both:
        yield (
            "eval.kwargs: expected test tasks that are not trained on, got "
            f"{len(both)} of {len(tested['test_tasks'])} that are, such as {both[0]}; "
            "give n_train, n_test, task_seed and the tasks to env.kwargs alone, and "
            "train with env.kwargs.split=train. eval.kwargs.split=train evaluates on "
            "the tasks of training."
        )


def _own_limit(config: Config) -> int | None:
    """The horizon that the environment has by itself, if it has one."""
    if config.env.horizon is None:
        return None
    try:
        return task_info(config.env.id, **config.env.kwargs).horizon
    except ValueError:
        return None


def _curriculum_problems(config: Config, task: TaskInfo) -> list[str]:
    """A curriculum that the environment cannot follow."""
    planned = config.curriculum
    option = planned.option
    if option is None:
        return []
    if option not in task.curriculum_options:
        known = ", ".join(task.curriculum_options) or "none"
        return [
            f"curriculum.option: expected an option that {config.env.id} takes at its "
            f"reset (it takes {known}), got {option!r}; write curriculum.option=null "
            "for no curriculum.",
        ]
    problems = []
    env = make_run_env(config)
    for value in planned.values:
        try:
            env.reset(seed=0, options={option: value})
        except (ValueError, TypeError, LookupError) as error:
            problems.append(f"curriculum.values: {value} cannot be used: {error}.")
    whole = env.get_wrapper_attr(option) if env.has_wrapper_attr(option) else None
    env.close()
    if whole is not None and planned.values[-1] != whole:
        problems.append(
            f"curriculum.values: expected the last one to be the {option} of the whole "
            f"task, {whole}, got {planned.values[-1]}; write "
            f"curriculum.values=[...,{whole}], or curriculum.option=null."
        )
    if planned.at_steps is None and planned.measure not in task.measures:
        problems.append(
            f"curriculum.measure: expected one that {config.env.id} measures "
            f"({', '.join(task.measures) or 'none'}), got {planned.measure!r}; write "
            "curriculum.at_steps=[...] for a schedule by steps."
        )
    return problems


def _algorithm_problems(config: Config, task: TaskInfo) -> Iterator[str]:
    """An algorithm for other actions, or fused acting where there is none."""
    name = config.algorithm
    takes_discrete = name == "discrete_resel"
    if name != "auto" and takes_discrete != task.discrete:
        kinds = {True: "discrete", False: "continuous"}
        fitting = "discrete_resel" if task.discrete else "resel (or td3_resel)"
        yield (
            f"algorithm: expected one for {kinds[task.discrete]} actions, which "
            f"{config.env.id} has, got {name}, which needs {kinds[takes_discrete]} "
            f"ones; choose algorithm={fitting}, or another task."
        )
    if config.train.acting == "fused":
        obstacle = FusedStep.core_obstacle(CORES[config.agent.core])
        if obstacle:
            yield (
                f"train.acting: with core={config.agent.core} {obstacle} Write "
                "train.acting=auto."
            )


def _length_problems(
    config: Config, core: SequenceCore | None, horizon: int
) -> Iterator[str]:
    """Episodes longer than buffer or core, or shorter than segments."""
    room, copies = config.replay.buffer_size, config.env.copies
    if room < copies * horizon:
        each = f" of each of {copies} environments" if copies > 1 else ""
        yield (
            f"replay.buffer_size: expected room for an episode of {horizon} steps"
            f"{each}, got {room}; raise it."
        )
    segment_length = config.replay.segment_length
    if segment_length is not None and segment_length > horizon:
        yield (
            f"replay.segment_length: expected at most the horizon of {horizon} steps, "
            f"got {segment_length}; lower it, or write replay.segment_length=null for "
            "whole episodes."
        )
    longest = None if core is None else core.max_length
    if longest is not None and longest <= horizon:
        yield (
            f"agent.core_kwargs.max_length: expected at least {horizon + 1}, one more "
            f"than the horizon of {horizon} steps, got {longest}; write "
            f"agent.core_kwargs.max_length={horizon + 1}."
        )


def _device_problems(config: Config, core: SequenceCore | None) -> Iterator[str]:
    """A core, a compiler or a GPU that is not for the device of the updates."""
    wanted = None if core is None else core.device_type
    kind, _, index = config.device.partition(":")
    if wanted not in (None, kind):
        yield (
            f"agent.core_kwargs.backend: expected one for device={config.device}, got "
            f"{config.agent.core_kwargs['backend']}, which runs on {wanted} only; "
            "write agent.core_kwargs.backend=auto."
        )
    if config.train.compile:
        lacking = compiler_problem(torch.device(config.device))
        if lacking is not None:
            yield (
                "train.compile: expected what torch.compile needs, got an installation "
                f"without {lacking}, or write train.compile=false."
            )
    if kind == "cuda" and int(index or 0) >= torch.cuda.device_count():
        yield (
            "device: expected a GPU that PyTorch sees, of which there are "
            f"{torch.cuda.device_count()}, got {config.device!r}; write device=cpu."
        )


#: Bytes that the hidden states in a replay buffer may take.
LARGEST_STATES = 32 * 10**9


def memory_problems(config: Config) -> list[str]:
    """Whether there are hidden states for the buffer to keep, and of a fair size."""
    agent, replay = config.agent, config.replay
    core = None if replay.start_state == "zero" else meta_core(config)
    if core is None:
        return []
    if not core.state_size:
        return [
            f"replay.start_state: expected zero with the core {agent.core}, which has "
            "no memory, got stored; write replay.start_state=zero, or choose another "
            "core=NAME."
        ]
    if core.blank_rows:
        return [
            "replay.start_state: expected zero with agent.core_kwargs.backend="
            f"{agent.core_kwargs['backend']}, which starts from no other state, got "
            "stored; write replay.start_state=zero, or "
            "agent.core_kwargs.backend=auto."
        ]
    step_bytes = 4 * core.state_size
    total = step_bytes * replay.buffer_size
    if total <= LARGEST_STATES:
        return []
    return [
        "replay.start_state: expected hidden states of at most "
        f"{LARGEST_STATES / 1e9:.0f} GB in all, got {total / 1e9:.1f} GB "
        f"({core.state_size} numbers of the core {agent.core} for each of "
        f"{replay.buffer_size} transitions); write replay.buffer_size="
        f"{LARGEST_STATES // step_bytes}, or replay.start_state=zero."
    ]
