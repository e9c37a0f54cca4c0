"""Two tokenizers as one: both encodings, and the units of their tokens, of hostile texts too."""

from collections import Counter

import numpy as np
import pytest
import torch
from helpers.tokenizers import TEXTS, byte_level, unigram, wordpiece
from transformers import DataCollatorWithPadding

from ckd_trainer import TokenizerPair
from ckd_trainer.data.alignment import words_of
from ckd_trainer.utils.errors import InputError
from ckd_trainer.utils.units import first_places

TOKENIZERS = {
    "uncased": wordpiece,
    "cased": lambda: wordpiece(lowercase=False),
    "byte-level": byte_level,
    "unigram": unigram,
}
PAIRS = [("uncased", "cased"), ("uncased", "byte-level"), ("byte-level", "unigram"), ("unigram", "cased")]
HOSTILE = [
    "",
    " ",
    "\n\t",
    "\u200b",
    "a\u00adb",
    "\u0301",
    "[CLS] <s> </s>",
    "a" * 300,
    "한국어 텍스트",
    "日本語テキスト",
    "x\ufe0f",
    "\x07",
]


@pytest.fixture(scope="module")
def made():
    return {name: make() for name, make in TOKENIZERS.items()}


@pytest.fixture(params=PAIRS, ids=" and ".join)
def pair(made, request):
    return TokenizerPair(*(made[name] for name in request.param))


def parts(tokenizer, text, units):
    """The characters of each unit: from the first to the last of its tokens, without spaces around."""
    encoding, found = tokenizer(text).encodings[0], {}
    for unit, (start, end), sequence in zip(units, encoding.offsets, encoding.sequence_ids, strict=True):
        if sequence is None:
            assert unit in (-1, 0) and (unit == -1 or "begins" not in found)
            continue
        if unit >= 0:
            first, last = found.get(unit, (start, end))
            found[unit] = min(first, start), max(last, end)
    return {unit: text[start:end].strip() for unit, (start, end) in found.items()}


@pytest.mark.parametrize("text", [*TEXTS, *HOSTILE])
def test_both_sides_of_a_unit_are_the_same_characters(pair, text):
    columns = pair(text)
    ours = parts(pair.student, text, columns["units"])
    theirs = parts(pair.teacher, text, columns["teacher_units"])
    assert ours.keys() == theirs.keys() == set(range(1, 1 + len(ours)))  # 0 is the token that begins the text
    words = [text[start:end] for start, end in zip(*words_of(text), strict=True)]
    for unit, characters in ours.items():
        other = theirs[unit]
        # One side may drop characters, such as accents and invisible ones, but at the border of a unit it has all
        # the rest.
        assert characters in other or other in characters, unit
        assert any(word in characters or characters in word for word in words)


@pytest.mark.parametrize("text", TEXTS)
def test_words_are_compared_rather_than_sentences(pair, text):
    """At least half of the words are units of their own, unless a token has several of them."""
    found = len({*pair(text)["units"].tolist()} - {-1, 0})
    words = len(words_of(text)[0])
    crossing = 0
    for tokenizer in (pair.student, pair.teacher):
        starts, _ = words_of(text)
        for start, end in tokenizer(text).encodings[0].offsets:
            crossing += max(0, int(((starts >= start) & (starts < end)).sum()) - 1)
    unknown = sum(
        ids == tokenizer.unk_token_id
        for tokenizer in (pair.student, pair.teacher)
        for ids in tokenizer(text)["input_ids"]
    )
    assert found >= words - crossing - 2 * unknown - 1


def test_a_pair_of_texts_shares_no_unit(pair):
    text, other = "the cat", "cat the dog"
    columns = pair(text, other)
    for tokenizer, name in ((pair.student, "units"), (pair.teacher, "teacher_units")):
        sequences = tokenizer(text, other).encodings[0].sequence_ids
        own = [
            {unit for unit, its in zip(columns[name], sequences, strict=True) if its == number} for number in (0, 1)
        ]
        assert own[0] - {-1} == {1, 2} and own[1] - {-1} == {3, 4, 5}


def test_encodings_are_those_of_each_tokenizer(pair):
    texts, others = TEXTS[:4], TEXTS[4:8]
    options = {"truncation": True, "max_length": 20, "padding": "max_length"}
    columns = pair(texts, others, **options)
    for tokenizer, prefix in ((pair.student, ""), (pair.teacher, "teacher_")):
        for name, values in tokenizer(texts, others, **options).items():
            assert columns[prefix + name] == values
        assert all(len(row) == 20 for row in columns[prefix + "units"])


@pytest.mark.parametrize("side", ["right", "left"])
@pytest.mark.parametrize("length", [3, 6, 9, 14, 25, 60])
def test_a_word_that_is_cut_is_no_unit(side, length):
    """The units are exactly those of which both encodings hold all tokens."""
    pair = TokenizerPair(wordpiece(), byte_level())
    text, other = "unaffordable 😀 cat sleeps, slowly!", "the naïve bird grows"
    uncut = pair(text, other)
    wanted = {*uncut["units"].tolist()} - {-1}
    for tokenizer, name in ((pair.student, "units"), (pair.teacher, "teacher_units")):
        tokenizer.truncation_side = side
        whole, cut = (
            Counter(zip(*token_columns(encoded), strict=True))
            for encoded in (
                tokenizer(text, other),
                tokenizer(text, other, truncation=True, max_length=length),
            )
        )
        tokens = zip(uncut[name].tolist(), *token_columns(tokenizer(text, other)), strict=True)
        wanted -= {unit for unit, *token in tokens if cut[tuple(token)] < whole[tuple(token)]}
    found = pair(text, other, truncation=True, max_length=length)
    assert max(found["units"]) == max(found["teacher_units"]) == len(wanted) - 1
    assert len(wanted) < len({*uncut["units"].tolist()}) - 1 or length == 60


