"""The result of a comparison: scores, differences and costs, read from the folders of its runs."""

import dataclasses
import json
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError, safe_open

from ckd_trainer.comparison.schedule import Run
from ckd_trainer.comparison.variants import Variant
from ckd_trainer.metrics.names import less_is_better
from ckd_trainer.reports import runs as reports
from ckd_trainer.reports.statistics import Difference, MethodScores, compare_with_baseline, holm
from ckd_trainer.runs.recipe_file import read_recipe
from ckd_trainer.utils.errors import InputError, first_of
from ckd_trainer.utils.files import CONTRIBUTIONS, RECIPE, RECORD

# Options that choose rows and columns of a data set.
_CHOOSE_ROWS = (
    "dataset_config_name",
    "dataset_revision",
    "train_split_name",
    "validation_split_name",
    "max_train_samples",
    "sample_seed",
    "unlabeled_dataset_config_name",
    "unlabeled_split_name",
    *("text_column", "text_pair_column", "label_column", "label_columns", "group_column"),
    *("tokens_column", "tags_column", "spans_column"),
)
COSTS = ("parameters", "model_size_mb", "latency_ms", "train_runtime")  # names in all_results.json


@dataclasses.dataclass(frozen=True)
class Row:
    """A variant's result.

    Attributes:
        scores: of its runs, one per seed.
        costs: medians over its runs, by the names of all_results.json; None if not recorded.
        difference: to the baseline with the same student, over the seeds that both have; None for the baseline
            itself, or if no run of the baseline with one of these seeds has finished.
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
        teacher: the teacher's score and costs; None if its folder has no score on the same validation examples.
        failed: {run: reason}.
        notes: what a reader of the table has to know.
    """

    metric: str
    baseline: str
    rows: list[Row]
    teacher: dict[str, float | None] | None
    failed: dict[str, str]
    notes: list[str]


@dataclasses.dataclass(frozen=True)
class _Finished:
    """What the folder of a finished run holds."""

    run: Run
    report: reports.Run
    values: np.ndarray | None  # what each example contributes
    examples: str | None  # their fingerprint
    recipe: dict[str, Any]
    record: dict[str, Any]


def read_comparison(
    variants: Sequence[Variant], runs: Sequence[Run], *, metric: str, baseline: str, failed: Mapping[Run, str]
) -> Comparison:
    """Reads the finished runs and compares each variant with the baseline of the same student.

    The p values are corrected for the number of all comparisons.

    Raises:
        InputError: no run has finished, or runs that are compared read different data or teachers, or lack the metric.
    """
    finished = [_read(run, metric) for run in runs if run.is_finished]
    if not finished:
        raise InputError("no run has finished, so there is nothing to compare: see the reasons above.")
    check_same_inputs(runs)
    check_same_examples(runs, metric)
    by_variant = {
        variant: mine for variant in variants if (mine := [one for one in finished if one.run.variant == variant.name])
    }
    differences = _differences(by_variant, baseline)
    teacher = _teacher(finished, metric)
    best = teacher["score"] if teacher else None
    rows = []
    for variant, mine in by_variant.items():
        scores = _scores(variant.name, mine)
        kept = scores.mean / best if best and best > 0 and not less_is_better(metric) else None
        rows.append(Row(variant, scores, _costs([one.report for one in mine]), differences.get(variant), kept))
    reasons = {str(run): reason for run, reason in failed.items()}
    notes = _notes(rows, baseline, finished, teacher, {run.variant for run in failed})
    return Comparison(metric, baseline, rows, teacher, reasons, notes)


def _read(run: Run, metric: str) -> _Finished:
    values, examples = contributions_of(run.folder, metric)
    record = json.loads((run.folder / RECORD).read_text(encoding="utf-8"))
    report = reports.read_runs([run.folder], metric)[0]
    return _Finished(run, report, values, examples, read_recipe(run.folder / RECIPE), record)


def contributions_of(folder: Path, metric: str) -> tuple[np.ndarray | None, str | None]:
    """Returns what each example contributes to a score, and the fingerprint of the examples; None if not recorded."""
    path, name = folder / CONTRIBUTIONS, f"eval_{metric}"
    if not path.is_file():
        return None, None
    try:
        with safe_open(path, "numpy") as file:
            metadata = file.metadata()
            if "examples" in metadata:  # of an earlier version, which wrote them in the order of their lengths
                return None, None
            examples = json.loads(metadata["rows"])
            return (file.get_tensor(name), examples[name]) if name in examples else (None, None)
    except (SafetensorError, KeyError, TypeError, ValueError) as error:
        raise InputError(f"{path} is damaged ({error}): delete the folder, and run it again.") from None


def _scores(name: str, finished: Sequence[_Finished]) -> MethodScores:
    """Returns the scores of a variant, with what each example contributes where every run has it."""
    values = {one.run.seed: one.values for one in finished if one.values is not None}
    if len(values) == len(finished):
        return MethodScores.from_outcomes(name, values)
    return MethodScores.from_scores(name, {one.run.seed: one.report.score for one in finished})


def _differences(by_variant: Mapping[Variant, Sequence[_Finished]], baseline: str) -> dict[Variant, Difference]:
    """Returns the difference of each variant to its baseline, over the seeds that both have."""
    found = {}
    for variant, mine in by_variant.items():
        theirs = next(
            (runs for one, runs in by_variant.items() if (one.student, one.method) == (variant.student, baseline)), []
        )
        common = {one.run.seed for one in mine} & {one.run.seed for one in theirs}
        if variant.method == baseline or not common:
            continue
        ours, others = ([one for one in runs if one.run.seed in common] for runs in (mine, theirs))
        (found[variant],) = compare_with_baseline([_scores(variant.name, ours)], _scores(baseline, others))
    corrected = holm([difference.p_value for difference in found.values()])
    return {
        variant: dataclasses.replace(difference, corrected_p_value=float(p))
        for (variant, difference), p in zip(found.items(), corrected, strict=True)
    }


