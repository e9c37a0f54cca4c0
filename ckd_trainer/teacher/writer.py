"""Runs the teacher on examples and writes its signals for `cache`, one Arrow file at a time."""

import os
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
from datasets import Dataset
from torch import Tensor

from ckd_trainer.teacher.cached import column_name, columns_of
from ckd_trainer.teacher.live import LiveTeacher
from ckd_trainer.teacher.signals import Column, Signal
from ckd_trainer.utils.errors import InputError
from ckd_trainer.utils.files import files_fingerprint
from ckd_trainer.utils.padding import attention_mask_of
from ckd_trainer.utils.units import TEACHERS, UNITS, item_mask_of, teachers_view

_FACTOR = 6364136223846793005  # odd; from Knuth's 64-bit generator
_PART_ROWS, _PART_BYTES = 1024, 64e6  # a part is held in memory until it is written


@dataclass(frozen=True)
class Part:
    """A file of a cache, with the rows of the examples from start to stop."""

    number: int
    start: int
    stop: int

    def file(self, fingerprint: str) -> str:
        """Returns the file name, which contains the fingerprint of the content."""
        return f"part-{self.number:05d}-{fingerprint[:16]}.arrow"

    def find(self, folder: Path) -> tuple[Path, str] | None:
        """Returns the file and its fingerprint, or None if it is missing or its content has changed."""
        for path in folder.glob(self.file("*")):
            fingerprint = files_fingerprint([path])
            if path.name == self.file(fingerprint):
                return path, fingerprint
        return None


def split(sizes: np.ndarray) -> list[Part]:
    """Divides rows, given their sizes in bytes, into parts."""
    parts, start = list[Part](), 0
    while start < len(sizes):
        rows = int(np.searchsorted(np.cumsum(sizes[start : start + _PART_ROWS]), _PART_BYTES)) or 1
        stop = min(start + rows, start + _PART_ROWS, len(sizes))
        parts.append(Part(len(parts), start, stop))
        start = stop
    return parts


def valid_lengths(examples: Dataset) -> np.ndarray:
    """Returns the number of items of each example: its units, or its tokens without padding."""
    known = (TEACHERS + UNITS, "attention_mask")
    name = next((name for name in known if name in examples.column_names), "input_ids")
    lengths = []
    for table in examples.select_columns([name]).with_format("arrow").iter(batch_size=1000):
        column = table[name].combine_chunks()
        ends = np.cumsum(column.value_lengths().to_numpy())
        values = column.flatten().to_numpy(zero_copy_only=False).astype(np.int64)
        if name == TEACHERS + UNITS:
            counts = np.zeros(len(ends), np.int64)
            rows = np.repeat(np.arange(len(ends)), np.diff(ends, prepend=0))
            np.maximum.at(counts, rows, values + 1)
            lengths.append(counts)
            continue
        counts = values if name == "attention_mask" else np.ones_like(values)
        upto = np.concatenate([[0], np.cumsum(counts)])
        lengths.append(np.diff(upto[ends], prepend=0))
    return np.concatenate(lengths)


