"""Opens the splits of a data set by name, wherever it is and whatever its format."""

import os
import pkgutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import datasets
import pyarrow as pa
import yaml
from datasets import Dataset, DatasetBuilder, DatasetDict, IterableDataset, packaged_modules
from datasets.data_files import DataFilesList
from datasets.exceptions import DatasetGenerationError, DatasetsError
from datasets.packaged_modules.csv.csv import CsvConfig
from datasets.packaged_modules.text.text import TextConfig
from huggingface_hub.errors import HTTPError

from ckd_trainer.data.parts import read_parts
from ckd_trainer.utils.errors import NO_ACCESS, NO_ROOM, InputError, TemporaryError, about_file, first_of, is_for_user
from ckd_trainer.utils.network import error_of_network

Data = TypeVar("Data")

# About configurations and values, the network, a missing library, broken YAML in README.md, damaged files.
ABOUT_DATA = (ValueError, ImportError, HTTPError, yaml.YAMLError, pa.ArrowException, DatasetsError)
_ADVICE = "give a folder made by save_to_disk, or one with csv, JSON or parquet files"
_FORMATS = {module.name for module in pkgutil.iter_modules(packaged_modules.__path__)}  # csv, json, parquet, ...


@dataclass(frozen=True)
class Place:
    """A data set on the Hub or in a folder.

    Attributes:
        option: the beginning of the options that name it: "dataset_".
    """

    option: str
    name: str
    config: str | None
    revision: str | None

    def __str__(self) -> str:
        return f"{self.option}name is {self.name}, which"


@dataclass(frozen=True)
class Reading:
    """How a data set is read, see `NamedDataset`."""

    quoting: str
    streaming: bool
    stream_lines: bool


class Splits(NamedTuple):
    """The splits of a data set; the origins of those that are streamed, see `Rows`; and whether they are lines."""

    data: Mapping[str, Any]
    origins: Mapping[str, str] = {}
    has_lines: bool = False


def open_splits(place: Place, reading: Reading) -> Splits:
    """Returns the splits of a data set; raises InputError if it cannot be opened."""
    if not exists(place.name):
        return _from_hub(place, reading)
    folder = Path(place.name)
    if not folder.is_dir():
        raise InputError(
            f"{place.option}name is {folder}, which is a file: give a folder, or give the file as {_file_of(place)}."
        )
    if place.revision:
        raise InputError(
            f"{place.option}revision is set, but {place.option}name {folder} is a local folder: leave it out."
        )
    if not _is_saved(folder):
        return _from_folder(place, reading)
    if place.config:
        raise InputError(
            f"{place.option}config_name is set, but {place.option}name {folder} was made by save_to_disk, which "
            "saves one configuration: leave it out."
        )
    data = loaded(
        lambda: datasets.load_from_disk(place.name),
        name=f"{place.option}name is {place.name}, a folder of save_to_disk that",
        advice="save the data set again",
        also=(KeyError, TypeError, AttributeError),  # about JSON files of another form
    )
    if isinstance(data, DatasetDict):
        return Splits(data)
    recorded = str(data.split or "").partition("[")[0]  # "train" of "train[:10%]", but all of "train+test"
    return Splits({recorded or "train": data})


def exists(name: str) -> bool:
    """Returns whether a data set's name is a path that exists."""
    try:
        return Path(name).exists()
    except (OSError, ValueError):  # too long for a path, a NUL in it
        return False


def _is_saved(folder: Path) -> bool:
    """Returns whether `save_to_disk` made a folder."""
    return any((folder / file).is_file() for file in ("dataset_dict.json", "state.json"))


def _file_of(place: Place) -> str:
    return "unlabeled_file" if place.option.startswith("unlabeled") else "train_file"


def _from_hub(place: Place, reading: Reading) -> Splits:
    if place.name in _FORMATS:  # `load_dataset` would read any files in the working directory
        raise InputError(f"{place} is a file format: give a folder, or files as {_file_of(place)}.")
    option = place.option

    def load() -> Splits:
        if not reading.streaming:
            return Splits(datasets.load_dataset(place.name, place.config, revision=place.revision))
        builder = datasets.load_dataset_builder(place.name, place.config, revision=place.revision)
        return Splits(builder.as_streaming_dataset(), _origins(builder, place.name))

    advice = f"check the name, {option}config_name, {option}revision and the network, or give a local folder"
    return loaded(load, name=str(place), advice=advice)


def _from_folder(place: Place, reading: Reading) -> Splits:
    # A path, as `load_dataset` takes a name such as csv for the format even where a folder has this name.
    path = str(Path(place.name).resolve())

    def load() -> Splits:
        builder = datasets.load_dataset_builder(path, place.config)
        origins = _origins(builder, path)
        if _is_delimited(builder):
            files = builder.config.data_files.items()
            parts = {str(split): _delimited(part, reading.quoting, reading.streaming) for split, part in files}
            return Splits(parts, origins)
        config = builder.config
        has_lines = reading.stream_lines and isinstance(config, TextConfig) and config.sample_by == "line"
        if reading.streaming or has_lines:
            return Splits(builder.as_streaming_dataset(), origins, has_lines)
        builder.download_and_prepare()
        return Splits(builder.as_dataset())

    return loaded(load, name=str(place), advice=_ADVICE)


def _origins(builder: DatasetBuilder, place: str) -> dict[str, str]:
    """Returns {split: its files, with their commits or times of change}."""
    return {
        str(split): f"{[_within(str(file), place) for file in part]} {part.origin_metadata}"
        for split, part in (builder.config.data_files or {}).items()
    }


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
    names: Sequence[str] = ()
    for file in files:
        for part in read_parts(file, usecols=None, quoting=quoting):
            columns = part.names or ()
            names = names or columns
            if columns != names:
                raise InputError(
                    f"{file} has the columns {first_of(columns, 20)}, but {files[0]} has {first_of(names, 20)}: "
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
        InputError: the function complains about the data, the Hub or the network, or the disk is full or closed;
            a `TemporaryError` for the disk, or if the Hub is out of reach. Any other exception is raised as it is.
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
        raise error_of_network(reason)(f"{name} cannot be loaded ({_one_line(reason)}): {advice}.") from error


def _one_line(error: BaseException) -> str:
    """Returns the text of an error in one line, without a Python example that may follow it."""
    words = " ".join(str(error).partition("Example of usage")[0].split()).rstrip(".")
    return f"{words[:400]}..." if len(words) > 400 else words or type(error).__name__
