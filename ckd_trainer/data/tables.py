"""Reads csv, tsv, JSON lines and parquet files strictly: what is in the file, or an error that names the line.

Python's csv module does the splitting, so that quotes are text in tsv files (as in GLUE's) and protect commas and line
breaks in csv files (RFC 4180).
"""

import codecs
import csv
import io
import json
import math
from collections.abc import Sequence
from dataclasses import dataclass

import pyarrow as pa
import pyarrow.parquet as pq
from datasets import ClassLabel, Dataset

from ckd_trainer.errors import InputError
from ckd_trainer.files import user_path


@dataclass(frozen=True)
class Table:
    """The rows of a file, and where each of them stands in it, so that an error about a row can name the line."""

    data: Dataset
    source: str
    lines: Sequence[int]  # of each row, from 1
    unit: str = "line"

    def place(self, row):
        """Where row `row` (from 0) stands, as an error message says it: "train.csv, line 7"."""
        return f"{self.source}, {self.unit} {self.lines[row]}"

    def texts(self, column):
        """The values of a column of texts, as a list of str. InputError: no such column, a value that is not text."""
        values = self._values(column)
        for row, value in enumerate(values):
            if value is None:
                raise InputError(f"{self.place(row)}: there is no {column!r} (null or missing): give a text.")
            if not isinstance(value, str):
                raise InputError(f"{self.place(row)}: {column!r} is {value!r}, which is not text: put it in quotes.")
        return values

    def words(self, column):
        """The classes of a column of labels, as a list of str: 3 and "3" are one class, and so are 3.0 and 3.

        InputError: no such column, an empty label, a number with a fraction, a list or a mapping.
        """
        values = self._values(column)
        feature = self.data.features[column]
        if isinstance(feature, ClassLabel):
            # -1 is how `datasets` writes "not labelled".
            values = [None if value in (None, -1) else feature.names[value] for value in values]
        words = []
        for row, value in enumerate(values):
            self._check_label(column, row, value)
            if isinstance(value, float):
                if not value.is_integer():
                    raise InputError(
                        f"{self.place(row)}: the label ({column!r}) is {value!r}, which names no class: give whole "
                        "numbers or words, or set regression to predict numbers."
                    )
                value = int(value)
            if not isinstance(value, str | int):
                raise InputError(f"{self.place(row)}: the label ({column!r}) is {value!r}: give a word or a number.")
            words.append(str(value))
        return words

    def numbers(self, column):
        """The values of a column of numbers (as such or in words), as a list of float.

        InputError: no such column, an empty label, a label that is not a finite number.
        """
        numbers = []
        for row, value in enumerate(self._values(column)):
            self._check_label(column, row, value)
            try:
                number = math.nan if isinstance(value, bool) else float(value)
            except (TypeError, ValueError):
                number = math.nan
            if not math.isfinite(number):
                raise InputError(f"{self.place(row)}: the label ({column!r}) is {value!r}, which is not a number.")
            numbers.append(number)
        return numbers

    def _values(self, column):
        if column not in self.data.column_names:
            names = ", ".join(repr(name) for name in self.data.column_names)
            raise InputError(f"{self.source} has no column {column!r}: it has {names}.")
        return self.data[column][:]

    def _check_label(self, column, row, value):
        if value is None or value == "":
            raise InputError(f"{self.place(row)}: the label ({column!r}) is empty: give one, or leave the row out.")


def read_table(path, *, columns=None):
    """Reads a table; the suffix says how: .csv, .tsv, .json or .jsonl (one object a line), .parquet.

    All values of csv and tsv files are str, exactly as written: nothing is stripped, and in tsv files quotes are text.
    Keys that a JSON line lacks are null. Blank lines at the end are ignored, and so is a byte order mark.

    Args:
        path: The file.
        columns: The names of the columns of a csv or tsv file without a header line.

    Returns:
        A `datasets.Dataset` in memory, with the file's columns in the file's order.

    Raises:
        InputError: no such file, an unknown suffix, no rows, not UTF-8, a column name that occurs twice, a row with
            another number of fields than the header, a line that is not JSON (with file and line).

    Example::

        read_table("MRPC/dev.tsv")["#1 String"][0]
        read_table("CoLA/dev.tsv", columns=["source", "label", "mark", "sentence"])
    """
    return open_table(path, columns=columns).data


def open_table(path, *, columns=None):
    """Reads a table as `read_table` does, and returns it with the place of each row: a `Table`."""
    path = user_path(path)
    suffix = path.suffix.lower()
    if suffix not in (".csv", ".tsv", ".json", ".jsonl", ".parquet"):
        raise InputError(f"{path} has the suffix {suffix!r}: give a .csv, .tsv, .json, .jsonl or .parquet file.")
    if not path.is_file():
        raise InputError(f"{path} is {'a folder' if path.is_dir() else 'missing'}: give an existing {suffix} file.")
    if suffix == ".parquet":
        return _open_parquet(path)
    text = read_text(path)
    if suffix in (".json", ".jsonl"):
        lines, data = _read_json(path, text)
    else:
        lines, data = _read_fields(path, text, suffix, columns)
    _check_rows(path, data and lines)  # objects without a key are no rows of a table
    arrays = {name: _array(path, name, lines, values) for name, values in data.items()}
    return Table(_dataset(path, pa.table(arrays)), str(path), lines)


