"""Reads a text that is not copied to this disk: in parts, from any place in it, again after it breaks off."""

import abc
import asyncio
import gzip
import http.client
import itertools
import json
import logging
import lzma
import threading
import zlib
from collections.abc import Iterator
from typing import Any

import numpy as np
import pyarrow as pa
from datasets import Dataset
from datasets.exceptions import DatasetGenerationError, DatasetsError

from ckd_trainer.data.documents import Part, read_documents
from ckd_trainer.data.hub import Rows
from ckd_trainer.data.table import state_of
from ckd_trainer.data.text_arguments import TextSource
from ckd_trainer.utils.errors import InputError, TemporaryError, first_of, short
from ckd_trainer.utils.network import LIBRARIES, is_refused

logger = logging.getLogger(__name__)

_WAITS = (5, 20, 60)  # seconds before each new attempt; `datasets` has tried for minutes by then
_CHARACTERS, _ROWS = 2**20, 10_000  # a part of a data set ends once it has one or the other
_SHARDS = 64  # of a data set on this disk

_BREAKS = (OSError, EOFError, asyncio.TimeoutError, http.client.HTTPException)
# Errors about the data itself, some of which are OSErrors.
_DAMAGE = (
    gzip.BadGzipFile,
    zlib.error,
    lzma.LZMAError,
    UnicodeDecodeError,
    json.JSONDecodeError,
    pa.ArrowException,
    DatasetsError,
)


class StreamBroken(TemporaryError):
    """A text cannot be read any further, for a reason that may pass: the network or a disk failed repeatedly."""


class StreamedDocuments(abc.ABC):
    """The documents of a source, which are read as often as a training needs them.

    Attributes:
        name: that of the source, for messages.
        closed: once it is set, reading does not wait any more where it breaks off.
    """

    name: str

    def __init__(self) -> None:
        self.closed = threading.Event()

    @property
    @abc.abstractmethod
    def identity(self) -> str:
        """What changes if the source does; to read all of it would take too long."""

    @abc.abstractmethod
    def _read(self, number: int, place: Any) -> Iterator[tuple[Part, Any]]:
        """Reads a pass from a place, see `parts`."""

    @abc.abstractmethod
    def _described(self, place: Any) -> str:
        """Returns a place in words."""

    def parts(self, number: int = 0, place: Any = None) -> Iterator[tuple[Part, Any]]:
        """Yields the parts of a pass over the source, each with the place after it.

        If reading breaks off, it goes on at the same place, in up to three new attempts.

        Args:
            number: the number of the pass, from 0, which may determine the order.
            place: the place to begin at, as an earlier call has returned it; None for the beginning.

        Raises:
            StreamBroken: the last attempt failed as well.
            InputError: the source holds something that is not text.
        """
        parts, attempts = self._read(number, place), 0
        while True:
            try:
                part, place = next(parts)
            except StopIteration:
                return
            except InputError:
                raise
            except Exception as error:  # only those about data and reading are turned into messages
                reason = self._reason(error, place)
                if attempts == len(_WAITS):
                    raise StreamBroken(
                        f"{self.name}: reading broke off {self._described(place)} ({reason}), and again in {attempts} "
                        "more attempts: check the network, or the disk that holds the text."
                    ) from error
                wait = _WAITS[attempts]
                if self.closed.is_set():
                    raise
                logger.warning(
                    "%s: reading broke off %s (%s); trying again in %d seconds.",
                    *(self.name, self._described(place), reason, wait),
                )
                self.pause(wait)
                parts, attempts = self._read(number, place), attempts + 1
                continue
            attempts = 0
            yield part, place

    def pause(self, seconds: float) -> None:
        """Waits before another attempt, but not longer than until `closed` is set."""
        self.closed.wait(seconds)

    def _reason(self, error: Exception, place: Any) -> str:
        """Returns why reading broke off; raises other errors than that."""
        cause = error.__cause__ if isinstance(error, DatasetGenerationError) and error.__cause__ else error
        words = " ".join(f"{type(cause).__name__}: {cause}".split())[:300]
        if isinstance(cause, _DAMAGE) or (isinstance(cause, OSError) and "Corrupt" in words):
            raise InputError(
                f"{self.name} cannot be read {self._described(place)} ({words}): the data may be damaged; leave this "
                "source out, or give another."
            ) from error
        if isinstance(cause, FileNotFoundError) or is_refused(cause):
            raise StreamBroken(
                f"{self.name} cannot be read {self._described(place)} ({words}): the text is not there any more, or "
                "you may not read it; restore it."
            ) from error
        # Some errors of these libraries are not in `_BREAKS`.
        if isinstance(cause, _BREAKS) or type(cause).__module__.partition(".")[0] in LIBRARIES:
            return words
        raise error


