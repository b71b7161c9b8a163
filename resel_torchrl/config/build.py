"""The parts of a run, made from its configuration."""

from __future__ import annotations

import copy
import dataclasses
import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import gymnasium
import torch
from gymnasium.vector import VectorEnv
from torchrl.data import LazyTensorStorage, TensorDictReplayBuffer

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
from resel_torchrl.collect.curriculum import level_problems, schedule_problems
from resel_torchrl.config.schema import Config
from resel_torchrl.envs import TaskInfo, make_gym, task_info, vectorize
from resel_torchrl.errors import ConfigError
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
)

__all__ = [
    "DEFAULTS",
    "acting_problems",
    "agent_options",
    "algorithm_problems",
    "copies_problems",
    "core_problems",
    "curriculum_problems",
    "decay_problems",
    "device_problems",
    "eval_copies",
    "fit_problems",
    "length_problems",
    "loss_of",
    "make_acting",
    "make_buffer",
    "make_curriculum",
    "make_decay",
    "make_evaluation",
    "make_learner",
    "make_run_env",
    "memory_problems",
    "read_tasks",
    "resolve_algorithm",
    "task_problems",
    "unreached",
]


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


AUTO = "auto"
#: What `auto` is, by algorithm; a value that is not listed is not the algorithm's.
DEFAULTS: dict[str, dict[str, Any]] = {
    "resel": {
        "train.alpha_init": 1.0,
        "train.fixed_alpha": False,
        "train.target_entropy": AUTO,
    },
    "discrete_resel": {
        "agent.probability_floor": 0.01,
        "train.alpha_init": 0.2,
        "train.fixed_alpha": True,
        "train.target_entropy": AUTO,
    },
    "td3_resel": {
        "agent.exploration_noise": 0.1,
        "train.target_noise": 0.04,
        "train.target_noise_clip": 0.12,
    },
}
OPTIONS = sorted({key for values in DEFAULTS.values() for key in values})


def resolve_algorithm(config: Config, *, discrete: bool) -> Config:
    """The configuration with the algorithm's own values where it says `auto`.

    So is `train.acting`, by the core, the packages that are there, and the number of
    environments that are stepped together.

    Args:
        config: With `agent.algorithm` a name or `auto`, which goes by the actions.
        discrete: Whether the task's actions are discrete.

    Raises:
        ConfigError: Listing each value that the algorithm has no use for.

    >>> from resel_torchrl.config import compose
    >>> config = resolve_algorithm(compose(["task=cartpole_p"]), discrete=True)
    >>> config.agent.algorithm, config.train.alpha_init, config.train.fixed_alpha
    ('discrete_resel', 0.2, True)
    """
    name = config.agent.algorithm
    if name == AUTO:
        name = "discrete_resel" if discrete else "resel"
    groups: dict[str, dict[str, Any]] = {
        "agent": {"algorithm": name},
        "train": {"acting": _acting(config)},
    }
    problems = []
    for key in OPTIONS:
        group, _, option = key.partition(".")
        given = getattr(getattr(config, group), option)
        if given == AUTO:
            groups[group][option] = DEFAULTS[name].get(key, AUTO)
        elif key not in DEFAULTS[name]:
            takers = [other for other, values in DEFAULTS.items() if key in values]
            problems.append(
                f"{key}: expected auto, as {name} has no such value, got {given!r}; "
                f"write {key}=auto, or choose agent.algorithm={' or '.join(takers)}."
            )
    resolved = dataclasses.replace(
        config,
        **{
            group: dataclasses.replace(getattr(config, group), **values)
            for group, values in groups.items()
        },
    )
    entropy = resolved.train.target_entropy
    if resolved.train.fixed_alpha is True and entropy != AUTO:
        problems.append(
            "train.target_entropy: expected auto, as a fixed temperature aims at none, "
            f"got {entropy}; write train.target_entropy=auto, or "
            "train.fixed_alpha=false."
        )
    if problems:
        raise ConfigError(problems)
    return resolved


def _acting(config: Config) -> str:
    if config.train.acting != AUTO:
        return config.train.acting
    if config.env.copies > 1:
        return "eager"
    obstacle = FusedStep.core_obstacle(CORES[config.agent.core])
    return "eager" if obstacle else "fused"


