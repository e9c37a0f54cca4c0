"""Writes texts to a parquet file for `unlabeled_file`."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from ckd_trainer.utils.errors import InputError
from ckd_trainer.utils.files import input_errors_about, told_without_room, user_path


def check_output_file(name: str) -> None:
    """Raises InputError if `output_file` cannot become a parquet file."""
    if not name:
        raise InputError("output_file is not set: give it.")
    path = user_path(name)
    if path.suffix != ".parquet":
        raise InputError(f"output_file is {path}: give a name that ends in .parquet.")
    if not path.absolute().parent.is_dir():
        raise InputError(f"output_file is {path}, but there is no folder {path.absolute().parent}: create it.")
    if path.exists():
        raise InputError(f"output_file is {path}, which exists: give another name, or delete it.")


@contextmanager
def texts_file(path: Path, columns: Sequence[str]) -> Iterator[Callable[[Sequence[tuple[str, ...]]], int]]:
    """Yields a function that writes examples and returns their number; the file appears when the block ends well."""
    schema = pa.schema([(name, pa.string()) for name in columns])
    unfinished = path.with_name(f".{path.name}.unfinished")
    with told_without_room(path.absolute().parent, "output_file", "the beginning"):
        with input_errors_about(path):
            file = open(unfinished, "wb")
        try:
            with file, pq.ParquetWriter(file, schema) as writer:

                def write(examples: Sequence[tuple[str, ...]]) -> int:
                    texts = list(zip(*examples, strict=True)) or [()] * len(schema)
                    writer.write_table(pa.table([pa.array(column, pa.string()) for column in texts], schema=schema))
                    return len(examples)

                yield write
            unfinished.replace(path)
        finally:
            unfinished.unlink(missing_ok=True)
