"""Any number of labels per text: in a column of lists, or in one column of 0 and 1 for each label."""

import logging
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any

from datasets import ClassLabel

from ckd_trainer.data.classes import advice_for, sorted_names
from ckd_trainer.data.glue_arguments import GlueArguments
from ckd_trainer.data.table import Table
from ckd_trainer.data.text_files import read_text
from ckd_trainer.utils.errors import InputError, first_of, short
from ckd_trainer.utils.files import user_path

logger = logging.getLogger(__name__)

_OTHER_SEPARATORS = (",", ";", "|", "\t")
_FLAGS = {"0": 0, "1": 1, "0.0": 0, "1.0": 1, "false": 0, "true": 1}


class LabelSets:
    """Reads the labels of texts as the options say.

    Args:
        arguments: `GlueArguments` with `multi_label`.

    Attributes:
        columns: those that hold labels.

    Example::

        sets = LabelSets(GlueArguments(train_file="train.csv", multi_label=True, label_separator=";"))
        names = sets.names(table)  # ["anger", "joy", "surprise"]
        sets.read(table, names)[0]  # [0, 1, 1] where the label column holds "joy;surprise"
    """

    def __init__(self, arguments: GlueArguments) -> None:
        self._flags = arguments.label_column_names
        self.columns = self._flags or [arguments.label_column]
        self._separator = arguments.label_separator
        self._file = None if arguments.label_names_file is None else user_path(arguments.label_names_file)

    def names(self, table: Table) -> list[str]:
        """Returns the names of the labels, in the order of their ids.

        They are the columns of 0 and 1, the lines of label_names_file, the names of a `ClassLabel`, or the labels of
        the training set, sorted.

        Args:
            table: the training set.

        Raises:
            InputError: as `read`; fewer than two labels; a name that is there twice, or that reads as another id; no
                text of the training set has a label.
        """
        named = self._flags or self._names_in_file() or self._names_of_column(table)
        column = "".join(self.columns[:1])
        if not self._flags and self._holds_flags(table, named):
            raise InputError(
                f"{table.source}: the labels ({column!r}) are lists of 0 and 1, but a list holds the labels that "
                "apply: give their names or ids, or a column of 0 and 1 for each label as label_columns."
            )
        if named is None:
            items = list(self._items(table))
            if not any(items):
                raise InputError(
                    f"{table.source}: no text has a label ({column!r} is empty in every row): give labels."
                )
            self._check_separator(table)
            named = sorted_names(table, column, Counter(name for row in items for name in row), rows=len(items))
        if len(named) < 2:
            raise InputError(
                f"{table.source}: there is one label, {first_of(named)}: give two or more, or two classes without "
                "multi_label."
            )
        counts = [sum(flags) for flags in zip(*self.read(table, named), strict=True)]
        if not any(counts):
            raise InputError(f"{table.source}: no text has a label ({first_of(self.columns)}): give labels.")
        absent = [name for name, count in zip(named, counts, strict=True) if not count]
        if absent:
            logger.warning(
                "%s: %d of %d labels apply to no text (%s), so a model cannot learn them.",
                table.source,
                len(absent),
                len(named),
                first_of(absent),
            )
        if sum(counts) <= len(table.data) and not self._flags and max(map(len, self._items(table))) < 2:
            logger.warning(
                "%s: no text has two labels: leave multi_label out if each has exactly one, or set label_separator.",
                table.source,
            )
        return named

    def read(self, table: Table, names: Sequence[str]) -> list[list[int]]:
        """Returns a list of 0 and 1 for each text, one for each of the names. A text may have no label.

        Raises:
            InputError: a label that is not among the names, an id outside their range, a label twice, a list that is
                missing, an empty label, or a value of a column of 0 and 1 that is neither.
        """
        if self._flags:
            return [list(row) for row in zip(*(self._column_of_flags(table, name) for name in names), strict=True)]
        index = {name: place for place, name in enumerate(names)}
        rows = []
        for row, items in enumerate(self._items(table)):
            flags = [0] * len(names)
            for item in items:
                place = index[item] if item in index else self._id(table, row, item, names)
                if flags[place]:
                    raise InputError(
                        f"{table.place(row)}: the label {short(names[place])} is there twice: give each label once."
                    )
                flags[place] = 1
            rows.append(flags)
        return rows

    def _id(self, table: Table, row: int, item: str, names: Sequence[str]) -> int:
        """Returns the place of a label that is not one of the names, but an id of label_names_file."""
        known = "the training data have" if self._file is None else f"{self._file} names"
        what = f"{table.place(row)}: the label ({self.columns[0]!r}) is {short(item)}, but {known} {len(names)} labels"
        if item.isdecimal() and self._file is not None:
            if int(item) < len(names):
                return int(item)
            raise InputError(f"{what}, with the ids 0 to {len(names) - 1}: correct the label or the names.")
        other = next((one for one in _OTHER_SEPARATORS if one != self._separator and one in item), None)
        hint = advice_for(item, names)
        if other is not None:
            hint = f" Set label_separator to {other!r} if that separates labels."
        raise InputError(f"{what}: {first_of(names)}.{hint}")

    def _items(self, table: Table) -> Iterator[list[str]]:
        """Yields the labels of each text as words."""
        (column,) = self.columns
        names = self._names_of_column(table)
        items: list[Any]
        for row, value in enumerate(table.values(column)):
            if isinstance(value, str):
                items = [item.strip() for item in value.split(self._separator)] if value.strip() else []
            elif isinstance(value, list):
                items = value
            elif value is None:
                raise InputError(
                    f"{table.place(row)}: there are no labels ({column!r} is null): give an empty list for a text to "
                    "which none applies, and unlabeled_file for texts that nobody has labeled."
                )
            else:
                raise InputError(
                    f"{table.place(row)}: the labels ({column!r}) are {short(value)}: give a list, or a text with a "
                    "separator."
                )
            yield [
                self._word(table, row, item if names is None else _named(table, row, item, names)) for item in items
            ]

    def _word(self, table: Table, row: int, item: object) -> str:
        if isinstance(item, float) and item.is_integer():
            item = int(item)
        if isinstance(item, bool) or not isinstance(item, str | int):
            raise InputError(f"{table.place(row)}: a label is {short(item)}: give words or whole numbers.")
        word = str(item).strip()
        if "\t" in word or word.splitlines() != [word]:
            why = f"is {short(word)}: give labels without tabs and line breaks" if word else "is empty: leave it out"
            raise InputError(f"{table.place(row)}: a label {why}.")
        return word

    def _column_of_flags(self, table: Table, column: str) -> list[int]:
        flags = []
        for row, value in enumerate(table.values(column)):
            flag = _FLAGS.get(str(value).strip().casefold())
            if flag is None:
                what = "empty" if value is None or not str(value).strip() else short(value)
                raise InputError(
                    f"{table.place(row)}: {column!r} is {what}, which is neither 0 nor 1: correct it, and give texts "
                    "that nobody has labeled as unlabeled_file."
                )
            flags.append(flag)
        return flags

    def _holds_flags(self, table: Table, names: Sequence[str] | None) -> bool:
        """Returns whether all lists hold 0 or 1 for each label. As ids, they would give every text the same labels."""
        rows = [row.split(self._separator) if isinstance(row, str) else row for row in table.values(self.columns[0])]
        return (
            all(isinstance(row, list) and len(row) == len(rows[0]) > 1 for row in rows)
            and {str(item).strip().casefold() for row in rows for item in row} <= _FLAGS.keys()
            and (names is None or len(names) == len(rows[0]))
            and self._names_of_column(table) is None
        )

    def _check_separator(self, table: Table) -> None:
        """Raises InputError if the separator is in no label, but another one is."""
        texts = [value for value in table.values(self.columns[0]) if isinstance(value, str)]
        if not texts or any(self._separator in text for text in texts):
            return
        for other in _OTHER_SEPARATORS:
            rows = sum(other in text for text in texts)
            if rows:
                raise InputError(
                    f"{table.source}: {self._separator!r} separates labels in no row of {self.columns[0]!r}, but "
                    f"{other!r} is in {rows} of {len(texts)}: set label_separator to it."
                )

    def _names_of_column(self, table: Table) -> list[str] | None:
        """Returns the names of a column of lists of `ClassLabel`."""
        feature = getattr(table.data.features.get(self.columns[0]), "feature", None)
        if not isinstance(feature, ClassLabel):
            return None
        if self._file is not None:
            raise InputError(
                f"{table.source}: the labels ({self.columns[0]!r}) have names, but label_names_file is set: leave it "
                "out."
            )
        return list(feature.names)

    def _names_in_file(self) -> list[str] | None:
        if self._file is None:
            return None
        names = [name.strip() for name in read_text(self._file).rstrip().splitlines()]
        for line, name in enumerate(names, 1):
            place = f"{self._file}, line {line}"
            if not name:
                raise InputError(f"{place}: the line is blank: give the name of a label on each line.")
            if names.index(name) < line - 1:
                raise InputError(f"{place}: the label {short(name)} is there twice: give each label once.")
            if name.isdecimal() and int(name) != line - 1 and int(name) < len(names):
                raise InputError(
                    f"{place}: the label {short(name)} reads as the id of line {int(name) + 1}, as ids count from 0: "
                    "give names that are not numbers, or leave label_names_file out."
                )
        return names


def _named(table: Table, row: int, item: int | None, names: Sequence[str]) -> str | None:
    """Returns the name of an id in a column of lists of `ClassLabel`."""
    if item is None or 0 <= item < len(names):
        return None if item is None else names[item]
    raise InputError(
        f"{table.place(row)}: a label is {item}, but the column has {len(names)} names, for 0 to {len(names) - 1} "
        f"({first_of(names)}): correct the label or the names."
    )
