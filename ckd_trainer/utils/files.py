"""Paths from users, atomic writes, and messages about full disks."""

import argparse
import contextlib
import errno
import hashlib
import json
import os
import re
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, TypeVar

from ckd_trainer.utils.errors import (
    NO_ACCESS,
    NO_ROOM,
    InputError,
    TemporaryError,
    about_file,
    input_error,
    is_mendable,
)

Name = TypeVar("Name", str, str | None)

_READ = 2**20  # bytes at a time

# In a run's folder: all its options; and the command, versions, commit, device and inputs.
RECIPE, RECORD = "recipe.yaml", "run.json"
# What each validation example contributes to the scores, by their names. Its metadata hold fingerprints of these.
CONTRIBUTIONS = "eval_contributions.safetensors"


def user_path(path: str | Path) -> Path:
    """Returns a path with ~ and ~user expanded.

    Raises:
        InputError: there is no such user.
    """
    try:
        return Path(path).expanduser()
    except RuntimeError as error:
        raise InputError(f"{path} is not a valid path ({error}): give an existing file or folder.") from None


def expanded(name: Name) -> Name:
    """Returns an option's value with a leading ~ or ~user expanded, which shells do not do after --option=.

    Raises:
        InputError: there is no such user.
    """
    return str(user_path(name)) if name and str(name).startswith("~") else name


def given_path(word: str) -> str:
    """Returns a path of a command line, expanded.

    Raises:
        argparse.ArgumentTypeError: it is empty, as from a shell variable that is not set.
    """
    if not word:
        raise argparse.ArgumentTypeError("'' is not a path: give one.")
    return expanded(word)


def public(value: Any) -> Any:
    """Returns a value, without the folders of paths from the root or from home in it: these are private."""
    if isinstance(value, list):
        return [public(item) for item in value]
    if isinstance(value, dict):
        return {name: public(item) for name, item in value.items()}
    is_private = isinstance(value, str) and (Path(value).is_absolute() or value.startswith("~"))
    return Path(value).name if is_private else value


@contextlib.contextmanager
def input_errors_about(path: str | os.PathLike) -> Iterator[None]:
    """Turns what the operating system says about a file that the user named into an `InputError` (see `input_error`).

    Only what the user can mend: no such file, no access, a folder, no room. Put it around the lines that read or write
    the file, and no others: a file that is missing elsewhere is a bug.

    Args:
        path: the file or folder, for errors that do not name it.

    Example::

        with input_errors_about(path):
            data = path.read_bytes()
    """
    try:
        yield
    except OSError as error:
        if not is_mendable(error):
            raise
        raise input_error(error)(about_file(error, path)) from error


def recorded_stages(folder: str | Path) -> list[dict]:
    """Returns the entries of a run's trained stages; empty for a run without stages or without a readable record."""
    try:
        stages = json.loads((Path(folder) / RECORD).read_text(encoding="utf-8"))["stages"]
    except (FileNotFoundError, ValueError, LookupError, TypeError):
        return []
    return stages if isinstance(stages, list) else []


def write_atomically(path: Path, content: str | bytes) -> None:
    """Writes a file (text as UTF-8) atomically: a reader sees the old or the new content, never a part of it.

    Creates missing folders. The error of a full disk contains the path.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.tmp")
    try:
        temporary.write_bytes(content.encode("utf-8") if isinstance(content, str) else content)
    except OSError as error:
        temporary.unlink(missing_ok=True)  # a partial file would only take up space
        error.filename = str(path)
        raise
    os.replace(temporary, path)


def delete(path: Path) -> None:
    """Deletes a file, or a folder with all that is in it. Of a link, only the link is deleted."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink()


def check_new(output: Path) -> None:
    """Raises InputError if an output folder already exists and is not empty, or if it cannot be made."""
    with input_errors_about(output):
        if output.exists() and (output.is_file() or any(output.iterdir())):
            raise InputError(f"output {output} already exists and is not empty: give a new folder.")
        there = next(path for path in (output, *output.absolute().parents) if path.exists())
    if not there.is_dir():
        raise InputError(f"output is {output}, but {there} is a file: give a new folder.")
    if not os.access(there, os.W_OK | os.X_OK):
        raise TemporaryError(f"output {output} cannot be written: {there} is closed. Give another folder, or open it.")


@contextlib.contextmanager
def filling(output: Path) -> Iterator[None]:
    """Put it around what fills an output folder that `check_new` has checked.

    Raises:
        TemporaryError: the disk is full or closed. What was written is deleted, so that the same command starts over.
    """
    try:
        with told_without_room(output, "output", "the beginning"):
            yield
    except TemporaryError:
        for path in output.glob("*"):
            delete(path)
        raise


def files_fingerprint(paths: Sequence[Path]) -> str:
    """Returns a fingerprint of the contents of files, in the order of their names."""
    digest = hashlib.sha256()
    for path in sorted(paths):
        digest.update(f"{path.stat().st_size}\n".encode())
        with path.open("rb") as file:
            while data := file.read(_READ):
                digest.update(data)
    return digest.hexdigest()


@contextlib.contextmanager
def told_without_room(folder: str | Path, option: str, goes_on: str) -> Iterator[None]:
    """Turns the errors of a full or read-only disk into a `TemporaryError` that says where, and how to resume.

    Args:
        option: the option that names the folder.
        goes_on: the state from which the same command resumes.

    Raises:
        TemporaryError: replaces a disk-full error from any library.
    """
    try:
        yield
    except InputError:
        raise
    except Exception as error:  # of Python, Rust or C++; all but what says that it could not write is raised again
        place = getattr(error, "filename", None)
        reason, way_out = _no_room(error, Path(folder)), "Free some space"
        is_closed = False
        if isinstance(error, OSError) and error.errno in NO_ACCESS and place:
            is_closed, reason, way_out = True, error.strerror, "Allow writing there"
        if reason is None:
            raise
        is_inside = not place or Path(os.fsdecode(place)).resolve().is_relative_to(Path(folder).resolve())
        if is_closed and not is_inside:
            raise
        if is_inside:
            place = f"{option} {folder}"
        raise TemporaryError(
            f"{place} cannot be written ({reason}). {way_out}; the same command then resumes from {goes_on}."
        ) from error


def _no_room(error: Exception, folder: Path) -> str | None:
    """Returns the reason if an error means that the disk is full, else None."""
    number = getattr(error, "errno", None)
    # the two formats of Rust libraries: safetensors, tokenizers
    if number is None and (said := re.search(r"(?:\(os error |Os \{ code: )(\d+)", str(error))):
        number = int(said[1])
    if number in NO_ROOM:
        return os.strerror(number)
    if isinstance(error, RuntimeError) and re.search("unexpected pos|PytorchStreamWriter", str(error)):  # torch.save
        full = shutil.disk_usage(folder).free < 2**20
        return os.strerror(errno.ENOSPC) if full else "torch could not write a complete file"
    return None
