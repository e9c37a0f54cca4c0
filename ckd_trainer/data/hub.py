"""Data sets by name: on the Hub, in a folder made by `save_to_disk`, or in a folder of csv, JSON or parquet files."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import pyarrow as pa
from datasets import ClassLabel, Dataset, IterableDataset, Value

from ckd_trainer.data.arguments import DataArguments
from ckd_trainer.data.splits import Place, Reading, exists, open_splits
from ckd_trainer.data.table import Table
from ckd_trainer.utils.errors import InputError, first_of, short


def hub_name(arguments: DataArguments, prefix: str = "") -> str | None:
    """Returns `dataset_name` if it is a name on the Hub, None if it is a local folder or not set.

    Args:
        prefix: the beginning of the option's name, if it is that of another data set.
    """
    name = getattr(arguments, f"{prefix}dataset_name")
    return name if name and not exists(name) else None


class Rows(NamedTuple):
    """The rows of a split that are read from where they are, without a copy on this disk.

    Attributes:
        data: a `Dataset` if the split was made by `save_to_disk` and can be memory-mapped.
        source: the names of the data set and the split, for messages.
        origin: the files with their commits or times of change; None for a `Dataset`.
    """

    data: IterableDataset | Dataset
    source: str
    origin: str | None


class NamedDataset:
    """The splits of the data set that `arguments.dataset_name` names.

    Args:
        prefix: the beginning of the names of the options, if it is another data set.
        quoting: how csv and tsv files in a folder are quoted, see `ckd_trainer.data.delimited.split_rows`.
        streaming: whether to read only `rows`, which copies nothing to this disk.
        stream_lines: whether to do so if this is a folder of .txt files.

    Attributes:
        has_lines: with `stream_lines`, whether this is a folder of .txt files, of which each line is a row.

    Raises:
        InputError: the Hub cannot be reached or does not know the name, the configuration is missing, the folder is
            damaged.

    Example::

        data = NamedDataset(GlueArguments(dataset_name="stanfordnlp/imdb", validation_split_name="test"))
        data.class_names("label")  # ["neg", "pos"]
    """

    def __init__(
        self,
        arguments: DataArguments,
        prefix: str = "",
        *,
        quoting: str = "auto",
        streaming: bool = False,
        stream_lines: bool = False,
    ) -> None:
        self.arguments, self.prefix = arguments, prefix
        option = f"{prefix}dataset_"
        place = Place(option, *(getattr(arguments, option + part) for part in ("name", "config_name", "revision")))
        self.source = ", ".join(filter(None, (place.name, place.config)))
        self.splits, self._origins, self.has_lines = open_splits(place, Reading(quoting, streaming, stream_lines))
        if not self.splits:
            raise InputError(f"{prefix}dataset_name is {self.source}, which has no splits: give another data set.")

    @property
    def has_test(self) -> bool:
        """Whether there is a split to predict, or the user named one."""
        return bool(self.arguments.test_split_name) or "test" in self.splits

    def class_names(self, column: str) -> list[str] | None:
        """Returns the names of a `ClassLabel` column, None if there is no such column or it has another type.

        The names come from the training split, or from the first split if there is none.

        Raises:
            InputError: there are fewer than two names.
        """
        name = self._name("train")
        data = self.splits[name if name in self.splits else next(iter(self.splits))]
        feature = data.features.get(column)
        if not isinstance(feature, ClassLabel):
            return None
        if len(feature.names) < 2:
            raise InputError(
                f"{self.source}: the labels ({column!r}) have fewer than two names "
                f"({first_of(feature.names)}): give two classes or more."
            )
        return list(feature.names)

    def columns(self, split: str) -> list[str]:
        """Returns the names of the columns of a split; raises InputError if there is no such split."""
        data, _ = self._checked(split, [], [], "")
        return list(data.features)

    def table(
        self, split: str, *, texts: Sequence[str], label: str | None, advice: str, others: Sequence[str] = ()
    ) -> Table:
        """Reads columns of the split for training, evaluation or prediction.

        Args:
            split: "train", "validation" or "test"; the arguments may give it another name in the data set.
            texts: the columns of texts.
            label: one more column, of any type; None to read no label.
            advice: the end of error messages about columns.
            others: more columns, of any type.

        Raises:
            InputError: no such split or column, a text column that does not hold texts, no rows, damaged data.
        """
        columns = list(dict.fromkeys([*texts, *others, *([label] if label else [])]))
        data, source = self._checked(split, columns, texts, advice)
        if len(data) == 0:
            raise InputError(f"{source} has no rows: give a split with data.")
        read = data.select_columns(columns)
        try:
            read.data.validate(full=True)  # otherwise a damaged file could crash Python
        except pa.ArrowException as error:
            raise InputError(f"{source} is damaged ({error}): save or download it again.") from None
        return Table(read, source, range(1, len(read) + 1), unit="row")

    def rows(self, split: str, *, text: str, advice: str) -> Rows:
        """Returns the rows of a split with a column of texts, which are read later.

        Args:
            split, advice: as for `table`.
            text: the column of texts.

        Raises:
            InputError: no such split or column, or the column does not hold texts. Some data sets show their columns
                only once they are read.
        """
        data, source = self._checked(split, [text], [text], advice)
        return Rows(data, source, self._origins.get(self._name(split)))

    def _checked(self, split: str, columns: Sequence[str], texts: Sequence[str], advice: str) -> tuple[Any, str]:
        """Returns the data of a split, and its name for messages; checks that it has these columns."""
        name = self._name(split)
        if name not in self.splits:
            raise InputError(
                f"{self.source} has no split {name!r}: it has {first_of(list(self.splits), 20)}. Choose another "
                f"with {self._option(split)}."
            )
        # A format that was saved with the data set would convert its values to tensors.
        data, source = self.splits[name].with_format(None), f"{self.source}, {name}"
        if data.features is None:
            return data, source
        for column in columns:
            if column not in data.features:
                raise InputError(f"{source} has no column {column!r}: it has {_described(data.features)}; {advice}.")
        for column in texts:
            if not _is_text(data.features[column]):
                raise InputError(
                    f"{source}: the column {column!r} does not hold texts: the data set has "
                    f"{_described(data.features)}; {advice}."
                )
        return data, source

    def _name(self, split: str) -> str:
        return getattr(self.arguments, self._option(split)) or split

    def _option(self, split: str) -> str:
        return f"{self.prefix or f'{split}_'}split_name"


def _is_text(feature: object) -> bool:
    return isinstance(feature, Value) and feature.dtype in ("string", "large_string")


def _described(features: Mapping[str, Any], most: int = 20) -> str:
    """Returns the names of the columns; those that do not hold texts with their type."""
    columns = [
        short(name) if _is_text(feature) else f"{short(name)} ({_kind(feature)})"
        for name, feature in list(features.items())[:most]
    ]
    return ", ".join(columns) + (", ..." if len(features) > most else "")


def _kind(feature: object) -> str:
    return feature.dtype if isinstance(feature, Value) else type(feature).__name__
