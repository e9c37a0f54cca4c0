"""Turns questions about contexts into features for a model.

A *feature* is one model input: a question and as much of its context as fits. A long context becomes several features,
whose pieces of context overlap. `ckd_trainer.data.spans` turns a model's logits back into answers.
"""

import logging
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from datasets import Dataset
from transformers import BatchEncoding, PreTrainedTokenizerBase

from ckd_trainer.data.squad_arguments import SquadArguments
from ckd_trainer.data.tokenizer_pair import Tokenizer, TokenizerPair, check_gives_positions
from ckd_trainer.utils.errors import InputError, agreeing, first_of
from ckd_trainer.utils.padding import longest_first
from ckd_trainer.utils.units import UNITS

logger = logging.getLogger(__name__)


def check_lengths(tokenizer: PreTrainedTokenizerBase, arguments: SquadArguments) -> None:
    """Raises InputError if no room is left for a context beside a question, or if the tokenizer does not fit.

    Args:
        tokenizer: A fast tokenizer, as only those give the positions of tokens in the text.
        arguments: A `SquadArguments`.
    """
    check_gives_positions(tokenizer)
    pair = tokenizer("a", "b")
    special = {id for id, text in zip(pair["input_ids"], pair.sequence_ids(), strict=True) if text is None}
    if tokenizer.cls_token_id not in special:
        raise InputError(
            f"{type(tokenizer).__name__} does not add a [CLS] token ({tokenizer.cls_token}) to a question and its "
            "context, but that token means 'no answer' here: use a model whose tokenizer adds it."
        )
    special = tokenizer.num_special_tokens_to_add(pair=True)
    room = arguments.max_seq_length - arguments.max_question_length - special
    if room <= arguments.doc_stride:
        raise InputError(
            f"max_seq_length {arguments.max_seq_length} leaves {max(0, room)} tokens for the context beside a question"
            f" of up to {arguments.max_question_length} and {special} special tokens, but neighboring features share "
            f"doc_stride {arguments.doc_stride}: give a smaller doc_stride or max_question_length, or a larger "
            "max_seq_length."
        )


