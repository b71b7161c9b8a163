"""Meta-RL: a hidden goal or wind that must be found out while acting.

The paper's third family (arXiv 2405.15384): two inner episodes of the same hidden task
form one trial (Wind: one), and the memory is kept from one to the next. Every value is
in resel_torchrl/config, with a comment above it; the same command without a checkout is
`python -m resel_torchrl train`. All but Wind need the extra `mujoco`.

    python recipes/meta_rl.py                              # wind_light, for a laptop
    python recipes/meta_rl.py task=cheetah_dir_light seed=1
    python recipes/meta_rl.py task=cheetah_dir core=gru
    python recipes/meta_rl.py resume=runs/cheetah_dir/gru-seed0
    python recipes/meta_rl.py --multirun task=wind,ant_dir,halfcheetah_vel seed=0,1,2

The column `mean` of eval.csv is the return of the trial; `return_1`, `return_2` and
`adaptation`, their difference, are those of the inner episodes.
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
    arguments = with_default_task(sys.argv[1:], "wind_light")
    sys.exit(train_command(arguments, main))
