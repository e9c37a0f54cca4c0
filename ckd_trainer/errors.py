"""The one exception that means "the user can fix this", and how a script ends on it."""

import functools
import sys


class InputError(ValueError):
    """A recipe, option, file, model or folder that cannot be used as given.

    The message names the value, says why it cannot be used and what to do instead. Scripts print it without a
    traceback and exit with code 2.
    """


def command_line(main):
    """Decorate a script's `main(argv=None)`: an `InputError` becomes one message on stderr and exit code 2."""

    @functools.wraps(main)
    def wrapper(argv=None):
        try:
            return main(sys.argv[1:] if argv is None else list(argv))
        except InputError as error:
            print(f"error: {error}", file=sys.stderr)
            raise SystemExit(2) from None

    return wrapper
