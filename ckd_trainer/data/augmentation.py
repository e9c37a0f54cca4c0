"""Variants of texts in which some words are replaced by others that fit: TinyBERT's augmentation.

A word counts if it consists of letters and is no stop word. Its candidates come from two sources. If the tokenizer
keeps the word in one piece, it is masked, and a masked language model that also reads the original text proposes
candidates. A word of several pieces gets the nearest neighbors of its static vector. Every variant then replaces each
word with a probability by one of its candidates, drawn at random.
"""

import random
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import regex
import torch
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from ckd_trainer.utils.errors import InputError
from ckd_trainer.utils.files import input_errors_about, user_path

MOST_VECTORS = 100_000  # the first, most frequent words of a file, as TinyBERT reads
# Letters with their marks, such as the vowel signs of Hindi, and with the joiners that hold words together in Persian.
_LETTERS = regex.compile(r"\p{L}[\p{L}\p{M}\u200C\u200D]*")
# Letters that are neither next to digits nor part of a contraction, such as don't, do n't or it 's. The stem of a
# possessive counts.
_WORD = regex.compile(
    r"(?<![\p{L}\p{N}_'’][\p{M}\u200C\u200D]*)"  # marks after an emoji are not part of the next word
    rf"{_LETTERS.pattern}(?![\p{{L}}\p{{M}}\p{{N}}_\u200C\u200D])(?!['’](?!s\b)\w)"
)
# English words that carry grammar rather than content: replaced, they would change what a text says or break it.
STOP_WORDS = frozenset(
    """a about above after again against all am an and any are as at be because been before being below
    between both but by ca can cannot could did do does doing down during each few for from further had
    has have having he her here hers herself him himself his how i if in into is it its itself just me
    more most must my myself no nor not now of off on once only or other our ours ourselves out over own
    same sha shall she should so some such than that the their theirs them themselves then there these
    they this those through to too under until up very was we were what when where which while who whom
    why will with wo would you your yours yourself yourselves""".split()
)


class Word(NamedTuple):
    """A word that may be replaced: its place in the text."""

    start: int
    end: int
    text: str


def words_of(text: str) -> list[Word]:
    """Returns the words of a text that may be replaced.

    Example:
        >>> [word.text for word in words_of("The 2 cats don't like rain.")]
        ['cats', 'like', 'rain']
    """
    found = (Word(match.start(), match.end(), match[0]) for match in _WORD.finditer(text))
    return [word for word in found if word.text.lower() not in STOP_WORDS]


