"""What is no defect (the user can fix it, a signal came): exceptions, their words, and how a script ends on them."""

import argparse
import errno
import functools
import signal
import sys

NO_ROOM = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}  # a full disk, a quota, a limit of file sizes


class InputError(ValueError):
    """A recipe, option, file, model or folder that cannot be used as given.

    The message names the value, says why it cannot be used and what to do instead. Scripts print it without a
    traceback and exit with code 2.
    """


def first_of(names) -> str:
    """Returns the first five names in quotes, as a message lists what is wrong."""
    return ", ".join(map(repr, names[:5])) + (", ..." if len(names) > 5 else "")


def about_file(error: OSError) -> str:
    """Returns what the operating system says about a file, as a message for the user."""
    way_out = "make room there" if error.errno in NO_ROOM else "make this one"
    return f"{error.filename}: {error.strerror}: give another path, or {way_out}."


class ArgumentParser(argparse.ArgumentParser):
    """One whose errors are `InputError`, without the usage before them."""

    def error(self, message):
        raise InputError(message)


class Interrupted(Exception):
    """A signal has stopped the training; its last step is in a checkpoint.

    Args:
        number: of the signal.
        can_resume: the checkpoint holds all that training needs to go on.
    """

    def __init__(self, number: int, *, can_resume: bool = True):
        way_on = (
            "the same command goes on from the last checkpoint"
            if can_resume
            else "the last checkpoint holds the model alone (save_only_model), and the run cannot be resumed"
        )
        super().__init__(f"stopped by {signal.Signals(number).name}; {way_on}.")
        self.number = number


def command_line(main):
    """Decorate a script's `main(argv=None)`: an `InputError` becomes one message on stderr and exit code 2.

    So does an error of the operating system about a file, such as a disk that is full. After a signal the code is 128
    and the signal's number, as shells have it.
    """

    @functools.wraps(main)
    def wrapper(argv=None):
        try:
            return main(sys.argv[1:] if argv is None else list(argv))
        except InputError as error:
            print(f"error: {error}", file=sys.stderr)
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