def acting_problems(config: Config) -> list[str]:
    """Why the policy cannot act as configured, if it cannot."""
    if config.train.acting != "fused":
        return []
    obstacle = FusedStep.core_obstacle(CORES[config.agent.core])
    if not obstacle:
        return []
    return [
        f"train.acting: with core={config.agent.core} {obstacle} Write "
        "train.acting=auto."
    ]


def algorithm_problems(config: Config, task: TaskInfo) -> list[str]:
    """Why the algorithm cannot be trained on the task, if it cannot."""
    name = config.agent.algorithm
    takes_discrete = name == "discrete_resel"
    if name == AUTO or takes_discrete == task.discrete:
        return []
    kinds = {True: "discrete", False: "continuous"}
    fitting = "discrete_resel" if task.discrete else "resel (or td3_resel)"
    return [
        f"agent.algorithm: expected one for {kinds[task.discrete]} actions, which "
        f"{config.env.id} has, got {name}, which needs {kinds[takes_discrete]} ones; "
        f"choose agent.algorithm={fitting}, or another task."
    ]


def loss_of(config: Config, agent: Agent) -> Loss:
    """The loss of a resolved configuration on the agent's networks."""
    settings = config.train
    options: dict[str, Any] = {
        "critic_subset_size": settings.critic_subset_size,
        "target_bound": settings.target_bound,
    }
    for key in DEFAULTS[agent.algorithm]:
        group, _, option = key.partition(".")
        if group == "train":
            options[option] = getattr(settings, option)
    return make_loss(agent, gamma=settings.gamma, **options)


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
    return dataclasses.replace(
        config, env=dataclasses.replace(config.env, kwargs=kwargs)
    )


def read_tasks(config: Config) -> tuple[TaskInfo, TaskInfo]:
    """What is to be known of the environments of training and of evaluation.

    >>> from resel_torchrl.config import compose
    >>> [task.horizon for task in read_tasks(compose(["task=pendulum_v"]))]
    [200, 200]
    """
    envs = config.env, for_evaluation(config).env
    train, test = (task_info(e.id, horizon=e.horizon, **e.kwargs) for e in envs)
    return train, test


