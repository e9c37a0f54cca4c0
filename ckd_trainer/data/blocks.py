"""Cuts running text into blocks of tokens, once: they are kept on disk under a name made of their content."""

import dataclasses
import hashlib
import itertools
import json
import os
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import datasets
import pyarrow as pa
from datasets import Dataset
from filelock import FileLock
from tqdm.auto import tqdm
from transformers import PreTrainedTokenizerBase

from ckd_trainer.data.documents import Part, read_documents
from ckd_trainer.data.streamed_documents import StreamedDocuments
from ckd_trainer.data.table import Table, state_of
from ckd_trainer.data.text_arguments import TextSource
from ckd_trainer.utils.errors import InputError
from ckd_trainer.utils.files import files_fingerprint, input_errors_about, told_without_room

FORMAT = 1  # bump when the same text is cut into other blocks, or stored in another way

_SLICE = 2**22  # characters that are tokenized at a time: limits the memory that their tokens take

# The end of a sentence: the mark, and closing quotes or brackets. Scripts without spaces have none after it.
_END_OF_SENTENCE = re.compile(r"""[.!?]+["'”’)\]]*(?=\s)|[。！？]+[”’」』）]*""")


@dataclass(frozen=True)
class BlockOptions:
    """How text is cut into blocks.

    Attributes:
        max_seq_length: the length of a block, with its special tokens.
        keep_sentences: whether a block ends before a sentence that does not fit.
        quoting: how csv and tsv files are quoted.
    """

    max_seq_length: int
    keep_sentences: bool = False
    quoting: str = "auto"


class Packer:
    """Packs texts into blocks, each between the special tokens with which the tokenizer encloses a text.

    Without `keep_sentences`, the tokens of all texts are one sequence, with a separator before each document but the
    first and a space between the paragraphs of a document, and a block is the next piece of it: every block but the
    last is full. With it, a block holds as many whole sentences as fit; a sentence that is longer than a block is cut.

    Args:
        tokenizer: that of teacher and student.
        options: the length of a block, and whether sentences are kept whole.

    Example:
        >>> packer = Packer(tokenizer, BlockOptions(max_seq_length=6))
        >>> blocks = [*packer.add(["a b c", "d e f"], [True, True]), *packer.rest()]
        >>> [tokenizer.decode(block) for block in blocks]
        ['[CLS] a b c [SEP] [SEP]', '[CLS] d e f [SEP]']
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase, options: BlockOptions) -> None:
        self.tokenizer, self.options = tokenizer, options
        self.before, self.after = _special_tokens(tokenizer)
        self.room = options.max_seq_length - len(self.before) - len(self.after)
        if self.room < 1:
            special = options.max_seq_length - self.room
            raise InputError(
                f"max_seq_length is {options.max_seq_length}, but a block has {special} special tokens: give "
                f"{special + 1} or more."
            )
        separator = tokenizer.sep_token_id if tokenizer.sep_token_id is not None else tokenizer.eos_token_id
        self.separator = [] if separator is None else [separator]
        self.tokens = 0  # of the texts, without special ones
        self._open: list[int] = []  # the tokens of the block that is not full yet

    def add(self, texts: list[str], begins: list[bool]) -> Iterator[list[int]]:
        """Yields the blocks that are full once these texts are added.

        Args:
            texts: paragraphs or documents.
            begins: for each, whether a document begins with it.
        """
        # Tokenizers of bytes read the space before a word; others ignore it.
        texts = [text if begin else f" {text}" for text, begin in zip(texts, begins, strict=True)]
        if self.options.keep_sentences:
            pieces = [_sentences(text) for text in texts]
            begins = [
                begin and place == 0 for own, begin in zip(pieces, begins, strict=True) for place in range(len(own))
            ]
            texts = [piece for own in pieces for piece in own]
        if not texts:
            return
        encoded = self.tokenizer(
            texts,
            add_special_tokens=False,
            return_attention_mask=False,
            return_token_type_ids=False,
            verbose=False,  # it would warn of texts that are longer than what the model reads
        )["input_ids"]
        for ids, begin in zip(encoded, begins, strict=True):
            separator = self.separator if begin and self.tokens else []
            self.tokens += len(ids)
            yield from self._whole(ids, separator) if self.options.keep_sentences else self._next([*separator, *ids])

    def rest(self) -> Iterator[list[int]]:
        """Yields the last block, if it is not empty."""
        if self._open:
            yield self._enclosed(self._open)
            self._open = []

    def state_dict(self) -> dict[str, Any]:
        """Returns what the next blocks depend on, beside the next texts."""
        return {"tokens": self.tokens, "open": [*self._open]}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continues from a state that `state_dict` returned."""
        self.tokens, self._open = state["tokens"], [*state["open"]]

    def _next(self, ids: list[int]) -> Iterator[list[int]]:
        """Adds the next tokens of the sequence."""
        start = self.room - len(self._open)
        self._open += ids[:start]
        while len(self._open) == self.room:
            yield self._enclosed(self._open)
            self._open = ids[start : start + self.room]
            start += self.room

    def _whole(self, ids: list[int], separator: list[int]) -> Iterator[list[int]]:
        """Adds a sentence, to a new block if it does not fit."""
        if self._open and len(self._open) + len(separator) + len(ids) > self.room:
            yield self._enclosed(self._open)
            self._open = []
        yield from self._next([*(separator if self._open else ()), *ids])

    def _enclosed(self, ids: list[int]) -> list[int]:
        return [*self.before, *ids, *self.after]


