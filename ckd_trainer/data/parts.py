"""Reads a table in parts of bounded size, as strictly as `ckd_trainer.data.tables` reads a whole one."""

import codecs
from collections.abc import Collection, Iterator
from pathlib import Path

from ckd_trainer.data.delimited import delimiter_of, rule_of
from ckd_trainer.data.tables import Table, checked_path, parquet_parts, table_of, text_of
from ckd_trainer.utils.errors import InputError
from ckd_trainer.utils.files import input_errors_about

_BYTES = 2**22  # of text in a part
_ROWS = 50_000  # of a parquet file in a part


def read_parts(
    path: str | Path, *, usecols: Collection[str | None], quoting: str = "auto", size: int = _BYTES
) -> Iterator[Table]:
    """Yields the rows of a table in parts, each a `Table` in memory.

    Args:
        path, usecols, quoting: as for `ckd_trainer.data.tables.read_table`. Whether the quotes of a file contradict
            its suffix is judged by its first part.
        size: the bytes of text in a part; a row that is longer is a part of its own.

    Raises:
        InputError: as `read_table`, when the part with the mistake is read.

    Example::

        for part in read_parts("million_reviews.jsonl", usecols=["text"]):
            part.texts("text")
    """
    path = checked_path(path)
    if path.suffix.lower() == ".parquet":
        yield from parquet_parts(path, usecols, _ROWS)
        return
    is_json = path.suffix.lower() in (".json", ".jsonl")
    rule = "none" if is_json else rule_of(path, quoting)
    names = delimiter = None
    for line, text in _texts(path, size, is_json=is_json, whole_quotes=rule == "csv"):
        if not text.strip():
            continue  # blank lines at the end
        if is_json:
            part = table_of(path, text, usecols=usecols, line=line)
        elif names is None:
            delimiter = delimiter_of(path, text, rule, None)[0]
            part = table_of(path, text, usecols=usecols, quoting=quoting)
        else:
            part = table_of(path, text, columns=names, usecols=usecols, quoting=rule, delimiter=delimiter, line=line)
        names = part.names
        yield part
    if names is None:
        raise InputError(f"{path} has no rows: give a file with data.")


def _texts(path: Path, size: int, *, is_json: bool, whole_quotes: bool) -> Iterator[tuple[int, str]]:
    """Yields the text of a file in parts that end with a row, each with the number of its first line.

    The first part has at least three rows, as two may be about the delimiter and the names of the columns.

    Args:
        whole_quotes: a line break inside quotes does not end a row.
    """
    line = 1
    with input_errors_about(path), open(path, "rb") as file:
        rest = file.read(len(codecs.BOM_UTF8)).removeprefix(codecs.BOM_UTF8)
        while True:
            data = file.read(size)
            rest += data
            end = _end_of_row(rest, whole_quotes, least=3 if line == 1 else 1) if data else len(rest)
            if end:
                part, rest = rest[:end], rest[end:]
                yield line, text_of(path, part, line)
                line += part.count(b"\n")
                if not is_json:  # as Python's csv module counts
                    line += part.count(b"\r") - part.count(b"\r\n")
            if not data:
                return


def _end_of_row(data: bytes, whole_quotes: bool, least: int) -> int:
    """Returns the length of the longest beginning of the data that ends with a row; 0 if it has fewer than `least`."""
    end = data.rfind(b"\n") + 1
    while end and whole_quotes and data.count(b'"', 0, end) % 2:
        end = data.rfind(b"\n", 0, end - 1) + 1
    if least > 1:
        outside = data[:end].split(b'"')[::2] if whole_quotes else [data[:end]]
        return end if sum(part.count(b"\n") for part in outside) >= least else 0
    return end