def _costs(runs: Sequence[reports.Run]) -> dict[str, float | None]:
    values = [(run.parameters, run.size_mb, run.latency_ms, run.train_seconds) for run in runs]
    return {name: _median(column) for name, column in zip(COSTS, zip(*values, strict=True), strict=True)}


def _median(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return statistics.median(known) if known else None


def _teacher(finished: Sequence[_Finished], metric: str) -> dict[str, float | None] | None:
    """Returns the score and the costs of the runs' teacher, if its folder has them for the same examples."""
    names = {str(one.recipe.get("teacher_model_name_or_path", "")) for one in finished} - {"None", ""}
    folders = [Path(name) for name in names]
    if len(folders) != 1:
        return None
    _, examples = contributions_of(folders[0], metric)
    if examples is None or examples != finished[0].examples:
        return None
    (teacher,) = reports.read_runs(folders, metric)
    return {"score": teacher.score, **_costs([teacher])}


def check_same_inputs(runs: Sequence[Run]) -> None:
    """Raises InputError if data or models have changed between two finished runs that name the same ones."""
    first: dict[tuple, tuple[Run, dict[str, str]]] = {}
    for run in runs:
        if not run.is_finished:
            continue
        recipe = read_recipe(run.folder / RECIPE)
        inputs = json.loads((run.folder / RECORD).read_text(encoding="utf-8")).get("inputs", {})
        for option, parts in inputs.items():
            # Data sets by name are recorded by their rows.
            named = (option, *(str(recipe.get(name)) for name in (option, *_CHOOSE_ROWS)))
            other, before = first.setdefault(named, (run, parts))
            # A run that does not distill records less of the teacher.
            if any(parts[name] != before[name] for name in parts.keys() & before.keys()):
                raise InputError(
                    f"{other} and {run} were trained with different contents of {option}: delete the folder of one of "
                    f"them ({other.folder}, {run.folder}), or give another --output."
                )
            first[named] = other, before | parts


def check_same_examples(runs: Sequence[Run], metric: str, current: str | None = None) -> None:
    """Raises InputError if finished runs were evaluated on other validation examples than the last of them.

    Args:
        current: the fingerprint of the examples on which the next run will be evaluated; by default that of the last
            finished run. Runs of an earlier version, whose examples are not known, count as others.
    """
    found = {run: contributions_of(run.folder, metric)[1] for run in runs if run.is_finished}
    if not any(found.values()):  # of a metric to which no example contributes
        return
    if current is None:
        current = found[max(found, key=lambda run: (run.folder / "eval_results.json").stat().st_mtime_ns)]
    older = [run for run, examples in found.items() if examples != current]
    if older:
        raise InputError(
            "the runs were evaluated on different validation examples: give all variants the same options of the "
            "data; if the data has changed, restore it, give another --output, or delete the folders of the older "
            f"runs ({first_of([run.folder for run in older])})."
        )


def _notes(
    rows: Sequence[Row],
    baseline: str,
    finished: Sequence[_Finished],
    teacher: dict[str, float | None] | None,
    failed: set[str],
) -> list[str]:
    counted = {row.difference.counted for row in rows if row.difference}
    lines = []
    if counted:
        spread = "Mean ± standard deviation over seeds. " if counted != {"examples"} else ""
        lines.append(
            f"{spread}Differences with 95% confidence intervals over {' or '.join(sorted(counted))}; p is corrected "
            "for the number of comparisons (Holm)."
        )
    if "examples" in counted:
        lines.append("With one seed, an interval says nothing about other seeds: use at least three.")
    units = {row.scores.values.shape[1] for row in rows if row.scores.values is not None}
    if units:
        lines.append(f"{units.pop():,} validation examples (or groups of them, see docs/compare.md).")
    most = max(len(row.scores.seeds) for row in rows)
    for row in rows:
        name, seeds = row.variant.name, row.scores.seeds
        other = _baseline_of(row, rows, baseline)
        common = [str(seed) for seed in seeds if other is not None and seed in other.scores.seeds]
        if other is not None and not common:
            lines.append(f"{name} and {baseline} have no seed in common, so they are not compared.")
        elif other is not None and len(common) < min(len(seeds), len(other.scores.seeds)):
            lines.append(f"{name} and {baseline} are compared on the seeds that both have: {', '.join(common)}.")
        elif len(seeds) < most:
            lines.append(f"{name} has {len(seeds)} of {most} seeds and is compared on these.")
    lines += [f"{name} has no finished run." for name in sorted(failed - {row.variant.name for row in rows})]
    if teacher is None and any(row.variant.recipe.get("teacher_model_name_or_path") for row in rows):
        lines.append("The folder of the teacher has no score on these validation examples.")
    for name in ("device", "commit", "versions"):
        if len({json.dumps(one.record.get(name)) for one in finished}) > 1:
            lines.append(f"The runs differ in {name}: see their run.json.")
    return lines


def _baseline_of(row: Row, rows: Sequence[Row], baseline: str) -> Row | None:
    """Returns the row of the baseline with the same student; None for the baseline itself, or if it has no row."""
    wanted = row.variant.student, baseline
    found = next((other for other in rows if (other.variant.student, other.variant.method) == wanted), None)
    return None if found is row else found