def encode(questions: Dataset, tokenizer: Tokenizer, arguments: SquadArguments, *, with_offsets: bool) -> Dataset:
    """Turns questions into features.

    A question is cut to `max_question_length` tokens. A context that does not fit beside it into `max_seq_length` is
    cut into pieces that share `doc_stride` tokens. Each piece becomes a feature.

    Args:
        questions: With the columns of a `QuestionTask`.
        tokenizer: A tokenizer that `check_lengths` accepts, or a pair of them. The student's tokenizer then cuts
            questions and contexts.
        arguments: A `SquadArguments`.
        with_offsets: Add the columns that `ckd_trainer.data.spans` reads, and put long features first, so that
            batches need little padding.

    Returns:
        A `datasets.Dataset` of unpadded features with the model's inputs and

        - `answer_mask`: 1 for the tokens of the context and for [CLS], where an answer may start or end;
        - if the questions have answers, `start_positions` and `end_positions`: the first and last token of the first
          answer, or [CLS] for both if the answer is not in the feature's piece of the context;
        - with offsets, `question`: the row of the feature's question; `char_starts` and `char_ends`: the position of
          each token in the context, -1 for tokens outside it.
    """
    columns = [name for name in ("question", "context", "answers") if name in questions.column_names]
    pair = tokenizer if isinstance(tokenizer, TokenizerPair) else None
    cuts = tokenizer if pair is None else pair.student
    cut = 0
    torn: list[int] = []
    lost: list[int] = []
    unaligned: list[int] = []

    def features_of(batch: Mapping[str, Any], rows: Sequence[int]) -> dict[str, Any]:
        nonlocal cut
        texts, shortened = _cut_questions(batch["question"], cuts, arguments.max_question_length)
        cut += shortened
        encoded = cuts(
            texts,
            batch["context"],
            truncation="only_second",
            max_length=arguments.max_seq_length,
            stride=arguments.doc_stride,
            return_overflowing_tokens=True,
        )
        owners = encoded.pop("overflow_to_sample_mapping")
        places = [_places(encoded, feature, cuts.cls_token_id) for feature in range(len(owners))]
        features = dict(encoded) | {"answer_mask": [_mask(*place) for place in places]}
        if pair is not None:
            both = list(zip(texts, batch["context"], strict=True))
            features |= pair.of_windows(encoded, owners, both, arguments.max_seq_length)
        if "answers" in batch:
            answers = _answer_places(encoded, owners, batch["answers"])
            spans = [
                _span(encoded, feature, answers[owner]) or (place.cls, place.cls)
                for feature, (owner, place) in enumerate(zip(owners, places, strict=True))
            ]
            whole = {owner for owner, span, place in zip(owners, spans, places, strict=True) if span[0] != place.cls}
            torn.extend(rows[owner] for owner, answer in enumerate(answers) if answer and owner not in whole)
            lost.extend(
                row
                for row, answer, gold in zip(rows, answers, batch["answers"], strict=True)
                if gold["text"] and not answer
            )
            features["start_positions"], features["end_positions"] = map(list, zip(*spans, strict=True))
            if pair is not None:
                unaligned.extend(
                    rows[owner]
                    for owner, place, span, units in zip(owners, places, spans, features[UNITS], strict=True)
                    if span[0] != place.cls and min(units[span[0]], units[span[1]]) < 0
                )
        if with_offsets:
            features["question"] = [rows[owner] for owner in owners]
            offsets = [_offsets(encoded, feature, place) for feature, place in enumerate(places)]
            features["char_starts"], features["char_ends"] = map(list, zip(*offsets, strict=True))
        return features

    features = questions.select_columns(columns).map(
        features_of, batched=True, with_indices=True, remove_columns=columns, desc="Tokenizing"
    )
    if cut:
        logger.warning(
            "%d of %d questions %s longer than max_question_length %d tokens and %s cut.",
            cut,
            len(questions),
            agreeing(cut, "is", "are"),
            arguments.max_question_length,
            agreeing(cut, "is", "are"),
        )
    if torn:
        logger.warning(
            "%d of %d questions (%s) %s an answer that no piece of the context contains whole, and %s treated as "
            "unanswerable: give a larger max_seq_length or doc_stride.",
            len(torn),
            len(questions),
            first_of(questions.select(torn)["id"][:]),
            agreeing(len(torn), "has", "have"),
            agreeing(len(torn), "is", "are"),
        )
    if lost:
        logger.warning(
            "%d of %d questions (%s) %s an answer whose characters the tokenizer drops, and %s treated as "
            "unanswerable: give another answer, or a model with another tokenizer.",
            len(lost),
            len(questions),
            first_of(questions.select(lost)["id"][:]),
            agreeing(len(lost), "has", "have"),
            agreeing(len(lost), "is", "are"),
        )
    if unaligned:
        logger.warning(
            "The answers to %d of %d questions (%s) start or end in a word that teacher or student does not read as a "
            "whole. The student learns these answers from the labels alone.",
            len({*unaligned}),
            len(questions),
            first_of(questions.select(sorted({*unaligned}))["id"][:]),
        )
    return longest_first(features) if with_offsets else features


class _Places(NamedTuple):
    """The positions in a feature of [CLS] and of its piece of the context (from `first` up to, without, `stop`)."""

    length: int
    cls: int
    first: int
    stop: int


def _places(encoded: BatchEncoding, feature: int, cls_id: int) -> _Places:
    ids, texts = encoded["input_ids"][feature], encoded.sequence_ids(feature)
    cls = next(place for place, (id, text) in enumerate(zip(ids, texts, strict=True)) if id == cls_id and text is None)
    first = texts.index(1) if 1 in texts else 0
    return _Places(len(ids), cls, first, first + texts.count(1))


def _mask(length: int, cls: int, first: int, stop: int) -> np.ndarray:
    mask = np.zeros(length, np.int8)
    mask[first:stop] = mask[cls] = 1
    return mask


