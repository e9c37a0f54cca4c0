"""The metric of entities: hand-made cases with the numbers that conlleval gives for them, schemes, and laws."""

import random

import pytest
from sklearn.metrics import f1_score

from ckd_trainer.metrics.entities import Entity, EntityMetric, entities_of, scores_of_counts, sentence_counts

TAGS = ["O", "B-PER", "I-PER", "B-LOC", "I-LOC"]


def compute(predictions, references):
    metric = EntityMetric(keep_in_memory=True)
    return metric.compute(predictions=predictions, references=references)


def words(text):
    return [sentence.split() for sentence in text.split("|")]


@pytest.mark.parametrize(
    ("tags", "entities"),
    [
        ("B-PER I-PER O I-LOC", [(0, 2, "PER"), (3, 4, "LOC")]),
        ("I-PER I-PER B-PER", [(0, 2, "PER"), (2, 3, "PER")]),  # IOB1
        ("B-PER B-PER I-PER", [(0, 1, "PER"), (1, 3, "PER")]),
        ("B-PER I-LOC I-LOC", [(0, 1, "PER"), (1, 3, "LOC")]),  # impossible in IOB2: another type begins
        ("U-PER B-LOC I-LOC L-LOC U-PER", [(0, 1, "PER"), (1, 4, "LOC"), (4, 5, "PER")]),  # BILOU
        ("S-PER B-LOC E-LOC", [(0, 1, "PER"), (1, 3, "LOC")]),  # IOBES
        ("E-PER I-PER", [(0, 1, "PER"), (1, 2, "PER")]),
        ("L-PER L-PER O L-PER", [(0, 1, "PER"), (1, 2, "PER"), (3, 4, "PER")]),
        ("B-creative-work I-creative-work", [(0, 2, "creative-work")]),
        ("O O", []),
        ("", []),
    ],
)
def test_entities_of_each_scheme(tags, entities):
    assert entities_of(tags.split()) == [Entity(*entity) for entity in entities]


# What conlleval.pl counts, by hand: tokens, actual phrases, predicted phrases, right ones, tokens with the right tag.
CASES = [
    # one right of two predicted and two actual: a boundary is wrong
    ("B-PER I-PER O B-LOC", "B-PER I-PER O B-LOC", 4, 2, 2, 2, 4),
    ("B-PER I-PER O B-LOC", "B-PER O O B-LOC", 4, 2, 2, 1, 3),
    # the type is wrong
    ("B-PER I-PER O", "B-LOC I-LOC O", 3, 1, 1, 0, 1),
    # I- after O begins a phrase, so it is right, though its tag is not
    ("O B-PER I-PER", "O I-PER I-PER", 3, 1, 1, 1, 2),
    # I- of another type begins one as well: B-PER I-LOC are two phrases
    ("B-PER O", "B-PER I-LOC", 2, 1, 2, 1, 1),
    # two phrases side by side are not one
    ("B-PER B-PER", "B-PER I-PER", 2, 2, 1, 0, 1),
    # a phrase ends with its sentence
    ("B-PER|I-PER O", "B-PER|I-PER O", 3, 2, 2, 2, 3),
    ("O O", "O B-PER", 2, 0, 1, 0, 1),
    ("O B-PER", "O O", 2, 1, 0, 0, 1),
    ("O O", "O O", 2, 0, 0, 0, 2),
]


@pytest.mark.parametrize(("actual", "predicted", "tokens", "gold", "found", "right", "right_tags"), CASES)
def test_the_counts_of_conlleval(actual, predicted, tokens, gold, found, right, right_tags):
    counts = sentence_counts(words(predicted), words(actual))
    assert counts.sum(0).tolist() == [right, found, gold, right_tags, tokens]
    scores = compute(words(predicted), words(actual))
    precision, recall = right / found if found else 0.0, right / gold if gold else 0.0
    f1 = 2 * precision * recall / (precision + recall) if precision + recall else 0.0
    assert [scores[name] for name in ("precision", "recall", "f1")] == pytest.approx([precision, recall, f1])
    assert scores["accuracy"] == right_tags / tokens


def test_a_report_of_conlleval():
    """Three types, by hand: PER 2 of 3 predicted and 2 actual, LOC 1 of 1 and 2, ORG 0 of 1 and 1."""
    actual = words("B-PER I-PER O B-LOC|O B-PER O B-LOC|B-ORG I-ORG O")
    predicted = words("B-PER I-PER O B-LOC|O B-PER O B-PER|O B-ORG O")
    assert compute(predicted, actual) == pytest.approx(
        {
            "precision": 3 / 5,
            "recall": 3 / 5,
            "f1": 0.6,
            "precision_macro": (2 / 3 + 1 + 0) / 3,
            "recall_macro": (1 + 1 / 2 + 0) / 3,
            "f1_macro": (0.8 + 2 / 3 + 0) / 3,
            "PER_precision": 2 / 3,
            "PER_recall": 1.0,
            "PER_f1": 0.8,
            "PER_number": 2,
            "LOC_precision": 1.0,
            "LOC_recall": 0.5,
            "LOC_f1": 2 / 3,
            "LOC_number": 2,
            "ORG_precision": 0.0,
            "ORG_recall": 0.0,
            "ORG_f1": 0.0,
            "ORG_number": 1,
            "accuracy": 8 / 11,
        }
    )


def test_f1_of_one_word_entities_is_that_of_sklearn():
    draw = random.Random(0)
    for _ in range(20):
        actual, predicted = ([draw.choice(["O", "U-PER", "U-LOC"]) for _ in range(30)] for _ in range(2))
        scores = compute([predicted], [actual])
        expected = f1_score(actual, predicted, labels=["U-PER", "U-LOC"], average="micro", zero_division=0)
        assert scores["f1"] == pytest.approx(expected)
        macro = f1_score(actual, predicted, labels=["U-PER", "U-LOC"], average="macro", zero_division=0)
        assert scores["f1_macro"] == pytest.approx(macro)


def test_counts_give_the_scores_of_the_metric():
    draw = random.Random(1)
    actual, predicted = ([[draw.choice(TAGS) for _ in range(7)] for _ in range(40)] for _ in range(2))
    scores = compute(predicted, actual)
    found = scores_of_counts(sentence_counts(predicted, actual))
    assert found == pytest.approx({name: scores[name] for name in ("precision", "recall", "f1", "accuracy")})
    assert compute(actual, actual)["f1"] == 1 == compute(actual, actual)["f1_macro"]


def test_what_cannot_be_scored():
    with pytest.raises(ValueError, match="sentence 2 has 1 predictions for 2 words"):
        compute([["O"], ["O"]], [["O"], ["O", "O"]])
    with pytest.raises(ValueError, match="nothing to score"):
        compute([[]], [[]])
