"""Classic POMDPs: robots and pendulum with hidden positions or velocities.

The paper's first family (arXiv 2405.15384, section 5.1). Every value is in
resel_torchrl/config, with a comment above it; the same command without a checkout is
`python -m resel_torchrl train`.

    python recipes/classic_pomdp.py task=pendulum_v
    python recipes/classic_pomdp.py task=walker_v core=gru seed=1
    python recipes/classic_pomdp.py resume=runs/walker_v/gru-seed1
    python recipes/classic_pomdp.py --multirun task=hopper_v,walker_v seed=0,1,2

On a Slurm cluster, one job per run, after `pip install hydra-submitit-launcher`:

    python recipes/classic_pomdp.py --multirun hydra/launcher=submitit_slurm \
        task=hopper_v,walker_v 'seed=range(6)'
"""

import sys
from collections.abc import Sequence

from resel_torchrl.cli import train_command
from resel_torchrl.config import Config, make_training, open_run


def main(config: Config, overrides: Sequence[str]) -> None:
    """One run: its directory, its parts, its steps."""
    run, config = open_run(config, overrides)
    training = make_training(config, run)
    training.run()


if __name__ == "__main__":
    sys.exit(train_command(sys.argv[1:], main))
