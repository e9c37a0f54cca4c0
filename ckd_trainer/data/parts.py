"""Reads a table in parts of bounded size, as strictly as `ckd_trainer.data.table_files` reads a whole one."""

import codecs
import csv
import itertools
from collections.abc import Collection, Iterator, Sequence
from pathlib import Path

from ckd_trainer.data.delimited import delimiter_of, rule_of
from ckd_trainer.data.parquet import parquet_parts
from ckd_trainer.data.table import Table
from ckd_trainer.data.table_files import checked_path, table_of
from ckd_trainer.data.text_files import text_of
from ckd_trainer.utils.errors import InputError
from ckd_trainer.utils.files import input_errors_about

_BYTES = 2**22  # of text in a part
_ROWS = 50_000  # of a parquet file in a part
_MARK = codecs.BOM_UTF8.decode("latin-1")


def read_parts(
    path: str | Path,
    *,
    usecols: Collection[str | None] | None,
    quoting: str = "auto",
    columns: Sequence[str] | None = None,
    size: int = _BYTES,
) -> Iterator[Table]:
    """Yields the rows of a table in parts, each a `Table` in memory.

    Args:
        path, usecols, quoting, columns: as for `ckd_trainer.data.table_files.read_table`. Whether the quotes of a file
            contradict its suffix is judged by its first part.
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
    delimiter = None if is_json else _delimiter_in(path, rule, size, columns)
    names = None
    for line, text in _texts(path, size, delimiter if rule == "csv" else None, "\n" if is_json else ""):
        if not text.strip():
            continue  # blank lines at the end
        if is_json:
            part = table_of(path, text, usecols=usecols, line=line)
        elif names is None:
            part = table_of(path, text, columns=columns, usecols=usecols, quoting=quoting)
        else:
            part = table_of(path, text, columns=names, usecols=usecols, quoting=rule, delimiter=delimiter, line=line)
        names = part.names
        yield part
    if names is None:
        raise InputError(f"{path} has no rows: give a file with data.")


def _delimiter_in(path: Path, rule: str, size: int, columns: Sequence[str] | None) -> str:
    with input_errors_about(path), open(path, encoding="utf-8-sig", errors="replace", newline="") as file:
        return delimiter_of(path, file.read(max(size, 2**16)), rule, columns)[0]


def _texts(path: Path, size: int, quoted_by: str | None, newline: str) -> Iterator[tuple[int, str]]:
    """Yields the text of a file in parts that end with a row, each with the number of its first line.

    The first part has at least three rows, as two may be about the delimiter and the names of the columns. No part but
    the last ends with a blank row.

    Args:
        quoted_by: the delimiter if quotes can enclose line breaks; None if each line is a row.
        newline: as for `open`.
    """
    held: list[str] = []  # the lines of this part
    line, length = 1, 0
    # Latin-1 keeps each byte. What structures a file are bytes of ASCII, which UTF-8 uses for nothing else.
    with input_errors_about(path), open(path, encoding="latin-1", newline=newline) as file:

        def lines() -> Iterator[str]:
            nonlocal length
            for number, one in enumerate(file):
                one = one.removeprefix(_MARK) if number == 0 else one
                held.append(one)
                length += len(one)
                yield one

        rows, mistake = _rows(lines(), quoted_by), None
        for count in itertools.count(1):
            try:
                next(rows)
            except StopIteration:
                break
            except csv.Error as error:  # reading the last part, which holds this row, says what is wrong
                mistake = error
                break
            if length >= size and count >= 3 and held[-1].strip():
                yield line, text_of(path, "".join(held).encode("latin-1"), line)
                line, length = line + len(held), 0
                held.clear()
        if held:
            yield line, text_of(path, "".join(held).encode("latin-1"), line)
        if mistake is not None:
            raise InputError(f"{path}: a row after line {line} cannot be read ({mistake}).")


def _rows(lines: Iterator[str], quoted_by: str | None) -> Iterator[object]:
    """Returns an iterator that ends each step with the last line of a row."""
    if quoted_by is None:
        return lines
    csv.field_size_limit(2**31 - 1)  # long texts are legitimate
    return csv.reader(lines, delimiter=quoted_by, strict=True)
