"""What a configuration plans for steps that its run does not reach."""

from __future__ import annotations

from resel_torchrl.config.schema import Config

__all__ = ["unreached"]


def unreached(config: Config) -> list[str]:
    """What begins or ends after the run's last step, in sentences.

    A run that is only shorter than planned, as to try it out, is no mistake.

    Args:
        config: The configuration.

    >>> from resel_torchrl.config import compose
    >>> unreached(compose(["task=pendulum_v"]))
    []
    >>> falling = ["task=pendulum_v", "optim.decay_steps=[20,30]"]
    >>> unreached(compose([*falling, "steps=25"]))
    ['optim.decay_steps: the learning rates would fall from step 20 to 30, and the run \
ends at step 25.']
    """
    found = []
    begins = config.curriculum.at_steps or []
    late = sum(begin >= config.steps for begin in begins)
    if config.curriculum.option is not None and late:
        found.append(
            f"curriculum.at_steps: the last stages would begin at steps "
            f"{begins[-late:]}, and the run ends at step {config.steps}: training does "
            "not reach the whole task."
        )
    decay = config.optim.decay_steps
    if decay is not None and decay[1] > config.steps:
        found.append(
            f"optim.decay_steps: the learning rates would fall from step {decay[0]} to "
            f"{decay[1]}, and the run ends at step {config.steps}."
        )
    return found
