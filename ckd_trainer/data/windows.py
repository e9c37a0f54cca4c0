"""Cuts sentences into windows that a model can read, and puts its decisions about their words together again.

A *window* is one model input. A text that is too long for one becomes several, which overlap. Each word counts once,
at its first piece in the window where it has the most context.
"""

import logging
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from datasets import Dataset
from numpy.typing import ArrayLike
from scipy.special import softmax
from transformers import BatchEncoding, PreTrainedTokenizerBase

from ckd_trainer.data.ner_arguments import NerArguments
from ckd_trainer.data.tokenizer_pair import Tokenizer, TokenizerPair, check_gives_positions
from ckd_trainer.utils.errors import InputError
from ckd_trainer.utils.padding import longest_first

logger = logging.getLogger(__name__)


class Decisions(NamedTuple):
    """What a model decides about the words of a sentence: an index of a label for each, and its probability."""

    tags: np.ndarray
    scores: np.ndarray


def check_windows(tokenizer: PreTrainedTokenizerBase, arguments: NerArguments) -> None:
    """Raises InputError if windows would not move on, or if the tokenizer does not fit."""
    check_gives_positions(tokenizer)
    room = arguments.max_seq_length - tokenizer.num_special_tokens_to_add()
    if room <= arguments.doc_stride:
        raise InputError(
            f"max_seq_length {arguments.max_seq_length} leaves {max(0, room)} tokens for the text beside the special "
            f"ones, but neighboring windows share doc_stride {arguments.doc_stride}: give a smaller doc_stride or a "
            "larger max_seq_length."
        )


def encode(sentences: Dataset, tokenizer: Tokenizer, arguments: NerArguments, *, with_words: bool) -> Dataset:
    """Turns sentences into windows.

    Args:
        sentences: With the columns of an `EntityTask`; of unlabeled ones, the column text alone.
        tokenizer: A tokenizer that `check_windows` accepts, or a pair of them. The student's tokenizer then cuts
            sentences into windows.
        arguments: A `NerArguments`.
        with_words: Add the columns that `read_decisions` reads, and put long windows first, so that batches need
            little padding.

    Returns:
        A `datasets.Dataset` of unpadded windows with the model's inputs and

        - if the sentences have tags, `labels`: the tag of the word at its first piece, -100 at other tokens. With
          `label_all_pieces`, the other pieces of a word have the I- tag of its type;
        - with words, `sentence`: the row of the window's sentence; `words`: the words that this window decides, by
          their numbers; `places`: the position of the piece that decides each. Words that share a piece share a place.
    """
    columns = [name for name in ("text", "starts", "ends", "tags") if name in sentences.column_names]
    lost: list[str] = []
    pair = tokenizer if isinstance(tokenizer, TokenizerPair) else None
    cuts = tokenizer if pair is None else pair.student

    def windows_of(batch: Mapping[str, Any], rows: Sequence[int]) -> dict[str, Any]:
        encoded = cuts(
            batch["text"],
            truncation=True,
            max_length=arguments.max_seq_length,
            stride=arguments.doc_stride,
            return_overflowing_tokens=True,
        )
        owners = np.array(encoded.pop("overflow_to_sample_mapping"))
        windows = dict(encoded)
        if pair is not None:
            texts = [(text,) for text in batch["text"]]
            windows |= pair.of_windows(encoded, owners.tolist(), texts, arguments.max_seq_length)
        if "starts" not in batch:
            return windows
        pieces = [_pieces(encoded, window) for window in range(len(owners))]
        words, places = _words_of_windows(pieces, owners, batch["starts"], batch["ends"])
        if "tags" in batch:
            windows["labels"] = labels = [np.full(len(ids), -100) for ids in encoded["input_ids"]]
            read = [np.zeros(len(tags), np.int64) for tags in batch["tags"]]
            for window, owner in enumerate(owners.tolist()):
                starts, ends, tags = (np.array(batch[name][owner], np.int64) for name in ("starts", "ends", "tags"))
                own = ~_shares(places[window])
                its = words[window][own]
                if arguments.label_all_pieces:
                    _label_pieces(labels[window], pieces[window], starts[its], ends[its], inside(tags[its]))
                labels[window][places[window][own]] = tags[its]
                read[owner][words[window]] = _read(labels[window][places[window]], places[window])
            for row, tags in enumerate(batch["tags"]):
                text, starts, ends = batch["text"][row], batch["starts"][row], batch["ends"][row]
                wrong = np.flatnonzero(read[row] != np.array(tags, np.int64)).tolist()
                lost.extend(text[starts[word] : ends[word]] for word in wrong)
        if with_words:
            windows |= {"sentence": [rows[owner] for owner in owners], "words": words, "places": places}
        return windows

    windows = sentences.select_columns(columns).map(
        windows_of, batched=True, with_indices=True, remove_columns=columns, desc="Tokenizing"
    )
    if lost:
        logger.warning(
            "%d words, such as %r, have no token of their own in this tokenizer, but a tag that differs from that of "
            "the word before them: a model cannot find it.",
            len(lost),
            lost[0],
        )
    return longest_first(windows) if with_words else windows


