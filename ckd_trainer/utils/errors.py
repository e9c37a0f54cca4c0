"""Exceptions for users: their messages, and the exit codes of scripts that end on them."""

import argparse
import errno
import functools
import os
import reprlib
import signal
import sys
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NoReturn, TypeVar

Result = TypeVar("Result")

NO_ROOM = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}  # a full disk, a quota, a limit of file sizes
NO_ACCESS = {errno.EACCES, errno.EPERM, errno.EROFS}  # permissions, a disk that is read-only
# What a user can mend about a file. A disk that fails (EIO) and all else keep their traceback.
_ANOTHER_PATH = {errno.ENOENT, errno.ENOTDIR, errno.EISDIR, errno.EEXIST, errno.ENAMETOOLONG}
_MENDABLE = NO_ROOM | NO_ACCESS | _ANOTHER_PATH

DEBUG = "CKD_TRAINER_DEBUG"  # the environment variable that shows the traceback of an InputError too


class InputError(ValueError):
    """A recipe, option, file, model or folder that cannot be used as given.

    The message names the value, says why it cannot be used and what to do instead. Scripts print it without a
    traceback and exit with code 2. Everything that the user cannot mend is another exception, and keeps its traceback.
    """


class InputErrorOnAnotherRank(InputError):
    """An `InputError` that another process of the run has raised, and prints."""


class FailedOnAnotherRank(RuntimeError):
    """Another process of the run has raised something that is not an `InputError`; its traceback is in its output.

    Args:
        rank: of that process.
        message: type and text of what it raised.
    """

    def __init__(self, rank: int, message: str) -> None:
        super().__init__(f"rank {rank} failed ({message}): its traceback is in the output of rank {rank}.")


_repr = reprlib.Repr()
_repr.maxstring = _repr.maxother = 80
_repr.maxlevel = 2


def short(value: object) -> str:
    """Returns `repr(value)` for a message, with the middle of a long text or the end of a long list left out."""
    return _repr.repr(value)


def first_of(names: Sequence, most: int = 5) -> str:
    """Returns the first `most` names in quotes, each of them `short`, as a message lists what is wrong."""
    return ", ".join(map(short, names[:most])) + (", ..." if len(names) > most else "")


def _on_a_screen(message: str) -> str:
    """Returns the message, without its middle where it would fill more than a screen."""
    return message if len(message) <= 1800 else f"{message[:900]} [...] {message[-900:]}"


def is_mendable(error: OSError) -> bool:
    """Returns whether the user can mend what the operating system says about a file."""
    return error.errno in _MENDABLE


def is_for_user(error: OSError) -> bool:
    """Returns whether an error of a library is one that the user can mend.

    Libraries raise their own words about files and the Hub, such as "is not a valid JSON file", as OSErrors without
    the number that the operating system gives.
    """
    return error.errno is None or is_mendable(error)


def about_file(error: OSError, path: str | os.PathLike | None = None) -> str:
    """Returns what the operating system says about a file, as a message for the user.

    Args:
        path: the file, for errors that do not name it.
    """
    name = str(path if error.filename is None else error.filename)
    way_out = "make this one"
    if error.errno in NO_ROOM:
        way_out = "free some space"
    elif error.errno in NO_ACCESS:
        way_out = "allow access to this one"
    return f"{name}: {error.strerror}: give another path, or {way_out}.{_about_cache(name)}"


def _about_cache(path: str | os.PathLike) -> str:
    """Returns which variable sets the place of a Hugging Face cache that a path lies in, or that lies in the path."""
    cache = os.environ.get("XDG_CACHE_HOME", "~/.cache")
    folders = {name: os.environ.get(name) for name in ("HF_DATASETS_CACHE", "HF_HUB_CACHE", "HF_MODULES_CACHE")}
    folders["HF_HOME"] = os.environ.get("HF_HOME", os.path.join(cache, "huggingface"))
    place = Path(path).absolute()
    for name, value in folders.items():
        if value:
            folder = Path(os.path.expanduser(value)).absolute()
            if place.is_relative_to(folder) or folder.is_relative_to(place):
                return f" Hugging Face keeps its cache in {folder}: to keep it elsewhere, set the variable {name}."
    return ""


class ArgumentParser(argparse.ArgumentParser):
    """One whose errors are `InputError`, without the usage before them."""

    def error(self, message: str) -> NoReturn:
        raise InputError(message)


class Interrupted(Exception):
    """A signal has stopped the training; its last step is in a checkpoint.

    Args:
        number: of the signal.
        can_resume: the checkpoint holds all that training needs to go on.
    """

    def __init__(self, number: int, *, can_resume: bool = True) -> None:
        way_on = (
            "the same command goes on from the last checkpoint"
            if can_resume
            else "the last checkpoint holds the model alone (save_only_model), and the run cannot be resumed"
        )
        super().__init__(f"stopped by {signal.Signals(number).name}; {way_on}.")
        self.number = number


def command_line(main: Callable[[list[str]], Result]) -> Callable[..., Result]:
    """Decorate a script's `main(argv=None)`: an `InputError` becomes one message on stderr and exit code 2.

    With `CKD_TRAINER_DEBUG=1` in the environment its traceback comes before the message. After a signal the code is
    128 and the signal's number, as shells have it. Every other exception passes: Python prints its traceback and exits
    with code 1. Where it is another process that has failed, a message takes the place of the traceback.
    """

    @functools.wraps(main)
    def wrapper(argv: Sequence[str] | None = None) -> Result:
        try:
            return main(sys.argv[1:] if argv is None else list(argv))
        except InputError as error:
            if os.environ.get(DEBUG, "0") not in ("", "0"):
                _print_traceback(error)
            if not isinstance(error, InputErrorOnAnotherRank):  # one message for all processes
                print(f"error: {_on_a_screen(str(error))}", file=sys.stderr)
            raise SystemExit(2) from None
        except FailedOnAnotherRank as error:
            print(f"error: {_on_a_screen(str(error))}", file=sys.stderr)
            raise SystemExit(1) from None
        except Interrupted as error:
            print(error, file=sys.stderr)
            raise SystemExit(128 + error.number) from None

    return wrapper


def _print_traceback(error: BaseException) -> None:
    """Prints a traceback with all that led to the error, also what `raise ... from None` leaves out."""
    cause: BaseException | None = error
    while cause is not None:
        cause.__suppress_context__ = False
        cause = cause.__cause__ or cause.__context__
    traceback.print_exception(error)
