"""Checks, before any training, that the teacher knows the task: its answers to a sample of labeled examples."""

import logging
from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike
from scipy.optimize import linear_sum_assignment
from scipy.stats import linregress
from sklearn.metrics import accuracy_score, confusion_matrix, matthews_corrcoef

from ckd_trainer.utils.errors import InputError, short

logger = logging.getLogger(__name__)

SAMPLE_SIZE = 256  # or ten examples per class, if that is more
_SMALLEST = 10  # the smallest sample that is judged


def check_classes(labels: ArrayLike, answers: ArrayLike, names: Sequence[str], split: str) -> None:
    """Warns if the teacher scores at chance; raises if its labels are in another order.

    The teacher scores at chance if the Matthews correlation of answers and labels is below two standard errors,
    2 / sqrt(n). Its labels are in another order if the best assignment of answers to labels, found on one half of the
    sample, agrees much better with the other half than the given one, see `permutation`.

    Args:
        labels, answers: the class of each example and the teacher's answer, as indices into `names`.
        names: the names of the classes.
        split: the name of the set that the examples are from, such as "validation".

    Raises:
        InputError: the labels are in another order. The message names the order that fits.
    """
    labels, answers = np.asarray(labels), np.asarray(answers)
    if _says_little(labels, split):
        return
    accuracy, correlation = accuracy_score(labels, answers), matthews_corrcoef(labels, answers)
    result = f"accuracy {accuracy:.3f}, Matthews correlation {correlation:.3f}"
    better = permutation(labels, answers, len(names))
    if better is not None:
        moved = [index for index, label in enumerate(better) if label != index]
        pairs = [f"{short(names[index])} means {short(names[better[index]])}" for index in moved]
        raise InputError(
            f"the teacher's labels are in another order than the data's: {result} on {len(labels)} {split} examples. "
            f"The accuracy is {accuracy_score(labels, np.asarray(better)[answers]):.3f} if in its answers "
            f"{', '.join(pairs[:10])}{', ...' * (len(pairs) > 10)}. If that is right, correct id2label and "
            "label2id in its config.json; if not, fine-tune a teacher on this data with ckd-trainer teacher."
        )
    _report(correlation > 2 / len(labels) ** 0.5, result, len(labels), split)


def permutation(labels: np.ndarray, answers: np.ndarray, classes: int) -> list[int] | None:
    """Returns for each answer the label that it means; None if the answers fit best as they are.

    For answers a and labels l, C_al counts the sample, and E_al = sum_l C_al sum_a C_al / n is the expected C of
    chance. The best assignment maximizes sum_a (C - E)_a,p(a); a constant answer gains nothing by it. It is found on
    one half of the sample and judged on the other, and vice versa, so that noise does not pass for an order. On the
    classes that it moves, it must gain at least twice as much as the given order, by four standard errors. It must
    also agree well as a whole (Cohen's kappa of 0.4): a weak teacher that leans to a neighboring class, such as five
    stars instead of four, does not have its labels in another order.
    """
    halves = [slice(0, None, 2), slice(1, None, 2)]
    gain = given = variance = agreed = possible = 0.0
    for found, judged in (halves, halves[::-1]):
        best = _best_assignment(labels[found], answers[found], classes)
        excess, spread = _excess(labels[judged], answers[judged], classes)
        moved = np.flatnonzero(best != np.arange(classes))
        gain += excess[moved, best[moved]].sum()
        given += excess[moved, moved].sum()
        variance += spread[moved, best[moved]].sum() + spread[moved, moved].sum()
        agreed += excess[np.arange(classes), best].sum()
        possible += _possible(labels[judged], answers[judged], best)
    if gain > max(0.0, 2 * given) and gain - given > 4 * variance**0.5 and agreed > 0.4 * possible:
        return _best_assignment(labels, answers, classes).tolist()
    return None


