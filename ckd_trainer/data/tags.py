"""Tags of named entities: the schemes IOB1, IOB2 and BILOU (or IOBES), and warnings of impossible sequences."""

import logging
import re
from collections.abc import Callable, Iterable, Sequence

from ckd_trainer.metrics.entities import Entity, entities_of
from ckd_trainer.utils.errors import InputError, short

logger = logging.getLogger(__name__)

_TAG = re.compile(r"O|[BILUES]-\S([^\t\n\r]*\S)?")
_MORE = {"I", "L", "E"}  # prefixes that continue an entity


def is_tag(word: str) -> bool:
    """Returns whether a word is a tag: O, or a letter, a hyphen and a type, such as B-PER."""
    return _TAG.fullmatch(word) is not None


def check_tag(word: str, place: str, advice: str) -> None:
    """Raises InputError, with the place and an advice, if a word is not a tag."""
    if not is_tag(word):
        raise InputError(
            f"{place}: {short(word)} is not a tag: give O, or B- or I- and a type, such as B-PER (BILOU and IOBES "
            f"have L-, U-, E- and S- as well); {advice}."
        )


def label_names(types: Iterable[str]) -> list[str]:
    """Returns the labels of a model: O, and B- and I- of each type, in the order of the alphabet.

    Example::

        label_names(["PER", "LOC"])  # ["O", "B-LOC", "I-LOC", "B-PER", "I-PER"]
    """
    return ["O", *(f"{prefix}-{name}" for name in sorted(set(types)) for prefix in "BI")]


def iob2(entities: Iterable[Entity], length: int) -> list[str]:
    """Returns the IOB2 tags of a sentence of `length` words."""
    tags = ["O"] * length
    for first, stop, kind in entities:
        tags[first:stop] = [f"B-{kind}", *[f"I-{kind}"] * (stop - first - 1)]
    return tags


def read_tags(sentences: Sequence[Sequence[str]], place: Callable[[int, int], str]) -> list[list[str]]:
    """Returns the tags of sentences in IOB2, and warns of impossible sequences.

    The sentences decide the scheme. With L, U, E or S it is BILOU (or IOBES, which only has other letters). Without
    them, it is IOB1 if some entity begins with I, and each B separates two entities of a type; otherwise it is IOB2.

    Args:
        sentences: their tags, as `is_tag` accepts them.
        place: returns the place of a word of a sentence, both from 0, such as "train.conll, line 7".
    """
    follows = _follower(sentences)
    wrong = [
        (row, word)
        for row, tags in enumerate(sentences)
        for word, (before, tag) in enumerate(zip(["O", *tags], [*tags, "O"], strict=True))
        if not follows(before, tag)
    ]
    if wrong:
        row, word = wrong[0]
        tags = sentences[row]
        before = tags[word - 1] if word else "the beginning of the sentence"
        tag = tags[word] if word < len(tags) else "the end of the sentence"
        logger.warning(
            "%s: %s cannot follow %s (places like this: %d). An entity begins where none of its type is open, and "
            "ends before another tag, as for conlleval.",
            place(row, min(word, len(tags) - 1)),
            tag,
            before,
            len(wrong),
        )
    return [iob2(entities_of(tags), len(tags)) for tags in sentences]


def _follower(sentences: Sequence[Sequence[str]]) -> Callable[[str, str], bool]:
    """Returns what says whether a tag can follow another one in the scheme of these sentences."""
    prefixes = {tag[0] for tags in sentences for tag in tags}
    if prefixes & {"L", "U", "E", "S"}:
        return _in_bilou
    pairs = [pair for tags in sentences for pair in zip(["O", *tags], tags, strict=False)]
    separate = all(before[2:] == tag[2:] for before, tag in pairs if tag[0] == "B")
    return _in_iob1 if separate else _in_iob2


def _in_bilou(before: str, tag: str) -> bool:
    is_open = before[0] in "BI"
    return is_open == (tag[0] in _MORE) and (not is_open or before[2:] == tag[2:])


def _in_iob1(before: str, tag: str) -> bool:
    return True  # a file in which a B separates nothing is taken for IOB2


def _in_iob2(before: str, tag: str) -> bool:
    return tag[0] != "I" or before[2:] == tag[2:]
