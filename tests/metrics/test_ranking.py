"""NDCG@10 and MRR@10: by hand, against scikit-learn, and against all orders of equal scores."""

import itertools
import math

import numpy as np
import pytest
from sklearn.metrics import ndcg_score

from ckd_trainer.metrics.ranking import RankingMetric, ndcg, reciprocal_rank, scores_of_groups


def compute(predictions, references, groups):
    return RankingMetric(keep_in_memory=True).compute(predictions=predictions, references=references, groups=groups)


def test_by_hand():
    """Ranks: of the first query 1, of the second 3 for its only relevant candidate."""
    found = compute([0.9, 0.2, 0.7, 0.8, 0.3], [1, 0, 0, 0, 1], [0, 0, 1, 1, 1])
    assert found == pytest.approx({"mrr_at_10": (1 + 1 / 3) / 2, "ndcg_at_10": (1 + 1 / math.log2(4)) / 2})


def test_graded_by_hand():
    """Gains 3, 2 and 0 at ranks 2, 1 and 3; the best candidate has rank 2."""
    found = compute([0.5, 0.9, 0.1], [3, 2, 0], [4, 4, 4])
    best = 3 + 2 / math.log2(3)
    assert found == pytest.approx({"mrr_at_10": 1 / 2, "ndcg_at_10": (2 + 3 / math.log2(3)) / best})


def test_ranks_after_the_tenth_do_not_count():
    scores, labels = np.arange(12, 0, -1.0), np.zeros(12)
    labels[10] = 1
    assert compute(scores, labels, np.zeros(12)) == {"ndcg_at_10": 0, "mrr_at_10": 0}
    labels[9] = 1
    assert compute(scores, labels, np.zeros(12))["mrr_at_10"] == pytest.approx(1 / 10)


@pytest.mark.parametrize("labels", [2, 5])
@pytest.mark.parametrize("levels", [3, 1000])
def test_ndcg_is_that_of_scikit_learn(labels, levels):
    """With many equal scores, and with hardly any."""
    draw = np.random.default_rng(levels)
    for count in (2, 9, 10, 11, 30):
        relevance = draw.integers(0, labels, count).astype(float)
        relevance[:2] = 0, 1
        scores = draw.integers(0, levels, count) / 7
        assert ndcg(relevance, scores) == pytest.approx(ndcg_score([relevance], [scores], k=10))


@pytest.mark.parametrize("labels", [(1, 0, 0, 1, 0), (0, 0, 0, 1, 0), (1, 1, 1, 0, 1)])
def test_equal_scores_count_as_the_mean_over_all_orders(labels):
    relevant, scores = np.array(labels), np.array([0.5, 0.5, 0.7, 0.5, 0.5])
    ranks = [
        1 + next(place for place, row in enumerate(order) if labels[row])
        for order in itertools.permutations(range(5))
        if order[0] == 2  # the one with the highest score
    ]
    assert reciprocal_rank(relevant, scores) == pytest.approx(np.mean([1 / rank for rank in ranks]))


def test_a_model_that_cannot_tell_gains_nothing_by_the_order_of_the_data():
    first, last = ([1, *[0] * 19], [*[0] * 19, 1])
    found = [compute(np.full(20, 0.3), labels, np.zeros(20)) for labels in (first, last)]
    assert found[0] == pytest.approx(found[1])
    assert found[0]["mrr_at_10"] == pytest.approx(sum(1 / rank for rank in range(1, 11)) / 20)


def test_groups_with_equal_labels_do_not_count():
    others = [0.1, 0.2, 0.3], [1, 1, 0], [7, 7, 8]  # all relevant, and a single one
    found = compute([0.2, 0.9, *others[0]], [1, 0, *others[1]], [0, 0, *others[2]])
    assert found == compute([0.2, 0.9], [1, 0], [0, 0]) and found["mrr_at_10"] == 0.5


def test_groups_are_in_any_order_and_scores_are_theirs():
    scores, labels, groups = np.array([3, 1, 2, 4.0]), np.array([1, 0, 0, 1.0]), np.array([5, 2, 5, 2])
    found = scores_of_groups(labels, scores, groups)
    assert found["mrr_at_10"].tolist() == [1, 1] and found["ndcg_at_10"].tolist() == [1, 1]
    assert scores_of_groups(labels, -scores, groups)["mrr_at_10"].tolist() == [0.5, 0.5]


def test_scores_that_are_not_numbers_rank_last():
    assert compute([np.nan, 0.1], [1, 0], [0, 0])["mrr_at_10"] == 0.5
    assert compute([np.nan, np.nan], [1, 0], [0, 0])["mrr_at_10"] == 0.75


def test_what_cannot_be_scored_is_refused():
    with pytest.raises(ValueError, match="a reference is -1, but labels are the gains"):
        compute([0.1, 0.2], [-1, 1], [0, 0])
    with pytest.raises(ValueError, match="no group has different references"):
        compute([0.1, 0.2], [1, 1], [0, 0])
