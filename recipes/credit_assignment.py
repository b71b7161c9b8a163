"""Credit assignment: what is seen or done at the start decides what is paid at the end.

Key-to-Door, of the paper (arXiv 2405.15384), with T-Maze and Delayed-Catch. Actions are
discrete, and the clock ends an episode as a terminal. Every value is in
resel_torchrl/config, with a comment above it; the same command without a checkout is
`python -m resel_torchrl train`. No simulator is needed.

    python recipes/credit_assignment.py                    # tmaze_active
    python recipes/credit_assignment.py task=tmaze_passive env.kwargs.length=100 \
        'curriculum.values=[5,10,20,50,100]'
    python recipes/credit_assignment.py task=key_to_door_60 seed=1
    python recipes/credit_assignment.py resume=runs/key_to_door_60/gru-seed1
    python recipes/credit_assignment.py --multirun seed=0,1,2 \
        task=key_to_door_60,key_to_door_120,key_to_door_250,key_to_door_500

The column `success` of eval.csv is the share of episodes in which the door was opened
or the right arm reached, `caught` that of the fruits caught.
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
    arguments = with_default_task(sys.argv[1:], "tmaze_active")
    sys.exit(train_command(arguments, main))
