"""The different tokenizers of a student and its teacher, used like one tokenizer."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from tokenizers import Encoding
from transformers import BatchEncoding, PreTrainedTokenizerBase

from ckd_trainer.data.alignment import Tokens, align
from ckd_trainer.utils.errors import InputError
from ckd_trainer.utils.units import TEACHERS, UNIT_MASK, UNITS

_Placed = tuple[np.ndarray, Tokens]  # positions in an encoding of the tokens of a text, and all tokens of the text
_Side = tuple[Encoding, Sequence[_Placed]]


class TokenizerPair:
    """Encodes texts with the tokenizers of student and teacher, and finds the units that both have in common.

    A unit is a word, or several words in a row if a token crosses from one to the next (see
    `ckd_trainer.data.alignment`). The token that begins a text, such as [CLS] or <s>, is a unit of its own if both
    tokenizers add one. Other special tokens belong to no unit, nor do words that are not whole in both encodings,
    because one of them is truncated.

    The pair has what collators such as `DataCollatorWithPadding` need of a tokenizer.

    Args:
        student, teacher: fast tokenizers. Only these give the positions of tokens in a text.

    Raises:
        InputError: a tokenizer is not fast.

    Example::

        tokenizers = TokenizerPair(student_tokenizer, teacher_tokenizer)
        train = train.map(lambda rows: tokenizers(rows["text"], truncation=True, max_length=128), batched=True)
        collator = DataCollatorWithPadding(tokenizers)
    """

    def __init__(self, student: PreTrainedTokenizerBase, teacher: PreTrainedTokenizerBase) -> None:
        for tokenizer in (student, teacher):
            check_gives_positions(tokenizer)
        self.student, self.teacher = student, teacher

    @property
    def padding_side(self) -> str:
        """The student's."""
        return self.student.padding_side

    @property
    def model_input_names(self) -> list[str]:
        """The columns of both encodings that models read, and those of the units."""
        theirs = [TEACHERS + name for name in self.teacher.model_input_names]
        return [*self.student.model_input_names, UNITS, *theirs, TEACHERS + UNITS]

    def save_pretrained(self, folder: str, **kwargs: Any) -> Any:
        """Saves the student's tokenizer. `Trainer` calls this for the tokenizer of its data collator."""
        return self.student.save_pretrained(folder, **kwargs)

    @property
    def begins_with_special(self) -> bool:
        """Whether both tokenizers begin a text with a special token, such as [CLS]."""
        sides = (self.student, self.teacher)
        return all(_first_special(tokenizer("a").encodings[0]) is not None for tokenizer in sides)

    def __call__(
        self,
        text: str | Sequence[str],
        text_pair: str | Sequence[str] | None = None,
        *,
        truncation: bool | str = False,
        max_length: int | None = None,
        padding: bool | str = False,
    ) -> dict[str, list]:
        """Returns the columns of texts, or of pairs of texts: see `ckd_trainer.utils.units`.

        Args:
            text, text_pair: one text or a list of them.
            truncation, max_length, padding: as for a tokenizer; they hold for both encodings.
        """
        if isinstance(text, str):
            pair = None if text_pair is None else [str(text_pair)]
            columns = self([text], pair, truncation=truncation, max_length=max_length, padding=padding)
            return {name: values[0] for name, values in columns.items()}
        both = [list(part) for part in (text, text_pair) if part is not None]
        options = {"truncation": truncation, "max_length": max_length, "padding": padding}
        ours, theirs = (tokenizer(*both, **options) for tokenizer in (self.student, self.teacher))
        rows = [
            _units(texts, [_side(self.student, own, texts), _side(self.teacher, other, texts)])
            for own, other, texts in zip(ours.encodings, theirs.encodings, zip(*both, strict=True), strict=True)
        ]
        return dict(ours) | _teachers(theirs, rows)

    def of_windows(
        self, windows: BatchEncoding, owners: Sequence[int], texts: Sequence[Sequence[str]], max_length: int | None
    ) -> dict[str, list]:
        """Returns the columns that windows of the student's tokens lack, for a teacher that reads the same pieces.

        Args:
            windows: from the student's tokenizer with `return_overflowing_tokens`.
            owners: the row in `texts` of each window.
            texts: the text, or the pair of texts, of each example that was cut into windows.
            max_length: of the teacher's encoding.
        """
        wholes = list(zip(*(_wholes(self.student, column) for column in zip(*texts, strict=True)), strict=True))
        sides, starts, pieces = [], [], []
        for encoding, owner in zip(windows.encodings, owners, strict=True):
            found = [_tokens_in(encoding, number, whole) for number, whole in enumerate(wholes[owner])]
            spans = [_span(tokens) for _, tokens in found]
            sides.append((encoding, found))
            starts.append([start for start, _ in spans])
            pieces.append([text[start:stop] for text, (start, stop) in zip(texts[owner], spans, strict=True)])
        theirs = self.teacher(*map(list, zip(*pieces, strict=True)), truncation=True, max_length=max_length)
        rows = []
        for window, owner in enumerate(owners):
            encoding, its = _side(self.teacher, theirs.encodings[window], pieces[window])
            moved = [
                (places, Tokens(tokens.starts + start, tokens.ends + start, tokens.kept))
                for (places, tokens), start in zip(its, starts[window], strict=True)
            ]
            rows.append(_units(texts[owner], [sides[window], (encoding, moved)]))
        return _teachers(theirs, rows)

    def pad(
        self,
        rows: Sequence[Mapping[str, Any]],
        padding: bool | str = True,
        max_length: int | None = None,
        pad_to_multiple_of: int | None = None,
        return_tensors: str = "pt",
    ) -> dict[str, torch.Tensor]:
        """Returns a batch of rows, in which both encodings are padded, see `ckd_trainer.utils.units`.

        Rows that hold the student's encoding alone, as for predictions, are padded as its tokenizer does.

        Args:
            rows: with the columns from `__call__`, and others that a tokenizer would pad.
            padding, max_length, pad_to_multiple_of, return_tensors: as for a tokenizer.
        """
        options = {
            "padding": padding,
            "max_length": max_length,
            "pad_to_multiple_of": pad_to_multiple_of,
            "return_tensors": return_tensors,
        }
        columns = [TEACHERS + name for name in self.teacher.model_input_names if TEACHERS + name in rows[0]]
        others = {*columns, UNITS, TEACHERS + UNITS}
        batch = self.student.pad(
            [{name: value for name, value in row.items() if name not in others} for row in rows], **options
        )
        if not columns:
            return dict(batch)
        theirs = self.teacher.pad(
            [{name.removeprefix(TEACHERS): row[name] for name in columns} for row in rows], **options
        )
        batch = dict(batch) | {TEACHERS + name: value for name, value in theirs.items()}
        for tokenizer, prefix in ((self.student, ""), (self.teacher, TEACHERS)):
            batch[prefix + UNITS] = units = torch.full_like(batch[f"{prefix}input_ids"], -1)
            for padded, row in zip(units, rows, strict=True):
                own = torch.as_tensor(row[prefix + UNITS])
                start = len(padded) - len(own) if tokenizer.padding_side == "left" else 0
                padded[start : start + len(own)] = own
        counts = batch[UNITS].amax(-1, keepdim=True) + 1
        # Padding to a fixed length means fixed shapes.
        most = batch[UNITS].shape[-1] if padding == "max_length" else max(1, int(counts.max()))
        batch[UNIT_MASK] = (torch.arange(most) < counts).long()
        return batch


