"""The classes in a column of labels, with a warning or an error for unintended ones."""

import logging
import math
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping

from ckd_trainer.data.table import Table
from ckd_trainer.utils.errors import InputError, agreeing, first_of, short

logger = logging.getLogger(__name__)

MANY = 10  # with up to this many classes, each row of a small file may have its own class
# The ways in which pandas, Python and spreadsheets write a missing value.
MISSING = {"nan", "NaN", "NaT", "None", "null", "NULL", "<NA>", "N/A", "#N/A"}


def class_names(table: Table, column: str) -> list[str]:
    """Returns the classes of a training set, sorted, numerically if all of them are whole numbers.

    Warns of names that differ only in case, spaces or the notation of a number, of names that look like missing
    values, of classes with one row, and of numbers that look like scores.

    Args:
        table: A `ckd_trainer.data.table.Table`.
        column: The name of its column of labels.

    Raises:
        InputError: what `Table.words` refuses; only one class; more classes than half of the rows (and more than ten),
            as when numbers to predict or a column of ids are read as classes.

    Example::

        class_names(open_table("train.csv"), "label")  # ["negative", "neutral", "positive"]
    """
    words = table.words(column)
    if len(set(words)) == 1:
        raise InputError(f"{table.source}: every label ({column!r}) is {short(words[0])}: give two classes or more.")
    return sorted_names(table, column, Counter(words), rows=len(words))


def sorted_names(table: Table, column: str, counts: Mapping[str, int], *, rows: int) -> list[str]:
    """Returns the names of labels as `class_names` does, with its warnings and its error for too many.

    Args:
        counts: {name: the number of rows that have it}.
        rows: their number.
    """
    names = sorted(counts)
    has_fractions = _has_fractions(names)
    if 2 * len(names) > rows and (len(names) > MANY or has_fractions):
        raise InputError(
            f"{table.source}: the labels ({column!r}) of {rows} rows name {len(names)} classes "
            f"({first_of(names)}): set regression if they are numbers to predict, name the column of the classes with "
            "label_column, or give more rows of each class."
        )
    if has_fractions:
        logger.warning(
            "%s: the labels (%r) are numbers with fractions (%s), read as %d classes: set regression to predict "
            "numbers.",
            table.source,
            column,
            first_of(names),
            len(names),
        )
    for what, odd in (
        (("looks alike", "look alike"), _look_alikes(names)),
        (("looks like a missing value", "look like missing values"), [name for name in names if name in MISSING]),
        (("has one row", "have one row each"), [name for name in names if counts[name] == 1]),
    ):
        if odd:
            logger.warning(
                "%s: %d of %d classes (%r) %s (%s): check that each of them is intended.",
                table.source,
                len(odd),
                len(names),
                column,
                agreeing(len(odd), *what),
                _with_counts(odd, counts),
            )
    try:
        return sorted(names, key=lambda name: (int(name), name))
    except ValueError:
        return names


def _with_counts(names: list[str], counts: Mapping[str, int], most: int = 10) -> str:
    rows = [f"{short(name)}: {counts[name]}" for name in names[:most]]
    return ", ".join(rows) + (", ..." if len(names) > most else "")


def _look_alikes(names: list[str]) -> list[str]:
    """Returns the names that look like another one, grouped by their looks."""
    groups = defaultdict(list)
    for name in names:
        groups[_looks(name)].append(name)
    return [name for group in groups.values() if len(group) > 1 for name in group]


def advice_for(word: str, names: Iterable[str]) -> str:
    """Returns the end of a message about an unknown label: a name that looks alike; empty if there is none."""
    alike = [name for name in names if _looks(name) == _looks(word)]
    return f" Write it as {short(alike[0])}." if alike else ""


def _looks(name: str) -> str | float:
    """Returns a name without case, spaces and invisible characters, or the number that it spells."""
    text = unicodedata.normalize("NFKC", name).casefold()
    text = "".join(char for char in text if not char.isspace() and unicodedata.category(char) != "Cf")
    number = _number(text)
    return text if number is None else number


def _has_fractions(names: list[str]) -> bool:
    numbers = [_number(name) for name in names]
    return None not in numbers and not all(number.is_integer() for number in numbers if number is not None)


def _number(text: str) -> float | None:
    """Returns the finite number that a text spells, or None."""
    try:
        number = float(text)
    except ValueError:
        return None
    if "_" in text:  # only Python reads 1_1 as 11
        return None
    return number if math.isfinite(number) else None
