"""How far a trained policy's actions move after ONE gradient step.

The paper's thesis in one figure (arXiv 2405.15384, Proposition 1): what a step changes
in the context encoder adds up along the rollout, what it changes in the policy head
does not, so the encoder needs the smaller learning rate.

    python recipes/output_variation.py run=runs/pendulum_v/lstm-seed0
    python recipes/output_variation.py run=runs/pendulum_v/lstm-seed0 \
        pairs='[[1e-5,3e-4],[3e-4,3e-4],[3e-4,0]]' episodes=20 output=variation.png

Each pair is [lr_context_encoder, lr_other]; without `pairs` there are four: the run's
own, the encoder two orders of magnitude below the rest, and each of the run's two rates
as a common one. The figure goes to the run's `plots` folder unless `output` says
otherwise, the data beside it as CSV.
"""

import json
import sys
from pathlib import Path

from resel_torchrl.analysis import plot_output_variation, run_output_variation
from resel_torchrl.cli.arguments import at_least, read_arguments
from resel_torchrl.errors import ConfigError, RunError

ARGUMENTS = {
    "run": str,
    "pairs": str,
    "output": str,
    "episodes": at_least(1),
    "checkpoint": at_least(0),
}


def read_pairs(text: str) -> list[tuple[float, float]]:
    """Pairs of learning rates from `[[1e-5,3e-4],[3e-4,3e-4]]`."""
    try:
        return [(float(first), float(second)) for first, second in json.loads(text)]
    except (TypeError, ValueError):
        raise ConfigError(
            [f"pairs: expected [[1e-5,3e-4],[3e-4,3e-4]] or the like, got {text}."]
        ) from None


def measure(arguments: list[str]) -> None:
    """Measure, print, draw."""
    values = read_arguments(arguments, ARGUMENTS)
    if "run" not in values:
        raise ConfigError(["run: missing; write run=RUN_DIR."])
    run = Path(values.pop("run"))
    output = values.pop("output", run / "plots" / "output_variation.png")
    pairs = read_pairs(values.pop("pairs")) if "pairs" in values else None
    variations = run_output_variation(run, pairs, **values)
    print("lr_context_encoder  lr_other   change at step 0   mean over the episode")
    rates = ["lr_context_encoder", "lr_other"]
    for (encoder, other), rows in variations.groupby(rates, sort=False):
        mean = (rows.variation * rows.episodes).sum() / rows.episodes.sum()
        print(
            f"{encoder:18g}  {other:8g}   {rows.variation.iloc[0]:16.2e}   {mean:21.2e}"
        )
    print(f"wrote {plot_output_variation(variations, output)}")


def main(arguments: list[str]) -> int:
    """Exit status: 0, or 2 after a mistake, which is printed in a sentence."""
    try:
        measure(arguments)
    except (ConfigError, RunError, ValueError, ModuleNotFoundError) as error:
        print(error, file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
