"""Schemes of tags: what each means in IOB2, and which sequences are warned of."""

import pytest

from ckd_trainer.data.tags import check_tag, iob2, is_tag, label_names, read_tags
from ckd_trainer.metrics.entities import entities_of
from ckd_trainer.utils.errors import InputError


def place(row, word):
    return f"a.conll, line {10 * row + word + 1}"


def read(*sentences):
    return [" ".join(tags) for tags in read_tags([sentence.split() for sentence in sentences], place)]


@pytest.mark.parametrize(
    ("sentences", "meaning"),
    [
        (["B-PER I-PER O B-PER B-PER"], ["B-PER I-PER O B-PER B-PER"]),  # IOB2
        (["I-PER I-PER O I-PER B-PER"], ["B-PER I-PER O B-PER B-PER"]),  # IOB1
        (["I-PER I-LOC", "I-LOC O"], ["B-PER B-LOC", "B-LOC O"]),  # IOB1, in which nothing has to be separated
        (["B-PER L-PER O U-PER U-PER"], ["B-PER I-PER O B-PER B-PER"]),  # BILOU
        (["B-PER I-PER E-PER S-LOC"], ["B-PER I-PER I-PER B-LOC"]),  # IOBES
        (["O O", "O"], ["O O", "O"]),
    ],
)
def test_schemes(caplog, sentences, meaning):
    assert read(*sentences) == meaning
    assert not caplog.text


@pytest.mark.parametrize(
    ("sentences", "meaning", "warning"),
    [
        (["B-PER O", "O I-PER"], ["B-PER O", "O B-PER"], "line 12: I-PER cannot follow O (places like this: 1)"),
        (["B-PER I-LOC", "I-PER"], ["B-PER B-LOC", "B-PER"], "line 2: I-LOC cannot follow B-PER (places like"),
        (["O B-LOC", "I-PER"], ["O B-LOC", "B-PER"], "line 11: I-PER cannot follow the beginning of the sentence"),
        (["B-PER O U-PER"], ["B-PER O B-PER"], "line 2: O cannot follow B-PER"),
        (["U-PER I-PER L-PER"], ["B-PER B-PER I-PER"], "line 2: I-PER cannot follow U-PER"),
        (["U-LOC B-PER"], ["B-LOC B-PER"], "line 2: the end of the sentence cannot follow B-PER"),
    ],
)
def test_impossible_sequences_are_warned_of_with_their_line(caplog, sentences, meaning, warning):
    assert read(*sentences) == meaning
    assert warning in caplog.text and caplog.text.count("WARNING") == 1


def test_labels_of_a_model():
    assert label_names(["PER", "LOC", "PER"]) == ["O", "B-LOC", "I-LOC", "B-PER", "I-PER"]
    assert iob2(entities_of(["I-PER", "I-PER", "O"]), 3) == ["B-PER", "I-PER", "O"]


def test_what_is_a_tag():
    assert all(map(is_tag, ["O", "B-PER", "S-a", "I-creative-work", "L-first name"]))
    for word in ("", "o", "PER", "B-", "B-PER ", "B- PER", "X-PER", "B-a\tb", "B_PER", "0"):
        assert not is_tag(word)
        with pytest.raises(InputError, match="a.conll, line 3: .* is not a tag: give O, or B- or I-"):
            check_tag(word, "a.conll, line 3", "advice")
