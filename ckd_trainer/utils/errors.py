"""Exceptions for users: their messages, and the exit codes of scripts that end on them."""

import argparse
import errno
import functools
import os
import reprlib
import signal
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NoReturn, TypeVar

Result = TypeVar("Result")

NO_ROOM = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}  # a full disk, a quota, a limit of file sizes


class InputError(ValueError):
    """A recipe, option, file, model or folder that cannot be used as given.

    The message names the value, says why it cannot be used and what to do instead. Scripts print it without a
    traceback and exit with code 2.
    """


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


def about_file(error: OSError) -> str:
    """Returns what the operating system says about a file, as a message for the user."""
    if error.filename is None:  # not of opening a file, but of reading it, say
        return f"{error.strerror or error}: check the disk, or give another path."
    way_out = "make room there" if error.errno in NO_ROOM else "make this one"
    return f"{error.filename}: {error.strerror}: give another path, or {way_out}.{_about_cache(error.filename)}"


def _about_cache(path: str) -> str:
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

    So does an error of the operating system about a file, such as a disk that is full. After a signal the code is 128
    and the signal's number, as shells have it.
    """

    @functools.wraps(main)
    def wrapper(argv: Sequence[str] | None = None) -> Result:
        try:
            return main(sys.argv[1:] if argv is None else list(argv))
        except InputError as error:
            print(f"error: {_on_a_screen(str(error))}", file=sys.stderr)
            raise SystemExit(2) from None
        except OSError as error:
            if error.filename is None:  # not of a file, but of a connection, say
                raise
            print(f"error: {about_file(error)}", file=sys.stderr)
            raise SystemExit(2) from None
        except Interrupted as error:
            print(error, file=sys.stderr)
            raise SystemExit(128 + error.number) from None

    return wrapper
