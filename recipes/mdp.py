"""Fully observed MuJoCo robots: what recurrence costs or gives where nothing is hidden.

The paper's MDP tasks (arXiv 2405.15384), on Gymnasium's -v5 robots. Every value is in
resel_torchrl/config, with a comment above it; the same command without a checkout is
`python -m resel_torchrl train`. They need the extra `mujoco`.

    python recipes/mdp.py                                  # halfcheetah_mdp
    python recipes/mdp.py task=hopper_mdp core=gru seed=1
    python recipes/mdp.py resume=runs/hopper_mdp/gru-seed1
    python recipes/mdp.py --multirun task=ant_mdp,humanoid_mdp,walker2d_mdp seed=0,1,2

Another version of a robot is another environment, with a run directory of its own:

    python recipes/mdp.py task=ant_mdp env.id=Ant-v4 run_dir=runs/ant_v4/mamba-seed0
"""

import sys
from collections.abc import Sequence

from resel_torchrl.cli import train_command, with_default_task
from resel_torchrl.config import Config, make_training, open_run


def main(config: Config, overrides: Sequence[str]) -> None:
    """One run: its directory, its parts, its steps."""
    run, config = open_run(config, overrides)
    training = make_training(config, run)
    training.run()


if __name__ == "__main__":
    arguments = with_default_task(sys.argv[1:], "halfcheetah_mdp")
    sys.exit(train_command(arguments, main))
