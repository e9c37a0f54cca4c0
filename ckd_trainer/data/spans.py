"""From a model's logits for the start and end of answers back to answers: texts, n-best lists, null odds, files.

All questions are treated at once, in arrays; only the texts are cut out one by one.
"""

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import torch
from datasets import Dataset
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import ArrayLike

from ckd_trainer.utils.files import write_atomically

_SCORES_AT_ONCE = 2**24  # 64 MB of them
_LARGEST = 1e30  # of a logit: sums stay finite in float32


@dataclass
class Answers:
    """What a model answers.

    Attributes:
        text: {id: text}, the best answer, whether or not there is one; "" where the context is blank.
        nbest: {id: [{"text", "probability", "start_logit", "end_logit"}, ...]}, the best first.
        null_odds: {id: score of no answer, less that of the best answer}; None where every question has an answer.
    """

    text: dict[str, str]
    nbest: dict[str, list[dict]]
    null_odds: dict[str, float] | None

    def final(self, null_threshold: float) -> dict[str, str]:
        """Returns {id: text}, with "" for no answer where the null odds are above a threshold."""
        if self.null_odds is None:
            return self.text
        return {name: "" if self.null_odds[name] > null_threshold else text for name, text in self.text.items()}


class Spans(NamedTuple):
    """Spans of characters in contexts, as arrays: those of one question together, the best first."""

    question: np.ndarray  # row of the question
    char_start: np.ndarray
    char_end: np.ndarray
    start_logit: np.ndarray
    end_logit: np.ndarray

    @property
    def score(self) -> np.ndarray:
        return self.start_logit + self.end_logit

    def take(self, index: np.ndarray) -> "Spans":
        return Spans(*(part[index] for part in self))

    def top(self, n: int) -> "Spans":
        """Returns the n best of each question; of equal ones those that come first in the context."""
        spans = self.take(np.lexsort((self.char_end, self.char_start, -self.score, self.question)))
        begins = np.flatnonzero(np.diff(spans.question, prepend=-1))
        rank = np.arange(len(spans.question)) - np.repeat(begins, np.diff(begins, append=len(spans.question)))
        return spans.take(rank < n)


def read_answers(
    questions: Dataset,
    features: Dataset,
    start_logits: ArrayLike,
    end_logits: ArrayLike,
    *,
    n_best: int,
    max_answer_length: int,
    null_answers: bool,
) -> Answers:
    """Returns what the logits of all features of some questions answer.

    The score of a span is the logit of its first token as a start plus that of its last token as an end; of no answer,
    the same of [CLS], in that feature of the question where it is lowest. All spans of a piece of context with at most
    `max_answer_length` tokens compete, not only those between the best starts and the best ends, over all features of
    the question. A piece of text that stands in two features counts once, with its better score. No span starts or
    ends at a token of spaces.

    Args:
        questions: With the columns id and context.
        features: Of these questions, from `ckd_trainer.data.squad.encode` with offsets.
        start_logits, end_logits: (features, length or more), by token (see `ckd_trainer.utils.padding`): as
            `QuestionAnsweringTrainer.predict` returns them; any trainer's where padding is on the right. What is not
            finite counts as lowest.
        n_best: How many spans an n-best list has.
        max_answer_length: In tokens.
        null_answers: Some questions have no answer: give null odds, and no answer as one more entry of n-best lists.

    Returns:
        `Answers`.
    """
    logits = [_finite(part) for part in (start_logits, end_logits)]
    table = features.select_columns(["question", "char_starts", "char_ends", "answer_mask"]).with_format("arrow")[:]
    chars = [_padded(table[name], -1) for name in ("char_starts", "char_ends")]
    owners, contexts = table["question"].to_numpy(), questions["context"][:]
    cls = ((_padded(table["answer_mask"], 0) == 1) & (chars[0] < 0)).argmax(1)
    _pass_over_spaces(chars, [contexts[owner] for owner in owners])
    spans = _best_spans(owners, chars, logits, n_best, max_answer_length)
    count = len(questions)
    if null_answers:
        nulls = _null_spans(owners, cls, logits)
        null_odds = nulls.score - _best_scores(spans, count)
    ids = questions["id"][:]
    texts = _texts(spans, contexts)
    best = [""] * count
    for row, text in zip(reversed(spans.question.tolist()), reversed(texts), strict=True):
        best[row] = text  # the best comes last
    if null_answers:
        spans = Spans(*map(np.concatenate, zip(spans, nulls, strict=True))).top(n_best + 1)
        texts = _texts(spans, contexts)
    return Answers(
        text=dict(zip(ids, best, strict=True)),
        nbest=dict(zip(ids, _lists(spans, texts, count), strict=True)),
        null_odds=dict(zip(ids, null_odds.tolist(), strict=True)) if null_answers else None,
    )


