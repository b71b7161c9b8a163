"""From a checked configuration to a run."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import gymnasium
import torch
from omegaconf import OmegaConf
from torchrl import torchrl_logger

from resel_torchrl._random import seed_generators
from resel_torchrl.collect import Evaluation, RecurrentPolicy
from resel_torchrl.config.build import (
    agent_options,
    eval_copies,
    make_acting,
    make_buffer,
    make_decay,
    make_evaluation,
    make_learner,
    make_run_env,
    read_tasks,
    recorded_facts,
    resolve_algorithm,
    task_problems,
    unreached,
)
from resel_torchrl.config.compose import (
    load_config,
    resume_config,
    to_dict,
    to_yaml,
)
from resel_torchrl.config.schema import Config
from resel_torchrl.envs import TaskInfo
from resel_torchrl.errors import ConfigError, RunError
from resel_torchrl.modules import make_agent
from resel_torchrl.training import (
    CheckpointStore,
    Hook,
    LoggerHook,
    PolicySync,
    Progress,
    RunDirectory,
    Trainer,
    load_policy,
    open_loggers,
    quiet_storages,
    set_matmul_precision,
)

__all__ = ["evaluate_run", "make_training", "open_run"]

#: What a run's environments told of themselves: horizon, seen dimensions, task sets.
FACTS = "environment.yaml"
#: What an environment raises that cannot be made from its arguments.
CANNOT_BE_MADE = (
    *(ValueError, TypeError, LookupError, ImportError, OSError),
    gymnasium.error.Error,
)
#: What may differ between the configuration of a checkpoint and the one of its run.
FREE_KEYS = ("steps", "eval", "log", "run_dir", "resume")


def open_run(
    config: Config, overrides: Sequence[str] = ()
) -> tuple[RunDirectory, Config]:
    """A new run directory, or with `config.resume` the one of a stopped run.

    Args:
        config: The configuration; of a resumed run only `resume` is looked at.
        overrides: The command line, for what a resumed run may change.

    Returns:
        The directory, and the configuration that the run has from here on.

    Raises:
        ConfigError: If the configuration cannot be run.
        RunError: If the run directory is taken, or is none where one is resumed.

    >>> import tempfile
    >>> from resel_torchrl.config import compose
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     start = ["task=pendulum_v", f"run_dir={folder}/run"]
    ...     run, _ = open_run(compose(start))
    ...     going_on = ["task=pendulum_v", f"resume={folder}/run", "steps=99"]
    ...     again, config = open_run(compose(going_on[:2]), going_on[1:])
    >>> again.path == run.path, config.steps
    (True, 99)
    """
    if config.resume is not None:
        run = RunDirectory.open(config.resume)
        if not (run.path / FACTS).exists():
            raise RunError(
                f"{run.path} is of an older version of resel_torchrl: it can be "
                "evaluated and plotted, not resumed; go on with it in the version that "
                "began it."
            )
        config = resume_config(load_config(run.config), overrides)
        _check_facts(run, config)
        torchrl_logger.info(f"Going on with {run.path}; its stored configuration wins.")
    else:
        config, _ = _checked_task(config)
        run = RunDirectory.create(config.run_dir, to_yaml(config))
        OmegaConf.save(_facts(config), run.path / FACTS)
        torchrl_logger.info(f"Training {config.env.id} in {run.path}")
    return run, config


def make_training(
    config: Config, run: RunDirectory, hooks: Sequence[Hook] = ()
) -> Trainer:
    """Put a run together; it begins where its newest checkpoint left it.

    What a resumed run was given (`steps`, `eval`, `log`) is stored in its directory, so
    the next resume goes on with it. PyTorch's threads and precision are set for the
    whole process. A warning tells what is planned for steps after the last.

    Args:
        config: The configuration of the run.
        run: Its directory.
        hooks: Further hooks, called after the fall of the learning rates and before
            the loggers.

    Raises:
        ConfigError: If task and loss do not fit.
        RunError: If the newest checkpoint is of another configuration or none is whole.

    >>> import tempfile
    >>> from resel_torchrl.config import compose
    >>> tiny = ["task=pendulum_v", "core=gru", "agent.hidden_size=8", "log.interval=20"]
    >>> short = ["steps=20", "eval.interval=0", "log.console=false"]
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     run, config = open_run(compose([*tiny, *short, f"run_dir={folder}/run"]))
    ...     make_training(config, run).run()
    ...     sorted(path.name for path in run.checkpoints.iterdir())
    ['step_0000000020']
    """
    config, task = _checked_task(config)
    for sentence in unreached(config):
        torchrl_logger.warning(sentence)
    torch.set_num_threads(config.threads)
    set_matmul_precision(config.train.matmul_precision)
    quiet_storages()
    seed_generators(config.seed)
    options = agent_options(config)
    agent = make_agent(task.observation_size, task.action_size, **options)
    for module in agent.modules().values():
        module.to(config.device)
    replay_buffer = make_buffer(config)
    collector, eval_policy, policy_copy = make_acting(
        config, agent, task, replay_buffer
    )
    stored = {k: v for k, v in to_dict(config).items() if k not in FREE_KEYS}
    decay = make_decay(config)
    names, project = config.log.loggers, config.log.project
    trainer = Trainer(
        run,
        CheckpointStore(run.checkpoints, stored, kept=config.log.checkpoints_kept),
        collector,
        make_learner(config, agent, replay_buffer, task.horizon),
        make_evaluation(
            config, eval_policy, episodes=config.eval.episodes, seed=config.eval.seed
        )
        if config.eval.interval
        else None,
        seed=config.seed,
        steps=config.steps,
        updates_per_step=config.train.updates_per_step,
        log_interval=config.log.interval,
        eval_interval=config.eval.interval,
        checkpoint_interval=config.log.checkpoint_interval,
        measures=task.measures,
        description={
            "observation_size": task.observation_size,
            "action_size": task.action_size,
            "agent": options,
            "acting": eval_policy.mode,
        },
        hooks=[
            *([] if policy_copy is None else [PolicySync(policy_copy)]),
            *([] if decay is None else [decay]),
            *hooks,
            *map(LoggerHook, open_loggers(names, run.path, project=project)),
            *([Progress()] if config.log.console else []),
        ],
    )
    if config != load_config(run.config):
        run.write_config(to_yaml(config))  # resumed with another number of steps
    return trainer


def evaluate_run(
    run_dir: str | Path,
    *,
    episodes: int = 20,
    seed: int = 12345,
    checkpoint: int | None = None,
) -> Evaluation:
    """Evaluates the policy of a run on the run's task.

    Args:
        run_dir: The run directory.
        episodes: Number of episodes.
        seed: Seed of the evaluation episodes.
        checkpoint: Step of the checkpoint; None takes the newest.

    Raises:
        RunError: As :func:`resel_torchrl.training.load_policy`, and if the task needs
            a package that is not installed.
        ValueError: From a number of episodes below 1.

    >>> import tempfile
    >>> from resel_torchrl.config import compose
    >>> tiny = ["task=pendulum_v", "core=gru", "agent.hidden_size=8", "log.interval=20"]
    >>> short = ["steps=20", "eval.interval=0", "log.console=false"]
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     run, config = open_run(compose([*tiny, *short, f"run_dir={folder}/run"]))
    ...     make_training(config, run).run()
    ...     evaluation = evaluate_run(run.path, episodes=2)
    >>> len(evaluation.returns), max(evaluation.returns) < 0
    (2, True)
    """
    config = load_config(RunDirectory.open(run_dir).config)
    torch.set_num_threads(config.threads)
    policy = load_policy(run_dir, checkpoint=checkpoint)
    if config.env.copies > 1:
        policy = RecurrentPolicy(
            policy.encoder,
            policy.actor,
            policy.observation_size,
            policy.action_size,
            num_envs=eval_copies(config, episodes),
            mode=policy.mode,
        )
    try:
        evaluation = make_evaluation(config, policy, episodes=episodes, seed=seed)
    except ModuleNotFoundError as error:
        raise RunError(f"{config.env.id} cannot be made: {error}") from None
    return evaluation()


def _checked_task(config: Config) -> tuple[Config, TaskInfo]:
    """The configuration with its algorithm, and the task's sizes.

    After a look at whether the task can be trained as configured.
    """
    try:
        make_run_env(config).close()
    except CANNOT_BE_MADE as error:
        raise ConfigError(
            [f"env.id: {config.env.id} cannot be made: {error}"]
        ) from None
    try:
        task, test = read_tasks(config)
    except CANNOT_BE_MADE as error:
        raise ConfigError(
            [f"eval.kwargs: {config.env.id} cannot be made with them: {error}"]
        ) from None
    problems = task_problems(config, task, test)
    if problems:
        raise ConfigError(problems)
    return resolve_algorithm(config, discrete=task.discrete), task


def _facts(config: Config) -> dict[str, Any]:
    """What the environments of a configuration tell of themselves."""
    return recorded_facts(*read_tasks(config))


def _check_facts(run: RunDirectory, config: Config) -> None:
    """A stopped run goes on with the environment that it began with only."""
    stored = OmegaConf.to_container(OmegaConf.load(run.path / FACTS))
    told = _facts(config)
    names = [*told, *(name for name in stored if name not in told)]
    other = [name for name in names if stored.get(name) != told.get(name)]
    if other:
        raise ConfigError(
            [
                f"{run.path / FACTS}: expected what {config.env.id} tells of itself, "
                f"got another {', '.join(other)}; a stopped run goes on with the "
                "environment that it began with only."
            ]
        )
