"""Returns of a trained agent's deterministic policy.

    python recipes/evaluate.py run=runs/pendulum_v/lstm-seed0 episodes=20

The same command without a checkout is `python -m resel_torchrl evaluate`.
"""

import sys

from resel_torchrl.cli import main

if __name__ == "__main__":
    sys.exit(main(["evaluate", *sys.argv[1:]]))