def write_answers(answers: Answers, folder: str | Path, *, null_threshold: float) -> Path:
    """Writes `predictions.json` (as the official evaluation script takes it), `nbest_predictions.json`, and with null
    odds `null_odds.json`.

    Returns:
        The path of `predictions.json`.
    """
    files = {
        "nbest_predictions": answers.nbest,
        "null_odds": answers.null_odds,
        "predictions": answers.final(null_threshold),
    }
    for name, content in files.items():
        if content is not None:
            path = Path(folder) / f"{name}.json"
            write_atomically(path, json.dumps(content, indent=1, ensure_ascii=False) + "\n")
    return path


def _pass_over_spaces(chars: Sequence[np.ndarray], contexts: Sequence[str]) -> None:
    """Gives tokens of mere spaces, and of nothing, the characters of a token outside of the context.

    Args:
        chars: for starts and for ends, (features, length), -1 outside of the context.
        contexts: of each feature.
    """
    before = {}  # context -> how many characters that are no spaces come before each of its characters
    for context in contexts:
        if context not in before:
            before[context] = np.cumsum([0, *(not char.isspace() for char in context)])
    for starts, ends, context in zip(*chars, contexts, strict=True):
        nothing = (starts >= 0) & (before[context][ends] == before[context][starts])
        starts[nothing] = ends[nothing] = -1


