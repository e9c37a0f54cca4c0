"""Divides a text into units that two tokenizers have in common.

A *unit* is a word, or several words in a row if a token crosses from one to the next. No token of either tokenizer
crosses the border of a unit, so what each says about a unit can be compared with what the other says.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import regex

# Scripts without spaces between words: each character is a word. The marks that both kinds of kana share, such as that
# of a long vowel, are named, because their script extensions also hold accents of Latin letters.
_SHARED_BY_KANA = r"\u3031-\u3035\u30fc\uff70\uff9e\uff9f"
_NO_SPACES = rf"\p{{Han}}\p{{Hiragana}}\p{{Katakana}}{_SHARED_BY_KANA}\p{{Thai}}\p{{Lao}}\p{{Khmer}}\p{{Myanmar}}"
# \X is a character as readers see it, with its accents, vowel signs and joined emoji. U+200C and U+200D shape the
# letters of a word.
_WORD = regex.compile(rf"(?=[{_NO_SPACES}])\X|(?:(?![{_NO_SPACES}])[\p{{L}}\p{{M}}\p{{N}}\u200c\u200d])+|(?!\s)\X")


class Tokens(NamedTuple):
    """All tokens that a tokenizer makes of a text, in order.

    Attributes:
        starts, ends: the characters at which they start and end.
        kept: whether they are left after truncation.
    """

    starts: np.ndarray
    ends: np.ndarray
    kept: np.ndarray


def words_of(text: str) -> tuple[np.ndarray, np.ndarray]:
    """Returns the characters at which the words of a text start and end.

    A word is a run of letters and digits, or a single other character that is not a space. Of scripts that are
    written without spaces, such as Chinese or Thai, each character is a word.
    """
    spans = np.array([match.span() for match in _WORD.finditer(text)], np.int64).reshape(-1, 2)
    return spans[:, 0], spans[:, 1]


def align(text: str, sides: Sequence[Tokens]) -> list[np.ndarray]:
    """Returns the unit of each token that is kept, for each side.

    Units are numbered from 0, in the order of the text. A unit counts only if each side has a token in it, and keeps
    all of its tokens. A token without such a unit, or without a character that is not a space, has -1.

    Args:
        text: the text.
        sides: its tokens, of each tokenizer.

    Example::

        ours = Tokens(np.array([0, 2, 6]), np.array([2, 5, 7]), np.ones(3, bool))  # un|fit|.
        theirs = Tokens(np.array([0, 5]), np.array([5, 7]), np.ones(2, bool))  # unfit| .
        align("unfit .", [ours, theirs])  # [array([0, 0, 1]), array([0, 1])]
    """
    starts, ends = words_of(text)
    found = []
    crossed = np.zeros(len(starts) + 1, np.int64)
    for side in sides:
        first = np.searchsorted(ends, side.starts, side="right")  # the first word that ends after the token's start
        last = np.searchsorted(starts, side.ends, side="left") - 1  # the last word that starts before its end
        is_there = first <= last
        np.add.at(crossed, first[is_there], 1)
        np.add.at(crossed, last[is_there], -1)
        found.append((first, is_there))
    # A border is crossed if more tokens start before it than end before it.
    unit_of_word = np.cumsum(crossed.cumsum()[:-1] == 0)
    unit_of_word = np.concatenate([[0], unit_of_word])
    whole = np.ones(len(unit_of_word), bool)
    numbers = []
    for side, (first, is_there) in zip(sides, found, strict=True):
        units = np.where(is_there, unit_of_word[first], -1)
        present = np.zeros_like(whole)
        present[units[is_there]] = True
        whole &= present
        whole[units[is_there & ~side.kept]] = False
        numbers.append(units[side.kept])
    renumbered = np.append(np.where(whole, whole.cumsum() - 1, -1), -1)  # the last for units[i] == -1
    return [renumbered[units] for units in numbers]
