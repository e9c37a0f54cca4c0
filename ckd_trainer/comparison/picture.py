"""The picture of a comparison: all scores, and the differences to the baseline with their intervals."""

import math
from pathlib import Path
from typing import Any

from ckd_trainer.comparison.results import Comparison, Row
from ckd_trainer.reports.style import (
    COLORS,
    NOTE_COLOR,
    TEACHER_COLOR,
    TEXT_COLOR,
    label_axes,
    save_picture,
    set_up_axes,
)


def draw_comparison(comparison: Comparison, path: str | Path) -> None:
    """Draws one line per variant: the score of each seed and their mean, and the difference with its interval.

    Intervals that exclude 0, after the correction for the number of comparisons, are in color; the others are grey.
    """
    from matplotlib.figure import Figure

    rows = comparison.rows
    figure = Figure(figsize=(9.6, 1.6 + 0.42 * len(rows)), dpi=160, layout="constrained")
    left, right = figure.subplots(1, 2, sharey=True)
    for axes in (left, right):
        set_up_axes(axes, grid="x")
        axes.spines["left"].set_visible(False)
        axes.tick_params(left=False)
        axes.locator_params(axis="x", nbins=5)  # more numbers could run into each other
    metric = comparison.metric.replace("_", " ")
    left.set_yticks(range(len(rows)), [row.variant.name for row in rows])
    left.tick_params(axis="y", labelcolor=TEXT_COLOR)
    left.set_ylim(len(rows) - 0.4, -0.6)
    for place, row in enumerate(rows):
        left.plot(row.scores.scores, [place] * len(row.scores.seeds), "o", color=COLORS[0], alpha=0.35, markersize=5)
        left.plot([row.scores.mean] * 2, [place - 0.22, place + 0.22], color=COLORS[0], linewidth=2.5)
        _draw_difference(right, place, row)
    if comparison.teacher:
        left.axvline(comparison.teacher["score"], color=TEACHER_COLOR, linestyle="--", linewidth=1)
    right.axvline(0, color=TEACHER_COLOR, linewidth=1)
    label_axes(left, f"{metric} of each seed, and mean" + ("; dashed: teacher" if comparison.teacher else ""), metric)
    label_axes(right, f"difference to {comparison.baseline}, 95% interval", f"difference in {metric}")
    save_picture(figure, path)


def _draw_difference(axes: Any, place: int, row: Row) -> None:
    found = row.difference
    if found is None:
        return
    color = NOTE_COLOR if found.verdict == "no difference shown" else COLORS[1]
    if math.isfinite(found.low):
        axes.plot([found.low, found.high], [place] * 2, color=color, linewidth=2)
    axes.plot(found.difference, place, "o", color=color, markersize=6)
