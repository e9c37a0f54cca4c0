"""The picture of finished runs: their scores over the epochs, and against their latency."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ckd_trainer.reports.runs import Run
from ckd_trainer.reports.style import (
    COLORS,
    TEACHER_COLOR,
    TEXT_COLOR,
    check_matplotlib,
    label_axes,
    save_picture,
    set_up_axes,
)
from ckd_trainer.utils.errors import InputError

Style = list[tuple[Run, str]]  # runs and their colors


def draw(runs: Sequence[Run], metric: str, path: str | Path) -> None:
    """Draws the metric over the epochs (for runs that logged it), and the final metric against the latency.

    Args:
        runs: from `read_runs`.
        metric: the metric's name on the axes.
        path: the picture's file; its suffix (.png, .svg, .pdf) selects the format.

    Raises:
        InputError: matplotlib is missing, does not know the suffix, or a run has no latency.
    """
    check_matplotlib()
    from matplotlib.figure import Figure
    from matplotlib.lines import Line2D

    for run in runs:
        if run.latency_ms is None:
            raise InputError(f"{run.folder} has no latency_ms to draw: evaluate the run again with --do_eval.")
    colors = iter(COLORS * len(runs))
    style = [(run, TEACHER_COLOR if run.is_teacher else next(colors)) for run in runs]
    panels = [_draw_latency] if not any(run.curve for run in runs) else [_draw_curves, _draw_latency]
    figure = Figure(figsize=(5.6 * len(panels), 4.6), dpi=160, layout="constrained")
    for axes, panel in zip(figure.subplots(1, len(panels), squeeze=False)[0], panels, strict=True):
        set_up_axes(axes)
        axes.set_ylabel(metric.replace("_", " "), color=TEXT_COLOR)
        panel(axes, style, metric.replace("_", " "))
    points = [
        Line2D([], [], color=color, marker="o", linestyle="--" if run.is_teacher else "-") for run, color in style
    ]
    names = [_label(run) for run, _ in style]
    figure.legend(points, names, loc="outside lower center", ncols=len(panels), frameon=False, labelcolor=TEXT_COLOR)
    save_picture(figure, path)


def _draw_curves(axes: Any, style: Style, metric: str) -> None:
    for run, color in style:
        if run.curve:
            epochs, scores = zip(*run.curve, strict=True)
            dashes = "--" if run.is_teacher else "-"
            axes.plot(epochs, scores, dashes, color=color, linewidth=2, marker="o", markersize=4)
    label_axes(axes, f"Validation {metric} while training", "epoch")
    axes.xaxis.get_major_locator().set_params(integer=True)


def _draw_latency(axes: Any, style: Style, metric: str) -> None:
    for run, color in style:
        if run.is_teacher:  # a line at the score to reach
            axes.plot([0, run.latency_ms], [run.score] * 2, "--", color=color, linewidth=1, alpha=0.5, zorder=1)
        axes.scatter(run.latency_ms, run.score, s=110, color=color, edgecolors="white", linewidths=1.5, zorder=3)
    axes.set_xlim(left=0)
    label_axes(axes, f"Final {metric} against latency", "latency of one text (ms)")


def _label(run: Run) -> str:
    """Returns a run's name and numbers for the legend. Next to its point, they would cover other points."""
    size = "" if run.parameters is None else f", {_millions(run.parameters)} parameters"
    return f"{run.name}: {run.score:.3f}{size}"


def _millions(count: float) -> str:
    return f"{count / 1e6:.2g} M" if count < 10e6 else f"{count / 1e6:.0f} M"
