"""F1, average precision and thresholds of several labels per text, as an `evaluate.Metric` that downloads nothing.

A label applies to a text where its probability reaches a threshold. The thresholds that fit a set of examples best
flatter the model on the same examples, so scores with tuned thresholds are held out: those of one half of the examples
decide about the other half.
"""

from collections.abc import Sequence

import datasets
import evaluate
import numpy as np
from numpy.typing import ArrayLike

from ckd_trainer.metrics.in_memory import InMemoryMetric

# The scores that are there whatever the labels are. The first one chooses the best checkpoint by default, because it
# depends on no threshold.
SCORES = ("average_precision", "f1_micro", "f1_macro", "f1_micro_tuned", "f1_macro_tuned")
THRESHOLD = 0.5  # of a label that was not tuned


def best_thresholds(references: np.ndarray, probabilities: np.ndarray) -> np.ndarray:
    """Returns for each label the threshold with the highest F1, (labels,).

    It is in the middle between two probabilities. Of thresholds with the same F1 it is the highest. For a label that
    applies to no example it is 0.5.

    Args:
        references, probabilities: (examples, labels).

    Example::

        best_thresholds(np.array([[1], [0], [1]]), np.array([[0.3], [0.1], [0.9]]))  # [0.2]
    """
    found = np.full(references.shape[1], THRESHOLD)
    for label in np.flatnonzero(references.any(0)):
        order = np.argsort(-probabilities[:, label], kind="stable")
        ranked, right = probabilities[order, label], references[order, label].cumsum()
        following = np.append(ranked[1:], 0.0)
        f1 = 2 * right / (np.arange(1, len(ranked) + 1) + right[-1])
        f1[ranked == following] = -1  # equal probabilities are on one side of a threshold
        best = f1.argmax()
        found[label] = (ranked[best] + following[best]) / 2
    return found


def held_out_decisions(references: np.ndarray, probabilities: np.ndarray) -> np.ndarray:
    """Returns decisions (examples, labels) by the best thresholds of the half to which the example does not belong."""
    decisions = np.zeros(references.shape, dtype=bool)
    halves = [slice(0, None, 2), slice(1, None, 2)]
    for tuned, judged in (halves, halves[::-1]):
        thresholds = best_thresholds(references[tuned], probabilities[tuned])
        decisions[judged] = probabilities[judged] >= thresholds
    return decisions


def decisions_by(references: np.ndarray, probabilities: np.ndarray, thresholds: np.ndarray | None) -> np.ndarray:
    """Returns the decisions of the scores with tuned thresholds: by these, or if None as `held_out_decisions`."""
    return held_out_decisions(references, probabilities) if thresholds is None else probabilities >= thresholds


def average_precisions(references: np.ndarray, probabilities: np.ndarray) -> np.ndarray:
    """Returns the average precision of each label, (labels,), as scikit-learn defines it; 0 for one without examples.

    It is the mean, over the examples that have the label, of the precision among all examples with at least the same
    probability. scikit-learn takes ten times as long, too much for the jackknife of a comparison.
    """
    found = np.zeros(references.shape[1])
    for label in np.flatnonzero(references.any(0)):
        values = np.sort(probabilities[:, label])
        right = np.sort(probabilities[references[:, label] == 1, label])
        ranks = [len(some) - np.searchsorted(some, right) for some in (right, values)]
        found[label] = (ranks[0] / ranks[1]).mean()
    return found


def f1_scores(references: np.ndarray, decisions: np.ndarray) -> tuple[float, np.ndarray]:
    """Returns the F1 of all labels together, and of each, (labels,); 0 where nothing is predicted or actual."""
    right = (references.astype(bool) & decisions).sum(0)
    both = references.sum(0) + decisions.sum(0)
    return float(2 * right.sum() / max(1, both.sum())), 2 * right / np.maximum(1, both)


def overall_scores(references: np.ndarray, probabilities: np.ndarray, tuned: np.ndarray) -> dict[str, float]:
    """Returns the scores named in `SCORES`.

    Args:
        references, probabilities: (examples, labels).
        tuned: decisions by tuned thresholds, (examples, labels).
    """
    scores = {"average_precision": float(average_precisions(references, probabilities).mean())}
    for end, decisions in (("", probabilities >= THRESHOLD), ("_tuned", tuned)):
        micro, each = f1_scores(references, decisions)
        scores |= {f"f1_micro{end}": micro, f"f1_macro{end}": float(each.mean())}
    return scores


class MultiLabelMetric(InMemoryMetric):
    """Scores the probabilities of several labels per text.

    `compute(predictions=..., references=...)` takes a probability and a 0 or 1 for each label of each text, (texts,
    labels), and returns

    - `average_precision`, the mean over labels,
    - `f1_micro` and `f1_macro`, where a label is predicted from a probability of 0.5 on: of all labels together, and
      the mean over labels,
    - `f1_micro_tuned` and `f1_macro_tuned`, by `thresholds` (one for each label). By default, the best thresholds of
      one half of the texts decide about the other half, see `best_thresholds`,
    - for each label, by its name in `label_names` or else its number: `joy_f1`, `joy_f1_tuned` and `joy_number`, the
      number of texts that have it.

    What is not defined, such as the F1 of a label that is neither predicted nor actual, is 0.0, as in scikit-learn.

    Raises:
        ValueError: there is nothing to score, or predictions and references have different shapes.

    Example::

        MultiLabelMetric(keep_in_memory=True).compute(
            predictions=[[0.9, 0.2], [0.4, 0.7]], references=[[1, 0], [1, 1]]
        )  # {"average_precision": 1.0, "f1_micro": 0.8, ..., "1_number": 1}
    """

    def _info(self) -> evaluate.MetricInfo:
        return evaluate.MetricInfo(
            description="F1 and average precision of several labels per text, with thresholds that are held out.",
            citation="",
            inputs_description="predictions: the probabilities of each text's labels; references: 0 or 1 for each.",
            features=datasets.Features(
                {
                    "predictions": datasets.List(datasets.Value("float64")),
                    "references": datasets.List(datasets.Value("int64")),
                }
            ),
        )

    def _compute(
        self,
        predictions: ArrayLike,
        references: ArrayLike,
        thresholds: ArrayLike | None = None,
        label_names: Sequence[str] | None = None,
    ) -> dict[str, float]:
        actual, probabilities = np.asarray(references, int), np.asarray(predictions, float)
        if actual.shape != probabilities.shape or actual.ndim != 2 or not actual.size:
            raise ValueError(
                f"predictions of shape {probabilities.shape} and references of shape {actual.shape} cannot be scored: "
                "give both as (texts, labels)."
            )
        tuned = decisions_by(actual, probabilities, None if thresholds is None else np.asarray(thresholds))
        names = label_names or [str(label) for label in range(actual.shape[1])]
        columns = {
            "f1": f1_scores(actual, probabilities >= THRESHOLD)[1].tolist(),
            "f1_tuned": f1_scores(actual, tuned)[1].tolist(),
            "number": actual.sum(0).tolist(),
        }
        of_labels = {
            f"{name}_{score}": values[label] for label, name in enumerate(names) for score, values in columns.items()
        }
        return overall_scores(actual, probabilities, tuned) | of_labels
