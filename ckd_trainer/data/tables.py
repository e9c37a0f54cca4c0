"""Reads csv, tsv, JSON lines and parquet files strictly: malformed content is an error that names the line."""

import codecs
import contextlib
import dataclasses
import json
import logging
import math
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from datasets import ClassLabel, Dataset

from ckd_trainer.data.delimited import split_rows
from ckd_trainer.utils.errors import InputError, agreeing, first_of, is_for_user, short
from ckd_trainer.utils.files import input_errors_about, user_path

logger = logging.getLogger(__name__)

# Errors of Arrow for content that it cannot read or hold; running out of memory is not among them.
_UNUSABLE = (
    pa.ArrowInvalid,
    pa.ArrowTypeError,
    pa.ArrowNotImplementedError,
    pa.ArrowCapacityError,
    pa.ArrowIndexError,
    pa.ArrowSerializationError,
)


@dataclass(frozen=True)
class Table:
    """The rows of a file and their line numbers, so that an error about a row can name the line."""

    data: Dataset
    source: str
    lines: Sequence[int]  # the line of each row, from 1
    unit: str = "line"
    names: Sequence[str] | None = None  # of all columns of the source, if not all were read

    def place(self, row: int) -> str:
        """Returns the place of row `row` (from 0) for an error message: "train.csv, line 7"."""
        return f"{self.source}, {self.unit} {self.lines[row]}"

    def texts(self, column: str, *, may_be_blank: bool = True) -> list[str]:
        """Returns a column of texts as a list of str.

        InputError: no such column, a value that is not text. Unless texts may be blank, also if all of them are; a
        warning says if some are.
        """
        values, blank = self.values(column), []
        for row, value in enumerate(values):
            if value is None:
                raise InputError(f"{self.place(row)}: there is no {column!r} (null or missing): give a text.")
            if not isinstance(value, str):
                raise InputError(
                    f"{self.place(row)}: {column!r} is {short(value)}, which is not text: put it in quotes."
                )
            if not may_be_blank and is_blank(value):
                blank.append(row)
        if blank:
            check_blank(self.source, column, len(blank), len(values), f"{self.unit} {self.lines[blank[0]]}")
        return values

    def words(self, column: str) -> list[str]:
        """Returns a column of labels as a list of str: 3 and "3" are the same class, and so are 3.0 and 3.

        InputError: no such column, a blank label, a number with a fraction, a list or a mapping, a tab or a line break
        in a label, an id for which a `ClassLabel` has no name.
        """
        words = []
        for row, value in enumerate(self._labels(column)):
            if isinstance(value, float):
                if not value.is_integer():
                    raise InputError(
                        f"{self.place(row)}: the label ({column!r}) is {value!r}, which names no class: give whole "
                        "numbers or words, or set regression to predict numbers."
                    )
                value = int(value)
            if not isinstance(value, str | int):
                raise InputError(
                    f"{self.place(row)}: the label ({column!r}) is {short(value)}: give a word or a number."
                )
            word = str(value)
            if "\t" in word or word.splitlines() != [word]:
                raise InputError(
                    f"{self.place(row)}: the label ({column!r}) is {short(word)}, which predictions.tsv cannot hold: "
                    "give one without tabs and line breaks."
                )
            words.append(word)
        return words

    def numbers(self, column: str) -> list[float]:
        """Returns a column of numbers, which may be written as text, as a list of float.

        InputError: no such column, a blank label, a label that is not a finite number.
        """
        numbers = []
        for row, value in enumerate(self._labels(column)):
            try:
                number = math.nan if isinstance(value, bool) else float(value)
            except (TypeError, ValueError):
                number = math.nan
            if not math.isfinite(number):
                raise InputError(
                    f"{self.place(row)}: the label ({column!r}) is {short(value)}, which is not a number: give one "
                    "such as 3.5."
                )
            numbers.append(number)
        return numbers

    def require(self, column: str, advice: str = "") -> None:
        """Raises InputError if there is no such column; it ends with `advice`, unless the names show what is wrong."""
        names = self.data.column_names if self.names is None else list(self.names)
        if column in names:
            return
        is_delimited = self.source.lower().endswith((".csv", ".tsv"))
        if is_delimited and any(name[:1] == name[-1:] == '"' for name in names):
            advice = ": the names are in quotes, so set quoting to csv"
        elif is_delimited and len(names) == 1 and any(delimiter in names[0] for delimiter in ",;|\t"):
            advice = ": that is one column, as a .tsv file has tabs between columns and a .csv file has commas"
        raise InputError(f"{self.source} has no column {column!r}: it has {first_of(names, 20)}{advice}.")

    def parts(self, rows: int = 10_000) -> "Iterator[Table]":
        """Yields the table in parts with this many rows."""
        for start in range(0, len(self.data), rows):
            part = range(start, min(start + rows, len(self.data)))
            yield dataclasses.replace(self, data=self.data.select(part), lines=self.lines[start : part.stop])

    def values(self, column: str) -> list:
        """Returns a column as it is. InputError: no such column."""
        self.require(column)
        return self.data[column][:]

    def _labels(self, column: str) -> list:
        """Returns the labels in a column, for a `ClassLabel` their names; raises InputError if one is blank."""
        values = self.values(column)
        feature = self.data.features[column]
        names = feature.names if isinstance(feature, ClassLabel) else None
        for row, value in enumerate(values):
            if names is not None and value is not None:
                if value == -1:
                    raise InputError(
                        f"{self.place(row)}: the label ({column!r}) is empty (-1, not labeled): give one, or leave "
                        "the row out."
                    )
                if not 0 <= value < len(names):
                    raise InputError(
                        f"{self.place(row)}: the label ({column!r}) is {value}, but the column has {len(names)} "
                        f"names, for 0 to {len(names) - 1} ({first_of(names)}): correct the label or the names."
                    )
                values[row] = value = names[value]
            if value is None or (isinstance(value, str) and not value.strip()):
                raise InputError(
                    f"{self.place(row)}: the label ({column!r}) is empty: give one, or leave the row out."
                )
        return values