def recorded_facts(task: TaskInfo, test: TaskInfo) -> dict[str, Any]:
    """What a run's configuration keeps of its environments, as ``env.facts``.

    Args:
        task: Of the environment of training.
        test: Of that of evaluation.

    Returns:
        The facts of training; where evaluation has another set of tasks, that is
        under ``evaluation``.

    >>> from resel_torchrl.config import compose
    >>> config = compose(["task=wind_light", "eval.kwargs.task_seed=5"])
    >>> list(recorded_facts(*read_tasks(config))["evaluation"])
    ['train_tasks', 'test_tasks']
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


def copies_problems(value: Callable[[str], Any]) -> list[str]:
    """What cannot be done with several environments.

    Args:
        value: Gives the value of a key, unchecked; None where there is none.

    Returns:
        The mistakes, in sentences.

    >>> copies_problems({"env.copies": 3, "steps": 10}.get)
    ['steps: expected a multiple of env.copies = 3, which are stepped together, got \
10; write steps=9 or steps=12.']
    """
    copies, steps = value("env.copies"), value("steps")
    if not isinstance(copies, int) or isinstance(copies, bool) or copies < 2:
        return []
    problems = []
    if isinstance(steps, int) and (rest := steps % copies):
        fewer = steps - rest
        near = [f"steps={n}" for n in (fewer, fewer + copies) if n > 0]
        problems.append(
            f"steps: expected a multiple of env.copies = {copies}, which are stepped "
            f"together, got {steps}; write {' or '.join(near)}."
        )
    if value("train.collection") == "process":
        problems.append(
            "train.collection: expected sync, as a collecting process steps one "
            f"environment, got process with env.copies = {copies}; leave it out "
            "(env.vectorization=async steps each copy in a process), or write "
            "env.copies=1."
        )
    if value("train.acting") == "fused":
        problems.append(
            "train.acting: expected auto or eager, as fused kernels act in one "
            f"environment, got fused with env.copies = {copies}; write "
            "train.acting=auto, or env.copies=1."
        )
    return problems


def task_problems(config: Config, task: TaskInfo, test: TaskInfo) -> list[str]:
    """What does not go together in a configuration and its environments.

    Args:
        config: The configuration.
        task: Of the environment of training.
        test: Of that of evaluation.

    Returns:
        The mistakes, in sentences.

    >>> from resel_torchrl.config import compose
    >>> config = compose(["task=pendulum_v"])
    >>> task_problems(config, *read_tasks(config))
    []
    """
    problems = []
    own_limit = _own_limit(config)
    if own_limit is not None and task.horizon < own_limit:
        problems.append(
            f"env.horizon: expected at least {own_limit}, the time limit of "
            f"{config.env.id}, got {task.horizon}; a shorter horizon is another task. "
            "Write env.horizon=null to take its own limit."
        )
    for name in ("observation_size", "action_size", "discrete", "measures"):
        had, got = getattr(task, name), getattr(test, name)
        if had != got:
            problems.append(
                f"eval.kwargs: expected an environment as the one of training, whose "
                f"{name} is {had}, got {got}; leave out what changes it."
            )
    problems += _overlap_problems(task.facts, test.facts)
    facts, told = config.env.facts, recorded_facts(task, test)
    if facts and facts != told:
        names = [*told, *(name for name in facts if name not in told)]
        other = [n for n in names if facts.get(n) != told.get(n)]
        problems.append(
            f"env.facts: expected what {config.env.id} tells of itself, got another "
            f"{', '.join(other)}; a new run leaves it out, and a stopped run goes on "
            "with the environment that it began with only."
        )
    return problems + fit_problems(config, task)


def _overlap_problems(
    trained: Mapping[str, Any], tested: Mapping[str, Any]
) -> list[str]:
    """Test tasks of the evaluation that are trained on.

    Args:
        trained: Facts of the environment of training.
        tested: Of that of evaluation; on training tasks it may take any.

    >>> one = {"split": "train", "train_tasks": [[1.0]], "test_tasks": [[2.0]]}
    >>> _overlap_problems(one, {**one, "split": "test"})
    []
    >>> len(_overlap_problems({**one, "split": "test"}, {**one, "split": "test"}))
    1
    """
    if tested.get("split") != "test" or "split" not in trained:
        return []
    known = trained[f"{trained['split']}_tasks"]
    both = [task for task in tested["test_tasks"] if task in known]
    if not both:
        return []
    return [
        "eval.kwargs: expected test tasks that are not trained on, got "
        f"{len(both)} of {len(tested['test_tasks'])} that are, such as {both[0]}; "
        "give n_train, n_test, task_seed and the tasks to env.kwargs alone, and train "
        "with env.kwargs.split=train. eval.kwargs.split=train evaluates on the tasks "
        "of training."
    ]


def _own_limit(config: Config) -> int | None:
    """The horizon that the environment has by itself, if it has one."""
    if config.env.horizon is None:
        return None
    try:
        return task_info(config.env.id, **config.env.kwargs).horizon
    except ValueError:
        return None


def make_curriculum(config: Config) -> Curriculum | None:
    """The curriculum, if there is one.

    >>> from resel_torchrl.config import compose
    >>> make_curriculum(compose(["task=pendulum_v"])) is None
    True
    """
    options = dataclasses.asdict(config.curriculum)
    option, values = options.pop("option"), options.pop("values")
    return None if option is None else Curriculum(option, values, **options)


def curriculum_problems(value: Callable[[str], Any]) -> list[str]:
    """What is wrong with a curriculum beside the types of its values.

    Args:
        value: Gives the value of a key, unchecked; None where there is none.

    Returns:
        The mistakes, in sentences.

    >>> keys = {"curriculum.option": "frames", "curriculum.values": []}
    >>> curriculum_problems(keys.get)
    ['curriculum.values: expected one value or more, got none; write \
curriculum.values=[...], or curriculum.option=null for no curriculum.']
    """
    values, steps = value("curriculum.values"), value("curriculum.at_steps")
    absent = value("curriculum.option") is None
    if not _are(values, int, float) or (absent and not values and steps is None):
        return []
    found, problems = [], []
    if steps is None or _are(steps, int):
        found += schedule_problems(values, steps)
    measure, level = value("curriculum.measure"), value("curriculum.level")
    if steps is None and isinstance(level, int | float):
        found += level_problems(measure, level)
    for problem in found:
        name = problem.partition(":")[0]
        form = "NUMBER" if name == "level" else "[...]"
        none = (
            "leave it out: curriculum.option is null"
            if absent
            else "curriculum.option=null"
        )
        problems.append(
            f"curriculum.{problem}; write curriculum.{name}={form}, or {none} for no "
            "curriculum."
        )
    return problems


def fit_problems(config: Config, task: TaskInfo) -> list[str]:
    """What does not go together in a curriculum and the environment of training.

    Args:
        config: The configuration.
        task: Of that environment.

    Returns:
        The mistakes, in sentences.

    >>> from resel_torchrl.config import compose
    >>> from resel_torchrl.config.build import read_tasks
    >>> config = compose(["task=tmaze_passive", "curriculum.values=[5,10,20,35,40]"])
    >>> fit_problems(config, read_tasks(config)[0])
    ['curriculum.values: expected the last one to be the length of the whole task, 50, \
got 40; write curriculum.values=[...,50], or curriculum.option=null.']
    """
    option = config.curriculum.option
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
    env = make_gym(config.env.id, horizon=config.env.horizon, **config.env.kwargs)
    for value in config.curriculum.values:
        try:
            env.reset(seed=0, options={option: value})
        except (ValueError, TypeError, LookupError) as error:
            problems.append(f"curriculum.values: {value} cannot be used: {error}.")
    whole = env.get_wrapper_attr(option) if env.has_wrapper_attr(option) else None
    env.close()
    if whole is not None and config.curriculum.values[-1] != whole:
        problems.append(
            f"curriculum.values: expected the last one to be the {option} of the whole "
            f"task, {whole}, got {config.curriculum.values[-1]}; write "
            f"curriculum.values=[...,{whole}], or curriculum.option=null."
        )
    rule = config.curriculum
    if rule.at_steps is None and rule.measure not in task.measures:
        problems.append(
            f"curriculum.measure: expected one that {config.env.id} measures "
            f"({', '.join(task.measures) or 'none'}), got "
            f"{rule.measure!r}; write curriculum.at_steps=[...] for a "
            "schedule by steps."
        )
    return problems


def _are(values: Any, *types: type) -> bool:
    return isinstance(values, Sequence) and all(type(v) in types for v in values)


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


def decay_problems(value: Callable[[str], Any]) -> list[str]:
    """What is wrong with a decay beside the types of its values.

    Args:
        value: From a dotted key to its value.

    >>> decay_problems({"optim.decay_steps": [100]}.get)
    ['optim.decay_steps: expected a first step of 0 or more and a later last one, got \
[100]; write optim.decay_steps=[FIRST,LAST], or optim.decay_steps=null for none.']
    """
    steps = value("optim.decay_steps")
    if not isinstance(steps, list) or not all(type(step) is int for step in steps):
        return []
    problems = []
    if len(steps) != 2 or not 0 <= steps[0] < steps[1]:
        problems.append(
            "optim.decay_steps: expected a first step of 0 or more and a later last "
            f"one, got {steps}; write optim.decay_steps=[FIRST,LAST], or "
            "optim.decay_steps=null for none."
        )
    return problems


def unreached(config: Config) -> list[str]:
    """What begins or ends after the run's last step, in sentences.

    A run that is only shorter than planned, as to try it out, is no mistake.

    Args:
        config: The configuration.

    >>> from resel_torchrl.config import compose
    >>> unreached(compose(["task=pendulum_v"]))
    []
    >>> falling = ["task=pendulum_v", "optim.decay_steps=[20,30]"]
    >>> unreached(compose([*falling, "steps=25"]))
    ['optim.decay_steps: the learning rates would fall from step 20 to 30, and the run \
ends at step 25.']
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


