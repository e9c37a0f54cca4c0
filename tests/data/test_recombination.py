"""Recombined pairs against a slow twin, and the laws that hold for them."""

import math
import random
import re
from collections import Counter

import pytest

import ckd_trainer.data.recombination
from ckd_trainer.data.recombination import recombined

WORDS = "a the cat dog bird sleeps runs sings now here ! 7".split()


def texts(count, seed):
    draw = random.Random(seed)
    return [" ".join(draw.choices(WORDS, k=draw.randint(1, 5))) for _ in range(count)]


FIRSTS, SECONDS = texts(40, 1), texts(40, 2)


def cosines(firsts, seconds):
    """The cosine of TF-IDF vectors of each distinct first text with each distinct second one, word by word."""
    firsts, seconds = list(dict.fromkeys(firsts)), list(dict.fromkeys(seconds))
    counts = {text: Counter(re.findall(r"\w+|\S", text.lower())) for text in (*firsts, *seconds)}
    documents = [counts[text] for text in (*firsts, *seconds)]
    found = {}
    for first in firsts:
        for second in seconds:
            vectors = []
            for text in (first, second):
                vector = {}
                for word, count in counts[text].items():
                    frequency = sum(word in document for document in documents)
                    vector[word] = count * (math.log((1 + len(documents)) / (1 + frequency)) + 1)
                length = math.sqrt(sum(value**2 for value in vector.values()))
                vectors.append({word: value / length for word, value in vector.items()})
            found[first, second] = sum(value * vectors[1].get(word, 0) for word, value in vectors[0].items())
    return found


def test_the_nearest_are_those_of_a_slow_twin(monkeypatch):
    """In any number of blocks. Equally near texts may change places."""
    expected, given = cosines(FIRSTS, SECONDS), set(zip(FIRSTS, SECONDS, strict=True))
    for cells in (2**24, 100):
        monkeypatch.setattr(ckd_trainer.data.recombination, "_CELLS", cells)
        made = list(recombined(FIRSTS, SECONDS, neighbors=3, random_pairs=0, seed=0))
        assert len(made) == len(set(FIRSTS))
        for first, pairs in zip(dict.fromkeys(FIRSTS), made, strict=True):
            possible = {
                second: value
                for (one, second), value in expected.items()
                if one == first and second != first and (first, second) not in given and value > 0
            }
            best = sorted(possible.values(), reverse=True)[:3]
            assert [one for one, _ in pairs] == [first] * len(best)
            assert [possible[second] for _, second in pairs] == pytest.approx(best)


def test_of_equally_near_texts_the_first():
    """After one that is nearer, and comes last."""
    seconds = [*(f"cat {number}" for number in range(100, 300)), "cat cat 300"]
    firsts = ["cat", *(second.split()[-1] for second in seconds[1:])]
    pairs = next(recombined(firsts, seconds, neighbors=5, random_pairs=0, seed=0))
    assert pairs == [("cat", second) for second in (seconds[-1], *seconds[1:5])]


def test_pairs_are_new_and_the_seed_decides():
    first = list(recombined(FIRSTS, SECONDS, neighbors=2, random_pairs=2, seed=0))
    pairs = [pair for made in first for pair in made]
    assert len(set(pairs)) == len(pairs) > 100
    assert not set(pairs) & set(zip(FIRSTS, SECONDS, strict=True))
    assert all(one != other and one in FIRSTS and other in SECONDS for one, other in pairs)
    assert first == list(recombined(FIRSTS, SECONDS, neighbors=2, random_pairs=2, seed=0))
    assert first != list(recombined(FIRSTS, SECONDS, neighbors=2, random_pairs=2, seed=1))


def test_no_pair_is_left():
    assert list(recombined(["one"], ["two"], neighbors=5, random_pairs=5, seed=0)) == [[]]
    # without a common word, or of one text twice
    assert list(recombined(["one", "two"], ["three", "four"], neighbors=1, random_pairs=0, seed=0)) == [[], []]
    assert list(recombined(["one", "two"], ["two", "one"], neighbors=1, random_pairs=0, seed=0)) == [[], []]


@pytest.mark.parametrize(
    ("text", "near", "far"),
    [
        ("猫在沙发上睡觉", "我的猫睡着了", "股票今天下跌"),
        ("แมวนอนหลับ", "แมวของฉันหลับ", "กกก"),
        ("बिल्ली सोती है", "बिल्ली कूदती है", "शेयर गिरते हैं"),
        ("고양이 잔다", "고양이 뛴다", "주가 하락"),
    ],
    ids=["Chinese", "Thai", "Hindi", "Korean"],
)
def test_other_scripts(text, near, far):
    """Also those without spaces between words, and those whose vowels are marks."""
    made = list(recombined([text, "one", "two"], ["two", far, near], neighbors=1, random_pairs=0, seed=0))
    assert made[0] == [(text, near)]
