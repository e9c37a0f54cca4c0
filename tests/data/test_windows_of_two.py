"""Windows of long texts for two tokenizers: the student's tokenizer cuts, and the teacher's reads the same pieces."""

import pytest
from helpers.questions import NO_ANSWER, drawer, make_questions, make_tokenizer, options, random_text
from helpers.tokenizers import byte_level

from ckd_trainer import TokenizerPair
from ckd_trainer.data import squad_features, windows
from ckd_trainer.data.ner_arguments import NerArguments
from ckd_trainer.utils.units import is_of_units

PAIRS = [("word pieces", "byte-level"), ("byte-level", "word pieces"), ("byte-level", "cls last")]


def questions(draw, count=12):
    rows = []
    for number in range(count):
        context, question = random_text(draw, draw.randint(0, 60)), random_text(draw, draw.randint(0, 12))
        rows.append((f"q{number}", context, question, NO_ANSWER))
    return make_questions(*rows)


def check_units(rows, pair, alone):
    """The student's columns are those without a teacher, and both sides of a unit are the same characters."""
    found = 0
    for row, single in zip(rows, alone, strict=True):
        assert {name: value for name, value in row.items() if not is_of_units(name)} == single
        sides = []
        for tokenizer, prefix in ((pair.student, ""), (pair.teacher, "teacher_")):
            ids, units = row[f"{prefix}input_ids"], row[f"{prefix}units"]
            assert len(ids) == len(units)
            own = [
                [token for token, its in zip(ids, units, strict=True) if its == unit] for unit in range(max(units) + 1)
            ]
            assert all(own)
            sides.append([tokenizer.decode(tokens).replace(" ", "").replace("##", "").lower() for tokens in own])
        assert len(sides[0]) == len(sides[1])
        for ours, theirs in zip(*sides, strict=True):
            if (ours + theirs).isascii() and ours[0] not in "[<" and "[unk]" not in ours + theirs:
                assert ours == theirs
                found += 1
    assert found > 100


@pytest.mark.parametrize("kinds", PAIRS, ids=" and ".join)
def test_questions(rng, kinds):
    pair, data = TokenizerPair(*map(make_tokenizer, kinds)), questions(drawer(rng))
    rows, alone = (
        squad_features.encode(data, tokenizer, options(), with_offsets=True).to_list()
        for tokenizer in (pair, pair.student)
    )
    assert len(rows) > len(data)
    check_units(rows, pair, alone)


@pytest.mark.parametrize("kinds", PAIRS, ids=" and ".join)
def test_sentences(rng, kinds):
    pair, data = TokenizerPair(*map(make_tokenizer, kinds)), questions(drawer(rng)).rename_column("context", "text")
    arguments = NerArguments(train_file="a.conll", max_seq_length=20, doc_stride=3)
    rows, alone = (
        windows.encode(data, tokenizer, arguments, with_words=False).to_list() for tokenizer in (pair, pair.student)
    )
    assert len(rows) > len(data)
    check_units(rows, pair, alone)


@pytest.mark.parametrize("last", [False, True])
def test_answers_in_words_that_are_cut(caplog, last):
    """The teacher reads the piece of the context in more tokens, of which the last are cut; [CLS] does not count."""
    text = "the river runs slowly past the old town"
    answer = {"text": ["town" if last else "river"], "answer_start": [text.index("town" if last else "river")]}
    student = make_tokenizer("word pieces")
    length = len(student("the", text)["input_ids"])
    data = make_questions(("q0", text, "the", answer), ("q1", text, "the", NO_ANSWER))
    for teacher in (byte_level(), make_tokenizer("cls last")):  # the second has no token that begins a text
        caplog.clear()
        squad_features.encode(
            data, TokenizerPair(student, teacher), options(max_seq_length=length, doc_stride=0), with_offsets=False
        )
        cut = last and len(teacher("the", text)["input_ids"]) > length
        said = "1 of 2 questions ('q0') start or end in a word that teacher or student does not read as a whole"
        assert (said in caplog.text) == cut and cut == ("start or end" in caplog.text)