#: Bytes that the memories in a replay buffer may take.
LARGEST_MEMORIES = 32 * 10**9


def core_problems(core: str, size: Any, options: Mapping[str, Any]) -> list[str]:
    """What the constructor of a core says to its options.

    Args:
        core: Name of the core.
        size: Its width; one that is no whole number above 0 is told elsewhere.
        options: Its options, of known names.

    Returns:
        The mistakes, in sentences.

    >>> core_problems("transformer", 64, {"n_heads": 7})[0][:60]
    'agent.core_kwargs with agent.hidden_size=64: Expected n_head'
    """
    if isinstance(size, bool) or not isinstance(size, int) or size < 1:
        return []
    try:
        _without_values(core, size, options)
    except (ValueError, TypeError, ModuleNotFoundError) as error:
        return [f"agent.core_kwargs with agent.hidden_size={size}: {error}"]
    return []


def device_problems(config: Config) -> list[str]:
    """Whether the core's implementation runs on the device of the updates.

    >>> from resel_torchrl.config import compose
    >>> device_problems(compose(["core=gru", "agent.core_kwargs.backend=torch"]))
    []
    """
    agent = config.agent
    core = _without_values(agent.core, agent.hidden_size, agent.core_kwargs)
    wanted = None if core is None else core.device_type
    device = config.device.partition(":")[0]
    if wanted in (None, device):
        return []
    return [
        f"agent.core_kwargs.backend: expected one for device={config.device}, got "
        f"{agent.core_kwargs['backend']}, which runs on {wanted} only; write "
        "agent.core_kwargs.backend=auto."
    ]


