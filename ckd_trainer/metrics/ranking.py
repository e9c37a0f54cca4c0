"""NDCG@10 and MRR@10 of the candidates of queries, as an `evaluate.Metric` that downloads nothing."""

import math

import datasets
import evaluate
import numpy as np
from numpy.typing import ArrayLike

from ckd_trainer.metrics.in_memory import InMemoryMetric

SCORES = ("ndcg_at_10", "mrr_at_10")  # the first one chooses the best checkpoint by default
DEPTH = 10  # only the first 10 ranks count: MS MARCO's MRR@10, BEIR's NDCG@10


def ndcg(labels: np.ndarray, scores: np.ndarray) -> float:
    """Returns NDCG@10 of one query: sum_r label_r / log2(r + 1) over ranks r, divided by that of the best order.

    The gain is the label itself, as in trec_eval and scikit-learn; 2^label - 1 is the same for labels 0 and 1.
    Candidates with equal scores share the mean of their gains, as in scikit-learn.

    Args:
        labels: not negative, and not all 0, (candidates,).
        scores: (candidates,).
    """
    discounts = 1 / np.log2(np.arange(len(labels)) + 2)
    discounts[DEPTH:] = 0
    _, places, counts = np.unique(-scores, return_inverse=True, return_counts=True)
    gains = np.bincount(places, labels) / counts  # of each block of equal scores, the highest scores first
    return float(np.repeat(gains, counts) @ discounts / (np.sort(labels)[::-1] @ discounts))


def reciprocal_rank(relevant: np.ndarray, scores: np.ndarray) -> float:
    """Returns 1 / r if the first relevant candidate of a query has rank r of at most 10, else 0.

    Of candidates with equal scores, it is the mean over all their orders.

    Args:
        relevant: 1 for relevant candidates, else 0; at least one is 1, (candidates,).
        scores: (candidates,).
    """
    best = scores[relevant == 1].max()
    before, equal = int((scores > best).sum()), scores == best
    count, hits = int(equal.sum()), int(relevant[equal].sum())
    # The first of `hits` relevant ones has place k among `count` equal ones in comb(count - k, hits - 1) of
    # comb(count, hits) orders.
    orders = math.comb(count, hits)
    places = range(1, min(count - hits + 1, DEPTH - before) + 1)
    return sum(math.comb(count - place, hits - 1) / orders / (before + place) for place in places)


def scores_of_groups(labels: np.ndarray, scores: np.ndarray, groups: np.ndarray) -> dict[str, np.ndarray]:
    """Returns the scores named in `SCORES` of each group in which labels differ, (groups,) each, in order of groups.

    Relevant for the reciprocal rank are the candidates with the highest label of their group. NaN scores rank last.

    Args:
        labels, scores, groups: (examples,).
    """
    scores = np.nan_to_num(np.asarray(scores, float), nan=-np.inf, posinf=np.inf, neginf=-np.inf)
    _, places, sizes = np.unique(groups, return_inverse=True, return_counts=True)
    order = np.argsort(places, kind="stable")
    found: dict[str, list[float]] = {name: [] for name in SCORES}
    for rows in np.split(order, sizes.cumsum()[:-1]):
        own, ranked = labels[rows], scores[rows]
        if own.min() < own.max():
            found["ndcg_at_10"].append(ndcg(own, ranked))
            found["mrr_at_10"].append(reciprocal_rank((own == own.max()).astype(int), ranked))
    return {name: np.array(values) for name, values in found.items()}


class RankingMetric(InMemoryMetric):
    """Scores how the candidates of queries are ranked.

    `compute(predictions=..., references=..., groups=...)` takes the score, the label and the group of each example.
    The label is 0 or 1, or a number that says how relevant the candidate is. It returns means over groups:

    - `ndcg_at_10`, with the labels as gains (Jarvelin and Kekalainen 2002, see `ndcg`),
    - `mrr_at_10`, of the first candidate with the highest label of its group (see `reciprocal_rank`).

    Groups whose labels are all equal are left out, as no order of them is better than another. Equal scores count as
    the mean over all their orders: a model that cannot tell candidates apart gains nothing by the order of the data.

    Raises:
        ValueError: a label is negative, or no group has different labels.

    Example::

        RankingMetric(keep_in_memory=True).compute(
            predictions=[0.9, 0.2, 0.7, 0.1, 0.3], references=[1, 0, 0, 0, 1], groups=[0, 0, 1, 1, 1]
        )  # {"ndcg_at_10": 0.815, "mrr_at_10": 0.75}
    """

    def _info(self) -> evaluate.MetricInfo:
        value = datasets.Value("float64")
        return evaluate.MetricInfo(
            description="NDCG@10 and MRR@10 of the candidates of queries.",
            citation="",
            inputs_description="predictions: scores; references: labels; groups: the query of each one.",
            features=datasets.Features({"predictions": value, "references": value}),
        )

    def _compute(self, predictions: ArrayLike, references: ArrayLike, groups: ArrayLike) -> dict[str, float]:
        labels = np.asarray(references, float)
        if labels.size and labels.min() < 0:
            raise ValueError(f"a reference is {labels.min():g}, but labels are the gains of NDCG: give none below 0.")
        found = scores_of_groups(labels, np.asarray(predictions, float), np.asarray(groups))
        if not len(found[SCORES[0]]):
            raise ValueError("no group has different references, so there is nothing to rank.")
        return {name: float(values.mean()) for name, values in found.items()}