def is_blank(text: str) -> bool:
    """Returns whether a text is empty or white space."""
    return not text or text.isspace()


def check_blank(source: str, column: str, blank: int, texts: int, first: str) -> None:
    """Warns of blank texts in a column.

    Args:
        blank, texts: how many there are of each.
        first: the place of the first blank one, such as "line 7".

    Raises:
        InputError: all of them are blank.
    """
    if blank == texts:
        raise InputError(f"{source}: all texts ({column!r}) are blank: name another column.")
    are = agreeing(blank, "is", "are")
    logger.warning(
        "%s: %d of %d texts (%r) %s blank; the first is that of %s.", source, blank, texts, column, are, first
    )


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
        return _open_parquet(path, usecols)
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
        _check_rows(path, names)  # objects without keys are not rows of a table
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
    _check_rows(path, rows)
    used = _used(path, names, usecols)
    if is_json:
        data = {name: [row.get(name) for row in rows] for name in used}
    else:
        places = {name: place for place, name in enumerate(names)}
        data = {name: [row[places[name]] for row in rows] for name in used}
    forms = {name: "values of one kind" for name in used} | dict(forms or {})
    arrays = {name: _array(path, name, lines, values, forms[name]) for name, values in data.items()}
    return Table(_dataset(path, pa.table(arrays)), str(path), lines, names=names)


def _open_parquet(path: Path, usecols: Collection[str | None] | None) -> Table:
    with _errors_of_parquet(path):
        file = pq.ParquetFile(path)
        names = file.schema_arrow.names
        table = file.read(columns=_used(path, names, usecols))
        table.validate(full=True)  # that texts are UTF-8, as well
    rows = range(1, file.metadata.num_rows + 1)
    _check_rows(path, rows)
    return Table(_dataset(path, _without_notes(table)), str(path), rows, unit="row", names=names)


def parquet_parts(path: Path, usecols: Collection[str | None] | None, rows: int) -> Iterator[Table]:
    """Yields the table in a parquet file in parts with this many rows."""
    with _errors_of_parquet(path):
        file = pq.ParquetFile(path)
        _check_rows(path, range(file.metadata.num_rows))
        names, first = file.schema_arrow.names, 1
        parts = file.iter_batches(batch_size=rows, columns=_used(path, names, usecols))
    while True:
        with _errors_of_parquet(path):
            part = next(parts, None)
            if part is None:
                return
            part.validate(full=True)
            table = _without_notes(pa.Table.from_batches([part]))
        lines = range(first, first := first + len(table))
        yield Table(_dataset(path, table), str(path), lines, unit="row", names=names)


