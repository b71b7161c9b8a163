"""The command `evaluate`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from resel_torchrl.cli.arguments import at_least, read_arguments
from resel_torchrl.collect import write_evaluation
from resel_torchrl.config import evaluate_run
from resel_torchrl.errors import ConfigError, RunError

__all__ = ["evaluate_command"]


def evaluate_command(arguments: Sequence[str]) -> int:
    """`evaluate run=DIR [episodes=20] [seed=12345] [checkpoint=STEP] [output=FILE]`.

    `output` is a CSV file, of which :func:`~resel_torchrl.collect.write_evaluation`
    tells the columns.

    Args:
        arguments: What stands after the command.

    Returns:
        Exit status 0.
    """
    known = {"run": str, "episodes": at_least(1), "seed": at_least(0)}
    known |= {"checkpoint": at_least(0), "output": str}
    values = read_arguments(arguments, known)
    if "run" not in values:
        raise ConfigError(["run: missing; write run=RUN_DIR."])
    output = values.pop("output", None)
    if output is not None:
        _check_writable(output)
    result = evaluate_run(values.pop("run"), **values)
    for episode, (total, length) in enumerate(
        zip(result.returns, result.lengths, strict=True)
    ):
        further = {name: of[episode] for name, of in result.measures.items()}
        further |= result.tasks[episode] if result.tasks else {}
        words = [f"return {total:.2f}", f"{length} steps"]
        words += [f"{name} {value:.4g}" for name, value in further.items()]
        print(f"episode {episode}: {', '.join(words)}")  # noqa: T201
    print(  # noqa: T201
        f"mean {result.mean:.2f} ± {result.standard_error:.2f} (s.e.) over "
        f"{len(result.returns)} episodes"
    )
    for name, value in result.mean_measures.items():
        print(f"mean {name} {value:.4g}")  # noqa: T201
    if output is not None:
        write_evaluation(output, result)
        print(f"wrote {output}")  # noqa: T201
    return 0


def _check_writable(path: str) -> None:
    """Before an evaluation is made whose file could not be written."""
    try:
        Path(path).parent.mkdir(parents=True, exist_ok=True)
        with open(path, "a"):
            pass
    except OSError as error:
        raise RunError(
            f"output: expected a file that can be written, got {path}: "
            f"{error.strerror}; write output=FILE.csv."
        ) from None