def _open_parquet(path):
    try:
        table = pq.ParquetFile(path).read()
        table.validate(full=True)  # that texts are UTF-8, as well
    except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
        what = str(error).replace("UTF8", "UTF-8")
        raise InputError(f"{path} is not a parquet file that can be read ({what}).") from None
    _check_names(path, table.column_names)
    _check_rows(path, range(table.num_rows))
    return Table(_dataset(path, table), str(path), range(1, table.num_rows + 1), unit="row")


def _dataset(path, table):
    try:
        return Dataset(table)
    except (pa.ArrowException, ValueError, RecursionError) as error:
        names = ", ".join(map(repr, table.column_names))
        raise InputError(
            f"{path} has columns that cannot be used ({error}; there are {names}): leave them out."
        ) from None


def unique_keys(pairs):
    """For json's object_pairs_hook: refuses a key that occurs twice, of which json keeps the last and says nothing."""
    mapping = dict(pairs)
    if len(mapping) < len(pairs):
        names = [name for name, _ in pairs]
        raise ValueError(f"the key {next(name for name in names if names.count(name) > 1)!r} occurs twice")
    return mapping


def read_text(path):
    """Reads a text file that is UTF-8, has no NUL characters and is not empty; leaves out a byte order mark."""
    data = path.read_bytes().removeprefix(codecs.BOM_UTF8)
    try:
        text = data.decode("utf-8")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise InputError(f"{path}, line {line}: not UTF-8 ({error.reason}): save the file as UTF-8.") from None
    if "\0" in text:
        # Also what UTF-16 looks like when it has no byte order mark.
        line = text.count("\n", 0, text.index("\0")) + 1
        raise InputError(f"{path}, line {line}: there is a NUL character: the file is damaged or not UTF-8.")
    _check_rows(path, text.strip())
    return text


def _read_fields(path, text, suffix, columns):
    """Returns the line of each row, and the columns as lists of str by name."""
    # The module's limit of 131,072 characters guards against runaway quotes, which strict reading reports; long texts
    # are legitimate.
    csv.field_size_limit(max(csv.field_size_limit(), len(text)))
    options = {"delimiter": "\t", "quoting": csv.QUOTE_NONE} if suffix == ".tsv" else {"strict": True}
    reader = csv.reader(io.StringIO(text, newline=""), **options)
    rows, lines, line = [], [], 1
    try:
        for row in reader:
            rows.append(row)
            lines.append(line)
            line = reader.line_num + 1  # a quoted field may have spanned several
    except csv.Error as error:
        raise InputError(f"{path}, line {line}: the row that starts here cannot be read ({error}).") from None
    while rows and not rows[-1]:
        rows.pop()
        lines.pop()
    names = rows[0] if columns is None else columns
    _check_names(path, names)
    advice = "tabs separate fields, quotes do not protect them" if suffix == ".tsv" else "quote a field with commas"
    for row, line in zip(rows, lines, strict=True):
        if not row:
            raise InputError(f"{path}, line {line}: the line is blank: delete it.")
        if len(row) != len(names):
            columns_text = f"{len(names)} ({', '.join(names)})"
            raise InputError(f"{path}, line {line}: the row has {len(row)} fields, not {columns_text}: {advice}.")
    if columns is None:
        rows, lines = rows[1:], lines[1:]
    return lines, dict(zip(names, zip(*rows, strict=True), strict=False))  # no columns without rows


def _read_json(path, text):
    """Returns the line of each object, and its values as lists by key (all keys of the file)."""
    rows = []
    # Not splitlines: JSON text may hold other Unicode line separators.
    for line, content in enumerate(text.rstrip().split("\n"), 1):
        try:
            row = json.loads(content, object_pairs_hook=unique_keys)
        except (ValueError, RecursionError) as error:  # also a number of thousands of digits, endless brackets
            what = f"{error.msg}, column {error.colno}" if isinstance(error, json.JSONDecodeError) else str(error)
            raise InputError(f"{path}, line {line}: this is not JSON ({what}): give one object a line.") from None
        if not isinstance(row, dict):
            raise InputError(f"{path}, line {line}: this is a {type(row).__name__}: give one object a line.")
        rows.append(row)
    names = dict.fromkeys(name for row in rows for name in row)
    _check_names(path, names)
    return range(1, len(rows) + 1), {name: [row.get(name) for row in rows] for name in names}


def _array(path, name, lines, values):
    try:
        return pa.array(values)
    except (pa.ArrowException, ValueError, OverflowError) as error:
        # Only JSON gets here: values of several kinds in a column, or one that has no place in Arrow.
        first = next(value for value in values if value is not None)
        for line, value in zip(lines, values, strict=True):
            try:
                pa.array([first, value])
            except (pa.ArrowException, ValueError, OverflowError):
                raise InputError(
                    f"{path}, line {line}: {name!r} is {value!r}, which cannot stand in one column with {first!r}: "
                    "give values of one kind."
                ) from None
        raise InputError(f"{path}: the values of {name!r} cannot stand in one column ({error}).") from None


def _check_names(path, names):
    for name in names:
        try:
            name.encode()
        except UnicodeEncodeError as error:  # JSON can spell half of a surrogate pair, which is no character
            raise InputError(f"{path}: the column {name!r} is not text ({error.reason}): give it a name.") from None
    twice = sorted({name for name in names if list(names).count(name) > 1})
    if twice:
        raise InputError(f"{path}: the column {twice[0]!r} occurs twice: give each column its own name.")


def _check_rows(path, rows):
    if not rows:
        raise InputError(f"{path} has no rows: give a file with data.")