def _answer_places(
    encoded: BatchEncoding, owners: Sequence[int], answers: Sequence[Mapping[str, Any]]
) -> list[tuple[int, int] | None]:
    """Returns the first and the last character of each question's first answer that belong to a token, or None.

    Spaces around the answer do not count. Tokenizers drop some characters, such as combining accents.
    """
    features: list[list[int]] = [[] for _ in answers]
    for feature, owner in enumerate(owners):
        features[owner].append(feature)

    def has_token(owner: int, char: int) -> bool:
        return any(encoded.char_to_token(feature, char, sequence_index=1) is not None for feature in features[owner])

    places = []
    for owner, answer in enumerate(answers):
        place = None
        if answer["text"]:
            text, start = answer["text"][0], answer["answer_start"][0]
            chars = range(start + len(text) - len(text.lstrip()), start + len(text.rstrip()))
            first = next((char for char in chars if has_token(owner, char)), None)
            if first is not None:
                place = first, next(char for char in reversed(chars) if has_token(owner, char))
        places.append(place)
    return places


def _span(encoded: BatchEncoding, feature: int, place: tuple[int, int] | None) -> list[int] | None:
    """Returns the first and the last token of an answer, None if it is not entirely in the feature."""
    if place is None:
        return None
    tokens = [encoded.char_to_token(feature, char, sequence_index=1) for char in place]
    return None if None in tokens else tokens


def _offsets(encoded: BatchEncoding, feature: int, place: _Places) -> np.ndarray:
    """Returns the characters of the context at which each token starts and ends, -1 outside the context."""
    offsets = np.array(encoded.encodings[feature].offsets, np.int32)
    outside = np.ones(place.length, bool)
    outside[place.first : place.stop] = False
    offsets[outside] = -1
    return offsets.T


def _cut_questions(questions: Iterable[str], tokenizer: PreTrainedTokenizerBase, limit: int) -> tuple[list[str], int]:
    """Returns the questions, cut to at most `limit` tokens, and the number of those that were longer."""
    questions = list(questions)
    long, cut = list(range(len(questions))), set[int]()
    while long:  # repeat: a text that is cut within a word may be split into other tokens
        texts = [questions[row] for row in long]
        encoded = tokenizer(texts, add_special_tokens=False, return_attention_mask=False, verbose=False)
        lengths = map(len, encoded["input_ids"])
        cuts = [(row, place) for place, (row, length) in enumerate(zip(long, lengths, strict=True)) if length > limit]
        for row, place in cuts:
            # The start of the first surplus token: a character of several tokens is removed as a whole.
            end = encoded.encodings[place].offsets[limit][0]
            questions[row] = questions[row][: min(end, len(questions[row]) - 1)]
        long = [row for row, _ in cuts]
        cut.update(long)
    return questions, len(cut)


class SpanCollator:
    """Pads features to the same length and makes a batch of them, for training and evaluation.

    Args:
        tokenizer: Sets the side to pad on.
        length: The number of tokens to pad to; None for the longest of each batch.

    Example::

        SpanCollator(tokenizer)([features[0], features[1]])["start_positions"]  # shifted by padding on the left
    """

    def __init__(self, tokenizer: Tokenizer, length: int | None = None) -> None:
        self.tokenizer, self.length = tokenizer, length

    def __call__(self, features: Sequence[Mapping[str, Any]]) -> BatchEncoding:
        inputs = [{name: row[name] for name in self.tokenizer.model_input_names if name in row} for row in features]
        padding = "longest" if self.length is None else "max_length"
        batch = self.tokenizer.pad(inputs, padding=padding, max_length=self.length, return_tensors="pt")
        moved = torch.tensor([batch["input_ids"].shape[1] - len(row["input_ids"]) for row in features])
        if self.tokenizer.padding_side == "right":
            moved.zero_()
        for name in ("start_positions", "end_positions"):
            if name in features[0]:
                batch[name] = torch.tensor([row[name] for row in features]) + moved
        if "answer_mask" in features[0]:
            batch["answer_mask"] = torch.zeros_like(batch["input_ids"])
            for row, (feature, start) in enumerate(zip(features, moved.tolist(), strict=True)):
                mask = torch.as_tensor(feature["answer_mask"])
                batch["answer_mask"][row, start : start + len(mask)] = mask
        return batch