class SignalWriter:
    """Writes the parts of a cache.

    Args:
        folder: receives the files.
        examples: with the columns that the collator and the teacher read.
        lengths: from `valid_lengths`.
        teacher: on its device.
        collate: makes a batch from examples.
        batch_size: number of examples per forward pass; they have similar lengths.
    """

    def __init__(
        self,
        folder: Path,
        examples: Dataset,
        lengths: np.ndarray,
        teacher: LiveTeacher,
        collate: Callable[[list[dict]], dict[str, Tensor]],
        batch_size: int,
    ) -> None:
        self.folder, self.examples, self.lengths = folder, examples, lengths
        self.teacher, self.collate, self.batch_size = teacher, collate, batch_size
        self.columns = columns_of(teacher.signals)

    def write(self, part: Part, report: Callable[[int], None]) -> None:
        """Writes one part. Its file appears once it is complete.

        Args:
            report: called with the number of examples of each batch.
        """
        rows: list[dict] = [{}] * (part.stop - part.start)
        order = part.start + np.argsort(-self.lengths[part.start : part.stop], kind="stable")
        for start in range(0, len(order), self.batch_size):
            chosen = order[start : start + self.batch_size]
            for index, row in zip(chosen, self._signals(chosen), strict=True):
                rows[index - part.start] = row
            report(len(chosen))
        table = pa.table({name: _column([row[name] for row in rows]) for name in rows[0]})
        temporary = self.folder / f".part-{part.number:05d}.{os.getpid()}"
        with temporary.open("wb") as file:
            with pa.ipc.new_stream(file, table.schema) as writer:
                writer.write_table(table)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, self.folder / part.file(files_fingerprint([temporary])))

    def _signals(self, chosen: np.ndarray) -> Iterator[dict]:
        """Yields the row of each example."""
        batch = self.collate([self.examples[int(index)] for index in chosen])
        device = next(self.teacher.model.parameters()).device
        batch = {name: value.to(device) for name, value in batch.items()}
        mask = item_mask_of(batch)
        parts: dict[str, np.ndarray] = {}
        for signal, value in self.teacher(batch).items():
            for name, packed in signal.pack(value, mask).items():
                stored = column_name(signal, name)
                _check_shape(signal, name, self.columns[stored], packed)
                parts[stored] = packed.cpu().numpy()
        texts, tokens = text_hashes(batch).tolist(), mask.sum(-1).cpu().numpy()
        sizes = {name: column.sizes(tokens) for name, column in self.columns.items()}
        for place, count in enumerate(tokens.tolist()):
            row = {"tokens": count, "text": texts[place]}
            for name, part in parts.items():
                own = tuple(slice(size if isinstance(size, int) else size[place]) for size in sizes[name])
                row[name] = part[place][own].reshape(-1)
            yield row


def _check_shape(signal: Signal, name: str, column: Column, part: Tensor) -> None:
    """Raises InputError if a signal has another shape than its column: the excess would be cut off."""
    said, found = column.shape, tuple(part.shape[1:])
    free = {"tokens", "pairs"}
    if len(said) != len(found) or any(size not in free | {its} for size, its in zip(said, found, strict=True)):
        raise InputError(
            f"the teacher's {signal.key} has {name} of shape {found} per example, not {said}: construct the term's "
            "teacher_signal with the sizes of the teacher."
        )


def text_hashes(batch: Mapping[str, Tensor]) -> np.ndarray:
    """Returns a 64-bit hash of each example's valid token ids of the teacher, in order, wherever the padding is."""
    batch = teachers_view(batch)
    ids, mask = batch["input_ids"].cpu().numpy(), attention_mask_of(batch).bool().cpu().numpy()
    factors = np.cumprod(np.full(ids.shape[-1] + 1, _FACTOR, np.uint64))  # modulo 2^64
    place = mask.cumsum(-1)
    return ((ids + 1).astype(np.uint64) * factors[place] * mask).sum(-1).view(np.int64)


def check_texts_stay(examples: Dataset, collate: Callable[[list[dict]], dict[str, Tensor]], batch_size: int) -> None:
    """Raises InputError if the first batch has other token ids the second time it is made."""
    rows = range(min(batch_size, len(examples)))
    once, again = (text_hashes(collate([examples[row] for row in rows])) for _ in range(2))
    if not np.array_equal(once, again):
        raise InputError(
            "teacher_cache_dir is set, but the training texts change from one time to the next, through a data "
            "collator or a transform (masked language modeling masks other tokens each time), and a cache holds what "
            "the teacher says about one version of them: leave teacher_cache_dir out."
        )


def _column(values: list) -> pa.Array:
    if not isinstance(values[0], np.ndarray):
        return pa.array(values, pa.int64())
    ends = np.cumsum([0, *map(len, values)]).astype(np.int32)
    return pa.ListArray.from_arrays(pa.array(ends), pa.array(np.concatenate(values)))
