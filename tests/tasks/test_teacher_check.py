"""A teacher that guesses is warned of; one whose labels or scores mean something else is refused."""

import logging

import numpy as np
import pytest

from ckd_trainer.tasks.teacher_check import (
    check_classes,
    check_label_sets,
    check_ranks,
    check_scores,
    permutation,
)
from ckd_trainer.utils.errors import InputError

SWAPPED = [1, 0]


def sample(classes, count, accuracy, order=None, seed=0, shares=None):
    """Returns labels, and answers that are right as often as that, else drawn at random; then put in an order."""
    draw = np.random.default_rng(seed)
    labels = draw.choice(classes, count, p=shares)
    answers = np.where(draw.random(count) < accuracy, labels, draw.integers(classes, size=count))
    return labels, np.asarray(order or range(classes))[answers]


def inverse(order):
    return np.argsort(order).tolist()


TEN_BEFORE_TWO = sorted(range(12), key=str)


@pytest.mark.parametrize(
    ("classes", "count", "accuracy", "order"),
    [
        (2, 256, 0.8, SWAPPED),
        (2, 40, 0.95, SWAPPED),
        (3, 256, 0.6, [2, 0, 1]),
        (12, 256, 0.9, TEN_BEFORE_TWO),
        (12, 256, 0.9, [1, 0, *range(2, 12)]),
    ],
)
def test_a_permutation_is_found(classes, count, accuracy, order):
    assert permutation(*sample(classes, count, accuracy, order), classes) == inverse(order)


@pytest.mark.parametrize("accuracy", [0.0, 0.1, 0.5, 0.9])
@pytest.mark.parametrize(("classes", "count"), [(2, 12), (2, 256), (3, 256), (12, 20), (12, 256), (77, 770)])
def test_chance_is_no_permutation(classes, count, accuracy):
    found = [permutation(*sample(classes, count, accuracy, seed=seed), classes) for seed in range(20)]
    assert found == [None] * 20


def test_a_bias_is_no_permutation():
    """A teacher that mostly says the rare class would be right more often in the other order, and knows no more."""
    labels, _ = sample(2, 256, 0, shares=[0.9, 0.1])
    for answers in (np.ones_like(labels), np.random.default_rng(1).choice(2, 256, p=[0.1, 0.9])):
        assert permutation(labels, answers, 2) is None


def test_a_weak_teacher_that_leans_to_a_neighbor_is_no_permutation():
    draw = np.random.default_rng(0)
    for seed in range(10):
        labels, answers = sample(5, 256, 0.2, seed=seed)
        answers = np.where(draw.random(256) < 0.3, np.minimum(labels + 1, 4), answers)
        assert permutation(labels, answers, 5) is None


@pytest.mark.parametrize("check", [check_scores, check_ranks])
def test_scores_that_are_not_finite_are_refused(check):
    with pytest.raises(InputError, match="not finite"):
        check([0.0, 1.0], [float("nan"), 1.0], "training")
    with pytest.raises(InputError, match="not finite"):
        check_label_sets([[0, 1], [1, 0]], [[float("inf"), 1.0], [0.0, 0.0]], ["a", "b"], "training")


def test_another_order_is_refused_with_the_one_that_fits():
    labels, answers = sample(3, 256, 0.9, [0, 2, 1])
    with pytest.raises(InputError) as error:
        check_classes(labels, answers, ["no", "perhaps", "yes"], "training")
    words = (
        "another order",
        "accuracy 0.3",
        "256 training examples",
        "'perhaps' means 'yes'",
        "'yes' means 'perhaps'",
    )
    assert all(word in str(error.value) for word in words) and "'no' means" not in str(error.value)
    assert "id2label" in str(error.value) and len(str(error.value)) < 700


def test_a_teacher_that_guesses_is_warned_of(caplog):
    check_classes(*sample(2, 256, 0.0), ["no", "yes"], "validation")
    (record,) = caplog.records
    assert "AT CHANCE" in record.message and "on 256 validation examples" in record.message


def test_a_teacher_that_knows_is_reported(caplog):
    with caplog.at_level(logging.INFO):
        check_classes(*sample(2, 256, 0.8), ["no", "yes"], "validation")
        labels = np.linspace(0, 1, 100)
        check_scores(labels, labels + 0.1 * np.sin(np.arange(100)), "validation")
    assert [record.levelname for record in caplog.records] == ["INFO", "INFO"]
    assert "RMSE 0.07" in caplog.records[1].message


@pytest.mark.parametrize("labels", [[1], [1] * 9, list(range(9))])
def test_too_little_to_tell(labels, caplog):
    check_classes(labels, labels[::-1], [str(label) for label in range(10)], "validation")
    check_scores([float(label) for label in labels], [0.0] * len(labels), "validation")
    assert not caplog.records


def scores(noise, count=256, seed=0):
    """Returns labels from 0 to 1, and what a teacher says that was trained on them: the less sure, the nearer 1/2."""
    draw = np.random.default_rng(seed)
    labels = draw.random(count)
    known = 1 / (1 + noise**2)
    return labels, 0.5 + known * (labels - 0.5 + noise * 0.29 * draw.standard_normal(count))


@pytest.mark.parametrize("noise", [0.1, 0.5, 1, 2, 3])
def test_a_weak_teacher_is_on_the_scale(noise):
    """Its scores vary less than the labels do, as they should."""
    for seed in range(20):
        check_scores(*scores(noise, seed=seed), "validation")


def test_a_teacher_that_was_trained_too_little_is_warned_of(caplog):
    """Its scores are still near where it started, and yet better than none."""
    labels, said = scores(0.1)
    check_scores(labels, 0.4 + 0.3 * (said - 0.5), "validation")
    (warning,) = [record.message for record in caplog.records if record.levelname == "WARNING"]
    assert warning.startswith("The teacher's scores are on another scale") and "--teacher_score_scale 3.3" in warning