@contextlib.contextmanager
def _errors_of_parquet(path: Path) -> Iterator[None]:
    try:
        yield
    except (*_UNUSABLE, OSError, UnicodeDecodeError) as error:
        if isinstance(error, OSError) and not is_for_user(error):
            raise
        what = str(error).replace("UTF8", "UTF-8")
        raise InputError(f"{path} is not a parquet file that can be read ({what}).") from None


def _without_notes(table: pa.Table) -> pa.Table:
    """Returns the table without the metadata of `datasets` about columns that were not read."""
    metadata = table.schema.metadata or {}
    try:
        notes = json.loads(metadata[b"huggingface"])
        features = notes["info"]["features"]
        notes["info"]["features"] = {name: features[name] for name in table.column_names}
    except (KeyError, TypeError, ValueError):  # there are none, or `datasets` finds what is wrong with them
        return table
    return table.replace_schema_metadata({**metadata, b"huggingface": json.dumps(notes).encode()})


def _dataset(path: Path, table: pa.Table) -> Dataset:
    try:
        return Dataset(table)
    except (*_UNUSABLE, ValueError, RecursionError) as error:
        names = first_of(table.column_names, 20)
        raise InputError(f"{path}: the columns {names} cannot be used ({error}): give texts and numbers.") from None


def unique_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """For json's object_pairs_hook: refuses duplicate keys instead of silently keeping the last."""
    mapping = dict(pairs)
    if len(mapping) < len(pairs):
        names = [name for name, _ in pairs]
        raise ValueError(f"the key {short(next(name for name in names if names.count(name) > 1))} occurs twice")
    return mapping


def state_of(data: Dataset) -> str:
    """Returns a fingerprint of a data set: of its files, or of the commands that made it; its rows are not read."""
    return data._fingerprint


def read_text(path: Path) -> str:
    """Reads a text file that is UTF-8, has no NUL characters and is not empty; leaves out a byte order mark."""
    with input_errors_about(path):
        text = text_of(path, path.read_bytes().removeprefix(codecs.BOM_UTF8))
    _check_rows(path, text.strip())
    return text


def text_of(path: Path, data: bytes, line: int = 1) -> str:
    """Returns the text of a file, or of the part that begins in this line; raises InputError if it is not UTF-8."""
    try:
        text = data.decode("utf-8")
    except UnicodeDecodeError as error:
        line += data.count(b"\n", 0, error.start)
        raise InputError(f"{path}, line {line}: not UTF-8 ({error.reason}): save the file as UTF-8.") from None
    if "\0" in text:
        # Also what UTF-16 looks like when it has no byte order mark.
        line += text.count("\n", 0, text.index("\0"))
        raise InputError(f"{path}, line {line}: there is a NUL character: the file is damaged or not UTF-8.")
    return text


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


def _used(path: Path, names: Sequence[str], usecols: Collection[str | None] | None) -> list[str]:
    """Returns the names to read, in the file's order; refuses a name that occurs twice or is not text."""
    used = [name for name in names if usecols is None or name in usecols]
    for name in used:
        try:
            name.encode()
        except UnicodeEncodeError as error:  # JSON can spell half of a surrogate pair, which is not a character
            raise InputError(
                f"{path}: the column {short(name)} is not text ({error.reason}): give it a name."
            ) from None
    twice = sorted({name for name in used if used.count(name) > 1})
    if twice:
        raise InputError(f"{path}: the column {short(twice[0])} occurs twice: give each column its own name.")
    return used


def _array(path: Path, name: str, lines: Sequence[int], values: list, form: str) -> pa.Array:
    try:
        return pa.array(values)
    except (*_UNUSABLE, ValueError, OverflowError) as error:
        # Only JSON gets here: a column with values of several types, or with one that Arrow cannot hold.
        first = next(value for value in values if value is not None)
        for line, value in zip(lines, values, strict=True):
            reason = _why_unusable(value, form)
            if reason is not None:
                raise InputError(f"{path}, line {line}: {name!r} is {short(value)}, which {reason}.") from None
            try:
                pa.array([first, value])
            except (*_UNUSABLE, ValueError, OverflowError):
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
    except _UNUSABLE:
        return f"holds values of several kinds, which cannot stand in one column: give {form}"
    return None


def _check_rows(path: Path, rows: Sequence | str) -> None:
    if not rows:
        raise InputError(f"{path} has no rows: give a file with data.")