def check_label_sets(labels: ArrayLike, logits: ArrayLike, names: Sequence[str], split: str) -> None:
    """Warns if the teacher of several labels scores at chance; raises if its labels are in another order.

    With z_a the standardized logit of label a and y_l the label l minus its mean, C_al is the mean of z_a y_l. That is
    the correlation times the standard deviation of y_l. The teacher scores at chance if sum_l C_ll is below two
    standard errors. Its variance by chance is sum_lm cov(z_l, z_m) cov(y_l, y_m) / n. The best assignment of logits to
    labels is found on one half of the sample and judged on the other, as in `permutation`.

    Args:
        labels: 0 or 1 for each label of each example, (examples, labels).
        logits: of the teacher, (examples, labels).
        names: of the labels.
        split: the name of the set that the examples are from, such as "validation".

    Raises:
        InputError: the labels are in another order. The message names the order that fits.
    """
    labels, logits = np.asarray(labels, float), _finite(logits, split)
    spread = labels.std(0)
    if _says_little(labels, split):
        return
    agreement = np.trace(_agreement(labels, logits))
    result = f"correlation {agreement / spread.sum():.3f} of logits and labels"
    best = _order_of_label_sets(labels, logits)
    if best is not None:
        pairs = [f"{short(names[a])} means {short(names[label])}" for a, label in enumerate(best) if a != label]
        raise InputError(
            f"the teacher's labels are in another order than the data's: {result} on {len(labels)} {split} examples. "
            f"It is higher if in its answers {', '.join(pairs[:10])}{', ...' * (len(pairs) > 10)}. If that is right, "
            "correct id2label and label2id in its config.json; if not, fine-tune a teacher on this data with "
            "ckd-trainer teacher."
        )
    error = ((np.cov(_standardized(logits).T, bias=True) * np.cov(labels.T, bias=True)).sum() / len(labels)) ** 0.5
    _report(agreement > 2 * error, result, len(labels), split)


def _order_of_label_sets(labels: np.ndarray, logits: np.ndarray) -> np.ndarray | None:
    """Returns the label that each logit means; None if they fit best as they are.

    As in `permutation`, another order must gain at least twice as much as the given one on the labels that it moves,
    by four standard errors. It must also agree well as a whole (a correlation of 0.3).
    """
    halves = [slice(0, None, 2), slice(1, None, 2)]
    gain = given = variance = agreed = possible = 0.0
    places = np.arange(labels.shape[1])

    def assigned(rows: slice) -> np.ndarray:
        return linear_sum_assignment(_agreement(labels[rows], logits[rows]) + 1e-9 * np.eye(len(places)), True)[1]

    for found, judged in (halves, halves[::-1]):
        best, agreement = assigned(found), _agreement(labels[judged], logits[judged])
        moved, spread = np.flatnonzero(best != places), labels[judged].std(0)
        gain += agreement[moved, best[moved]].sum()
        given += agreement[moved, moved].sum()
        variance += (spread[best[moved]] ** 2 + spread[moved] ** 2).sum() / len(labels[judged])
        agreed += agreement[places, best].sum()
        possible += spread.sum()
    if gain > max(0.0, 2 * given) and gain - given > 4 * variance**0.5 and agreed > 0.3 * possible:
        return assigned(slice(None))
    return None


def _agreement(labels: np.ndarray, logits: np.ndarray) -> np.ndarray:
    """Returns C, (logits, labels)."""
    return _standardized(logits).T @ (labels - labels.mean(0)) / len(labels)


def _standardized(logits: np.ndarray) -> np.ndarray:
    spread = logits.std(0)
    return (logits - logits.mean(0)) / np.where(spread > 0, spread, 1)


def check_scores(labels: ArrayLike, scores: ArrayLike, split: str) -> None:
    """Warns if the teacher scores at chance; raises if its scores are on another scale.

    A teacher that was trained on these labels predicts them without bias, even if it is weak: labels regressed on its
    scores have a slope of 1, and the means are equal. Its scores are on another scale if the slope is below 1/2 or
    above 2, or if the means differ by half a standard deviation of the labels, by three standard errors each. This is
    an error if the scores are further from the labels than the mean label is (RMSE above the labels' standard
    deviation). Otherwise it is a warning, as the teacher may only have been trained too little.

    Args:
        labels, scores: the label of each example and the teacher's score, mapped by `teacher_score_scale` and
            `teacher_score_shift`.
        split: the name of the set that the examples are from, such as "validation".

    Raises:
        InputError: the scores are on another scale. The message names the options that map them.
    """
    labels, scores = np.asarray(labels, float), _finite(scores, split)
    if _says_little(labels, split):
        return
    if np.ptp(scores) == 0:
        _report(False, f"the score {scores[0]:.3f} for each of them", len(labels), split)
        return
    line = linregress(scores, labels)
    rmse = float(np.sqrt(np.mean((scores - labels) ** 2)))
    result = f"Pearson correlation {line.rvalue:.3f}, RMSE {rmse:.3g}"
    knows = abs(line.rvalue) > 2 / len(labels) ** 0.5
    offset, error = scores.mean() - labels.mean(), (scores - labels).std() / len(labels) ** 0.5
    too_flat, too_steep = line.slope - 3 * line.stderr > 2, line.slope + 3 * line.stderr < 0.5
    if knows and (too_flat or too_steep or abs(offset) - 3 * error > labels.std() / 2):
        message = (
            f"the teacher's scores are on another scale than the labels: {_moments(scores)} on {len(labels)} {split} "
            f"examples, where the labels have {_moments(labels)} ({result}). A student would learn that scale. Map "
            f"the scores onto the labels with --teacher_score_scale {line.slope:.4g} --teacher_score_shift "
            f"{line.intercept:.4g}, or fine-tune a teacher on these labels with ckd-trainer teacher."
        )
        if rmse > labels.std():
            raise InputError(message)
        logger.warning("%s", message[0].upper() + message[1:])
    _report(knows, result, len(labels), split)


