"""Tables as text."""

from collections.abc import Sequence

from ckd_trainer.reports.runs import Run


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


def markdown_table(rows: Sequence[Sequence[str]]) -> str:
    """Returns rows of cells as an aligned Markdown table; the first row is its head."""
    widths = [max(3, *map(len, column)) for column in zip(*rows, strict=True)]
    head, *rest = rows
    lines = [head, ["-" * width for width in widths], *rest]
    return "\n".join(
        f"| {' | '.join(cell.ljust(width) for cell, width in zip(line, widths, strict=True))} |" for line in lines
    )


def _show(value: float | None, pattern: str) -> str:
    return "-" if value is None else pattern.format(value)


def duration(seconds: float) -> str:
    """Returns a time as text, such as `1 min 5 s`."""
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours} h {minutes} min"
    return f"{minutes} min {seconds} s" if minutes else f"{seconds} s"
