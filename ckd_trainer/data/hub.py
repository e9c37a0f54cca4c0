"""Data sets by name: on the Hub, in a folder made by `save_to_disk`, or in a folder of csv, JSON or parquet files."""

import os
import pkgutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import datasets
import pyarrow as pa
import yaml
from datasets import ClassLabel, Dataset, DatasetBuilder, DatasetDict, IterableDataset, Value, packaged_modules
from datasets.data_files import DataFilesList
from datasets.exceptions import DatasetGenerationError, DatasetsError
from datasets.packaged_modules.csv.csv import CsvConfig
from datasets.packaged_modules.text.text import TextConfig
from huggingface_hub.errors import HTTPError

from ckd_trainer.data.arguments import DataArguments
from ckd_trainer.data.parts import read_parts
from ckd_trainer.data.tables import Table
from ckd_trainer.utils.errors import (
    NO_ACCESS,
    NO_ROOM,
    InputError,
    TemporaryError,
    about_file,
    first_of,
    is_for_user,
    short,
)

Data = TypeVar("Data")

# About configurations and values, the network, a missing library, broken YAML in README.md, damaged files.
ABOUT_DATA = (ValueError, ImportError, HTTPError, yaml.YAMLError, pa.ArrowException, DatasetsError)
_ADVICE = "give a folder made by save_to_disk, or one with csv, JSON or parquet files"
_FORMATS = {module.name for module in pkgutil.iter_modules(packaged_modules.__path__)}  # csv, json, parquet, ...


def hub_name(arguments: DataArguments, prefix: str = "") -> str | None:
    """Returns `dataset_name` if it is a name on the Hub, None if it is a local folder or not set.

    Args:
        prefix: the beginning of the option's name, if it is that of another data set.
    """
    name = getattr(arguments, f"{prefix}dataset_name")
    return name if name and not _exists(name) else None


class _Splits(NamedTuple):
    """The splits of a data set by name, and the origin of those that are streamed, see `Rows`."""

    data: Mapping[str, Any]
    origins: Mapping[str, str] = {}
    has_lines: bool = False


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
        name, config, revision = (
            getattr(arguments, f"{prefix}dataset_{part}") for part in ("name", "config_name", "revision")
        )
        self.source = ", ".join(filter(None, (name, config)))
        option = f"{prefix}dataset_name"
        self.splits, self._origins, self.has_lines = _load(
            name, config, revision, option, quoting, streaming, stream_lines
        )
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


def _exists(name: str) -> bool:
    try:
        return Path(name).exists()
    except (OSError, ValueError):  # too long for a path, a NUL in it
        return False


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


def _load(
    name: str,
    config: str | None,
    revision: str | None,
    option: str,
    quoting: str,
    streaming: bool,
    stream_lines: bool,
) -> _Splits:
    if not _exists(name):
        return _from_hub(name, config, revision, option, streaming)
    folder = Path(name)
    if not folder.is_dir():
        raise InputError(
            f"{option} is {name}, which is a file: give a folder, or give the file as {_file_of(option)}."
        )
    if revision:
        raise InputError(
            f"{option.removesuffix('name')}revision is set, but {option} {name} is a local folder: leave it out."
        )
    if not _is_saved(folder):
        # A path, as `load_dataset` takes a name such as csv for the format even where a folder has this name.
        place, message = str(folder.resolve()), f"{option} is {name}, which"
        return _read(place, config, None, message, _ADVICE, streaming, quoting, stream_lines)
    if config:
        raise InputError(
            f"{option.removesuffix('name')}config_name is set, but {option} {name} was made by save_to_disk, which "
            "saves one configuration: leave it out."
        )
    data = loaded(
        lambda: datasets.load_from_disk(name),
        name=f"{option} is {name}, a folder of save_to_disk that",
        advice="save the data set again",
        also=(KeyError, TypeError, AttributeError),  # about JSON files of another form
    )
    if isinstance(data, DatasetDict):
        return _Splits(data)
    recorded = str(data.split or "").partition("[")[0]  # "train" of "train[:10%]", but all of "train+test"
    return _Splits({recorded or "train": data})


def _is_saved(folder: Path) -> bool:
    """Returns whether `save_to_disk` made a folder."""
    return any((folder / file).is_file() for file in ("dataset_dict.json", "state.json"))


def _file_of(option: str) -> str:
    return "unlabeled_file" if option.startswith("unlabeled") else "train_file"


def _from_hub(name: str, config: str | None, revision: str | None, option: str, streaming: bool) -> _Splits:
    if name in _FORMATS:  # `load_dataset` would read any files in the working directory
        raise InputError(f"{option} is {name}, which is a file format: give a folder, or files as {_file_of(option)}.")
    config_name, revision_name = (f"{option.removesuffix('name')}{part}" for part in ("config_name", "revision"))
    advice = f"check the name, {config_name}, {revision_name} and the network, or give a local folder"
    return _read(name, config, revision, f"{option} is {name}, which", advice, streaming)


