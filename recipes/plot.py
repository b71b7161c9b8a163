"""Learning curves of runs: mean and standard error over seeds, one panel per task.

Or returns against a hidden factor of the tasks, from files that `evaluate` wrote.

    python recipes/plot.py runs='[runs/walker_v/gru-seed0,runs/walker_v/gru-seed1]'
    python recipes/plot.py runs='runs/pendulum_v/*' output=plots/pendulum_v.png
    python recipes/plot.py evaluations=gru.csv,lstm.csv factor=gravity output=g.png

The data are written beside the figure as CSV. The same command without a checkout is
`python -m resel_torchrl plot`.
"""

import sys

from resel_torchrl.cli import main

if __name__ == "__main__":
    sys.exit(main(["plot", *sys.argv[1:]]))
