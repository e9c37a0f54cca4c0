"""The picture of a comparison: all scores, and the differences to the baseline with their intervals."""

import math
from pathlib import Path
from typing import Any

from ckd_trainer.comparison.results import Comparison, Row
from ckd_trainer.reports.table import COLORS, GRID_COLOR, NOTE_COLOR, TEACHER_COLOR, TEXT_COLOR


def draw_comparison(comparison: Comparison, path: str | Path) -> None:
    """Draws one line per variant: the score of each seed and their mean, and the difference with its interval.

    Intervals that exclude 0, after the correction for the number of comparisons, are in color; the others are grey.
    """
    from matplotlib.figure import Figure

    rows = comparison.rows
    figure = Figure(figsize=(9.6, 1.6 + 0.42 * len(rows)), dpi=160, layout="constrained")
    left, right = figure.subplots(1, 2, sharey=True)
    for axes in (left, right):
        axes.spines[["top", "right", "left"]].set_visible(False)
        axes.spines["bottom"].set_color(NOTE_COLOR)
        axes.tick_params(colors=NOTE_COLOR, left=False)
        axes.grid(axis="x", color=GRID_COLOR)
        axes.set_axisbelow(True)
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
    _title(left, f"{metric} of each seed, and mean" + ("; dashed: teacher" if comparison.teacher else ""), metric)
    _title(right, f"difference to {comparison.baseline}, 95% interval", f"difference in {metric}")
    figure.savefig(path)


def _draw_difference(axes: Any, place: int, row: Row) -> None:
    found = row.difference
    if found is None:
        return
    color = NOTE_COLOR if found.verdict == "no difference shown" else COLORS[1]
    if math.isfinite(found.low):
        axes.plot([found.low, found.high], [place] * 2, color=color, linewidth=2)
    axes.plot(found.difference, place, "o", color=color, markersize=6)


def _title(axes: Any, title: str, unit: str) -> None:
    axes.set_title(title, loc="left", color=TEXT_COLOR, fontsize=10, fontweight="bold")
    axes.set_xlabel(unit, color=TEXT_COLOR)
