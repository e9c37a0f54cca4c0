"""Reads finished runs, and makes a table and a picture of them."""

import importlib.util
import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ckd_trainer.runs.recipe_file import read_recipe
from ckd_trainer.utils.errors import InputError, is_mendable
from ckd_trainer.utils.files import RECIPE, input_errors_about

Style = list[tuple["Run", str]]  # runs and their colors

_NUMBERS = ("parameters", "model_size_mb", "latency_ms", "train_runtime")
TEACHER_COLOR = "#444b54"
# Distinguishable with any color vision (Okabe and Ito). With more runs than colors, colors repeat.
COLORS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9")
TEXT_COLOR, NOTE_COLOR, GRID_COLOR = "#24292f", "#6e7781", "#e6e8eb"


@dataclass
class Run:
    """The results of a run folder: numbers from all_results.json (None if missing) and the metric after each epoch."""

    name: str
    folder: Path
    score: float
    parameters: int | None
    size_mb: float | None
    latency_ms: float | None
    train_seconds: float | None
    curve: list[tuple[float, float]]  # (epoch, metric)
    teacher: Path | None
    is_teacher: bool = False


def read_runs(folders: Iterable[str | Path], metric: str) -> list[Run]:
    """Reads run folders and returns the teacher (named by another run's recipe) first.

    Args:
        folders: run folders with all_results.json; recipe.yaml and trainer_state.json are read if present.
        metric: name of the metric, such as accuracy, or mismatched_accuracy for MNLI's second set.

    Raises:
        InputError: a folder has no results, or not this metric.
    """
    runs = [_read_run(Path(folder), metric.removeprefix("eval_")) for folder in folders]
    names = [run.name for run in runs]
    for run in runs:
        if names.count(run.name) > 1:
            run.name = str(run.folder)
        run.is_teacher = any(run.folder.resolve() == other.teacher for other in runs)
    return sorted(runs, key=lambda run: not run.is_teacher)


def _read_run(folder: Path, metric: str) -> Run:
    results = read_json(folder / "all_results.json")
    if results is None:
        reason = "it has no all_results.json, so no run has finished there" if folder.is_dir() else "no such folder"
        raise InputError(f"{folder} cannot be reported: {reason}. Give the output_dir of a finished run.")
    key = f"eval_{metric}"
    if key not in results:
        there = sorted(name.removeprefix("eval_") for name in results if name.startswith("eval_"))
        raise InputError(
            f"{folder} has no metric {metric}; its metrics: {', '.join(there) or 'none, run it with --do_eval'}."
        )
    state = read_json(folder / "trainer_state.json") or {}
    recipe_file = folder / RECIPE
    recipe = read_recipe(recipe_file) if recipe_file.is_file() else {}
    teacher = recipe.get("teacher_model_name_or_path")
    wrong = next((name for name in (key, *_NUMBERS) if not isinstance(results.get(name, 0), int | float)), None)
    if wrong:
        raise InputError(
            f"{folder}: {wrong} is {results[wrong]!r} in all_results.json, which is not a number: run it again."
        )
    return Run(
        name=folder.resolve().name,
        folder=folder,
        score=results[key],
        parameters=results.get("parameters"),
        size_mb=results.get("model_size_mb"),
        latency_ms=results.get("latency_ms"),
        train_seconds=results.get("train_runtime"),
        curve=curve_of(state.get("log_history", []), key),
        teacher=Path(teacher).resolve() if teacher else None,
    )


def curve_of(log_history: list[dict], key: str) -> list[tuple[float, float]]:
    """Returns a logged value over the epochs; those of a stage follow on those of the stage before."""
    ends: dict[int, float] = {}
    for entry in log_history:
        stage = entry.get("stage", 1)
        ends[stage] = max(ends.get(stage, 0.0), entry.get("epoch") or 0.0)
    before = {stage: sum(end for other, end in ends.items() if other < stage) for stage in ends}
    return [(before[entry.get("stage", 1)] + entry["epoch"], entry[key]) for entry in log_history if key in entry]


def read_json(path: Path) -> dict | None:
    """Returns the content of a JSON file of a run, None if there is no such file."""
    if path.parent.is_file():
        raise InputError(f"{path.parent} is a file: give the output_dir of a finished run.")
    if not path.exists():
        return None
    try:
        with input_errors_about(path):
            content = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise InputError(
            f"{path} is not JSON ({error}), so the run was interrupted while writing it. Run it again."
        ) from None
    if not isinstance(content, dict):
        raise InputError(f"{path} contains a {type(content).__name__}, not the results of a run. Run it again.")
    return content


