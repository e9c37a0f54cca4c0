"""The result of a comparison: scores, differences and costs, as JSON and as a table."""

import dataclasses
import json
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load_file

from ckd_trainer.comparison.schedule import Run, reason
from ckd_trainer.comparison.variants import Variant
from ckd_trainer.reports.statistics import Difference, MethodScores, compare_with_baseline, holm
from ckd_trainer.reports.table import duration, read_runs
from ckd_trainer.runs.recipe_file import read_recipe
from ckd_trainer.utils.errors import InputError
from ckd_trainer.utils.files import CONTRIBUTIONS, RECIPE

COSTS = ("parameters", "model_size_mb", "latency_ms", "train_runtime")  # names in all_results.json


@dataclasses.dataclass(frozen=True)
class Row:
    """A variant's result.

    Attributes:
        scores: of its runs, one per seed.
        costs: medians over its runs, by the names of all_results.json; None if not recorded.
        difference: to the baseline with the same student; None for the baseline itself.
        kept: share of the teacher's score; None if that is unknown or not positive.
    """

    variant: Variant
    scores: MethodScores
    costs: dict[str, float | None]
    difference: Difference | None
    kept: float | None


@dataclasses.dataclass(frozen=True)
class Comparison:
    """All results.

    Attributes:
        teacher: the teacher's score and costs; None if its folder has no score on the same validation set.
        failed: {run: reason}.
    """

    metric: str
    baseline: str
    rows: list[Row]
    teacher: dict[str, float | None] | None
    failed: dict[str, str]


def read_comparison(
    variants: Sequence[Variant], runs: Sequence[Run], *, metric: str, baseline: str, failed: Sequence[Run]
) -> Comparison:
    """Reads the finished runs and compares each variant with the baseline of the same student.

    The p values are corrected for the number of all comparisons.

    Raises:
        InputError: no run of a baseline has finished, runs read different data or teachers, or lack the metric.
    """
    finished = [run for run in runs if run.is_finished]
    _check_same_inputs(finished)
    by_variant = {
        variant.name: {run.seed: run.folder for run in finished if run.variant == variant.name} for variant in variants
    }
    read = {name: _scores(name, folders, metric) for name, folders in by_variant.items() if folders}
    differences: dict[str, Difference] = {}
    for student in dict.fromkeys(variant.student for variant in variants):
        group = [variant for variant in variants if variant.student == student and variant.name in read]
        ours = next((variant for variant in group if variant.method == baseline), None)
        if ours is None:
            name = " ".join(filter(None, (student, baseline)))
            raise InputError(f"no run of the baseline {name} has finished, so there is nothing to compare with.")
        others = [variant for variant in group if variant is not ours]
        found = compare_with_baseline([read[variant.name] for variant in others], read[ours.name])
        differences |= {difference.method: difference for difference in found}
    corrected = holm([difference.p_value for difference in differences.values()])
    differences = {
        name: dataclasses.replace(difference, corrected_p_value=float(p))
        for (name, difference), p in zip(differences.items(), corrected, strict=True)
    }
    teacher = _teacher(finished, metric)
    best = teacher["score"] if teacher else None
    rows = [
        Row(
            variant,
            scores := read[variant.name],
            _costs(list(by_variant[variant.name].values()), metric),
            differences.get(variant.name),
            scores.mean / best if best and best > 0 and metric != "rmse" else None,
        )
        for variant in variants
        if variant.name in read
    ]
    reasons = {str(run): reason(run) for run in failed}
    return Comparison(metric, baseline, rows, teacher, reasons)


def _scores(name: str, folders: Mapping[int, Path], metric: str) -> MethodScores:
    """Returns the scores of a variant, with what each example contributes where every run has it."""
    scores = {seed: read_runs([folder], metric)[0].score for seed, folder in folders.items()}
    values = {seed: _contributions(folder, metric) for seed, folder in folders.items()}
    known = {seed: value for seed, value in values.items() if value is not None}
    if len(known) == len(folders):
        return MethodScores.from_outcomes(name, known)
    return MethodScores.from_scores(name, scores)


def _contributions(folder: Path, metric: str) -> np.ndarray | None:
    try:
        return load_file(folder / CONTRIBUTIONS).get(f"eval_{metric}")
    except FileNotFoundError:
        return None
    except SafetensorError as error:
        raise InputError(
            f"{folder / CONTRIBUTIONS} is damaged ({error}): delete the folder, and it is run again."
        ) from None


def _costs(folders: Sequence[Path], metric: str) -> dict[str, float | None]:
    runs = read_runs(folders, metric)
    values = [(run.parameters, run.size_mb, run.latency_ms, run.train_seconds) for run in runs]
    return {name: _median(column) for name, column in zip(COSTS, zip(*values, strict=True), strict=True)}