class StreamedFile(StreamedDocuments):
    """The documents of a file, always in their order. A place is the number of parts before it."""

    def __init__(self, source: TextSource, *, quoting: str = "auto") -> None:
        super().__init__()
        assert source.path is not None
        self.source, self.path, self.name, self.quoting = source, source.path, str(source), quoting

    @property
    def identity(self) -> str:
        return f"{self.path.stat().st_size} bytes"

    def _read(self, number: int, place: int | None) -> Iterator[tuple[Part, int]]:
        parts = enumerate(read_documents(self.source, quoting=self.quoting), start=1)
        for count, part in itertools.islice(parts, place, None):
            yield part, count

    def _described(self, place: int | None) -> str:
        return f"after part {place} (of 4 MiB each)" if place else "at its beginning"


class StreamedRows(StreamedDocuments):
    """The documents of a data set by name: its rows, unless these are lines of .txt files that hold paragraphs.

    A place is a shard, the number of rows before it, and whether the next text begins a document.

    Args:
        rows: the split to read.
        text_column: the column of texts.
        seed: draws another order of the shards, such as files, for each pass; None for their own order.
        paragraphs: whether a document is all rows between two blank ones, or between one and an end of the shard.
    """

    def __init__(self, rows: Rows, text_column: str, *, seed: int | None = None, paragraphs: bool = False) -> None:
        super().__init__()
        self.rows, self.name, self.text_column, self.seed = rows, rows.source, text_column, seed
        self.paragraphs = paragraphs
        data = rows.data
        if isinstance(data, Dataset):
            if len(data) == 0:
                raise InputError(f"{self.name} has no rows: give a split with data.")
            data = data.to_iterable_dataset(num_shards=min(len(data), _SHARDS))
        self._data = data.select_columns([text_column]) if data.features else data

    @property
    def identity(self) -> str:
        data = self.rows.data
        return state_of(data) if isinstance(data, Dataset) else str(self.rows.origin)

    def _read(self, number: int, place: list | None) -> Iterator[tuple[Part, list]]:
        count = self._data.num_shards
        order = range(count) if self.seed is None else np.random.default_rng([self.seed, number]).permutation(count)
        start, begin, is_first = place or (0, 0, True)
        for turn in range(start, count):
            shard = self._data.shard(num_shards=count, index=int(order[turn]))
            texts: list[str] = []
            begins: list[bool] = []
            size, row = 0, begin
            for example in shard.skip(begin) if begin else shard:
                row += 1
                text = self._text(example, f"shard {order[turn] + 1}, row {row}")
                size += len(text)
                if text:
                    texts.append(text)
                    begins.append(is_first)
                is_first = not (self.paragraphs and text)
                if size >= _CHARACTERS or row - begin >= _ROWS:
                    yield Part(texts, begins, row - begin), [turn, row, is_first]
                    texts, begins, size, begin = [], [], 0, row
            yield Part(texts, begins, row - begin), [turn + 1, 0, True]
            begin, is_first = 0, True

    def _text(self, example: dict[str, Any], where: str) -> str:
        if self.text_column not in example:
            raise InputError(
                f"{self.name} has no column {self.text_column!r}: it has {first_of(list(example), 20)}; name the "
                "column of texts with text_column."
            )
        text = example[self.text_column]
        if text is None:
            raise InputError(f"{self.name}, {where}: there is no {self.text_column!r} (null or missing): give a text.")
        if not isinstance(text, str):
            raise InputError(f"{self.name}, {where}: {self.text_column!r} is {short(text)}, which is not text.")
        return text.removeprefix("\ufeff").strip()  # a byte order mark, which `datasets` leaves in

    def _described(self, place: list | None) -> str:
        if not place or place[:2] == [0, 0]:
            return "at its beginning"
        return f"in shard {place[0] + 1}, after {place[1]} rows"
