"""Draws the terms of the loss of finished runs: values, gradients, and which of them work against each other."""

import itertools
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ckd_trainer.metrics.names import without_subnetwork
from ckd_trainer.reports.runs import Run, curve_of, read_json
from ckd_trainer.reports.style import COLORS, TEXT_COLOR, check_matplotlib, label_axes, save_picture, set_up_axes
from ckd_trainer.utils.errors import InputError

Curve = list[tuple[float, float]]  # (epoch, value)

_LOSS, _NORM, _COSINE = "loss_", "gradient_norm_", "cosine_"


@dataclass
class Terms:
    """What a run logged about the terms of its loss.

    Attributes:
        losses: {term: its value over the epochs}; of a dynamic student, the means over its sub-networks.
        norms: {term: the norm of its weighted gradient over the epochs}; empty without log_gradient_norms.
        cosines: {(term, term): the mean cosine between their gradients}.
    """

    losses: dict[str, Curve]
    norms: dict[str, Curve]
    cosines: dict[tuple[str, str], float]


def read_terms(run: Run) -> Terms:
    """Reads the log of a run; raises InputError if it logged no terms."""
    log = (read_json(run.folder / "trainer_state.json") or {}).get("log_history", [])
    losses, norms = _curves(log, _LOSS), _curves(log, _NORM)
    if not losses:
        raise InputError(f"{run.folder} logged no terms of a loss: give runs of ckd-trainer glue, ner or squad.")
    cosines = {}
    for pair in itertools.combinations(norms, 2):
        values = [entry[f"{_COSINE}{pair[0]}_{pair[1]}"] for entry in log if f"{_COSINE}{pair[0]}_{pair[1]}" in entry]
        if values:
            cosines[pair] = statistics.mean(values)
    return Terms(losses, norms, cosines)


def _curves(log: list[dict], prefix: str) -> dict[str, Curve]:
    logged = dict.fromkeys(name for entry in log for name in entry if name.startswith(prefix))
    names = [name for name in logged if without_subnetwork(name) == name]  # of a dynamic student, the means
    return {name.removeprefix(prefix): curve_of(log, name) for name in names}


def draw_terms(runs: Sequence[Run], path: str | Path) -> None:
    """Draws a row per run: the terms, the norms of their gradients, and the mean cosines between these.

    Terms without their weights, gradients with them. A cosine below 0 means that two terms work against each other.
    Runs without log_gradient_norms have the first panel alone.

    Args:
        runs: from `read_runs`; the teacher is left out.
        path: the picture's file; its suffix (.png, .svg, .pdf) selects the format.

    Raises:
        InputError: no run logged terms, matplotlib is missing, or the file cannot be written.
    """
    check_matplotlib()
    from matplotlib.figure import Figure

    students = [run for run in runs if not run.is_teacher]
    if not students:
        raise InputError("only the teacher is given, whose loss has no terms: give the output_dir of a student.")
    rows = [(run, read_terms(run)) for run in students]
    columns = 3 if any(terms.norms for _, terms in rows) else 1
    figure = Figure(figsize=(5.4 * columns, 3.4 * len(rows)), dpi=140, layout="constrained")
    for (run, terms), panels in zip(rows, figure.subplots(len(rows), columns, squeeze=False), strict=True):
        colors = dict(zip(terms.losses, itertools.cycle(COLORS)))
        _draw_curves(panels[0], terms.losses, colors, f"{run.name}: terms")
        panels[0].legend(frameon=False, labelcolor=TEXT_COLOR, fontsize=8)
        if columns == 3 and terms.norms:
            _draw_curves(panels[1], terms.norms, colors, "norms of their weighted gradients")
            _draw_cosines(panels[2], terms)
        for panel in panels[1:] if not terms.norms else ():
            panel.axis("off")
    save_picture(figure, path)


def _draw_curves(axes: Any, curves: dict[str, Curve], colors: dict[str, str], title: str) -> None:
    for term, curve in curves.items():
        epochs, values = zip(*curve, strict=True)
        axes.plot(epochs, values, color=colors[term], linewidth=1.8, label=term.replace("_", " "))
    if all(value > 0 for curve in curves.values() for _, value in curve):
        axes.set_yscale("log")
    set_up_axes(axes)
    label_axes(axes, title, "epoch")


def _draw_cosines(axes: Any, terms: Terms) -> None:
    names = list(terms.norms)
    values = [
        [terms.cosines.get((one, other), terms.cosines.get((other, one), 1.0)) for other in names] for one in names
    ]
    axes.imshow(values, cmap="RdBu", vmin=-1, vmax=1)
    labels = [name.replace("_", " ") for name in names]
    axes.set_xticks(range(len(names)), labels, rotation=35, ha="right", color=TEXT_COLOR, fontsize=8)
    axes.set_yticks(range(len(names)), labels, color=TEXT_COLOR, fontsize=8)
    for row, column in itertools.product(range(len(names)), repeat=2):
        value = values[row][column]
        color = "white" if abs(value) > 0.6 else TEXT_COLOR
        axes.text(column, row, f"{value:.2f}", ha="center", va="center", color=color, fontsize=8)
    label_axes(axes, "mean cosines between gradients", "")