class Augmenter:
    """Proposes candidates for the words of texts.

    Args:
        model: a masked language model in evaluation mode, on its device.
        tokenizer: the model's.
        vectors: static vectors for words of several pieces; None for the model's own input embeddings.
        count: the number of candidates per word.
        batch_size: the number of masked texts in a forward pass.
        max_length: the number of tokens of a masked text with its original. Both are cut to half of it, so words
            beyond that have no candidates. Nor have those of a text that contains the mask token.

    Raises:
        InputError: the tokenizer has no mask token.

    Example::

        augmenter = Augmenter(model, tokenizer, read_vectors("glove.txt"), count=15)
        (candidates,) = augmenter.candidates(["the weather is fine"])
        list(variants([("the weather is fine", candidates)], count=3, probability=0.4, seed=0))
    """

    def __init__(
        self,
        model: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        vectors: "Vectors | None" = None,
        *,
        count: int = 15,
        batch_size: int = 64,
        max_length: int = 512,
    ) -> None:
        check_masks(tokenizer)
        self.model, self.tokenizer, self.count = model, tokenizer, count
        self.batch_size, self.max_length = batch_size, max_length
        self._whole_words = _whole_words(tokenizer, model.get_input_embeddings().num_embeddings)
        self._allowed = torch.tensor([bool(word) for word in self._whole_words], device=model.device)
        self._vectors = vectors or _own_vectors(model, self._whole_words)
        self._of_pieces = vectors is None
        self._one_piece: dict[str, bool] = {}

    def candidates(self, texts: Sequence[str]) -> list[list[tuple[Word, list[str]]]]:
        """Returns for each text its words with their candidates, the best first; words without any are left out."""
        found: list[dict[Word, list[str]]] = [{} for _ in texts]
        masked: list[tuple[int, Word]] = []
        split: list[tuple[int, Word]] = []
        for row, text in enumerate(texts):
            for word in words_of(text) if self.tokenizer.mask_token not in text else ():
                (masked if self._is_one_piece(text, word) else split).append((row, word))
        masked.sort(key=lambda place: -len(texts[place[0]]))  # little padding
        for start in range(0, len(masked), self.batch_size):
            places = masked[start : start + self.batch_size]
            for (row, word), proposed in zip(places, self._proposed(texts, places), strict=True):
                found[row][word] = proposed
        neighbors = self._neighbors({word.text for _, word in split})
        for row, word in split:
            found[row][word] = neighbors[word.text]
        return [[(word, them) for word, them in sorted(one.items()) if them] for one in found]

    def _is_one_piece(self, text: str, word: Word) -> bool:
        words = f" {word.text}" if text[: word.start].endswith(" ") else word.text
        if words not in self._one_piece:
            pieces = self.tokenizer.tokenize(words)
            self._one_piece[words] = len(pieces) == 1 and pieces[0] != self.tokenizer.unk_token
        return self._one_piece[words]

    @torch.inference_mode()
    def _proposed(self, texts: Sequence[str], places: Sequence[tuple[int, Word]]) -> list[list[str]]:
        """Returns the model's candidates for masked words; none where the word lies beyond max_length."""
        originals = [texts[row] for row, _ in places]
        mask = self.tokenizer.mask_token
        masked = [texts[row][: word.start] + mask + texts[row][word.end :] for row, word in places]
        encoded = self.tokenizer(
            masked,
            originals,
            truncation="longest_first",
            max_length=self.max_length,
            padding=True,
            return_tensors="pt",
        ).to(self.model.device)
        is_mask = encoded["input_ids"] == self.tokenizer.mask_token_id
        logits = self._logits(dict(encoded), is_mask.int().argmax(1)).float()
        logits = logits[:, : len(self._allowed)].masked_fill(~self._allowed[: logits.shape[1]], -torch.inf)
        best = logits.topk(min(self._fetched, logits.shape[1])).indices.tolist()
        return [
            self._others(word.text, (self._whole_words[id] for id in ids)) if has_mask else []
            for (_, word), ids, has_mask in zip(places, best, is_mask.any(1).tolist(), strict=True)
        ]

    def _logits(self, inputs: dict[str, Tensor], positions: Tensor) -> Tensor:
        """Returns the logits at one position of each text, (texts, vocabulary)."""
        rows = torch.arange(len(positions), device=positions.device)

        def select(module: torch.nn.Module, args: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
            states = args[0]
            return (states[rows, positions][:, None], *args[1:]) if states.shape[1] > 1 else args

        # The vocabulary's layer is as expensive as a small encoder: it is applied to the masked words alone.
        layer = self.model.get_output_embeddings()
        handle = None if layer is None else layer.register_forward_pre_hook(select)
        try:
            logits = self.model(**inputs).logits
        finally:
            if handle is not None:
                handle.remove()
        return logits[:, 0] if logits.shape[1] == 1 else logits[rows, positions]

    def _neighbors(self, words: set[str]) -> dict[str, list[str]]:
        """Returns the nearest words by the cosine of static vectors; none for a word without a vector."""
        vectors = {word: vector for word in sorted(words) if (vector := self._vector(word)) is not None}
        known = list(vectors)
        found: dict[str, list[str]] = {word: [] for word in words}
        for start in range(0, len(known), 256):
            part = known[start : start + 256]
            closest = self._vectors.nearest(np.stack([vectors[word] for word in part]), self._fetched)
            found |= {word: self._others(word, them) for word, them in zip(part, closest, strict=True)}
        return found

    def _vector(self, word: str) -> np.ndarray | None:
        if not self._of_pieces:
            return self._vectors.of(word)
        ids = self.tokenizer(word, add_special_tokens=False)["input_ids"]
        if not ids or self.tokenizer.unk_token_id in ids:
            return None
        embeddings = self.model.get_input_embeddings().weight.detach()
        return embeddings[ids].float().mean(0).cpu().numpy()

    @property
    def _fetched(self) -> int:
        """The number of candidates to look at: some may be the word itself, or another only in case."""
        return 3 * self.count + 3

    def _others(self, word: str, candidates: Iterable[str]) -> list[str]:
        others = [_in_case_of(word, candidate) for candidate in candidates if candidate]
        others = [other for other in dict.fromkeys(others) if other.lower() != word.lower()]
        return others[: self.count]


def check_masks(tokenizer: PreTrainedTokenizerBase) -> None:
    """Raises InputError if a tokenizer has no mask token."""
    if tokenizer.mask_token is None:
        raise InputError("the tokenizer has no mask token, so its model cannot propose words: give a masked LM.")


class Vectors:
    """Static vectors of words, normalized."""

    def __init__(self, words: Sequence[str], vectors: np.ndarray) -> None:
        self.words = list(words)
        self.vectors = vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-12)
        self._rows = {word: row for row, word in reversed(list(enumerate(self.words)))}

    def of(self, word: str) -> np.ndarray | None:
        """Returns the vector of a word, or of the word in lower case; None if there is neither."""
        row = self._rows.get(word, self._rows.get(word.lower()))
        return None if row is None else self.vectors[row]

    def nearest(self, vectors: np.ndarray, count: int) -> list[list[str]]:
        """Returns the words with the largest cosines with each vector, the nearest first."""
        cosines = vectors @ self.vectors.T
        count = min(count, len(self.words))
        top = np.argpartition(-cosines, count - 1, axis=1)[:, :count]
        order = np.take_along_axis(top, np.argsort(-np.take_along_axis(cosines, top, 1), axis=1, kind="stable"), 1)
        return [[self.words[row] for row in rows] for rows in order]