def _best_spans(
    owners: np.ndarray, chars: Sequence[np.ndarray], logits: Sequence[np.ndarray], n_best: int, max_answer_length: int
) -> Spans:
    """Returns the n_best spans of each question over its features.

    Args:
        owners: (features,), the row of a feature's question.
        chars, logits: for starts and for ends, (features, length).
    """
    length = chars[0].shape[1]
    max_answer_length = min(max_answer_length, length)
    starts, ends = (np.where(chars[0] < 0, np.float32(-np.inf), part[:, :length]) for part in logits)
    found = []
    rows = max(1, _SCORES_AT_ONCE // (length * max_answer_length))
    for first in range(0, len(owners), rows):
        # scores[f, i, d]: the span of feature f from token i to token i + d
        behind = np.pad(ends[first : first + rows], ((0, 0), (0, max_answer_length - 1)), constant_values=-np.inf)
        scores = starts[first : first + rows, :, None] + sliding_window_view(behind, max_answer_length, axis=1)
        # So many spans may be one piece of text.
        doubles = math.prod(_most_alike(part[first : first + rows]) for part in chars)
        feature, place = _highest(scores.reshape(len(scores), -1), n_best * doubles)
        token, more = np.divmod(place, max_answer_length)
        found.append((feature + first, token, token + more))
    feature, start, end = map(np.concatenate, zip(*found, strict=True))
    spans = Spans(
        owners[feature], chars[0][feature, start], chars[1][feature, end], starts[feature, start], ends[feature, end]
    )
    spans = spans.take(np.lexsort((-spans.score, spans.char_end, spans.char_start, spans.question)))
    return spans.take(np.any([np.diff(part, prepend=-1) for part in spans[:3]], axis=0)).top(n_best)


def _highest(scores: np.ndarray, n: int) -> tuple[np.ndarray, np.ndarray]:
    """Returns rows and columns of the n highest finite scores of each row; of equal ones the first."""
    n = min(n, scores.shape[1])
    best = torch.from_numpy(scores).topk(min(n + 1, scores.shape[1]))
    values, columns = best.values.numpy(), best.indices.numpy()
    row, rank = np.nonzero(np.isfinite(values[:, :n]))
    column = columns[row, rank]
    # Of scores that are equal to the n-th, topk takes any.
    tied = np.flatnonzero((values[:, n:] == values[:, n - 1 : n]).any(1) & np.isfinite(values[:, n - 1]))
    if not len(tied):
        return row, column
    last = values[tied, n - 1 : n]
    higher, equal = scores[tied] > last, scores[tied] == last
    kept = higher | (equal & (equal.cumsum(1) <= n - higher.sum(1, keepdims=True)))
    tied_row, tied_column = np.nonzero(kept)
    others = ~np.isin(row, tied)
    return np.append(row[others], tied[tied_row]), np.append(column[others], tied_column)


def _most_alike(chars: np.ndarray) -> int:
    """Returns the largest number of tokens of a feature that start (or end) at one character."""
    ordered = np.sort(chars, axis=1)
    alike = (ordered[:, 1:] == ordered[:, :-1]) & (ordered[:, 1:] >= 0)
    most = 1
    while alike.any():
        most += 1
        alike = alike[:, 1:] & alike[:, :-1]
    return most


def _null_spans(owners: np.ndarray, cls: np.ndarray, logits: Sequence[np.ndarray]) -> Spans:
    """Returns for each question the span of no characters that stands for no answer, of the lowest score."""
    start, end = (np.take_along_axis(part, cls[:, None], 1)[:, 0] for part in logits)
    nowhere = np.zeros_like(owners)
    spans = Spans(owners, nowhere, nowhere, start, end)
    spans = spans.take(np.lexsort((spans.score, spans.question)))
    return spans.take(np.diff(spans.question, prepend=-1) > 0)


def _best_scores(spans: Spans, count: int) -> np.ndarray:
    """Returns the score of each question's best span, 0 where it has none."""
    scores = np.zeros(count, np.float32)
    first = np.diff(spans.question, prepend=-1) > 0
    scores[spans.question[first]] = spans.score[first]
    return scores


def _lists(spans: Spans, texts: Sequence[str], count: int) -> list[list[dict]]:
    """Returns the n-best list of each question."""
    probabilities = _softmax(spans)
    lists: list[list[dict]] = [[] for _ in range(count)]
    columns = (texts, probabilities.tolist(), spans.start_logit.tolist(), spans.end_logit.tolist())
    for row, text, probability, start, end in zip(spans.question.tolist(), *columns, strict=True):
        lists[row].append({"text": text, "probability": probability, "start_logit": start, "end_logit": end})
    return lists


def _softmax(spans: Spans) -> np.ndarray:
    """Returns each span's probability among those of its question."""
    if not len(spans.question):
        return spans.score
    begins = np.flatnonzero(np.diff(spans.question, prepend=-1))
    sizes = np.diff(begins, append=len(spans.question))
    shares = np.exp(spans.score - np.repeat(spans.score[begins], sizes))  # the best comes first
    return shares / np.repeat(np.add.reduceat(shares, begins), sizes)


def _texts(spans: Spans, contexts: Sequence[str]) -> list[str]:
    places = zip(spans.question.tolist(), spans.char_start.tolist(), spans.char_end.tolist(), strict=True)
    return [contexts[row][start:end].strip() for row, start, end in places]


def _finite(logits: ArrayLike) -> np.ndarray:
    """Returns logits as float32, between -_LARGEST, which stands for those that are not finite, and _LARGEST."""
    logits = np.asarray(logits, np.float32)
    return np.where(np.isfinite(logits), logits, np.float32(-_LARGEST)).clip(-_LARGEST, _LARGEST)


def _padded(column: pa.ChunkedArray, fill: int) -> np.ndarray:
    """Returns a column of lists as an array (rows, longest)."""
    column = column.combine_chunks()
    lengths = column.value_lengths().to_numpy()
    there = np.arange(lengths.max()) < lengths[:, None]
    padded = np.full(there.shape, fill, np.int32)
    padded[there] = column.flatten().to_numpy()
    return padded
