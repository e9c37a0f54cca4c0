"""Texts without labels: read in parts and kept on disk, so that memory does not grow with their number."""

import os
from collections.abc import Iterator, Mapping
from pathlib import Path

import pyarrow as pa
from datasets import Dataset

from ckd_trainer.data.arguments import DataArguments
from ckd_trainer.data.hub import NamedDataset
from ckd_trainer.data.ner_arguments import NerArguments
from ckd_trainer.data.parts import read_parts
from ckd_trainer.data.table import Table, check_blank, is_blank


def check_unlabeled(arguments: DataArguments, columns: Mapping[str, str]) -> None:
    """Reads the first part of local texts; raises InputError if it is malformed or lacks a column."""
    if arguments.unlabeled_file or os.path.isdir(arguments.unlabeled_dataset_name or ""):
        part = next(_parts(arguments, columns))
        for column in columns.values():
            part.texts(column)


def load_unlabeled(arguments: DataArguments, columns: Mapping[str, str], folder: Path) -> Dataset:
    """Returns the unlabeled texts, memory-mapped from a file in a folder.

    Args:
        arguments: name the file or the data set.
        columns: {name of the result's column: name of the column in the source}.

    Raises:
        InputError: the source cannot be read, lacks a column, or holds something that is not text, or blank texts
            alone.
    """
    path, source, count = folder / "unlabeled.arrow", "", 0
    blank = dict.fromkeys(columns.values(), 0)
    first: dict[str, str] = {}  # {column: place of its first blank text}
    schema = pa.schema([(name, pa.large_string()) for name in columns])
    with pa.OSFile(str(path), "wb") as file, pa.ipc.new_stream(file, schema) as writer:
        for part in _parts(arguments, columns):
            texts = {name: part.texts(column) for name, column in columns.items()}
            for name, column in columns.items():
                rows = [row for row, text in enumerate(texts[name]) if is_blank(text)]
                blank[column] += len(rows)
                if rows:
                    first.setdefault(column, f"{part.unit} {part.lines[rows[0]]}")
            source, count = part.source, count + len(part.data)
            arrays = {name: pa.array(values, pa.large_string()) for name, values in texts.items()}
            writer.write_table(pa.table(arrays, schema=schema))
    for column, place in first.items():
        check_blank(source, column, blank[column], count, place)
    return Dataset.from_file(str(path))


def _parts(arguments: DataArguments, columns: Mapping[str, str]) -> Iterator[Table]:
    names = list(columns.values())
    advice = "give it the text columns of the training data"
    if isinstance(arguments, NerArguments):
        advice = "name the column of the texts with text_column"
    if arguments.unlabeled_file:
        for part in read_parts(
            arguments.unlabeled_file, usecols=names, quoting=arguments.quoting, columns=arguments.header
        ):
            for name in names:
                part.require(name, f"; {advice}")
            yield part
        return
    named = NamedDataset(arguments, "unlabeled_", quoting=arguments.quoting)
    table = named.table("train", texts=names, label=None, advice=advice)
    yield from table.parts()
