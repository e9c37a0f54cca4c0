"""User-facing exceptions, their messages and exit codes."""

import argparse
import contextlib
import errno
import functools
import hashlib
import os
import reprlib
import signal
import sys
import traceback
from collections.abc import Callable, Sequence
from datetime import timedelta
from pathlib import Path
from typing import NoReturn, TypeVar

Result = TypeVar("Result")

NO_ROOM = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}  # a full disk, a quota, a limit of file sizes
NO_ACCESS = {errno.EACCES, errno.EPERM, errno.EROFS}  # permissions, a read-only disk
# File errors that a user can fix. A failing disk (EIO) and all others keep their traceback.
_ANOTHER_PATH = {errno.ENOENT, errno.ENOTDIR, errno.EISDIR, errno.EEXIST, errno.ENAMETOOLONG}
_MENDABLE = NO_ROOM | NO_ACCESS | _ANOTHER_PATH

DEBUG = "CKD_TRAINER_DEBUG"  # the environment variable that shows the traceback of an InputError too


class InputError(ValueError):
    """A recipe, option, file, model or folder that cannot be used as given.

    The message names the value, the reason and the remedy. Scripts print it without a traceback and exit with code 2.
    Anything that the user cannot fix is another exception and keeps its traceback.
    """

    exit_code = 2


class TemporaryError(InputError):
    """No room on a disk, no network, or a folder in use or closed: the same options work once that has changed.

    Scripts exit with code 75, the EX_TEMPFAIL of sysexits.h.
    """

    exit_code = 75


class InputErrorOnAnotherRank(InputError):
    """An `InputError` that another process of the run raised and will print; both exit with its code."""

    def __init__(self, message: str, exit_code: int = InputError.exit_code) -> None:
        super().__init__(message)
        self.exit_code = exit_code


class FailedOnAnotherRank(RuntimeError):
    """Another process of the run raised something other than an `InputError`; its output has the traceback.

    Args:
        rank: the rank of that process.
        message: the type and text of its exception.
    """

    def __init__(self, rank: int, message: str) -> None:
        super().__init__(f"rank {rank} failed ({message}): its traceback is in the output of rank {rank}.")


_repr = reprlib.Repr()
_repr.maxstring = _repr.maxother = 80
_repr.maxlevel = 2


def short(value: object) -> str:
    """Returns `repr(value)` for a message, without the middle of a long text or the end of a long list.

    Paths stay whole, so that they can be opened or deleted.
    """
    return repr(str(value)) if isinstance(value, Path) else _repr.repr(value)


def first_of(names: Sequence, most: int = 5) -> str:
    """Returns the first `most` names as a list for a message, in quotes and each of them `short`."""
    return ", ".join(map(short, names[:most])) + (", ..." if len(names) > most else "")


def agreeing(count: int, one: str, more: str) -> str:
    """Returns the words that go with a count: those for one, or those for more."""
    return one if count == 1 else more


def _on_a_screen(message: str) -> str:
    """Returns the message, without its middle if it would fill more than a screen."""
    return message if len(message) <= 1800 else f"{message[:900]} [...] {message[-900:]}"


def is_mendable(error: OSError) -> bool:
    """Returns whether the user can fix this error of the operating system about a file."""
    return error.errno in _MENDABLE


def is_for_user(error: OSError) -> bool:
    """Returns whether the user can fix an error that a library raised.

    Libraries raise OSErrors with their own messages about files and the Hub, such as "is not a valid JSON file".
    These have no error number of the operating system.
    """
    return error.errno is None or is_mendable(error)


def input_error(error: OSError) -> type[InputError]:
    """Returns the exception for an error that the user can fix: a `TemporaryError` for lack of room or access."""
    return TemporaryError if error.errno in NO_ROOM | NO_ACCESS else InputError


def about_file(error: OSError, path: str | os.PathLike | None = None) -> str:
    """Returns a message for the user about an error of the operating system.

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
    """Returns a hint at the environment variable that moves a Hugging Face cache, if the path is in or above one."""
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
    """An `ArgumentParser` that raises `InputError` instead of printing its usage."""

    def error(self, message: str) -> NoReturn:
        raise InputError(message)


class Interrupted(Exception):
    """A signal has stopped the training; its last step is in a checkpoint.

    Args:
        number: the number of the signal.
        can_resume: whether training can resume from the checkpoint.
    """

    def __init__(self, number: int, *, can_resume: bool = True) -> None:
        way_on = (
            "the same command resumes from the last checkpoint"
            if can_resume
            else "the last checkpoint holds the model alone (save_only_model), and the run cannot be resumed"
        )
        super().__init__(f"stopped by {signal.Signals(number).name}; {way_on}.")
        self.number = number


def command_line(main: Callable[[list[str]], Result]) -> Callable[..., Result]:
    """Decorates a script's `main(argv=None)`: an `InputError` becomes one message on stderr and exit code 2 (or 75).

    If several processes of a machine have the same message, one of them prints it. With `CKD_TRAINER_DEBUG=1` in the
    environment its traceback is printed before the message. After a signal the exit code is 128 plus the signal's
    number, as in shells. Every other exception passes: Python prints its traceback and exits with code 1. If another
    process has failed, this one prints a message instead of a traceback.
    """

    @functools.wraps(main)
    def wrapper(argv: Sequence[str] | None = None) -> Result:
        try:
            return main(sys.argv[1:] if argv is None else list(argv))
        except InputError as error:
            if os.environ.get(DEBUG, "0") not in ("", "0"):
                _print_traceback(error)
            if not isinstance(error, InputErrorOnAnotherRank):  # one message for all processes
                _print_once(f"error: {_on_a_screen(str(error))}")
            raise SystemExit(error.exit_code) from None
        except FailedOnAnotherRank as error:
            print(f"error: {_on_a_screen(str(error))}", file=sys.stderr)
            raise SystemExit(1) from None
        except Interrupted as error:
            print(error, file=sys.stderr)
            raise SystemExit(128 + error.number) from None

    return wrapper


def _print_once(message: str) -> None:
    """Prints a message on stderr, unless another process that the same launcher started has printed it.

    The processes agree through the store of torchrun, which `accelerate launch` uses too, because an option can be
    wrong before they have a process group. Without a store, or without an answer from it, each prints: twice is better
    than never.
    """
    if os.environ.get("TORCHELASTIC_USE_AGENT_STORE") != "True":
        print(message, file=sys.stderr)
        return
    from torch.distributed import TCPStore  # not above: the commands that do not train import no torch

    store = None
    key = f"ckd_trainer/{os.environ.get('GROUP_RANK')}/{hashlib.sha256(ascii(message).encode()).hexdigest()}"
    with contextlib.suppress(RuntimeError):
        address = os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])
        store = TCPStore(*address, is_master=False, timeout=timedelta(seconds=5))
        if store.add(f"{key}/claims", 1) > 1:
            store.wait([f"{key}/printed"])  # the launcher may stop the other process before it prints
            return
    print(message, file=sys.stderr, flush=True)
    if store is not None:
        with contextlib.suppress(RuntimeError):
            store.set(f"{key}/printed", "")


def _print_traceback(error: BaseException) -> None:
    """Prints a traceback with all causes of the error, including those that `raise ... from None` hides."""
    cause: BaseException | None = error
    while cause is not None:
        cause.__suppress_context__ = False
        cause = cause.__cause__ or cause.__context__
    traceback.print_exception(error)
