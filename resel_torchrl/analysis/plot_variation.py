"""The figure of output variations."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from resel_torchrl.analysis.figure import (
    curve_style,
    new_figure,
    output_path,
    save_figure,
)
from resel_torchrl.analysis.variations import OutputVariation, write_variations

__all__ = ["plot_output_variation"]


def plot_output_variation(
    variations: Sequence[OutputVariation],
    output: str | Path = "output_variation.png",
    *,
    first_steps: int = 50,
) -> Path:
    """Draws the change of actions after one gradient step against the rollout step.

    Two panels on logarithmic axes, as in arXiv 2405.15384: the first steps and the
    whole episode; one curve per pair of learning rates. The data are written beside
    the figure, with the ending .csv (:func:`write_variations`). A change of exactly
    zero has no place on a logarithmic axis; the legend says so.

    Args:
        variations: From :func:`output_variation`.
        output: Path of the figure: PNG, PDF or SVG.
        first_steps: Rollout steps in the first panel.

    Returns:
        The path of the figure.

    Raises:
        ValueError: If there is nothing to draw or `output` has another ending.
        ModuleNotFoundError: If matplotlib is not installed.

    >>> import tempfile, torch
    >>> curve = torch.linspace(0.01, 0.1, 60)
    >>> variation = OutputVariation(1e-5, 3e-4, curve, torch.full((60,), 4))
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     plot_output_variation([variation], f"{folder}/a.png").name
    'a.png'
    """
    path = output_path(output)
    if not variations:
        raise ValueError(
            "variations: expected one or more, got none; name learning rates."
        )
    figure, axes = new_figure(2)
    longest = max(len(v.variation) for v in variations)
    spans = min(first_steps, longest), longest
    for ax, steps in zip(axes, spans, strict=True):
        for number, v in enumerate(variations):
            values = v.variation[:steps].tolist()
            label = f"{v.lr_context_encoder:g}, {v.lr_other:g}"
            if not any(values):
                label += " (no change)"
            ax.plot(range(len(values)), values, label=label, **curve_style(number))
        ax.set_yscale("log", nonpositive="mask")
        ax.set_title(f"first {steps} steps" if ax is axes[0] else "whole episode")
        ax.set_xlabel("rollout step (environment steps)")
    axes[0].set_ylabel(
        "change of the action, $\\|a'_t - a_t\\|_2$\n(actions in [−1, 1])"
    )
    figure.legend(
        *axes[0].get_legend_handles_labels(),
        loc="outside right center",
        title="lr_context_encoder, lr_other",
        frameon=False,
        fontsize="small",
        title_fontsize="small",
    )
    save_figure(figure, path)
    write_variations(path.with_suffix(".csv"), variations)
    return path
