"""The SQuAD metrics as an `evaluate.Metric` that is constructed directly and downloads nothing.

The scores are those of the official scripts, evaluate-v1.1.py and evaluate-v2.0.py (https://rajpurkar.github.io/SQuAD-explorer).
"""

import re
import string
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import datasets
import evaluate

from ckd_trainer.metrics.in_memory import InMemoryMetric
from ckd_trainer.utils.errors import agreeing, first_of

Row = Mapping[str, Any]  # a prediction or a reference, as `SquadMetric` takes it

_NO_PUNCTUATION = str.maketrans("", "", string.punctuation)
_ARTICLES = re.compile(r"\b(a|an|the)\b")


def normalize_answer(text: str) -> str:
    """Returns the form of an answer that is compared: lower case, without punctuation, articles and extra spaces.

    Example::

        normalize_answer("The  Queen's palace!")  # "queens palace"
    """
    # In this order: "A." is an article once the period is gone.
    return " ".join(_ARTICLES.sub(" ", text.lower().translate(_NO_PUNCTUATION)).split())


def _f1(prediction: str, gold: str) -> float:
    """Returns F1 of two normalized texts as bags of words; 0.0 if they share no word."""
    predicted, wanted = prediction.split(), gold.split()
    shared = sum((Counter(predicted) & Counter(wanted)).values())
    if shared == 0:
        return 0.0
    precision, recall = shared / len(predicted), shared / len(wanted)
    return 2 * precision * recall / (precision + recall)


def _f1_or_agreement(prediction: str, gold: str) -> float:
    """Returns `_f1`, but 1.0 if both texts are empty: both mean "no answer"."""
    return _f1(prediction, gold) if prediction and gold else float(prediction == gold)


def _best_over_golds(f1: Callable[[str, str], float], prediction: str, golds: Sequence[str]) -> tuple[float, float]:
    """Returns exact match and F1, each with the gold answer for which it is highest."""
    prediction = normalize_answer(prediction)
    return float(prediction in golds), max(f1(prediction, gold) for gold in golds)


def _percent(scores: Sequence[float]) -> float:
    return 100.0 * sum(scores) / len(scores)


def _score(prediction: str, reference: Row) -> tuple[float, float]:
    return _best_over_golds(_f1, prediction, [normalize_answer(gold) for gold in reference["answers"]["text"]])


def _score_v2(prediction: str, reference: Row) -> tuple[float, float]:
    golds = [gold for gold in map(normalize_answer, reference["answers"]["text"]) if gold] or [""]
    return _best_over_golds(_f1_or_agreement, prediction, golds)


def _squad(predictions: Mapping[str, Row], references: Sequence[Row]) -> dict[str, float]:
    unanswered = [reference["id"] for reference in references if not reference["answers"]["text"]]
    if unanswered:
        raise ValueError(
            f"{len(unanswered)} references have no answer ({first_of(unanswered)}): config_name 'squad_v2' scores "
            "unanswerable questions."
        )
    scores = [_score(predictions[reference["id"]]["prediction_text"], reference) for reference in references]
    exact, f1 = zip(*scores, strict=True)
    return {"exact_match": _percent(exact), "f1": _percent(f1)}


def _squad_v2(predictions: Mapping[str, Row], references: Sequence[Row]) -> dict[str, float]:
    exact, f1, has_answer = {}, {}, {}
    for reference in references:
        name = reference["id"]
        exact[name], f1[name] = _score_v2(predictions[name]["prediction_text"], reference)
        has_answer[name] = bool(reference["answers"]["text"])
    scores = _group("", exact, f1, list(exact))
    for prefix, value in (("HasAns_", True), ("NoAns_", False)):
        scores.update(_group(prefix, exact, f1, [name for name in exact if has_answer[name] is value]))
    scores["best_exact"], scores["best_exact_thresh"] = _best_threshold(predictions, exact, has_answer)
    scores["best_f1"], scores["best_f1_thresh"] = _best_threshold(predictions, f1, has_answer)
    return scores


def _group(prefix: str, exact: Mapping[str, float], f1: Mapping[str, float], names: Sequence[str]) -> dict[str, float]:
    """Returns the scores of some questions, or an empty dict if there are none."""
    if not names:
        return {}
    return {
        f"{prefix}exact": _percent([exact[name] for name in names]),
        f"{prefix}f1": _percent([f1[name] for name in names]),
        f"{prefix}total": len(names),
    }