def _finite_numbers(words: Sequence[str]) -> np.ndarray | None:
    """Returns the numbers in these words; None if there are none, or if one is not a finite number."""
    try:
        numbers = np.array(words, dtype=np.float32)
    except ValueError:
        return None
    return numbers if len(numbers) and np.isfinite(numbers).all() else None


def read_vectors(path: str | Path, most: int = MOST_VECTORS) -> Vectors:
    """Reads vectors in the text format of GloVe or word2vec: a word and its numbers on each line.

    Args:
        most: read only this many lines, from the beginning.

    Raises:
        InputError: no such file, or a line without a word and as many numbers as the others.
    """
    path = user_path(path)
    words: list[str] = []
    rows: list[np.ndarray] = []
    size = 0  # of a vector; 0 until it is known
    with input_errors_about(path), open(path, encoding="utf-8-sig", errors="replace") as file:
        for number, line in enumerate(file, start=1):
            # Some words of GloVe's files hold spaces, such as ". . .".
            word, *values = line.rstrip().rsplit(" ", size or -1)
            if number == 1 and len(values) == 1:
                continue  # the header of word2vec: the number of words and of dimensions
            vector = _finite_numbers(values)
            has_more = " " in word and _finite_numbers(word.split(" ")[-1:]) is not None
            if not word or vector is None or (size and len(vector) != size) or has_more:
                numbers = f"{size} numbers" if size else "numbers"
                raise InputError(f"{path}, line {number}: this is not a word and {numbers}: give GloVe's text format.")
            size = len(vector)
            if _LETTERS.fullmatch(word):
                words.append(word)
                rows.append(vector)
            if number >= most:
                break
    if not words:
        raise InputError(f"{path} has no words: give vectors in GloVe's text format.")
    return Vectors(words, np.stack(rows))


def variants(
    texts: Sequence[tuple[str, Sequence[tuple[Word, Sequence[str]]]]],
    *,
    count: int,
    probability: float,
    seed: int | str,
) -> list[tuple[str, ...]]:
    """Returns variants of an example, without duplicates and without the example itself.

    Args:
        texts: the example's texts (one, or two of a pair), each with its words and their candidates.
        count: the number of passes. Each makes a variant of every text, so a pair stays together.
        probability: that of replacing a word, in each pass.
        seed: decides the variants.
    """
    draw = random.Random(seed)
    original = tuple(text for text, _ in texts)
    found = dict.fromkeys(tuple(_replaced(*text, probability, draw) for text in texts) for _ in range(count))
    found.pop(original, None)
    return list(found)


def _replaced(
    text: str, candidates: Sequence[tuple[Word, Sequence[str]]], probability: float, draw: random.Random
) -> str:
    parts, end = [], 0
    for word, others in candidates:
        if draw.random() < probability:
            parts += [text[end : word.start], draw.choice(others)]
            end = word.end
    return "".join([*parts, text[end:]])


def _whole_words(tokenizer: PreTrainedTokenizerBase, size: int) -> list[str]:
    """Returns the word of letters that each token stands for after a space; "" if it stands for none."""
    special = set(tokenizer.all_special_ids)
    ids = [id for id in range(min(size, len(tokenizer))) if id not in special]
    texts = [tokenizer.convert_tokens_to_string([token]).strip() for token in tokenizer.convert_ids_to_tokens(ids)]
    letters = [(id, text) for id, text in zip(ids, texts, strict=True) if _LETTERS.fullmatch(text)]
    encoded = tokenizer([f" {text}" for _, text in letters], add_special_tokens=False)["input_ids"] if letters else []
    words = [""] * size
    for (id, text), found in zip(letters, encoded, strict=True):
        if found == [id]:
            words[id] = text
    return words


def _own_vectors(model: PreTrainedModel, words: Sequence[str]) -> Vectors:
    """Returns the model's input embeddings of whole words."""
    ids = [id for id, word in enumerate(words) if word]
    embeddings = model.get_input_embeddings().weight.detach().float().cpu().numpy()
    return Vectors([words[id] for id in ids], embeddings[ids])


def _in_case_of(word: str, other: str) -> str:
    """Returns the other word with a capital if the word has one."""
    return other[:1].upper() + other[1:] if word[:1].isupper() else other
