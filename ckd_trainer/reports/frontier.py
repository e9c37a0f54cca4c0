"""The picture of students that could go into production: their scores against their latency."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from ckd_trainer.reports.style import COLORS, NOTE_COLOR, TEXT_COLOR, label_axes, save_picture, set_up_axes


class Point(NamedTuple):
    """A student in the picture.

    Attributes:
        name: beside its point.
        group: its run, if that has several students; the points of a group have one color.
        is_best: whether it is the one that was found.
    """

    name: str
    group: str
    latency_ms: float
    score: float
    is_best: bool


def draw_frontier(
    points: Sequence[Point], frontier: Sequence[Point], metric: str, path: Path, *, batch_size: int
) -> None:
    """Draws scores against latency, a line through those that no other student beats, and a ring around the best.

    Needs matplotlib.
    """
    from matplotlib.figure import Figure

    groups = list(dict.fromkeys(point.group for point in points))
    figure = Figure(figsize=(7.2, 5.0), dpi=160, layout="constrained")
    axes = figure.subplots()
    set_up_axes(axes)
    ends = [(point.latency_ms, point.score) for point in frontier]
    axes.plot(*zip(*ends, strict=True), color=NOTE_COLOR, linewidth=1, zorder=1, drawstyle="steps-post")
    for place, group in enumerate(groups):
        own = [point for point in points if point.group == group]
        latencies, scores = [point.latency_ms for point in own], [point.score for point in own]
        axes.scatter(latencies, scores, s=45, color=COLORS[place % len(COLORS)], label=group, zorder=3)
    for point in points:
        if point.is_best:
            ring: dict[str, Any] = {"facecolors": "none", "edgecolors": TEXT_COLOR, "linewidths": 1.5}
            axes.scatter(point.latency_ms, point.score, s=170, zorder=4, **ring)
    for place, point in enumerate(frontier):
        # In turn below and above the point, so that the names of neighbors do not meet.
        shift, align = ((6, -12), "left") if place % 2 == 0 else ((-6, 8), "right")
        axes.annotate(
            point.name,
            (point.latency_ms, point.score),
            xytext=shift,
            textcoords="offset points",
            ha=align,
            fontsize=8,
            color=TEXT_COLOR,
        )
    axes.set_xlim(left=0)
    axes.set_ylabel(metric.replace("_", " "), color=TEXT_COLOR)
    texts = "one text" if batch_size == 1 else f"{batch_size} texts"
    label_axes(axes, "Score against latency: the ring is the best within the budget", f"latency of {texts} (ms)")
    if len(groups) > 1:
        figure.legend(loc="outside lower center", ncols=3, frameon=False, labelcolor=TEXT_COLOR)
    save_picture(figure, path)