def blocks_of(
    source: TextSource,
    tokenizer: PreTrainedTokenizerBase,
    options: BlockOptions,
    *,
    table: Table | None = None,
    streamed: StreamedDocuments | None = None,
    show_progress: bool = False,
) -> Dataset:
    """Returns the blocks of a source, memory-mapped: a column `input_ids`.

    They are made once, with all cores if the tokenizer is a fast one, and kept in ckd-trainer-blocks, in the cache
    folder of `datasets`, under a key of the text, the tokenizer and the options. Memory does not grow with the number
    of documents.

    Args:
        source: the text.
        tokenizer: that of teacher and student.
        options: how the text is cut.
        table: the rows of a data set by name; None for a file.
        streamed: a data set by name that is read from where it is, instead of `table`.
        show_progress: whether to show a progress bar.

    Raises:
        InputError: the text cannot be read (see `read_documents`), or is shorter than a block.
    """
    folder = Path(datasets.config.HF_DATASETS_CACHE) / "ckd-trainer-blocks"
    path = folder / f"{_key(source, tokenizer, options, table, streamed)}.arrow"
    with told_without_room(datasets.config.HF_DATASETS_CACHE, "HF_DATASETS_CACHE", "the beginning"):
        folder.mkdir(parents=True, exist_ok=True)
        with FileLock(path.with_suffix(".lock")):  # the other processes of a machine wait for the first
            if not path.is_file():
                temporary = path.with_suffix(".tmp")
                packer = Packer(tokenizer, options)
                parts = read_documents(source, table, quoting=options.quoting)
                if streamed is not None:
                    parts = (part for part, _ in streamed.parts())
                try:
                    _write(temporary, packer, _with_progress(parts, source, table, show_progress))
                    if packer.tokens < packer.room:
                        raise InputError(
                            f"{source} has {packer.tokens} tokens, but a block holds {packer.room}: give more text, "
                            "or a lower max_seq_length."
                        )
                    os.replace(temporary, path)
                finally:
                    temporary.unlink(missing_ok=True)
    return Dataset.from_file(str(path))


def _write(path: Path, packer: Packer, parts: Iterable[Part]) -> None:
    schema = pa.schema([("input_ids", pa.list_(pa.int32()))])
    with pa.OSFile(str(path), "wb") as file, pa.ipc.new_stream(file, schema) as writer:
        found = (packer.add(texts, begins) for part in parts for texts, begins in slices(part))
        for blocks in itertools.chain(found, [packer.rest()]):
            if column := list(blocks):
                writer.write_table(pa.table({"input_ids": column}, schema=schema))


def slices(part: Part) -> Iterator[tuple[list[str], list[bool]]]:
    """Yields the texts of a part, a few million characters at a time."""
    start = size = 0
    for place, text in enumerate(part.texts, start=1):
        size += len(text)
        if size >= _SLICE or place == len(part.texts):
            yield part.texts[start:place], part.begins[start:place]
            start, size = place, 0


def _with_progress(parts: Iterable[Part], source: TextSource, table: Table | None, show: bool) -> Iterator[Part]:
    path, total, unit = source.path, table and len(table.data), " rows"
    if path is not None and path.suffix.lower() == ".txt":
        total, unit = path.stat().st_size, "B"
    with tqdm(total=total, desc=f"Cutting {source}", unit=unit, unit_scale=True, disable=not show) as progress:
        for part in parts:
            yield part
            progress.update(part.size)


def _key(
    source: TextSource,
    tokenizer: PreTrainedTokenizerBase,
    options: BlockOptions,
    table: Table | None,
    streamed: StreamedDocuments | None,
) -> str:
    """Returns the name of a source's blocks: it changes with the text, the tokenizer and the options."""
    if table is not None:
        content = state_of(table.data)
    elif streamed is not None:
        name = source.dataset_name or ""
        # With the path of a folder, as the files of two folders may have the same names and times.
        content = f"{os.path.realpath(name) if os.path.isdir(name) else name} {streamed.identity}"
    elif (path := source.path) is not None:
        with input_errors_about(path):
            content = files_fingerprint([path])
    suffix = "" if source.path is None else source.path.suffix.lower()  # says how a file is read
    cut = [suffix, source.text_column, source.lines, *dataclasses.astuple(options)]
    key = [FORMAT, content, cut, _tokenizer_state(tokenizer)]
    return hashlib.sha256(json.dumps(key, sort_keys=True, default=str).encode()).hexdigest()[:32]


def _tokenizer_state(tokenizer: PreTrainedTokenizerBase) -> list:
    """Returns what determines how a tokenizer encodes a text."""
    ids = [tokenizer.sep_token_id, tokenizer.eos_token_id, *_special_tokens(tokenizer)]
    if not tokenizer.is_fast:
        options = {name: value for name, value in tokenizer.init_kwargs.items() if "name_or_path" not in name}
        return [type(tokenizer).__name__, ids, options, tokenizer.get_vocab()]
    backend = json.loads(tokenizer.backend_tokenizer.to_str())
    return [ids, {name: value for name, value in backend.items() if name not in ("truncation", "padding")}]


def _special_tokens(tokenizer: PreTrainedTokenizerBase) -> tuple[list[int], list[int]]:
    """Returns the special tokens before and after a text."""
    encoded = tokenizer("a", return_special_tokens_mask=True)
    ids, is_special = encoded["input_ids"], encoded["special_tokens_mask"]
    start = is_special.index(0)
    end = start + is_special[start:].index(1) if 1 in is_special[start:] else len(ids)
    return ids[:start], ids[end:]


def _sentences(text: str) -> list[str]:
    """Returns the sentences of a text, each with the space before it."""
    ends = [0, *(match.end() for match in _END_OF_SENTENCE.finditer(text)), len(text)]
    return [piece for start, end in itertools.pairwise(ends) if (piece := text[start:end]).strip()]
