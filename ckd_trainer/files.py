"""Paths as users write them, and files that are written whole or not at all."""

import os
from pathlib import Path

from ckd_trainer.errors import InputError


def user_path(path: str | Path) -> Path:
    """Returns a path with ~ and ~user in it replaced.

    Raises:
        InputError: there is no such user.
    """
    try:
        return Path(path).expanduser()
    except RuntimeError as error:
        raise InputError(f"{path} is no path ({error}): give an existing file or folder.") from None


def write_atomically(path: Path, content: str | bytes) -> None:
    """Writes a file (text as UTF-8) so that a reader sees the old or the new one, never half of it.

    Folders on the way to it are made.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.tmp")
    temporary.write_bytes(content.encode("utf-8") if isinstance(content, str) else content)
    os.replace(temporary, path)
