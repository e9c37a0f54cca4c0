"""Reads parquet files, whole or in parts."""

import contextlib
import json
from collections.abc import Collection, Iterator
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from ckd_trainer.data.table import UNUSABLE, Table, check_rows, dataset_of, used_columns
from ckd_trainer.utils.errors import InputError, is_for_user


def open_parquet(path: Path, usecols: Collection[str | None] | None) -> Table:
    """Returns the table in a parquet file, with these columns of it."""
    with _errors_of_parquet(path):
        file = pq.ParquetFile(path)
        names = file.schema_arrow.names
        table = file.read(columns=used_columns(path, names, usecols))
        table.validate(full=True)  # that texts are UTF-8, as well
    rows = range(1, file.metadata.num_rows + 1)
    check_rows(path, rows)
    return Table(dataset_of(path, _without_notes(table)), str(path), rows, unit="row", names=names)


def parquet_parts(path: Path, usecols: Collection[str | None] | None, rows: int) -> Iterator[Table]:
    """Yields the table in a parquet file in parts with this many rows."""
    with _errors_of_parquet(path):
        file = pq.ParquetFile(path)
        check_rows(path, range(file.metadata.num_rows))
        names, first = file.schema_arrow.names, 1
        parts = file.iter_batches(batch_size=rows, columns=used_columns(path, names, usecols))
    while True:
        with _errors_of_parquet(path):
            part = next(parts, None)
            if part is None:
                return
            part.validate(full=True)
            table = _without_notes(pa.Table.from_batches([part]))
        lines = range(first, first := first + len(table))
        yield Table(dataset_of(path, table), str(path), lines, unit="row", names=names)


@contextlib.contextmanager
def _errors_of_parquet(path: Path) -> Iterator[None]:
    try:
        yield
    except (*UNUSABLE, OSError, UnicodeDecodeError) as error:
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
