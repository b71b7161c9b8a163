"""Train a recurrent agent on a task that a memoryless one cannot solve.

Pendulum-V-v0 shows the angular speed only; where the pendulum points has to be
remembered. One run of `task=pendulum_v`, then a table and a figure that set it beside
a random policy and the two controls, which were trained by the same command:

    python -m resel_torchrl train --multirun task=pendulum_v \
        core=lstm,one_step,memoryless seed=0,1,2

Run again, it goes on where it stopped; remove runs/quickstart to start afresh. Values
of the run can be given, for example `seed=1 run_dir=runs/quickstart-seed1`.
"""

import statistics
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from resel_torchrl.analysis import plot_curves, read_results, read_runs, write_results
from resel_torchrl.collect import evaluate
from resel_torchrl.config import compose, make_training, open_run
from resel_torchrl.envs import make_gym
from resel_torchrl.errors import ConfigError, RunError
from resel_torchrl.training import keep_freed_memory

RUN = Path("runs/quickstart")
RESULTS = Path(__file__).parents[1] / "docs" / "results" / "light" / "pendulum_v.csv"
CONTROLS = {"one_step": "one-step control", "memoryless": "memoryless control"}


def random_return(config) -> float:
    """Mean return of uniformly random actions on the evaluation episodes."""
    env, rng = make_gym(config.env.id), np.random.default_rng(config.seed)
    size = env.action_space.shape

    def act(observation, reward, **_):
        return rng.uniform(-1, 1, size).astype(np.float32)

    return evaluate(env, act, episodes=config.eval.episodes, seed=config.eval.seed).mean


def last_returns(results, agent: str) -> list[float]:
    """Return of each seed's last evaluation."""
    return results[results.agent == agent].groupby("seed")["return"].last().tolist()


def main(overrides: Sequence[str]) -> None:
    """Train, or go on; then compare. What can fail is done before the training."""
    if other := [o for o in overrides if o.startswith(("task=", "env.id="))]:
        raise ConfigError(
            [
                f"{other[0]}: expected no other task, as the table's controls are of "
                "pendulum_v; for another: python -m resel_torchrl train task=NAME."
            ]
        )
    given = [o for o in overrides if not o.startswith("run_dir=")]
    chosen = [o.removeprefix("run_dir=") for o in overrides if o not in given]
    run_dir = Path(chosen[-1]) if chosen else RUN
    if (run_dir / "config.yaml").exists():
        resume = [f"resume={run_dir}", *given]
        run, config = open_run(compose(["task=pendulum_v", *resume]), resume)
    else:
        run, config = open_run(
            compose(["task=pendulum_v", f"run_dir={run_dir}", *given])
        )
    shipped = read_results(RESULTS)
    shipped = shipped[shipped.agent.isin(CONTROLS)]
    rows = [("random policy", random_return(config), "")]
    for name, title in CONTROLS.items():
        returns = last_returns(shipped, name)
        note = f"{len(returns)} seeds, shipped"
        rows.append((title, statistics.fmean(returns), note))
    data, picture = run.plots / "quickstart.csv", run.plots / "quickstart.png"
    write_results(data, shipped)
    plot_curves(data, picture)

    make_training(config, run).run()

    own = read_runs(run.path)
    last = own.iloc[-1]
    rows.append((f"recurrent agent ({last.agent})", last["return"], "this run"))
    print(f"\n{config.env.id}: mean return of {config.eval.episodes} episodes")
    for title, value, note in rows:
        print(f"  {title:26s}{value:8.0f}   {note}".rstrip())
    write_results(data, own, shipped)
    print(f"\nLearning curves: {plot_curves(data, picture)}")


if __name__ == "__main__":
    keep_freed_memory()  # results do not change, and each update is faster
    try:
        main(sys.argv[1:])
    except KeyboardInterrupt:
        sys.exit("Saved. The same command goes on from here.")
    except (ConfigError, RunError) as error:
        sys.exit(str(error))
