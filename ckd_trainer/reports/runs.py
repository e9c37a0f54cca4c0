"""Reads the results and the logs of finished runs."""

import json
import logging
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from ckd_trainer.metrics.names import is_score
from ckd_trainer.runs.recipe_file import read_recipe
from ckd_trainer.utils.errors import InputError, first_of
from ckd_trainer.utils.files import RECIPE, input_errors_about

logger = logging.getLogger(__name__)

_NUMBERS = ("parameters", "model_size_mb", "latency_ms", "train_runtime")


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
    task: str | None = None  # the task_name of its recipe, "own texts" if it has none; None without a recipe


def read_runs(folders: Iterable[str | Path], metric: str) -> list[Run]:
    """Reads run folders and returns the teacher (named by another run's recipe) first.

    Warns if the runs are of different tasks.

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
    tasks = {run.task: run for run in runs if run.task is not None}
    if len(tasks) > 1:
        logger.warning(
            "The runs are of different tasks (%s): their scores cannot be compared.",
            first_of([f"{run.name}: {task}" for task, run in tasks.items()]),
        )
    return sorted(runs, key=lambda run: not run.is_teacher)


def _read_run(folder: Path, metric: str) -> Run:
    results = read_json(folder / "all_results.json")
    if results is None:
        reason = "it has no all_results.json, so no run has finished there" if folder.is_dir() else "no such folder"
        raise InputError(f"{folder} cannot be reported: {reason}. Give the output_dir of a finished run.")
    key = f"eval_{metric}"
    if key not in results:
        there = sorted(name.removeprefix("eval_") for name in results if name.startswith("eval_") and is_score(name))
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
        task=str(recipe["task_name"] or "own texts") if "task_name" in recipe else None,
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
