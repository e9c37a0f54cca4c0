"""Reads csv, tsv, JSON lines and parquet files strictly: malformed content is an error that names the line."""

import json
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
from datasets import Dataset

from ckd_trainer.data.delimited import split_rows
from ckd_trainer.data.parquet import open_parquet
from ckd_trainer.data.table import UNUSABLE, Table, check_rows, dataset_of, used_columns
from ckd_trainer.data.text_files import read_text
from ckd_trainer.utils.errors import InputError, short
from ckd_trainer.utils.files import input_errors_about, user_path


def read_table(
    path: str | Path,
    *,
    columns: Sequence[str] | None = None,
    usecols: Collection[str | None] | None = None,
    quoting: str = "auto",
) -> Dataset:
    """Reads a table; the suffix says how: .csv, .tsv, .json or .jsonl (one object per line), .parquet.

    All values of csv and tsv files are str, exactly as written: nothing is stripped. Keys that a JSON line lacks are
    null. Blank lines at the end are ignored, and so is a byte order mark.

    Args:
        path: The file.
        columns: The names of the columns of a csv or tsv file without a header line.
        usecols: The names of the columns to read, of which the file need not have all; others may hold anything.
            None for all.
        quoting: How a csv or tsv file is quoted, see `ckd_trainer.data.delimited.split_rows`.

    Returns:
        A `datasets.Dataset` in memory, with the file's columns in the file's order.

    Raises:
        InputError: no such file, an unknown suffix, no rows, not UTF-8, a column name that occurs twice, a row with
            another number of fields than the header, a line that is not JSON (with file and line).

    Example::

        read_table("MRPC/dev.tsv")["#1 String"][0]
        read_table("CoLA/dev.tsv", columns=["source", "label", "mark", "sentence"])
    """
    return open_table(path, columns=columns, usecols=usecols, quoting=quoting).data


def open_table(
    path: str | Path,
    *,
    columns: Sequence[str] | None = None,
    usecols: Collection[str | None] | None = None,
    quoting: str = "auto",
    skip_short: bool = False,
    forms: Mapping[str, str] | None = None,
) -> Table:
    """Reads a table as `read_table` does, and returns it with the place of each row: a `Table`.

    Args:
        skip_short: as for `ckd_trainer.data.delimited.split_rows`.
        forms: {column: what its values should be}, for messages about JSON values that no column can hold.
    """
    path = checked_path(path)
    if path.suffix.lower() == ".parquet":
        return open_parquet(path, usecols)
    text = read_text(path)
    return table_of(path, text, columns=columns, usecols=usecols, quoting=quoting, skip_short=skip_short, forms=forms)


def checked_path(path: str | Path, or_else: str = "") -> Path:
    """Returns the path of a table.

    Args:
        or_else: more advice for a file with an unknown suffix.

    Raises:
        InputError: it is not a file, or its suffix is unknown.
    """
    path = user_path(path)
    suffix = path.suffix.lower()
    if suffix not in (".csv", ".tsv", ".json", ".jsonl", ".parquet"):
        raise InputError(
            f"{path} has the suffix {suffix!r}: give a .csv, .tsv, .json, .jsonl or .parquet file{or_else}."
        )
    with input_errors_about(path):
        if not path.is_file():
            what = "a folder" if path.is_dir() else "missing"
            raise InputError(f"{path} is {what}: give an existing {suffix} file.")
    return path


def table_of(
    path: Path,
    text: str,
    *,
    columns: Sequence[str] | None = None,
    usecols: Collection[str | None] | None = None,
    quoting: str = "auto",
    skip_short: bool = False,
    forms: Mapping[str, str] | None = None,
    delimiter: str | None = None,
    line: int = 1,
) -> Table:
    """Returns the table in the text of a csv, tsv or JSON lines file, or in a part of it.

    Args:
        columns, usecols, quoting, skip_short, forms: as for `open_table`.
        delimiter: that of a csv file; None to find it in the text.
        line: the number of the text's first line in the file.
    """
    names: Sequence[str]
    rows: Any  # lists of fields, or objects
    lines: Sequence[int]
    is_json = path.suffix.lower() in (".json", ".jsonl")
    if is_json:
        names, rows = _read_json(path, text, line)
        lines = range(line, line + len(rows))
        check_rows(path, names)  # objects without keys are not rows of a table
    else:
        names, rows, lines = split_rows(
            path,
            text,
            header=columns,
            quoting=quoting,
            skip_short=skip_short,
            delimiter=delimiter,
            first_line=line,
        )
    check_rows(path, rows)
    used = used_columns(path, names, usecols)
    if is_json:
        data = {name: [row.get(name) for row in rows] for name in used}
    else:
        places = {name: place for place, name in enumerate(names)}
        data = {name: [row[places[name]] for row in rows] for name in used}
    forms = {name: "values of one kind" for name in used} | dict(forms or {})
    arrays = {name: _array(path, name, lines, values, forms[name]) for name, values in data.items()}
    return Table(dataset_of(path, pa.table(arrays)), str(path), lines, names=names)


def unique_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """For json's object_pairs_hook: refuses duplicate keys instead of silently keeping the last."""
    mapping = dict(pairs)
    if len(mapping) < len(pairs):
        names = [name for name, _ in pairs]
        raise ValueError(f"the key {short(next(name for name in names if names.count(name) > 1))} occurs twice")
    return mapping


def _read_json(path: Path, text: str, first_line: int) -> tuple[list[str], list[dict[str, Any]]]:
    """Returns all keys of the text, and the objects."""
    rows = []
    # Not splitlines: JSON text may hold other Unicode line separators.
    for line, content in enumerate(text.rstrip().split("\n"), first_line):
        try:
            row = json.loads(content, object_pairs_hook=unique_keys)
        except (ValueError, RecursionError) as error:  # also a number of thousands of digits, endless brackets
            what = f"{error.msg}, column {error.colno}" if isinstance(error, json.JSONDecodeError) else str(error)
            raise InputError(f"{path}, line {line}: this is not JSON ({what}): give one object per line.") from None
        if not isinstance(row, dict):
            raise InputError(f"{path}, line {line}: this is a {type(row).__name__}: give one object per line.")
        rows.append(row)
    return list(dict.fromkeys(name for row in rows for name in row)), rows


def _array(path: Path, name: str, lines: Sequence[int], values: list, form: str) -> pa.Array:
    try:
        return pa.array(values)
    except (*UNUSABLE, ValueError, OverflowError) as error:
        # Only JSON gets here: a column with values of several types, or with one that Arrow cannot hold.
        first = next(value for value in values if value is not None)
        for line, value in zip(lines, values, strict=True):
            reason = _why_unusable(value, form)
            if reason is not None:
                raise InputError(f"{path}, line {line}: {name!r} is {short(value)}, which {reason}.") from None
            try:
                pa.array([first, value])
            except (*UNUSABLE, ValueError, OverflowError):
                raise InputError(
                    f"{path}, line {line}: {name!r} is {short(value)}, which cannot stand in one column with "
                    f"{short(first)}: give {form}."
                ) from None
        raise InputError(f"{path}: the values of {name!r} cannot stand in one column ({error}).") from None


def _why_unusable(value: Any, form: str) -> str | None:
    """Returns why Arrow cannot hold a value of JSON, and what to do; None if it can."""
    try:
        pa.array([value])
    except UnicodeEncodeError:
        return "holds half of a surrogate pair, which is not text: write the whole character"
    except OverflowError:
        return "is too large for a number: write it in quotes"
    except UNUSABLE:
        return f"holds values of several kinds, which cannot stand in one column: give {form}"
    return None