Tokenizer = PreTrainedTokenizerBase | TokenizerPair  # what encodes the texts of a run


def check_gives_positions(tokenizer: PreTrainedTokenizerBase) -> None:
    """Raises InputError if a tokenizer is not a fast one."""
    if not tokenizer.is_fast:
        raise InputError(
            f"{type(tokenizer).__name__} does not give the positions of tokens in the text: use a model with a fast "
            "tokenizer (tokenizer.json)."
        )


def _teachers(theirs: BatchEncoding, units: Sequence[Sequence[np.ndarray]]) -> dict[str, list]:
    """Returns the columns of the teacher's encodings, and of the units of both."""
    own, others = map(list, zip(*units, strict=True))
    return {TEACHERS + name: values for name, values in theirs.items()} | {UNITS: own, TEACHERS + UNITS: others}


def _side(tokenizer: PreTrainedTokenizerBase, encoding: Encoding, texts: Sequence[str]) -> _Side:
    """Returns an encoding, and its tokens of each text."""
    return encoding, [_tokens(tokenizer, encoding, number, text) for number, text in enumerate(texts)]


def _first_special(encoding: Encoding) -> int | None:
    """Returns the position of the special token that begins a text; None if it begins with another token."""
    first = encoding.attention_mask.index(1) if 1 in encoding.attention_mask else None
    return None if first is None or encoding.sequence_ids[first] is not None else first