def _read(
    place: str,
    config: str | None,
    revision: str | None,
    name: str,
    advice: str,
    streaming: bool,
    quoting: str | None = None,
    stream_lines: bool = False,
) -> _Splits:
    """Returns what `_load` does; `quoting` is that of a folder, and None for the Hub."""

    def load() -> _Splits:
        if quoting is None and not streaming:
            return _Splits(datasets.load_dataset(place, config, revision=revision))
        builder = datasets.load_dataset_builder(place, config, revision=revision)
        files = builder.config.data_files or {}
        origins = {
            str(split): f"{[_within(str(file), place) for file in part]} {part.origin_metadata}"
            for split, part in files.items()
        }
        if quoting is not None and _is_delimited(builder):
            parts = {str(split): _delimited(part, quoting, streaming) for split, part in files.items()}
            return _Splits(parts, origins)
        has_lines = stream_lines and isinstance(builder.config, TextConfig) and builder.config.sample_by == "line"
        if streaming or has_lines:
            return _Splits(builder.as_streaming_dataset(), origins, has_lines)
        builder.download_and_prepare()
        return _Splits(builder.as_dataset())

    return loaded(load, name=name, advice=advice)


def _is_delimited(builder: DatasetBuilder) -> bool:
    """Returns whether the files are csv or tsv, and the folder's README.md does not say how to read them."""
    config = builder.config
    if not isinstance(config, CsvConfig) or builder.info.features is not None:
        return False
    files = [str(file) for part in config.data_files.values() for file in part]
    is_plain = config.pd_read_csv_kwargs == CsvConfig(sep=config.sep).pd_read_csv_kwargs and config.sep in (",", "\t")
    return is_plain and all(file.lower().endswith((".csv", ".tsv")) for file in files)


def _delimited(files: DataFilesList, quoting: str, streaming: bool) -> Dataset | IterableDataset:
    """Returns the rows of csv and tsv files as those of `train_file` are read, and not by the rules of pandas."""
    kind, group = (IterableDataset, list) if streaming else (Dataset, tuple)  # a list is a list of shards
    # The files are read again if their metadata, such as the time of change, differ.
    options = {"files": group(map(str, files)), "metadata": group(map(str, files.origin_metadata)), "quoting": quoting}
    return kind.from_generator(_rows_of, gen_kwargs=options)


def _rows_of(files: Sequence[str], metadata: Sequence[str], quoting: str) -> Iterator[dict[str, str]]:
    names: Sequence[str] | None = None
    for file in files:
        for part in read_parts(file, usecols=None, quoting=quoting):
            names = names or part.names
            if part.names != names:
                raise InputError(
                    f"{file} has the columns {first_of(part.names, 20)}, but {files[0]} has {first_of(names, 20)}: "
                    "give all files of a split the same columns."
                )
            yield from part.data.data.to_pylist()


def _within(file: str, place: str) -> str:
    """Returns the path of a file within its data set: below the folder `place`, or after a revision on the Hub."""
    _, revision, path = file.partition("@")
    if file.startswith("hf://") and revision:
        return path.partition("/")[2]
    return os.path.relpath(file, os.path.abspath(place)) if os.path.isdir(place) else file


def loaded(load: Callable[[], Data], *, name: str, advice: str, also: tuple[type[Exception], ...] = ()) -> Data:
    """Returns what a loading function of `datasets` returns.

    Args:
        name, advice: the beginning and end of the message about data that cannot be loaded.
        also: more exceptions that this function raises about the data.

    Raises:
        InputError: the function complains about the data, the Hub or the network, or the disk is full or closed. Any
            other exception is raised as it is.
    """
    try:
        return load()
    except Exception as error:
        # A builder wraps whatever it fails on.
        reason = error.__cause__ if isinstance(error, DatasetGenerationError) and error.__cause__ else error
        is_script = isinstance(reason, RuntimeError) and "scripts" in str(reason)  # "no longer supported"
        if isinstance(reason, InputError):
            raise reason from None
        if isinstance(reason, OSError):
            if not is_for_user(reason):
                raise
            if reason.errno in NO_ROOM | NO_ACCESS:
                raise TemporaryError(about_file(reason)) from error
        elif not isinstance(reason, (*ABOUT_DATA, *also)) and not is_script:
            raise
        raise InputError(f"{name} cannot be loaded ({_one_line(reason)}): {advice}.") from error


def _one_line(error: BaseException) -> str:
    """Returns the text of an error in one line, without a Python example that may follow it."""
    words = " ".join(str(error).partition("Example of usage")[0].split()).rstrip(".")
    return f"{words[:400]}..." if len(words) > 400 else words or type(error).__name__
