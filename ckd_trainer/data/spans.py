"""Turns a model's logits for the start and end of answers into answers: texts, n-best lists, null odds, files.

All questions are processed at once, in arrays; only the texts are cut out one by one.
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

_SCORES_AT_ONCE = 2**24  # 64 MB of scores
_LARGEST = 1e30  # the largest logit: sums stay finite in float32


@dataclass
class Answers:
    """A model's answers.

    Attributes:
        text: {id: text}, the best answer, even if "no answer" scores higher; "" if the context is blank.
        nbest: {id: [{"text", "probability", "start_logit", "end_logit"}, ...]}, the best first.
        null_odds: {id: score of "no answer" minus that of the best answer}; None if every question has an answer.
    """

    text: dict[str, str]
    nbest: dict[str, list[dict]]
    null_odds: dict[str, float] | None

    def final(self, null_threshold: float) -> dict[str, str]:
        """Returns {id: text}, with "" for no answer if the null odds exceed a threshold."""
        if self.null_odds is None:
            return self.text
        return {name: "" if self.null_odds[name] > null_threshold else text for name, text in self.text.items()}


class Spans(NamedTuple):
    """Spans of characters in contexts, as arrays, grouped by question with the best first."""

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
        """Returns the n best spans of each question; of equal ones, those that come first in the context."""
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
    """Returns the answers to questions from the logits of all their features.

    The score of a span is the start logit of its first token plus the end logit of its last token. The score of "no
    answer" is the sum of both logits of [CLS], in the question's feature where this is lowest. All spans of at most
    `max_answer_length` tokens compete, over all features of the question, not only those between the best starts and
    the best ends. A piece of text in two features counts once, with its better score. No span starts or ends at a
    token of spaces.

    Args:
        questions: With the columns id and context.
        features: The features of these questions, from `ckd_trainer.data.squad_features.encode` with offsets.
        start_logits, end_logits: (features, length or more), in token positions (see `ckd_trainer.utils.padding`), as
            `TokenPositionsTrainer.predict` returns them. If padding is on the right, those of any trainer will do.
            Logits that are not finite count as lowest.
        n_best: The number of spans in an n-best list.
        max_answer_length: In tokens.
        null_answers: Some questions have no answer: return null odds, and add "no answer" to the n-best lists.

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
    """Writes `predictions.json` (the official format), `nbest_predictions.json` and, for null odds, `null_odds.json`.

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
    """Marks tokens that hold only spaces, or no characters, as outside the context.

    Args:
        chars: the first and last characters of tokens, each (features, length), -1 outside the context.
        contexts: the context of each feature.
    """
    before = {}  # context -> number of non-space characters before each of its characters
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
        owners: (features,), the row of each feature's question.
        chars, logits: one array for starts and one for ends, each (features, length).
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
        # The largest number of spans that may be the same piece of text.
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
    """Returns the rows and columns of the n highest finite scores of each row; of equal ones, the first."""
    n = min(n, scores.shape[1])
    best = torch.from_numpy(scores).topk(min(n + 1, scores.shape[1]))
    values, columns = best.values.numpy(), best.indices.numpy()
    row, rank = np.nonzero(np.isfinite(values[:, :n]))
    column = columns[row, rank]
    # Among scores equal to the n-th, topk takes any.
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
    """Returns the largest number of tokens of a feature that start (or end) at the same character."""
    ordered = np.sort(chars, axis=1)
    alike = (ordered[:, 1:] == ordered[:, :-1]) & (ordered[:, 1:] >= 0)
    most = 1
    while alike.any():
        most += 1
        alike = alike[:, 1:] & alike[:, :-1]
    return most


def _null_spans(owners: np.ndarray, cls: np.ndarray, logits: Sequence[np.ndarray]) -> Spans:
    """Returns each question's empty span with the lowest score, which means "no answer"."""
    start, end = (np.take_along_axis(part, cls[:, None], 1)[:, 0] for part in logits)
    nowhere = np.zeros_like(owners)
    spans = Spans(owners, nowhere, nowhere, start, end)
    spans = spans.take(np.lexsort((spans.score, spans.question)))
    return spans.take(np.diff(spans.question, prepend=-1) > 0)


def _best_scores(spans: Spans, count: int) -> np.ndarray:
    """Returns the score of each question's best span, 0 if it has none."""
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
    """Returns each span's probability among the spans of its question."""
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
    """Returns logits as float32 within +-_LARGEST; those that are not finite become -_LARGEST."""
    logits = np.asarray(logits, np.float32)
    return np.where(np.isfinite(logits), logits, np.float32(-_LARGEST)).clip(-_LARGEST, _LARGEST)


def _padded(column: pa.ChunkedArray, fill: int) -> np.ndarray:
    """Returns a column of lists as an array (rows, longest list)."""
    column = column.combine_chunks()
    lengths = column.value_lengths().to_numpy()
    there = np.arange(lengths.max()) < lengths[:, None]
    padded = np.full(there.shape, fill, np.int32)
    padded[there] = column.flatten().to_numpy()
    return padded