def _best_threshold(
    predictions: Mapping[str, Row], scores: Mapping[str, float], has_answer: Mapping[str, bool]
) -> tuple[float, float]:
    """Returns the best score in percent, and its threshold: answers with a probability above it become "no answer".

    The search starts with no answers at all, so every unanswerable question is right. It then adds answers by rising
    probability. Equal ones are added one by one, as in the official script.
    """
    current = best = float(sum(not value for value in has_answer.values()))
    lowest = min(row["no_answer_probability"] for row in predictions.values())
    # Below all of them. The official script supports probabilities only.
    threshold = 0.0 if lowest >= 0 else lowest - 1.0
    for name in sorted(predictions, key=lambda name: predictions[name]["no_answer_probability"]):
        if has_answer[name]:
            current += scores[name]
        elif predictions[name]["prediction_text"]:
            current -= 1
        if current > best:
            best, threshold = current, predictions[name]["no_answer_probability"]
    return 100.0 * best / len(scores), threshold


def _refuse_twins(what: str, rows: Sequence[Row]) -> None:
    twice = [name for name, count in Counter(row["id"] for row in rows).items() if count > 1]
    if twice:
        occur = agreeing(len(twice), "id occurs", "ids occur")
        raise ValueError(f"{len(twice)} {occur} more than once in the {what} ({first_of(twice)}): give each id once.")


_SCORES = {"squad": _squad, "squad_v2": _squad_v2}


def question_scores(config_name: str, texts: Mapping[str, str], references: Sequence[Row]) -> dict[str, list[float]]:
    """Returns the scores of each question in percent, whose means are two of the scores of `SquadMetric`.

    Args:
        config_name: squad or squad_v2.
        texts: the predicted answers by id; empty for "no answer".
        references: as for `SquadMetric`, in the order of the result.

    Returns:
        `exact_match` and `f1`, or `exact` and `f1` for squad_v2.
    """
    score, name = (_score, "exact_match") if config_name == "squad" else (_score_v2, "exact")
    exact, f1 = zip(*(score(texts[reference["id"]], reference) for reference in references), strict=True)
    return {name: [100.0 * value for value in exact], "f1": [100.0 * value for value in f1]}


class SquadMetric(InMemoryMetric):
    """Scores answers as SQuAD's official scripts do, in percent, against the best of a question's gold answers.

    `config_name` is one of:

    - `squad` (version 1.1): `exact_match` and `f1`
    - `squad_v2` (version 2.0): `exact`, `f1` and `total`; the same for questions with an answer (`HasAns_exact`, ...)
      and without one (`NoAns_exact`, ...), if there are any; `best_exact` and `best_f1`, the scores at the best
      threshold on `no_answer_probability`; and these thresholds, `best_exact_thresh` and `best_f1_thresh`. If it is
      best to answer nothing, the threshold is 0.0, or the lowest probability minus 1 if that is negative.

    `compute(predictions=..., references=...)` takes mappings in any order, matched by id:

    - predictions: `id`, `prediction_text` and, for `squad_v2`, `no_answer_probability`: any number that is higher if
      an answer is less likely, such as a difference of logits. `exact` and `f1` ignore it; for them, an empty text
      means "no answer".
    - references: `id` and `answers`, a mapping with the lists `text` (empty if unanswerable) and `answer_start`

    Raises:
        ValueError: an unknown `config_name`, nothing to score, a repeated id, a reference without a prediction, or
            (for `squad`) a reference without an answer.

    Example::

        SquadMetric(config_name="squad", keep_in_memory=True).compute(
            predictions=[{"id": "q1", "prediction_text": "the Denver Broncos"}],
            references=[{"id": "q1", "answers": {"text": ["Denver Broncos"], "answer_start": [177]}}],
        )  # {"exact_match": 100.0, "f1": 100.0}
    """

    def _info(self) -> evaluate.MetricInfo:
        if self.config_name not in _SCORES:
            raise ValueError(f"SquadMetric has no config_name {self.config_name!r}: give one of {', '.join(_SCORES)}.")
        text = datasets.Value("string")
        prediction = {"id": text, "prediction_text": text}
        if self.config_name == "squad_v2":
            prediction["no_answer_probability"] = datasets.Value("float64")
        answers = {"text": datasets.List(text), "answer_start": datasets.List(datasets.Value("int32"))}
        return evaluate.MetricInfo(
            description="Exact match and F1 as SQuAD (Rajpurkar et al. 2016, 2018) uses them.",
            citation="",
            inputs_description="predictions: id and prediction_text; references: id and answers.",
            features=datasets.Features({"predictions": prediction, "references": {"id": text, "answers": answers}}),
        )

    def _compute(self, predictions: Sequence[Row], references: Sequence[Row]) -> dict[str, float]:
        if not references:
            raise ValueError("there is nothing to score: give at least one prediction and reference.")
        _refuse_twins("predictions", predictions)
        _refuse_twins("references", references)
        by_id = {prediction["id"]: prediction for prediction in predictions}
        missing = [reference["id"] for reference in references if reference["id"] not in by_id]
        if missing:
            raise ValueError(f"{len(missing)} references have no prediction ({first_of(missing)}): give one for each.")
        return _SCORES[self.config_name](by_id, references)