def format_table(runs: Sequence[Run], metric: str) -> str:
    """Returns the runs as an aligned text table.

    Example::

        name        parameters     size  latency  accuracy  train time
        teacher      4,386,178  17.5 MB   2.1 ms    0.9510     1:02
        ckd            829,442   3.3 MB   0.7 ms    0.9320     0:31
    """
    rows = [("name", "parameters", "size", "latency", metric, "train time")]
    for run in runs:
        rows.append(
            (
                run.name,
                _show(run.parameters, "{:,}"),
                _show(run.size_mb, "{:.1f} MB"),
                _show(run.latency_ms, "{:.2f} ms"),
                f"{run.score:.4f}",
                "-" if run.train_seconds is None else duration(run.train_seconds),
            )
        )
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = []
    for first, *rest in rows:
        cells = [first.ljust(widths[0]), *(cell.rjust(width) for cell, width in zip(rest, widths[1:], strict=True))]
        lines.append("  ".join(cells).rstrip())
    return "\n".join(lines)


def _show(value: float | None, pattern: str) -> str:
    return "-" if value is None else pattern.format(value)


def duration(seconds: float) -> str:
    """Returns a time as text, such as `1 min 5 s`."""
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours} h {minutes} min"
    return f"{minutes} min {seconds} s" if minutes else f"{seconds} s"


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
        axes.spines[["top", "right"]].set_visible(False)
        axes.spines[["left", "bottom"]].set_color(NOTE_COLOR)
        axes.tick_params(colors=NOTE_COLOR)
        axes.grid(axis="y", color=GRID_COLOR)
        axes.set_axisbelow(True)
        axes.set_ylabel(metric.replace("_", " "), color=TEXT_COLOR)
        panel(axes, style, metric.replace("_", " "))
    points = [
        Line2D([], [], color=color, marker="o", linestyle="--" if run.is_teacher else "-") for run, color in style
    ]
    names = [_label(run) for run, _ in style]
    figure.legend(points, names, loc="outside lower center", ncols=len(panels), frameon=False, labelcolor=TEXT_COLOR)
    save_picture(figure, path)


def check_matplotlib() -> None:
    """Raises InputError if matplotlib is missing."""
    if importlib.util.find_spec("matplotlib") is None:
        raise InputError(
            "the picture needs matplotlib, which is not installed: run pip install 'ckd-trainer[plots]', or leave out "
            "the picture's file to print only the table."
        )


def save_picture(figure: Any, path: str | Path) -> None:
    """Writes a picture; raises InputError for an unknown suffix, or if the file cannot be written."""
    suffix = Path(path).suffix.lower()
    if suffix.removeprefix(".") not in figure.canvas.get_supported_filetypes():
        raise InputError(
            f"{path} cannot be drawn (its suffix is {suffix!r}): give a file name ending in .png, .svg or .pdf."
        )
    try:
        figure.savefig(path)
    except OSError as error:
        if not is_mendable(error):
            raise
        raise InputError(f"{path} cannot be written: {error.strerror}. Give a file in an existing folder.") from None


def _draw_curves(axes: Any, style: Style, metric: str) -> None:
    for run, color in style:
        if run.curve:
            epochs, scores = zip(*run.curve, strict=True)
            dashes = "--" if run.is_teacher else "-"
            axes.plot(epochs, scores, dashes, color=color, linewidth=2, marker="o", markersize=4)
    axes.set_title(f"Validation {metric} while training", loc="left", color=TEXT_COLOR, fontweight="bold")
    axes.set_xlabel("epoch", color=TEXT_COLOR)
    axes.xaxis.get_major_locator().set_params(integer=True)


def _draw_latency(axes: Any, style: Style, metric: str) -> None:
    for run, color in style:
        if run.is_teacher:  # a line at the score to reach
            axes.plot([0, run.latency_ms], [run.score] * 2, "--", color=color, linewidth=1, alpha=0.5, zorder=1)
        axes.scatter(run.latency_ms, run.score, s=110, color=color, edgecolors="white", linewidths=1.5, zorder=3)
    axes.set_xlim(left=0)
    axes.set_title(f"Final {metric} against latency", loc="left", color=TEXT_COLOR, fontweight="bold")
    axes.set_xlabel("latency of one text (ms)", color=TEXT_COLOR)


def _label(run: Run) -> str:
    """Returns a run's name and numbers for the legend. Next to its point, they would cover other points."""
    size = "" if run.parameters is None else f", {_millions(run.parameters)} parameters"
    return f"{run.name}: {run.score:.3f}{size}"


def _millions(count: float) -> str:
    return f"{count / 1e6:.2g} M" if count < 10e6 else f"{count / 1e6:.0f} M"
