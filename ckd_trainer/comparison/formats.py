"""The result of a comparison as JSON and as a table."""

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Any

from ckd_trainer.comparison.results import COSTS, Comparison, Row
from ckd_trainer.metrics.names import less_is_better
from ckd_trainer.reports.statistics import Difference
from ckd_trainer.reports.table import duration, markdown_table


def as_json(comparison: Comparison) -> dict[str, Any]:
    """Returns the comparison for compare.json."""
    return {
        "metric": comparison.metric,
        "baseline": comparison.baseline,
        "teacher": comparison.teacher,
        "methods": [_row_as_json(row) for row in comparison.rows],
        "failed": comparison.failed,
        "notes": comparison.notes,
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
        "difference": None if found is None else _difference_as_json(found),
        "kept": row.kept,
        **row.costs,
    }


def _difference_as_json(found: Difference) -> dict[str, Any]:
    ends = {name: getattr(found, name) for name in ("low", "high")}
    finite = {name: end if math.isfinite(end) else None for name, end in ends.items()}  # JSON has no infinity
    return dataclasses.asdict(found) | finite | {"verdict": found.verdict}


def as_table(comparison: Comparison) -> str:
    """Returns the comparison as a Markdown table, in the order in which the methods were given.

    Example::

        | method     | accuracy        | difference to fine_tuned   | p    |                     | kept   | ... |
        | ---------- | --------------- | -------------------------- | ---- | ------------------- | ------ | --- |
        | teacher    | 0.9510          |                            |      |                     |        | ... |
        | fine_tuned | 0.8890 ± 0.0041 |                            |      |                     | 93.5% | ... |
        | ckd        | 0.8985 ± 0.0032 | +0.0095 [-0.0040, +0.0230] | 0.12 | no difference shown | 94.5% | ... |
    """
    digits = digits_of(comparison.metric, [row.scores.mean for row in comparison.rows])
    head = ["method", comparison.metric, f"difference to {comparison.baseline}", "p", "", "kept"]
    rows = [head + ["parameters", "size", "latency", "train time"]]
    if comparison.teacher:
        score = f"{comparison.teacher['score']:.{digits}f}"
        rows.append(["teacher", score, "", "", "", "", *_cost_cells(comparison.teacher)])
    for row in comparison.rows:
        score = f"{row.scores.mean:.{digits}f}"
        if len(row.scores.seeds) > 1:
            score += f" ± {row.scores.std:.{digits}f}"
        kept = "" if row.kept is None else f"{100 * row.kept:.1f}%"
        cells = [row.variant.name, score, *_difference_cells(row.difference, digits), kept]
        rows.append(cells + _cost_cells(row.costs))
    return markdown_table(rows)


def digits_of(metric: str, scores: Sequence[float]) -> int:
    """Returns how many digits after the point scores are shown with: 4, or 2 for percentages."""
    return 2 if not less_is_better(metric) and max(scores, default=0) > 1 else 4


def _difference_cells(found: Difference | None, digits: int) -> list[str]:
    if found is None:
        return ["", "", ""]
    p = found.corrected_p_value
    interval = f"{found.difference:+.{digits}f} [{found.low:+.{digits}f}, {found.high:+.{digits}f}]"
    return [interval, "< 0.001" if p < 0.001 else f"{p:.3g}", found.verdict]


def _cost_cells(costs: Mapping[str, float | None]) -> list[str]:
    parameters, size, latency, seconds = (costs[name] for name in COSTS)
    return [
        "" if parameters is None else f"{parameters:,.0f}",
        "" if size is None else f"{size:.1f} MB",
        "" if latency is None else f"{latency:.2f} ms",
        "" if seconds is None else duration(seconds),
    ]
