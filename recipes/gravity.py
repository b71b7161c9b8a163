"""Hidden dynamics: MuJoCo robots whose gravity, masses or damping change by episode.

The paper's second family (arXiv 2405.15384, section 5.1) is that of gravity. Training
episodes take tasks of the training split, evaluations one episode of each test task.
Every value is in resel_torchrl/config, with a comment above it; without a `task` it is
halfcheetah_gravity. The same command without a checkout is `python -m resel_torchrl
train`.

    python recipes/gravity.py task=hopper_gravity seed=1
    python recipes/gravity.py task=halfcheetah_gravity_light
    python recipes/gravity.py task=walker2d_mass core=gru
    python recipes/gravity.py task=ant_gravity env.kwargs.n_train=100 \
        run_dir=runs/ant_gravity_100/mamba-seed0
    python recipes/gravity.py resume=runs/hopper_gravity/mamba-seed1
    python recipes/gravity.py --multirun task=ant_gravity,humanoid_gravity seed=0,1,2
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
    arguments = with_default_task(sys.argv[1:], "halfcheetah_gravity")
    sys.exit(train_command(arguments, main))