@pytest.mark.parametrize("noise", [0.1, 1])
@pytest.mark.parametrize(
    ("scale", "shift"), [(20, -10), (3.5, -1.7), (1, 1), (1, -5), (0.2, 0), (-1, 1)], ids=lambda value: str(value)
)
def test_another_scale_is_refused_and_the_options_named_map_it(scale, shift, noise):
    labels, said = scores(noise)
    said = scale * said + shift
    with pytest.raises(InputError, match="another scale than the labels") as error:
        check_scores(labels, said, "validation")
    words = str(error.value).split()
    mapped = [float(words[words.index(f"--teacher_score_{name}") + 1].rstrip(",")) for name in ("scale", "shift")]
    assert mapped[0] == pytest.approx(1 / scale, rel=0.2)
    check_scores(labels, mapped[0] * said + mapped[1], "validation")


def test_one_score_for_all_knows_nothing(caplog):
    check_scores(np.linspace(0, 1, 20), np.full(20, 0.5), "training")
    assert "AT CHANCE: the score 0.500 for each of them on 20 training examples" in caplog.text


# ---------------------------------------------------------------------------------------------------- several labels


def sample_of_sets(labels, count, knows, seed=0, share=0.2):
    """Returns labels of which each applies to this share of the texts, and logits that know as much of each."""
    draw = np.random.default_rng(seed)
    flags = (draw.random((count, labels)) < share).astype(int)
    return flags, knows * flags + draw.normal(size=(count, labels)) - 2


def names(count):
    return [f"label {number}" for number in range(count)]


@pytest.mark.parametrize(
    ("order", "knows"), [([1, 0], 2.0), ([2, 0, 1], 2.0), ([*range(1, 28), 0], 3.0), ([1, 0, *range(2, 28)], 3.0)]
)
def test_another_order_of_several_labels_is_found(order, knows):
    flags, logits = sample_of_sets(len(order), 280, knows)
    with pytest.raises(InputError, match="the teacher's labels are in another order than the data's") as error:
        check_label_sets(flags, logits[:, order], names(len(order)), "validation")
    assert f"'label 0' means 'label {order[0]}'" in str(error.value)


@pytest.mark.parametrize("share", [0.01, 0.2, 0.9])
@pytest.mark.parametrize(("labels", "count"), [(2, 12), (2, 256), (6, 256), (28, 280)])
@pytest.mark.parametrize("knows", [0.0, 0.3, 2.0])
def test_chance_is_no_other_order_of_several_labels(labels, count, share, knows):
    for seed in range(10):
        flags, logits = sample_of_sets(labels, count, knows, seed, share)
        check_label_sets(flags, logits, names(labels), "validation")


def test_chance_is_warned_of_as_often_as_two_standard_errors_say(caplog):
    """Labels that go together, and so do logits: a rule that took them as independent would often let chance pass."""
    draw = np.random.default_rng(0)
    warned = 0
    for _ in range(200):
        common, other = draw.normal(size=(2, 100, 1))
        flags = (common + 0.5 * draw.normal(size=(100, 8)) > 0.5).astype(int)
        caplog.clear()
        check_label_sets(flags, other + 0.5 * draw.normal(size=(100, 8)), names(8), "validation")
        warned += "AT CHANCE" in caplog.text
    assert 185 <= warned <= 200  # 97.7 %, one-sided


def test_a_teacher_that_knows_several_labels_is_reported(caplog):
    with caplog.at_level(logging.INFO, "ckd_trainer"):
        check_label_sets(*sample_of_sets(28, 280, 1.0), names(28), "validation")
    assert "The teacher on 280 validation examples: correlation 0.3" in caplog.text


def test_a_teacher_of_rankings_is_judged_by_its_scores(caplog):
    """Not by its classes: this one calls no candidate relevant."""
    labels = np.array([1, 0, 0, 0, 0, 0] * 20)
    scores = labels - 5 + np.random.default_rng(0).normal(size=120) / 2
    with caplog.at_level("INFO"):
        check_ranks(labels, scores, "validation")
    assert "AT CHANCE" not in caplog.text and "on 120 validation examples: correlation 0." in caplog.text
    with pytest.raises(InputError, match="scores relevant candidates lower than others: correlation -0"):
        check_ranks(labels, -scores, "validation")
    for others in (np.zeros(120), np.random.default_rng(1).normal(size=120)):
        caplog.clear()
        check_ranks(labels, others, "training")
        assert "THE TEACHER SCORES AT CHANCE: correlation" in caplog.text
    caplog.clear()
    check_ranks(labels[:6], scores[:6], "training")
    assert caplog.text == ""  # too few


@pytest.mark.parametrize(
    "check",
    [
        lambda labels: check_classes(labels, labels, ["a", "b"], "validation"),
        lambda labels: check_scores(labels, np.linspace(0, 1, len(labels)), "validation"),
        lambda labels: check_ranks(labels, np.linspace(0, 1, len(labels)), "validation"),
        lambda labels: check_label_sets(np.stack([labels, labels], 1), np.eye(2)[labels], ["a", "b"], "validation"),
    ],
)
def test_labels_that_are_all_the_same_judge_no_teacher(check, caplog):
    """As in the first rows of a file that is sorted by label."""
    check(np.ones(9, int))
    assert not caplog.text  # as for all small samples
    check(np.ones(20, int))
    assert "THE TEACHER WAS NOT CHECKED: all 20 validation examples drawn for this have the same label." in caplog.text
