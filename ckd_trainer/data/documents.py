"""Reads running text in parts of bounded size: text files, tables with a column of texts, and data sets by name."""

import codecs
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from ckd_trainer.data.parts import read_parts
from ckd_trainer.data.table import Table
from ckd_trainer.data.text_arguments import TextSource
from ckd_trainer.data.text_files import text_of
from ckd_trainer.utils.errors import InputError
from ckd_trainer.utils.files import input_errors_about

_BYTES = 2**22  # of a text file in a part
_LONGEST_LINE = 2**26  # bytes; a longer one is not text, or needs line breaks


class Part(NamedTuple):
    """A part of a text.

    Attributes:
        texts: paragraphs or documents, none of them blank.
        begins: for each text, whether a document begins with it.
        size: how much of the source the part is: bytes of a text file, rows of a table.
    """

    texts: list[str]
    begins: list[bool]
    size: int


def read_documents(source: TextSource, table: Table | None = None, *, quoting: str = "auto") -> Iterator[Part]:
    """Yields the documents of a source in parts.

    Args:
        table: the rows of a data set by name; None for a file.
        quoting: as for `ckd_trainer.data.table_files.read_table`.

    Raises:
        InputError: a file that is missing, empty or not UTF-8 text, a line of more than 64 MiB, a table that is
            malformed or lacks the column.

    Example::

        for part in read_documents(TextSource(train_file="wiki.txt")):
            print(len(part.texts), sum(part.begins))
    """
    path = source.path
    if path is None:
        assert table is not None
        yield from _rows(source, table.parts())
    elif path.suffix.lower() == ".txt":
        yield from _lines(path, documents=source.lines == "documents")
    else:
        yield from _rows(source, read_parts(path, usecols=[source.text_column], quoting=quoting))


def first_texts(parts: Iterator[Part], count: int) -> list[str]:
    """Returns the first texts of a source; raises InputError if it has none, or is not text up to there."""
    texts: list[str] = []
    for part in parts:
        texts += part.texts[: count - len(texts)]
        if len(texts) == count:
            break
    return texts


def _lines(path: Path, *, documents: bool) -> Iterator[Part]:
    with input_errors_about(path):
        if not path.is_file():
            raise InputError(f"{path} is {'a folder' if path.is_dir() else 'missing'}: give an existing file.")
        texts: list[str] = []
        begins: list[bool] = []
        size, is_first, found = 0, True, False
        with path.open("rb") as file:
            for number, line in enumerate(iter(lambda: file.readline(_LONGEST_LINE), b""), start=1):
                if len(line) == _LONGEST_LINE and not line.endswith(b"\n"):
                    raise InputError(
                        f"{path}, line {number}: the line is longer than {_LONGEST_LINE // 2**20} MiB. The file may "
                        "not be text; if it is, add line breaks."
                    )
                text = text_of(path, line.removeprefix(codecs.BOM_UTF8) if number == 1 else line, number).strip()
                size += len(line)
                if text:
                    found = True
                    texts.append(text)
                    begins.append(documents or is_first)
                is_first = not text
                if size >= _BYTES:
                    yield Part(texts, begins, size)
                    texts, begins, size = [], [], 0
        if not found:
            raise InputError(f"{path} has no text: give a file with at least one line.")
        yield Part(texts, begins, size)


def _rows(source: TextSource, parts: Iterator[Table]) -> Iterator[Part]:
    found = False
    for part in parts:
        texts = [stripped for text in part.texts(source.text_column) if (stripped := text.strip())]
        found = found or bool(texts)
        yield Part(texts, [True] * len(texts), len(part.data))
    if not found:
        raise all_blank(str(source), source.text_column)


def all_blank(name: str, column: str) -> InputError:
    """Returns the error for a source in whose column no row has a text."""
    return InputError(f"{name}: all texts ({column!r}) are blank: give another text_column.")
