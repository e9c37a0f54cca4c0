"""Units: no token crosses one, each side has tokens in all of them, and none is smaller than a word."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ckd_trainer.data.alignment import Tokens, align, words_of


def spans(text):
    return [text[start:end] for start, end in zip(*words_of(text), strict=True)]


def tokens(*pieces, kept=None):
    """Returns tokens from their (start, end)."""
    starts, ends = np.array(pieces, np.int64).reshape(-1, 2).T
    return Tokens(starts, ends, np.ones(len(starts), bool) if kept is None else np.array(kept, bool))


def cut(text, *places):
    """Returns the tokens of a text that is cut at these places; spaces stay at the start of a token."""
    borders = [0, *places, len(text)]
    return tokens(*zip(borders[:-1], borders[1:], strict=True))


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("The cat's tail, 3.5%", ["The", "cat", "'", "s", "tail", ",", "3", ".", "5", "%"]),
        ("snake_case x1", ["snake", "_", "case", "x1"]),
        ("naïve nai\u0308ve", ["naïve", "nai\u0308ve"]),  # an accent belongs to its letter, in either form
        ("to\u0302\u0323i o\u0323ba x\u0305", ["to\u0302\u0323i", "o\u0323ba", "x\u0305"]),
        ("か\u3099 ﾋﾞ", ["か\u3099", "ﾋﾞ"]),
        ("你好 world", ["你", "好", "world"]),
        ("カタ ひら", ["カ", "タ", "ひ", "ら"]),
        ("コーヒーabc", ["コ", "ー", "ヒ", "ー", "abc"]),
        ("สวัสดี", ["ส", "วั", "ส", "ดี"]),  # vowel signs belong to their letter
        ("한국어 हिन्दी", ["한국어", "हिन्दी"]),
        ("👩\u200d👩\u200d👧🇩🇪👍🏽", ["👩\u200d👩\u200d👧", "🇩🇪", "👍🏽"]),
        ("می\u200cخواهم", ["می\u200cخواهم"]),
        ("\u00a0 \t\r\n\u3000", []),
        ("", []),
    ],
)
def test_words(text, words):
    assert spans(text) == words


def test_a_token_joins_the_words_that_it_crosses():
    text = "new york city"
    ours, theirs = align(text, [cut(text, 8), cut(text, 3, 8, 11)])  # new york| city and new| york| ci|ty
    assert ours.tolist() == [0, 1] and theirs.tolist() == [0, 0, 1, 1]


def test_words_stay_whole_if_both_cut_them_alike():
    text = "unfit for"
    ours, theirs = align(text, [cut(text, 2, 5), cut(text, 2, 5)])
    assert ours.tolist() == theirs.tolist() == [0, 0, 1]


def test_scripts_without_spaces_are_compared_by_character():
    text = "你好世界"
    ours, theirs = align(text, [cut(text, 1, 2, 3), cut(text, 2, 3)])  # 你|好|世|界 and 你好|世|界
    assert ours.tolist() == [0, 0, 1, 2] and theirs.tolist() == [0, 1, 2]


def test_bytes_of_a_character_are_one_unit():
    text = "a 😀"
    ours, theirs = align(text, [tokens((0, 1), (1, 3), (2, 3), (2, 3)), tokens((0, 1), (2, 3))])
    assert ours.tolist() == [0, 1, 1, 1] and theirs.tolist() == [0, 1]


def test_tokens_of_spaces_and_without_characters_have_no_unit():
    text = " a  b "
    ours, theirs = align(text, [tokens((0, 0), (1, 2), (2, 4), (4, 5), (5, 6)), tokens((1, 2), (4, 5))])
    assert ours.tolist() == [-1, 0, -1, 1, -1] and theirs.tolist() == [0, 1]


def test_a_word_that_one_side_drops_is_no_unit():
    text = "a \u0301 b"
    ours, theirs = align(text, [tokens((0, 1), (4, 5)), tokens((0, 1), (2, 3), (4, 5))])
    assert ours.tolist() == [0, 1] and theirs.tolist() == [0, -1, 1]


def test_a_word_that_one_side_cuts_is_no_unit():
    text = "one two"
    pieces = ((0, 3), (4, 6), (6, 7))
    ours, theirs = align(text, [tokens(*pieces, kept=[1, 1, 0]), tokens((0, 3), (4, 7))])
    assert ours.tolist() == [0, -1] and theirs.tolist() == [0, -1]
    # A token that is not read can still join two words.
    ours, theirs = align(text, [tokens((0, 3), (3, 7)), tokens((0, 4), (2, 5), (5, 7), kept=[1, 0, 0])])
    assert ours.tolist() == [-1, -1] and theirs.tolist() == [-1]


def slow(text, sides):
    """Merges characters one by one: those of a word, and those of a token, unless they are spaces."""
    group = list(range(len(text)))

    def merge(chars):
        chars = [char for char in chars if not text[char].isspace()]
        for char in chars[1:]:
            old, new = group[char], group[chars[0]]
            group[:] = [new if one == old else one for one in group]
        # whatever lies between two characters of a group belongs to it
        for one in set(group):
            inside = [place for place, other in enumerate(group) if other == one]
            for place in range(inside[0], inside[-1]):
                if not text[place].isspace() and group[place] != one:
                    merge([inside[0], place])

    for start, end in zip(*words_of(text), strict=True):
        merge(range(start, end))
    for side in sides:
        for start, end in zip(side.starts, side.ends, strict=True):
            merge(range(start, end))
    found = []
    for side in sides:
        own = []
        for start, end in zip(side.starts, side.ends, strict=True):
            chars = [char for char in range(start, end) if not text[char].isspace()]
            own.append(group[chars[0]] if chars else None)
        found.append(own)
    whole = []
    for one in dict.fromkeys(group):
        has = all(one in own for own in found)
        reads = all(
            all(kept for kept, other in zip(side.kept, own, strict=True) if other == one)
            for side, own in zip(sides, found, strict=True)
        )
        if has and reads:
            whole.append(one)
    return [
        [whole.index(one) if one in whole else -1 for place, one in enumerate(own) if side.kept[place]]
        for side, own in zip(sides, found, strict=True)
    ]


@st.composite
def tokenizations(draw, text):
    """Tokens in order, with gaps, of which a part in a row is kept."""
    pieces, place = [], 0
    while place < len(text):
        start = min(len(text), place + draw(st.sampled_from([0, 0, 0, 1])))
        end = min(len(text), start + draw(st.integers(1, 4)))
        if end > start:
            pieces += [(start, end)] * draw(st.sampled_from([1, 1, 1, 2]))
        place = max(end, place + 1)
    first = draw(st.integers(0, len(pieces)))
    last = draw(st.integers(first, len(pieces)))
    kept = draw(st.sampled_from([None, [first <= number < last for number in range(len(pieces))]]))
    return tokens(*pieces, kept=kept)


@settings(deadline=None, database=None)
@given(st.data())
def test_units_are_those_of_the_slow_twin(data):
    text = data.draw(st.text(st.sampled_from("ab 1.你ส\u0301é😀"), max_size=14))
    sides = [data.draw(tokenizations(text)) for _ in range(2)]
    units = align(text, sides)
    assert [own.tolist() for own in units] == slow(text, sides)
    numbers = [sorted({*own.tolist()} - {-1}) for own in units]
    assert numbers[0] == numbers[1] == list(range(len(numbers[0])))  # both have all units, in order
    assert all((np.diff(own[own >= 0]) >= 0).all() for own in units)
