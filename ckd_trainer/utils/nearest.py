"""What a name that does not exist may mean."""

import difflib
import re
from collections.abc import Iterable


def nearest(name: str, known: Iterable[str]) -> str | None:
    """Returns a known name that is spelled nearly like this one, else the first that has all of its words, if any.

    Example:
        >>> nearest("batch_size", ["use_cache", "per_device_train_batch_size"])
        "per_device_train_batch_size"
    """
    known, words = list(known), _words(name)
    longer = [one for one in known if words <= _words(one)]
    # Names of several words are somewhat alike if they share one, such as text_column and label_column.
    likely = _alike(name, known, 0.85) or longer or _alike(name, known, 0.7)
    return likely[0] if likely else None


def _alike(name: str, known: list[str], least: float) -> list[str]:
    return difflib.get_close_matches(name, known, n=1, cutoff=least)


def _words(name: str) -> set[str]:
    return set(re.split("[-_]", name.lower()))
