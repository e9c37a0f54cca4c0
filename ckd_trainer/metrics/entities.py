"""Precision, recall and F1 of named entities as an `evaluate.Metric` that downloads nothing.

The rule is that of conlleval, the script of the CoNLL shared tasks
(https://www.clips.uantwerpen.be/conll2003/ner/bin/conlleval): an entity counts as found if its type, its first and its
last word are right.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import datasets
import evaluate
import numpy as np

from ckd_trainer.metrics.in_memory import InMemoryMetric

# The scores that are there whatever the types are: each of them can choose the best checkpoint.
SCORES = ("f1", "precision", "recall", "accuracy", "f1_macro", "precision_macro", "recall_macro")
_SINGLE, _LAST = ("U", "S"), ("L", "E")  # prefixes of an entity of one word, and of the last word of a longer one


class Entity(NamedTuple):
    """Words `first` up to, without, `stop` of a sentence, and the type of the entity that they name."""

    first: int
    stop: int
    type: str


def entities_of(tags: Sequence[str]) -> list[Entity]:
    """Returns the entities of a sentence by the rule of conlleval; the tags are IOB1, IOB2, BILOU or IOBES.

    An entity begins at B, U and S, and at any other prefix that does not continue an entity of its type. It ends where
    its type ends, and after L, E, U and S. So impossible sequences have entities too: in `O I-PER`, one begins at I.

    Example::

        entities_of(["B-PER", "I-PER", "O", "I-LOC"])  # [Entity(0, 2, "PER"), Entity(3, 4, "LOC")]
    """
    found: list[Entity] = []
    is_open = False
    for place, tag in enumerate(tags):
        if tag == "O":
            is_open = False
            continue
        prefix, _, kind = tag.partition("-")
        if is_open and found[-1].type == kind and prefix != "B" and prefix not in _SINGLE:
            found[-1] = Entity(found[-1].first, place + 1, kind)
        else:
            found.append(Entity(place, place + 1, kind))
        is_open = prefix not in _SINGLE and prefix not in _LAST
    return found


class Counts(NamedTuple):
    """The numbers of right, predicted and actual entities."""

    right: int
    predicted: int
    actual: int

    @property
    def scores(self) -> dict[str, float]:
        """Precision, recall and F1, each 0.0 where it is not defined."""
        return {
            "precision": self.right / self.predicted if self.predicted else 0.0,
            "recall": self.right / self.actual if self.actual else 0.0,
            "f1": 2 * self.right / (self.predicted + self.actual) if self.predicted + self.actual else 0.0,
        }


def count_entities(predicted: Sequence[str], actual: Sequence[str]) -> dict[str, Counts]:
    """Returns {type: counts} of the types in a sentence, from its predicted and its actual tags."""
    found, wanted = entities_of(predicted), entities_of(actual)
    parts = [Counter(entity.type for entity in part) for part in ({*found} & {*wanted}, found, wanted)]
    return {kind: Counts(*(part[kind] for part in parts)) for kind in dict.fromkeys([*parts[1], *parts[2]])}


def entity_scores(sentences: Sequence[Mapping[str, Counts]]) -> dict[str, float]:
    """Returns the scores of `EntityMetric`, without the accuracy, from the counts of each sentence."""
    by_type: dict[str, list[Counts]] = {}
    for sentence in sentences:
        for kind, counts in sentence.items():
            by_type.setdefault(kind, []).append(counts)
    totals = {kind: _sum(by_type[kind]) for kind in sorted(by_type)}
    of_types = {kind: counts.scores for kind, counts in totals.items()}
    scores = _sum(list(totals.values())).scores
    scores |= {
        f"{name}_macro": sum(one[name] for one in of_types.values()) / max(1, len(of_types)) for name in list(scores)
    }
    for kind, values in of_types.items():
        scores |= {f"{kind}_{name}": value for name, value in values.items()} | {f"{kind}_number": totals[kind].actual}
    return scores


def sentence_counts(predictions: Sequence[Sequence[str]], references: Sequence[Sequence[str]]) -> np.ndarray:
    """Returns an array (sentences, 5): the right, predicted and actual entities, the right tags and all tags."""
    rows = []
    for predicted, actual in zip(predictions, references, strict=True):
        right = sum(one == other for one, other in zip(predicted, actual, strict=True))
        rows.append([*_sum(list(count_entities(predicted, actual).values())), right, len(actual)])
    return np.array(rows)


def scores_of_counts(counts: np.ndarray) -> dict[str, float]:
    """Returns the micro averages and the accuracy of some sentences from their `sentence_counts`."""
    right, predicted, actual, right_tags, tags = map(int, counts.sum(0))
    return Counts(right, predicted, actual).scores | {"accuracy": right_tags / tags if tags else 0.0}


def _sum(counts: Sequence[Counts]) -> Counts:
    return Counts(*(map(sum, zip(*counts, strict=True)) if counts else (0, 0, 0)))


class EntityMetric(InMemoryMetric):
    """Scores tags as conlleval does, as numbers from 0 to 1.

    `compute(predictions=..., references=...)` takes a list of tags (IOB1, IOB2, BILOU or IOBES) for each sentence, and
    returns

    - `precision`, `recall` and `f1` of all entities (micro averages),
    - `precision_macro`, `recall_macro` and `f1_macro`, the means over the types that are predicted or actual,
    - `PER_precision`, `PER_recall`, `PER_f1` and `PER_number` (of actual entities) for a type PER, and so for each,
    - `accuracy`, the share of words with the right tag.

    What is not defined, such as the precision where nothing is predicted, is 0.0.

    Raises:
        ValueError: there are no words, or a sentence has another number of predictions than of references.

    Example::

        EntityMetric(keep_in_memory=True).compute(
            predictions=[["B-PER", "O"]], references=[["B-PER", "I-PER"]]
        )  # {"precision": 0.0, ..., "accuracy": 0.5}
    """

    def _info(self) -> evaluate.MetricInfo:
        tags = datasets.List(datasets.Value("string"))
        return evaluate.MetricInfo(
            description="Precision, recall and F1 of entities as in the CoNLL shared tasks (Tjong Kim Sang 2003).",
            citation="",
            inputs_description="predictions, references: the tags of each sentence.",
            features=datasets.Features({"predictions": tags, "references": tags}),
        )

    def _compute(self, predictions: Sequence[Sequence[str]], references: Sequence[Sequence[str]]) -> dict[str, float]:
        pairs = list(zip(predictions, references, strict=True))
        for number, (predicted, actual) in enumerate(pairs, 1):
            if len(predicted) != len(actual):
                raise ValueError(
                    f"sentence {number} has {len(predicted)} predictions for {len(actual)} words: give one for each."
                )
        words = sum(len(actual) for _, actual in pairs)
        if not words:
            raise ValueError("there is nothing to score: give at least one word.")
        right = sum(one == other for pair in pairs for one, other in zip(*pair, strict=True))
        return entity_scores([count_entities(*pair) for pair in pairs]) | {"accuracy": right / words}
