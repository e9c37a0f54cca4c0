"""Scores and thresholds of several labels: numbers by hand, scikit-learn's, loops, and laws."""

import numpy as np
import pytest
from sklearn.metrics import average_precision_score, f1_score

from ckd_trainer.metrics.multi_label import (
    SCORES,
    MultiLabelMetric,
    average_precisions,
    best_thresholds,
    held_out_decisions,
)


def drawn(count, labels, seed, decimals=9):
    """Returns references, and probabilities that know something about them; few decimals make equal ones."""
    draw = np.random.default_rng(seed)
    references = (draw.random((count, labels)) < draw.random(labels)).astype(int)
    return references, np.round((draw.random((count, labels)) + references) / 2, decimals)


def compute(references, probabilities, **options):
    return MultiLabelMetric(keep_in_memory=True).compute(predictions=probabilities, references=references, **options)


def test_by_hand():
    """The second label's only text is ranked second of three: precision 1/2, and at 0.5 its F1 is 2/3."""
    references, probabilities = [[1, 0], [0, 1], [1, 0]], [[0.9, 0.7], [0.2, 0.6], [0.4, 0.1]]
    found = compute(references, probabilities, thresholds=[0.3, 0.65], label_names=["joy", "fear"])
    assert found["average_precision"] == pytest.approx((1 + 1 / 2) / 2)
    assert found["joy_f1"] == pytest.approx(2 / 3) and found["fear_f1"] == pytest.approx(2 / 3)
    assert found["f1_micro"] == pytest.approx(2 * 2 / (3 + 3)) and found["f1_macro"] == pytest.approx(2 / 3)
    assert found["joy_f1_tuned"] == 1 and found["fear_f1_tuned"] == 0
    assert found["f1_micro_tuned"] == pytest.approx(2 * 2 / (3 + 3)) and found["f1_macro_tuned"] == 0.5
    assert (found["joy_number"], found["fear_number"]) == (2, 1)


@pytest.mark.parametrize("decimals", [1, 9])
@pytest.mark.parametrize("count", [1, 7, 200])
def test_scores_are_those_of_scikit_learn(count, decimals):
    references, probabilities = drawn(count, 5, seed=count, decimals=decimals)
    references[:, 0] = 0  # scikit-learn scores a label without examples as 0, and warns
    found = compute(references, probabilities)
    with np.errstate(all="ignore"), pytest.warns(UserWarning, match="No positive class"):
        expected = average_precision_score(references, probabilities, average=None)
    np.testing.assert_allclose(average_precisions(references, probabilities), expected)
    assert found["average_precision"] == pytest.approx(expected.mean())
    for end, decisions in (("", probabilities >= 0.5), ("_tuned", held_out_decisions(references, probabilities))):
        for average in ("micro", "macro"):
            f1 = f1_score(references, decisions, average=average, zero_division=0)
            assert found[f"f1_{average}{end}"] == pytest.approx(f1)
        each = f1_score(references, decisions, average=None, zero_division=0)
        assert [found[f"{label}_f1{end}"] for label in range(5)] == pytest.approx(each.tolist())
    assert set(SCORES) < set(found)


@pytest.mark.parametrize("decimals", [1, 9])
def test_no_other_threshold_is_better(decimals):
    references, probabilities = drawn(60, 4, seed=3, decimals=decimals)
    found = best_thresholds(references, probabilities)
    for label, threshold in enumerate(found):
        actual, values = references[:, label], probabilities[:, label]
        best = f1_score(actual, values >= threshold)
        others = [f1_score(actual, values >= other, zero_division=0) for other in np.arange(0, 1.01, 0.02)]
        assert best == pytest.approx(max(others)) or best > max(others)
        assert np.abs(values - threshold).min() > 1e-9  # between two probabilities: rounding changes no decision


def test_thresholds_by_hand():
    references = np.array([[1, 0, 1], [0, 0, 1], [1, 0, 1]])
    probabilities = np.array([[0.3, 0.9, 0.4], [0.1, 0.9, 0.2], [0.9, 0.9, 0.8]])
    # The second label applies to no text, and the third to all: below the lowest probability.
    assert best_thresholds(references, probabilities).tolist() == pytest.approx([0.2, 0.5, 0.1])


def test_a_half_is_judged_by_the_thresholds_of_the_other():
    references, probabilities = drawn(41, 3, seed=5)
    decisions = held_out_decisions(references, probabilities)
    even, odd = slice(0, None, 2), slice(1, None, 2)
    for tuned, judged in ((even, odd), (odd, even)):
        thresholds = best_thresholds(references[tuned], probabilities[tuned])
        assert (decisions[judged] == (probabilities[judged] >= thresholds)).all()


def test_tuning_on_noise_gains_nothing():
    """Probabilities that know nothing: on the same texts, tuned thresholds would seem to help rare labels."""
    draw = np.random.default_rng(0)
    references, probabilities = (draw.random((400, 20)) < 0.02).astype(int), draw.random((400, 20))
    same = f1_score(references, probabilities >= best_thresholds(references, probabilities), average="macro")
    assert compute(references, probabilities)["f1_macro_tuned"] < 0.05 < 0.08 < same


@pytest.mark.parametrize(("predictions", "references"), [([[0.1, 0.2]], [[1]]), ([0.1, 0.2], [1, 0])])
def test_what_cannot_be_scored_is_refused(predictions, references):
    with pytest.raises(ValueError):
        compute(references, predictions)