def read_decisions(sentences: Dataset, windows: Dataset, logits: ArrayLike) -> list[Decisions]:
    """Returns what a model decides about the words of each sentence.

    A word without a token has the first label, O, with probability 1. A word that shares a token with the word before
    it continues its entity.

    Args:
        sentences: As for `encode`.
        windows: The windows of these sentences, from `encode` with words.
        logits: (windows, length or more, labels), in token positions (see `ckd_trainer.utils.padding`). The labels are
            those of `ckd_trainer.data.tags.label_names`.
    """
    found = [Decisions(np.zeros(len(starts), np.int64), np.ones(len(starts))) for starts in sentences["starts"]]
    for row, window in enumerate(windows.select_columns(["sentence", "words", "places"])):
        words, places = np.array(window["words"], np.int64), np.array(window["places"], np.int64)
        chosen = np.nan_to_num(np.asarray(logits[row], np.float64)[places])  # type: ignore[index]
        probabilities = softmax(chosen, axis=-1)
        tags, scores = found[window["sentence"]]
        tags[words] = _read(chosen.argmax(-1), places)
        scores[words] = probabilities.max(-1)
    return found


def inside(tags: np.ndarray) -> np.ndarray:
    """Returns the labels that continue these: I- for the B- of a type, and others as they are."""
    return tags + tags % 2  # O, B-LOC, I-LOC, B-PER, ...: B- is odd


def _read(tags: np.ndarray, places: np.ndarray) -> np.ndarray:
    """Returns the tags of words from those at their places."""
    return np.where(_shares(places), inside(tags), tags)


def _shares(places: np.ndarray) -> np.ndarray:
    """Returns which words share a token with the word before them."""
    return np.diff(places, prepend=-1) == 0


class _Pieces(NamedTuple):
    """The text tokens of a window: positions in the window, and the characters at which they start and end."""

    places: np.ndarray
    starts: np.ndarray
    ends: np.ndarray


def _pieces(encoded: BatchEncoding, window: int) -> _Pieces:
    starts, ends = np.array(encoded.encodings[window].offsets, np.int64).reshape(-1, 2).T
    is_text = np.array([text is not None for text in encoded.sequence_ids(window)], bool)
    places = np.flatnonzero(is_text & (ends > starts))
    return _Pieces(places, starts[places], ends[places])


def _words_of_windows(
    pieces: Sequence[_Pieces], owners: np.ndarray, starts: Sequence[Sequence[int]], ends: Sequence[Sequence[int]]
) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """Returns the words that count in each window, and the position of the first piece of each.

    Args:
        owners: the sentence of each window.
        starts, ends: the characters of the words of each sentence.
    """
    words = [np.array([], np.int64)] * len(owners)
    places = list(words)
    for sentence, (first, last) in enumerate(zip(starts, ends, strict=True)):
        its = np.flatnonzero(owners == sentence).tolist()
        found, place = _best_places([pieces[window] for window in its], np.array(first), np.array(last))
        for number, window in enumerate(its):
            words[window] = np.flatnonzero(found == number)
            places[window] = place[words[window]]
    return words, places


def _best_places(pieces: Sequence[_Pieces], starts: np.ndarray, ends: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Returns the window in which each word counts, -1 for none, and the position of its first piece there.

    The first token of a window after the first one may be in the middle of a word. The window before has this token
    too, as windows share at least one, with more context.
    """
    context = np.full((len(pieces), len(starts)), -1.0)
    places = np.zeros((len(pieces), len(starts)), np.int64)
    for number, piece in enumerate(pieces):
        if not len(piece.places):
            continue
        first = np.searchsorted(piece.ends, starts, side="right")  # the first piece that ends after the word's start
        is_here = first < len(piece.places)
        first = np.minimum(first, len(piece.places) - 1)
        is_here &= piece.starts[first] < ends
        before = first if number else np.inf
        after = len(piece.places) - 1 - first if number < len(pieces) - 1 else np.inf
        context[number] = np.where(is_here, np.minimum(before, after), -1)
        places[number] = piece.places[first]
    best = context.argmax(0)
    words = np.arange(len(starts))
    return np.where(context[best, words] < 0, -1, best), places[best, words]


def _label_pieces(labels: np.ndarray, pieces: _Pieces, starts: np.ndarray, ends: np.ndarray, tags: np.ndarray) -> None:
    """Sets the labels of all pieces of words to their tags."""
    first = np.searchsorted(pieces.ends, starts, side="right")
    stop = np.searchsorted(pieces.starts, ends, side="left")
    for one, other, tag in zip(first, stop, tags, strict=True):
        labels[pieces.places[one:other]] = tag


class WindowCollator:
    """Pads windows to the same length and makes a batch of them, for training and evaluation.

    Args:
        tokenizer: Sets the side to pad on.
        length: The number of tokens to pad to; None for the longest of each batch.

    Example::

        WindowCollator(tokenizer)([windows[0], windows[1]])["labels"]  # -100 at padding
    """

    def __init__(self, tokenizer: Tokenizer, length: int | None = None) -> None:
        self.tokenizer, self.length = tokenizer, length

    def __call__(self, windows: Sequence[Mapping[str, Any]]) -> BatchEncoding:
        inputs = [{name: row[name] for name in self.tokenizer.model_input_names if name in row} for row in windows]
        padding = "longest" if self.length is None else "max_length"
        batch = self.tokenizer.pad(inputs, padding=padding, max_length=self.length, return_tensors="pt")
        if "labels" in windows[0]:
            length = batch["input_ids"].shape[1]
            batch["labels"] = torch.full((len(windows), length), -100)
            for row, window in enumerate(windows):
                labels = torch.as_tensor(window["labels"])
                start = length - len(labels) if self.tokenizer.padding_side == "left" else 0
                batch["labels"][row, start : start + len(labels)] = labels
        return batch