def _units(texts: Sequence[str], sides: Sequence[_Side]) -> list[np.ndarray]:
    """Returns the unit of each token of an example, for each side.

    Args:
        texts: the text of the example, or both texts of a pair.
        sides: an encoding, and its tokens of each text.
    """
    units = [np.full(len(encoding.ids), -1) for encoding, _ in sides]
    first = [_first_special(encoding) for encoding, _ in sides]
    count = 0
    if None not in first:
        for own, place in zip(units, first, strict=True):
            own[place] = 0
        count = 1
    for number, text in enumerate(texts):
        found = [tokens[number] for _, tokens in sides]
        aligned = align(text, [tokens for _, tokens in found])
        for own, (places, _), numbers in zip(units, found, aligned, strict=True):
            own[places] = np.where(numbers < 0, -1, numbers + count)
        count += max((int(numbers.max()) + 1 for numbers in aligned if len(numbers)), default=0)
    return units


def _tokens(tokenizer: PreTrainedTokenizerBase, encoding: Encoding, number: int, text: str) -> _Placed:
    """Returns the positions of a text's tokens in an encoding, and all tokens of the text.

    Args:
        number: 0 for the first text of the example, 1 for the second.
    """
    if encoding.overflowing:
        return _tokens_in(encoding, number, _wholes(tokenizer, [text])[0])
    places = _places(encoding, number)
    starts, ends = _offsets(encoding)[places].T
    return places, Tokens(starts, ends, np.ones(len(places), bool))


def _tokens_in(encoding: Encoding, number: int, whole: Encoding) -> _Placed:
    """Returns what `_tokens` does, for a text that may be cut; `whole` is its encoding without special tokens."""
    places, ids, offsets = _places(encoding, number), np.array(whole.ids, np.int64), _offsets(whole)
    kept = np.zeros(len(ids), bool)
    if len(places):  # neighbors in the text
        own, ends = np.array(encoding.ids)[places], _offsets(encoding)[places, 1]
        # Neither starts nor the first end: byte-level tokenizers treat spaces differently in the first token of an
        # encoding, which need not be the first of the text.
        possible = [
            place
            for place in np.flatnonzero(ids == own[0]).tolist()
            if np.array_equal(ids[place : place + len(own)], own)
            and np.array_equal(offsets[place + 1 : place + len(own), 1], ends[1:])
        ]
        if not possible:
            raise InputError(
                "a tokenizer encodes a text that is cut with other tokens than the whole text, so the words of both "
                "encodings cannot be matched: set a higher max_seq_length, or use models with the same tokenizer."
            )
        start = min(possible, key=lambda place: abs(offsets[place, 1] - ends[0]))
        kept[start : start + len(own)] = True
    starts, ends = offsets.T
    return places, Tokens(starts, ends, kept)


def _span(tokens: Tokens) -> tuple[int, int]:
    """Returns the characters at which the tokens that are kept start and end."""
    starts, ends = tokens.starts[tokens.kept], tokens.ends[tokens.kept]
    return (int(starts.min()), int(ends.max())) if len(starts) else (0, 0)


def _wholes(tokenizer: PreTrainedTokenizerBase, texts: Sequence[str]) -> Sequence[Encoding]:
    """Returns the encodings of texts without special tokens."""
    return tokenizer(list(texts), add_special_tokens=False, return_attention_mask=False, verbose=False).encodings


def _places(encoding: Encoding, number: int) -> np.ndarray:
    return np.array([place for place, its in enumerate(encoding.sequence_ids) if its == number], np.int64)


def _offsets(encoding: Encoding) -> np.ndarray:
    return np.array(encoding.offsets, np.int64).reshape(-1, 2)
