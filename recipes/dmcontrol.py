"""DeepMind Control from states: 24 tasks of dm_control's suite, fully observed.

Of the released code of arXiv 2405.15384. Every value is in resel_torchrl/config, with a
comment above it; the same command without a checkout is `python -m resel_torchrl
train`. They need the extra `dmc`, and no display.

    python recipes/dmcontrol.py                                   # dmc_cheetah_run
    python recipes/dmcontrol.py task=dmc_walker_walk core=gru seed=1
    python recipes/dmcontrol.py resume=runs/dmc_walker_walk/gru-seed1
    python recipes/dmcontrol.py --multirun task=dmc_dog_run,dmc_fish_swim seed=0,1,2
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
    arguments = with_default_task(sys.argv[1:], "dmc_cheetah_run")
    sys.exit(train_command(arguments, main))
