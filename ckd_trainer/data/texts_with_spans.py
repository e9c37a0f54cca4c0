"""Texts whose entities are spans of characters: their words, and the tags of these words."""

import logging
import re
import unicodedata
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from ckd_trainer.data.table import Table
from ckd_trainer.data.tags import iob2, is_tag
from ckd_trainer.metrics.entities import Entity
from ckd_trainer.utils.errors import InputError, short

logger = logging.getLogger(__name__)

# Scripts whose words are not separated by spaces, or are joined with particles: Thai and Lao, Myanmar, Khmer, kana,
# Chinese characters, Hangul. Their characters are words of their own, as Chinese ones are in BERT.
_ALONE = "\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uac00-\ud7af\uf900-\ufaff"
_ALONE += "\U00020000-\U0003ffff"
# Accents and vowel signs, which belong to the character before them but are not letters for Python.
_MARKS = "".join(char for char in map(chr, range(0x300, 0x2100)) if unicodedata.category(char)[0] == "M")
_WORD = re.compile(rf"(?:[^\W{_ALONE}][{_MARKS}]*)+|\S[{_MARKS}]*")

SPANS = '[{"start": 0, "end": 5, "label": "PER"}], with an empty list where there is no entity'


class Span(NamedTuple):
    """The characters `start` up to, without, `end` of a text, and what they name."""

    start: int
    end: int
    label: str


def words_of(text: str) -> list[tuple[int, int]]:
    """Returns the start and the end of each word: runs of letters and digits, and other characters but spaces alone.

    Example::

        [text[start:end] for start, end in words_of("to ann@mail.org")]  # ["to", "ann", "@", "mail", ".", "org"]
    """
    return [match.span() for match in _WORD.finditer(text)]


def spans_of(table: Table, column: str, texts: Sequence[str]) -> list[list[Span]]:
    """Returns the spans of each text in order of their starts.

    Raises:
        InputError: with the line: a span that is malformed, blank or not in the text, or two that overlap.
    """
    rows = table.values(column)
    return [_checked(table.place(row), column, texts[row], value) for row, value in enumerate(rows)]


def _checked(place: str, column: str, text: str, value: Any) -> list[Span]:
    if not isinstance(value, list):
        raise InputError(f"{place}: {column!r} is {short(value)}: give {SPANS}.")
    spans = sorted(_span(place, column, text, item) for item in value)
    for one, other in zip(spans, spans[1:], strict=False):
        if other.start < one.end:
            raise InputError(
                f"{place}: the spans {_described(text, one)} and {_described(text, other)} overlap, but a word has "
                "one tag: leave one of them out."
            )
    return spans


def _span(place: str, column: str, text: str, item: Any) -> Span:
    start, end, label = (item.get(name) if isinstance(item, Mapping) else None for name in ("start", "end", "label"))
    if type(start) is not int or type(end) is not int or not isinstance(label, str):
        raise InputError(f"{place}: {column!r} holds {short(item)}: give {SPANS}.")
    if not is_tag(f"B-{label}"):
        raise InputError(
            f"{place}: the label of the span {start} to {end} is {short(label)}: give a name without tabs, line "
            "breaks and spaces around it."
        )
    if not 0 <= start < end <= len(text) or not text[start:end].strip():
        raise InputError(
            f"{place}: the span {start} to {end} holds no text (the text has {len(text)} characters): count "
            "characters (Python code points, not bytes) from 0, with an exclusive end."
        )
    return Span(start, end, label)


def _described(text: str, span: Span) -> str:
    return f"{short(text[span.start : span.end])} ({span.start} to {span.end}, {span.label})"


def tags_of_spans(
    table: Table, texts: Sequence[str], words: Sequence[Sequence[tuple[int, int]]], spans: Sequence[Sequence[Span]]
) -> list[list[str]]:
    """Returns the IOB2 tags of words. A word belongs to the first span that has a part of it.

    Warns of spans that begin or end inside a word, as they become longer, or are lost if another has the word.
    """
    found, inside = [], []
    for row, (text, places, given) in enumerate(zip(texts, words, spans, strict=True)):
        entities, begin = [], 0
        for span in given:
            first = next((word for word in range(begin, len(places)) if places[word][1] > span.start), len(places))
            begin = next((word for word in range(first, len(places)) if places[word][0] >= span.end), len(places))
            if begin > first:
                entities.append(Entity(first, begin, span.label))
            within = text[span.start : span.end].strip()
            start = text.index(within, span.start)
            if begin == first or (places[first][0], places[begin - 1][1]) != (start, start + len(within)):
                inside.append((row, span))
        found.append(iob2(entities, len(places)))
    if inside:
        row, span = inside[0]
        logger.warning(
            "%s: the span %s begins or ends inside a word (spans like this: %d). The whole word counts, and it "
            "belongs to the first span that has a part of it.",
            table.place(row),
            _described(texts[row], span),
            len(inside),
        )
    return found
