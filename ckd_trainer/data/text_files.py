"""Reads text files strictly: what is not UTF-8 text is an error that names the line."""

import codecs
from pathlib import Path

from ckd_trainer.data.table import check_rows
from ckd_trainer.utils.errors import InputError
from ckd_trainer.utils.files import input_errors_about


def read_text(path: Path) -> str:
    """Reads a text file that is UTF-8, has no NUL characters and is not empty; leaves out a byte order mark."""
    with input_errors_about(path):
        text = text_of(path, path.read_bytes().removeprefix(codecs.BOM_UTF8))
    check_rows(path, text.strip())
    return text


def text_of(path: Path, data: bytes, line: int = 1) -> str:
    """Returns the text of a file, or of the part that begins in this line; raises InputError if it is not UTF-8."""
    try:
        text = data.decode("utf-8")
    except UnicodeDecodeError as error:
        line += data.count(b"\n", 0, error.start)
        raise InputError(f"{path}, line {line}: not UTF-8 ({error.reason}): save the file as UTF-8.") from None
    if "\0" in text:
        # Also what UTF-16 looks like when it has no byte order mark.
        line += text.count("\n", 0, text.index("\0"))
        raise InputError(f"{path}, line {line}: there is a NUL character: the file is damaged or not UTF-8.")
    return text