def length_problems(config: Config, horizon: int) -> list[str]:
    """Whether the core takes the longest episode, its last observation included.

    Args:
        config: The configuration.
        horizon: Steps of the longest episode.

    Returns:
        The mistakes, in sentences.

    >>> from resel_torchrl.config import compose
    >>> short = compose(["core=transformer", "agent.core_kwargs.max_length=200"])
    >>> length_problems(short, 200)
    ['agent.core_kwargs.max_length: expected at least 201, one more than the horizon \
of 200 steps, got 200; write agent.core_kwargs.max_length=201.']
    """
    agent = config.agent
    core = _without_values(agent.core, agent.hidden_size, agent.core_kwargs)
    limit = None if core is None else core.max_length
    if limit is None or limit > horizon:
        return []
    return [
        f"agent.core_kwargs.max_length: expected at least {horizon + 1}, one more than "
        f"the horizon of {horizon} steps, got {limit}; write "
        f"agent.core_kwargs.max_length={horizon + 1}."
    ]


def memory_problems(config: Config) -> list[str]:
    """Whether there are memories for the replay buffer to keep, and of a fair size.

    Args:
        config: The configuration.

    Returns:
        The mistakes, in sentences.

    >>> from resel_torchrl.config import compose
    >>> stored = ["replay.segment_length=64", "replay.start_state=stored"]
    >>> memory_problems(compose(["task=hopper_v", "core=lstm", *stored]))
    []
    >>> memory_problems(compose(["task=hopper_v", "core=mamba", *stored]))[0][:76]
    'replay.start_state: expected memories of at most 32 GB in all, got 145.4 GB '
    """
    agent, replay = config.agent, config.replay
    if replay.start_state == "zero":
        return []
    core = _without_values(agent.core, agent.hidden_size, agent.core_kwargs)
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
            f"{agent.core_kwargs['backend']}, which starts from no other memory, got "
            "stored; write replay.start_state=zero, or "
            "agent.core_kwargs.backend=auto."
        ]
    step_bytes = 4 * core.state_size
    total = step_bytes * replay.buffer_size
    if total <= LARGEST_MEMORIES:
        return []
    return [
        "replay.start_state: expected memories of at most "
        f"{LARGEST_MEMORIES / 1e9:.0f} GB in all, got {total / 1e9:.1f} GB "
        f"({core.state_size} numbers of the core {agent.core} for each of "
        f"{replay.buffer_size} transitions); write replay.buffer_size="
        f"{LARGEST_MEMORIES // step_bytes}, or replay.start_state=zero."
    ]


def _without_values(
    core: str, size: int, options: Mapping[str, Any]
) -> SequenceCore | None:
    """The core without memory for its parameters: nothing is computed or drawn.

    None for a core of one's own that looks at values while it is made.
    """
    try:
        with torch.device("meta"):
            return CORES[core](size, **options)
    except RuntimeError:
        return None