def _median(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return statistics.median(known) if known else None


def _teacher(runs: Sequence[Run], metric: str) -> dict[str, float | None] | None:
    """Returns the score and the costs of the runs' teacher, if its folder has them for the same number of examples."""
    names = {read_recipe(run.folder / RECIPE).get("teacher_model_name_or_path") for run in runs}
    folders = [Path(name) for name in names if name]
    if len(folders) != 1 or _samples(folders[0]) is None or _samples(folders[0]) != _samples(runs[0].folder):
        return None
    try:
        score = read_runs(folders, metric)[0].score
    except InputError:  # it was evaluated by other scores
        return None
    return {"score": score, **_costs(folders, metric)}


def _samples(folder: Path) -> int | None:
    try:
        return json.loads((folder / "all_results.json").read_text(encoding="utf-8")).get("eval_samples")
    except (OSError, ValueError, AttributeError):
        return None


def _check_same_inputs(runs: Sequence[Run]) -> None:
    """Raises InputError if data or models changed between two runs."""
    first: dict[str, tuple[Run, Any]] = {}
    for run in runs:
        record = json.loads((run.folder / "run.json").read_text(encoding="utf-8"))
        for option, parts in record.get("inputs", {}).items():
            before, its = first.setdefault(option, (run, parts))
            if its != parts:
                raise InputError(
                    f"{option} had another content when {run} was trained than when {before} was: delete the folder "
                    f"of one of them ({run.folder}, {before.folder}), or give another --output."
                )


def as_json(comparison: Comparison) -> dict[str, Any]:
    """Returns the comparison for compare.json."""
    return {
        "metric": comparison.metric,
        "baseline": comparison.baseline,
        "teacher": comparison.teacher,
        "methods": [_row_as_json(row) for row in comparison.rows],
        "failed": comparison.failed,
    }


def _row_as_json(row: Row) -> dict[str, Any]:
    scores, found = row.scores, row.difference
    return {
        "method": row.variant.method,
        "student": row.variant.student,
        "scores": {str(seed): float(score) for seed, score in zip(scores.seeds, scores.scores, strict=True)},
        "mean": scores.mean,
        "std": None if len(scores.seeds) < 2 else scores.std,
        "examples": None if scores.values is None else scores.values.shape[1],
        "difference": None if found is None else dataclasses.asdict(found) | {"verdict": found.verdict},
        "kept": row.kept,
        **row.costs,
    }


def as_table(comparison: Comparison) -> str:
    """Returns the comparison as a Markdown table, in the order in which the methods were given.

    Example::

        | method     | accuracy        | difference to fine_tuned   | p    |                     | kept   | ... |
        | ---------- | --------------- | -------------------------- | ---- | ------------------- | ------ | --- |
        | teacher    | 0.9510          |                            |      |                     |        | ... |
        | fine_tuned | 0.8890 ± 0.0041 |                            |      |                     | 93.5 % | ... |
        | ckd        | 0.8985 ± 0.0032 | +0.0095 [-0.0040, +0.0230] | 0.12 | no difference shown | 94.5 % | ... |
    """
    digits = digits_of(comparison)
    head = ["method", comparison.metric, f"difference to {comparison.baseline}", "p", "", "kept"]
    rows = [head + ["parameters", "size", "latency", "train time"]]
    if comparison.teacher:
        score = f"{comparison.teacher['score']:.{digits}f}"
        rows.append(["teacher", score, "", "", "", "", *_cost_cells(comparison.teacher)])
    for row in comparison.rows:
        score = f"{row.scores.mean:.{digits}f}"
        if len(row.scores.seeds) > 1:
            score += f" ± {row.scores.std:.{digits}f}"
        kept = "" if row.kept is None else f"{100 * row.kept:.1f} %"
        cells = [row.variant.name, score, *_difference_cells(row.difference, digits), kept]
        rows.append(cells + _cost_cells(row.costs))
    rows.insert(1, ["-" * max(3, max(len(row[column]) for row in rows)) for column in range(len(rows[0]))])
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return "\n".join(
        f"| {' | '.join(cell.ljust(width) for cell, width in zip(row, widths, strict=True))} |" for row in rows
    )


def digits_of(comparison: Comparison) -> int:
    """Returns how many digits after the point scores are shown with: 4, or 2 for percentages."""
    return 4 if max(row.scores.mean for row in comparison.rows) <= 1 else 2


def _difference_cells(found: Difference | None, digits: int) -> list[str]:
    if found is None:
        return ["", "", ""]
    p = "< 0.001" if found.corrected_p_value < 0.001 else f"{found.corrected_p_value:.2g}"
    interval = f"{found.difference:+.{digits}f} [{found.low:+.{digits}f}, {found.high:+.{digits}f}]"
    return [interval, p, found.verdict]


def _cost_cells(costs: Mapping[str, float | None]) -> list[str]:
    parameters, size, latency, seconds = (costs[name] for name in COSTS)
    return [
        "" if parameters is None else f"{parameters:,.0f}",
        "" if size is None else f"{size:.1f} MB",
        "" if latency is None else f"{latency:.2f} ms",
        "" if seconds is None else duration(seconds),
    ]


def notes(comparison: Comparison) -> list[str]:
    """Returns what a reader of the table has to know."""
    counts = {len(row.scores.seeds) for row in comparison.rows}
    examples = {row.scores.values.shape[1] for row in comparison.rows if row.scores.values is not None}
    counted = {row.difference.counted for row in comparison.rows if row.difference}
    lines = [
        f"Mean ± standard deviation over {_spread(counts)} seed{'' if counts == {1} else 's'}. Differences with 95 % "
        f"confidence intervals that count {' or '.join(sorted(counted)) or 'nothing'} as drawn at random; p is "
        "corrected for the number of comparisons (Holm)."
    ]
    if "examples" in counted:
        lines.append("With one seed, an interval says nothing about other seeds: give several.")
    if examples:
        lines.append(f"{_spread(examples)} validation examples or groups of them.")
    if comparison.teacher is None:
        lines.append("The teacher's folder has no score on these validation examples.")
    return lines


def _spread(counts: set[int]) -> str:
    return str(min(counts)) if len(counts) == 1 else f"{min(counts)} to {max(counts)}"