def check_ranks(labels: ArrayLike, scores: ArrayLike, split: str) -> None:
    """Warns if a reranking teacher's scores are unrelated to the labels; raises if they are reversed.

    Its classes say little: where few candidates are relevant, a teacher that ranks well may call none relevant.
    The teacher scores at chance if the correlation of scores and labels is below two standard errors, 2 / sqrt(n).

    Args:
        labels, scores: of each example: 0 or 1, and the teacher's log odds of 1.
        split: the name of the set that the examples are from, such as "validation".

    Raises:
        InputError: the correlation is below zero by four standard errors.
    """
    labels, scores = np.asarray(labels, float), _finite(scores, split)
    if _says_little(labels, split):
        return
    correlation = 0.0 if np.ptp(scores) == 0 else float(np.corrcoef(scores, labels)[0, 1])
    result = f"correlation {correlation:.3f} of scores and labels"
    if correlation < -4 / len(labels) ** 0.5:
        raise InputError(
            f"the teacher scores relevant candidates lower than others: {result} on {len(labels)} {split} examples. "
            "If its labels are in another order, correct id2label and label2id in its config.json; if not, fine-tune "
            "a teacher on this data with ckd-trainer teacher."
        )
    _report(correlation > 2 / len(labels) ** 0.5, result, len(labels), split)


def _says_little(labels: np.ndarray, split: str) -> bool:
    """Returns whether no teacher can be judged by these labels: they are few, or all the same, which is warned of."""
    if len(labels) < _SMALLEST:
        return True
    if (labels == labels[0]).all():
        logger.warning(
            "THE TEACHER WAS NOT CHECKED: all %d %s examples drawn for this have the same label. If all others have "
            "it, too, scores say nothing: give examples of each label. max_eval_samples reads the first rows alone.",
            *(len(labels), split),
        )
        return True
    return False


def _finite(scores: ArrayLike, split: str) -> np.ndarray:
    """Returns a teacher's scores or logits; raises InputError if one is NaN or infinite."""
    scores = np.asarray(scores, float)
    if not np.isfinite(scores).all():
        raise InputError(f"the teacher's scores for {split} examples are not finite: it is damaged, or has diverged.")
    return scores


def _moments(values: np.ndarray) -> str:
    return f"mean {values.mean():.3g} and standard deviation {values.std():.3g}"


def _best_assignment(labels: np.ndarray, answers: np.ndarray, classes: int) -> np.ndarray:
    excess, _ = _excess(labels, answers, classes)
    # Ties, such as classes that do not occur, keep the given order.
    return linear_sum_assignment(excess + 1e-6 * np.eye(classes), maximize=True)[1]


def _possible(labels: np.ndarray, answers: np.ndarray, best: np.ndarray) -> float:
    """Returns the excess of an assignment that always agrees: n - sum_a E_a,p(a)."""
    meant = best[answers]
    shares = [np.bincount(values, minlength=len(best)) for values in (meant, labels)]
    return len(labels) - float(shares[0] @ shares[1]) / max(1, len(labels))


def _excess(labels: np.ndarray, answers: np.ndarray, classes: int) -> tuple[np.ndarray, np.ndarray]:
    """Returns C - E and the variance of C by chance, both (answers, labels)."""
    counts = confusion_matrix(answers, labels, labels=range(classes))
    answered, labeled = counts.sum(1, keepdims=True), counts.sum(0, keepdims=True)
    share = answered / max(1, counts.sum())
    return counts - share * labeled, labeled * share * (1 - share)


def _report(knows: bool, result: str, count: int, split: str) -> None:
    if knows:
        logger.info("The teacher on %d %s examples: %s.", count, split, result)
    else:
        logger.warning(
            "THE TEACHER SCORES AT CHANCE: %s on %d %s examples. A student learns nothing from it. Was it fine-tuned "
            "on this task?",
            result,
            count,
            split,
        )
