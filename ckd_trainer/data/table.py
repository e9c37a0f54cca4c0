"""The rows of a file or data set with the place of each, and what all readers of tables check."""

import dataclasses
import logging
import math
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
from datasets import ClassLabel, Dataset

from ckd_trainer.utils.errors import InputError, agreeing, first_of, short

logger = logging.getLogger(__name__)

# Errors of Arrow for content that it cannot read or hold; running out of memory is not among them.
UNUSABLE = (
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


def state_of(data: Dataset) -> str:
    """Returns a fingerprint of a data set: of its files, or of the commands that made it; its rows are not read."""
    return data._fingerprint


def dataset_of(path: Path, table: pa.Table) -> Dataset:
    """Returns a table of Arrow as a data set; raises InputError if its columns cannot be used."""
    try:
        return Dataset(table)
    except (*UNUSABLE, ValueError, RecursionError) as error:
        names = first_of(table.column_names, 20)
        raise InputError(f"{path}: the columns {names} cannot be used ({error}): give texts and numbers.") from None


def used_columns(path: Path, names: Sequence[str], usecols: Collection[str | None] | None) -> list[str]:
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


def check_rows(path: Path, rows: Sequence | str) -> None:
    """Raises InputError if a file has no rows, or no text."""
    if not rows:
        raise InputError(f"{path} has no rows: give a file with data.")