SPACED = "the cat    sleeps   on \n\n  the tree"  # a byte-level tokenizer makes tokens of spaces


def units_within(units, first, stop):
    """The units whose tokens are all from `first` up to `stop`, which does not count; without that of [CLS]."""
    outside = {*units[:first].tolist(), *units[stop:].tolist()}
    return {*units[first:stop].tolist()} - outside - {-1, 0}


@pytest.mark.parametrize("text", [SPACED, "the the the the the"])
@pytest.mark.parametrize("length", range(3, 16))
def test_a_cut_before_spaces_or_the_same_word(text, length):
    pair = TokenizerPair(wordpiece(), byte_level())
    pair.student.truncation_side = pair.teacher.truncation_side = "left"
    uncut, cut = pair(text), pair(text, truncation=True, max_length=length)
    both = [uncut[name] for name in ("units", "teacher_units")]
    wanted = set.intersection(*(units_within(own, max(1, len(own) + 1 - length), len(own) - 1) for own in both))
    assert max(cut["units"]) == max(cut["teacher_units"]) == len(wanted)


@pytest.mark.parametrize("length", range(5, 12))
def test_windows_that_begin_with_spaces(length):
    """A token of spaces has other offsets if it comes first in an encoding."""
    pair = TokenizerPair(byte_level(), wordpiece())
    options = {"truncation": True, "max_length": length, "stride": 2, "return_overflowing_tokens": True}
    windows, whole = pair.student([SPACED], **options), pair(SPACED)["units"]
    columns = pair.of_windows(windows, windows["overflow_to_sample_mapping"], [(SPACED,)], 100)
    assert len(columns["units"]) > 1
    for number, (units, theirs) in enumerate(zip(columns["units"], columns["teacher_units"], strict=True)):
        start = 1 + number * (length - 4)  # without two special tokens, and two tokens of the window before
        wanted = units_within(whole, start, start + len(units) - 2)
        assert max(units) == max(theirs) == len(wanted)


def token_columns(encoded):
    encoding = encoded.encodings[0]
    return encoding.sequence_ids, [end for _, end in encoding.offsets], encoding.ids


@pytest.mark.parametrize("sides", [("right", "right"), ("left", "right"), ("right", "left")], ids=" and ".join)
def test_padding(sides):
    pair = TokenizerPair(wordpiece(), byte_level(padding_side=sides[1]))
    pair.student.padding_side = sides[0]
    assert pair.padding_side == sides[0]
    columns = pair(TEXTS[:3])
    rows = [{name: values[row] for name, values in columns.items()} | {"labels": row} for row in range(3)]
    batch = DataCollatorWithPadding(pair)(rows)
    assert batch["labels"].tolist() == [0, 1, 2]
    for side, prefix in zip(sides, ("", "teacher_"), strict=True):
        assert batch[f"{prefix}units"].shape == batch[f"{prefix}input_ids"].shape
        for row, units, mask in zip(rows, batch[f"{prefix}units"], batch[f"{prefix}attention_mask"], strict=True):
            valid = mask.bool()
            assert units[valid].tolist() == row[f"{prefix}units"].tolist() and (units[~valid] == -1).all()
            assert valid.all() or valid[0 if side == "right" else -1]
    counts = [1 + max(row["units"]) for row in rows]
    assert batch["unit_mask"].sum(-1).tolist() == counts and batch["unit_mask"].shape[1] == max(counts)
    fixed = DataCollatorWithPadding(pair, padding="max_length", max_length=100)(rows)
    assert {len(fixed[name][0]) for name in ("input_ids", "teacher_input_ids", "unit_mask")} == {100}
    assert fixed["unit_mask"].sum(-1).tolist() == counts


def test_rows_of_the_student_alone(made):
    pair = TokenizerPair(made["uncased"], made["unigram"])
    rows = [dict(pair.student(text)) for text in TEXTS[:2]]
    batch = DataCollatorWithPadding(pair)(rows)
    assert batch.keys() == rows[0].keys() and "units" not in batch
    assert batch["input_ids"].equal(torch.as_tensor(DataCollatorWithPadding(pair.student)(rows)["input_ids"]))


def test_first_places():
    assert first_places([-1, 0, 0, -1, 1, 1, 2, -1]).tolist() == [1, 4, 6]
    assert first_places([0, 1]).tolist() == [0, 1] and len(first_places([-1, -1])) == 0


def test_a_tokenizer_without_positions_is_refused(made):
    class Slow:
        is_fast = False

    with pytest.raises(InputError, match="Slow does not give the positions of tokens in the text: use a model with a"):
        TokenizerPair(made["uncased"], Slow())


def test_one_text_is_a_row(made):
    pair = TokenizerPair(made["uncased"], made["byte-level"])
    one, many = pair("the cat", "a dog"), pair(["the cat"], ["a dog"])
    assert one.keys() == many.keys() and {*one} == {*pair.model_input_names}
    assert all(np.array_equal(value, many[name][0]) for name, value in one.items())
