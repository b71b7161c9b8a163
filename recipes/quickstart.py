"""Train a recurrent agent on a task that a memoryless one cannot solve.

Pendulum-V-v0 shows the angular speed only; where the pendulum points has to be
remembered. One run of `task=pendulum_v`, then a table and a figure that set it beside
a random policy and the two controls, which were trained by the same command:

    python -m resel_torchrl train --multirun task=pendulum_v \
        core=lstm,one_step,memoryless seed=0,1,2

Run again, it goes on where it stopped; remove runs/quickstart to start afresh.
"""

import statistics
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from resel_torchrl.analysis import plot_curves, read_results, read_runs, write_results
from resel_torchrl.config import compose, make_training, open_run
from resel_torchrl.envs import make_gym
from resel_torchrl.training import evaluate

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
    last = {r.seed: r.episode_return for r in results if r.agent == agent}
    return list(last.values())


def main(overrides: Sequence[str], run_dir: Path = RUN) -> None:
    """Train, or go on; then compare."""
    shipped = [r for r in read_results(RESULTS) if r.agent in CONTROLS]
    if (run_dir / "config.yaml").exists():
        config = compose(["task=pendulum_v", f"resume={run_dir}"])
        run, config = open_run(config, [f"resume={run_dir}", *overrides])
    else:
        print("Training on Pendulum-V-v0: 4 to 10 minutes on one CPU core.", flush=True)
        run, config = open_run(
            compose(["task=pendulum_v", f"run_dir={run_dir}", *overrides])
        )
    make_training(config, run).run()

    own = read_runs([run_dir])
    agent = own[-1].agent
    rows = [("random policy", random_return(config), "")]
    for name, title in CONTROLS.items():
        returns = last_returns(shipped, name)
        rows.append(
            (title, statistics.fmean(returns), f"{len(returns)} seeds, shipped")
        )
    rows.append((f"recurrent agent ({agent})", own[-1].episode_return, "this run"))
    print(f"\n{config.env.id}: mean return of {config.eval.episodes} episodes")
    for title, value, note in rows:
        print(f"  {title:26s}{value:8.0f}   {note}".rstrip())

    data = run.plots / "quickstart.csv"
    write_results(data, [*own, *shipped])
    print(f"\nLearning curves: {plot_curves(data, run.plots / 'quickstart.png')}")


if __name__ == "__main__":
    try:
        main(sys.argv[1:])
    except KeyboardInterrupt:
        sys.exit("Saved. `make quickstart` goes on from here.")
