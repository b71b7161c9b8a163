"""`python -m resel_torchrl train|evaluate|plot`."""

import sys

from resel_torchrl.cli import main

if __name__ == "__main__":
    sys.exit(main())
