"""The teacher's signals on disk: computed once, read by every later epoch and run.

A cache is a folder `teacher_cache_dir/<key>` of Arrow files and a manifest. The key is a hash of everything that
determines the signals: the teacher's weights and configuration, the encoded examples, the precision, and the keys of
the signals. The examples depend on the tokenizer, the maximum length and the data. Row i holds the signals of
example i:

    tokens, text       number of its valid tokens, and a hash of their ids
    <key>.<column>     the columns of each signal, see `Signal.columns`

With padding on the left, a teacher that counts positions from the first column depends on the batch; the cache holds
the values from one batch. With padding on the right, as for BERT-like models, signals do not depend on the batch.

An unfinished build is in a folder named <key>.building. The build resumes there, and the folder gets its final name
once it is complete. A lock makes a second builder of the same cache wait. The processes of a run share the parts.
"""

import contextlib
import dataclasses
import errno
import hashlib
import json
import logging
import os
import shutil
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import torch
from accelerate import Accelerator
from datasets import Dataset, concatenate_datasets
from filelock import FileLock, Timeout
from torch import Tensor
from tqdm.auto import tqdm

from ckd_trainer.teacher.cached import PREFIX, columns_of
from ckd_trainer.teacher.live import LiveTeacher
from ckd_trainer.teacher.signals import Column, Signal
from ckd_trainer.teacher.writer import Part, SignalWriter, check_texts_stay, split, text_hashes, valid_lengths
from ckd_trainer.utils.errors import InputError, TemporaryError, input_error, is_mendable
from ckd_trainer.utils.files import files_fingerprint, input_errors_about, told_without_room, write_atomically
from ckd_trainer.utils.processes import broadcast_from_main, in_all_processes
from ckd_trainer.utils.random_numbers import random_numbers_given_back

logger = logging.getLogger(__name__)

FORMAT = 2  # bump when the on-disk format changes
MANIFEST = "manifest.json"
_PART = {"file": str, "rows": int, "bytes": int, "fingerprint": str}  # the manifest's fields of each part
ROW = "cached_row"  # column with the index of an example's row in the cache


@dataclass(frozen=True)
class Contents:
    """What determines a cache: equal contents give the same cache."""

    teacher: str  # fingerprints, see `ckd_trainer.teacher.fingerprint`
    examples: str
    precision: str  # Accelerate's mixed_precision
    signals: tuple[str, ...]  # their keys, sorted
    format: int = FORMAT

    @property
    def key(self) -> str:
        # Fields at their defaults are left out, so a field added in a later version does not invalidate old caches.
        fields = {
            field.name: value
            for field in dataclasses.fields(self)
            if (value := getattr(self, field.name)) != field.default or field.name == "format"
        }
        return hashlib.sha256(json.dumps(fields, sort_keys=True).encode()).hexdigest()[:20]

    def serves(self, wanted: "Contents") -> bool:
        """Returns whether this cache has every wanted signal: it also serves runs that read fewer signals."""
        return dataclasses.replace(self, signals=wanted.signals) == wanted and {*wanted.signals} <= {*self.signals}


def bytes_of(signals: Sequence[Signal], lengths: np.ndarray) -> np.ndarray:
    """Returns the size of each row in bytes, given its number of valid tokens."""
    return sum((4 + column.bytes(lengths) for column in columns_of(signals).values()), np.full(len(lengths), 16))


class TeacherCache:
    """Reads a complete cache, memory-mapped: memory use does not grow with its size.

    Args:
        folder: a cache whose files have been checked, see `open_or_build`.
        signals: the signals to read.
    """

    def __init__(self, folder: Path, signals: Sequence[Signal]):
        parts = [Dataset.from_file(str(folder / part["file"])) for part in _read_manifest(folder)["parts"]]
        self.rows = (
            concatenate_datasets(parts).select_columns(["tokens", "text", *columns_of(signals)]).with_format("arrow")
        )

    def read(self, rows: Sequence[int] | np.ndarray, columns: Mapping[str, Column]) -> dict[str, np.ndarray]:
        """Returns text hashes and columns of some rows, in any order, as arrays (rows, ...) padded with 0."""
        table = self.rows.select_columns(["tokens", "text", *columns])[list(rows)]
        tokens = table["tokens"].to_numpy()
        arrays = {name: _padded(table[name], column.sizes(tokens)) for name, column in columns.items()}
        return {"text": table["text"].to_numpy()} | arrays


def _padded(column: pa.ChunkedArray, sizes: Sequence[int | np.ndarray]) -> np.ndarray:
    """Returns the flat rows of a column as a single array, padded with 0.

    Args:
        sizes: for each dimension, one size for all rows, or one per row.
    """
    numbers = column.combine_chunks().flatten().to_numpy()
    shape = [len(column), *(size if isinstance(size, int) else max(1, size.max()) for size in sizes)]
    if all(isinstance(size, int) for size in sizes):
        return numbers.reshape(shape).copy()
    there = np.ones([1] * len(shape), dtype=bool)
    for dim, size in enumerate(sizes, start=1):
        if not isinstance(size, int):
            inside = np.arange(shape[dim]) < size[:, None]
            there = there & inside.reshape([len(column), *(1 if d != dim else -1 for d in range(1, len(shape)))])
    padded = np.zeros(shape, numbers.dtype)
    padded[np.broadcast_to(there, shape)] = numbers
    return padded


class SignalCollator:
    """Adds the teacher's signals to a collator's batches, in columns that start with PREFIX, for `CachedTeacher`."""

    def __init__(
        self,
        collate: Callable[[list[dict]], dict[str, Tensor]],
        cache: TeacherCache,
        signals: Sequence[Signal],
    ):
        self.collate, self.cache = collate, cache
        self.columns = columns_of(signals)  # not the signals: workers copy this object, and heads may hold tensors

    def __call__(self, rows: list[dict]) -> dict[str, Tensor]:
        signals = self.cache.read([row[ROW] for row in rows], self.columns)
        batch = self.collate([{name: value for name, value in row.items() if name != ROW} for row in rows])
        if not np.array_equal(text_hashes(batch), signals.pop("text")):
            raise RuntimeError(
                "the token ids of a batch differ from those that the teacher read in these rows: a data collator or a "
                "transform changes texts between epochs, and teacher_cache_dir cannot be used with it."
            )
        for name, signal in signals.items():
            bits = signal if signal.dtype == np.int16 else signal.view(np.int32)  # see `CachedTeacher`
            batch[PREFIX + name] = torch.from_numpy(bits)
        return batch


@random_numbers_given_back()
def open_or_build(
    directory: str | Path,
    wanted: Contents,
    signals: Sequence[Signal],
    examples: Dataset,
    *,
    load_teacher: Callable[[], LiveTeacher],
    collate: Callable[[list[dict]], dict[str, Tensor]],
    batch_size: int,
    accelerator: Accelerator,
    show_progress: bool,
) -> TeacherCache:
    """Returns a complete, checked cache, and builds it first if there is none.

    Random numbers that a collator draws here are given back: training must not depend on what is built, and where.

    Args:
        directory: teacher_cache_dir, shared by all processes of a run.
        signals: the signals in `wanted`.
        examples: the training set, with the columns that the collator and the teacher read.
        load_teacher: called once, only in processes that build a part.
        collate, batch_size: how batches for the teacher are made.

    Raises:
        InputError: the cache is damaged, other files are in its place, the disk has too little space, or the examples'
            texts change from one reading to the next.
    """
    broadcast_from_main(lambda: check_texts_stay(examples, collate, batch_size))
    directory, building = Path(directory), Path(directory) / f"{wanted.key}.building"

    def find() -> Path | None:
        with input_errors_about(directory):
            return _find(directory, wanted, len(examples))

    with contextlib.ExitStack() as lock:
        folder = broadcast_from_main(find)  # a complete cache does not change, so it needs no lock
        if folder is None:
            _wait_for_lock(directory, wanted, lock)
            folder = broadcast_from_main(find)
        if folder is None:
            lengths = valid_lengths(examples)
            sizes = bytes_of(signals, lengths)
            parts = split(sizes)
            missing = broadcast_from_main(lambda: _make_room(building, parts, sizes))
            logger.info(
                "The teacher reads %d examples once. Its signals (about %.1f MB) go to %s.",
                len(examples),
                sizes.sum() / 1e6,
                directory / wanted.key,
            )
            share = missing[accelerator.process_index :: accelerator.num_processes]

            def write() -> None:
                if not share:
                    return
                writer = SignalWriter(building, examples, lengths, load_teacher(), collate, batch_size)
                total = sum(part.stop - part.start for part in share)
                with tqdm(total=total, desc="Teacher", unit=" examples", disable=not show_progress) as bar:
                    for part in share:
                        writer.write(part, bar.update)

            told = told_without_room(directory, "teacher_cache_dir", "the parts already written")
            in_all_processes(told(write))
            folder = broadcast_from_main(told(lambda: _finish(building, parts, wanted)))
    return TeacherCache(folder, signals)


def _wait_for_lock(directory: Path, wanted: Contents, stack: contextlib.ExitStack) -> None:
    """Locks the cache for this run. Waiting processes keep communicating, so their backend does not time out."""
    lock = FileLock(directory / f".{wanted.key}.lock")

    def acquire(seconds: float) -> bool:
        try:
            directory.mkdir(parents=True, exist_ok=True)
            stack.enter_context(lock.acquire(timeout=seconds))
        except Timeout:
            return False
        except OSError as error:
            if not is_mendable(error):
                raise
            message = f"teacher_cache_dir {directory} cannot be written ({error.strerror})."
            raise input_error(error)(message) from error
        return True

    if not broadcast_from_main(lambda: acquire(0)):
        logger.info("Another run is building the teacher cache in %s. Waiting for it.", directory / wanted.key)
        while not broadcast_from_main(lambda: acquire(60)):
            pass


def is_complete(directory: str | Path, wanted: Contents) -> bool:
    """Returns whether a complete cache has every wanted signal, without checking its files."""
    with input_errors_about(directory):
        return next(_serving(Path(directory), wanted), None) is not None


def holds(directory: str | Path, keys: Collection[str]) -> bool:
    """Returns whether a complete cache, of any teacher and examples, has signals with these keys."""
    found = (_contents(path.parent) for path in Path(directory).glob(f"*/{MANIFEST}"))
    return any(contents is not None and {*keys} <= {*contents.signals} for contents in found)


def _serving(directory: Path, wanted: Contents) -> Iterator[tuple[Path, Contents]]:
    """Yields the folders and contents of complete caches that have every wanted signal."""
    if (directory / wanted.key).exists():
        yield directory / wanted.key, wanted
    for folder in sorted(path.parent for path in directory.glob(f"*/{MANIFEST}")):
        contents = _contents(folder)
        if contents is not None and contents.key == folder.name and contents.serves(wanted):
            yield folder, contents


def _find(directory: Path, wanted: Contents, examples: int) -> Path | None:
    """Returns the folder of a complete cache that has every wanted signal, or None."""
    for folder, contents in _serving(directory, wanted):
        _check(folder, contents, examples)
        return folder
    building = directory / f"{wanted.key}.building"
    if building.is_file():
        raise InputError(f"{building} is a file, but an unfinished cache needs a folder of this name: delete it.")
    return None


def _check(folder: Path, contents: Contents, examples: int) -> None:
    """Raises InputError unless the folder holds exactly what was written."""
    logger.info("Checking the teacher cache %s.", folder)
    damage = _damage(folder, contents, examples)
    if damage is not None:
        raise InputError(
            f"the teacher cache {folder} is damaged or was not written by ckd-trainer ({damage}): delete the folder, "
            "and the next run builds it again."
        )


def _damage(folder: Path, contents: Contents, examples: int) -> str | None:
    """Returns what is wrong with a cache, None where nothing is."""
    try:
        manifest = _read_manifest(folder)
    except (FileNotFoundError, NotADirectoryError, ValueError) as error:
        return str(error)
    if _contents(folder) != contents:
        return "its manifest belongs to another cache"
    if sum(part["rows"] for part in manifest["parts"]) != examples:
        return "its manifest does not list the rows of all examples"
    for part in manifest["parts"]:
        path = folder / part["file"]
        if not path.is_file():
            return f"{path.name}: {os.strerror(errno.ENOENT)}"
        if path.stat().st_size != part["bytes"]:
            return f"{path.name} has {path.stat().st_size} bytes instead of {part['bytes']}"
        if files_fingerprint([path]) != part["fingerprint"]:
            return f"the content of {path.name} has changed"
    return None


def _read_manifest(folder: Path) -> dict:
    """Returns a manifest; raises ValueError where it does not have the form of one."""
    manifest = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
    try:
        parts = [{name: kind(part[name]) for name, kind in _PART.items()} for part in manifest["parts"]]
        return manifest | {"contents": dict(manifest["contents"]), "parts": parts}
    except (KeyError, TypeError) as error:
        raise ValueError(f"{MANIFEST} has another form than expected: {error!r}") from None


def _contents(folder: Path) -> Contents | None:
    """Returns the contents that a folder's manifest states; None if it is missing or cannot be read."""
    try:
        contents = _read_manifest(folder)["contents"]
        return Contents(**contents | {"signals": tuple(contents["signals"])})
    except (FileNotFoundError, NotADirectoryError, PermissionError, ValueError, KeyError, TypeError):
        return None


def _make_room(building: Path, parts: list[Part], sizes: np.ndarray) -> list[Part]:
    """Creates the folder for a build, and returns the parts that it still lacks."""
    for leftover in building.glob(".*"):  # of a build that was killed or ran out of space
        leftover.unlink()
    missing = [part for part in parts if part.find(building) is None]
    needed = sum(sizes[part.start : part.stop].sum() for part in missing)
    free = shutil.disk_usage(building.parent).free
    if needed > free:
        raise TemporaryError(
            f"teacher_cache_dir {building.parent} has {free / 1e9:.2f} GB free, but the teacher's signals of "
            f"{len(sizes)} examples take about {sizes.sum() / 1e9:.2f} GB, of which {needed / 1e9:.2f} GB are still "
            "to be written: give a folder on a larger disk, or a smaller max_seq_length."
        )
    building.mkdir(exist_ok=True)
    if len(missing) < len(parts):
        logger.info(
            "Resuming an unfinished teacher cache: %d of %d parts are complete.",
            len(parts) - len(missing),
            len(parts),
        )
    return missing


def _finish(building: Path, parts: list[Part], contents: Contents) -> Path:
    """Turns a folder with all parts into a cache."""
    listed = []
    for part in parts:
        found = part.find(building)
        if found is None:
            raise InputError(f"{building} lacks part {part.number}: give all processes one shared teacher_cache_dir.")
        path, fingerprint = found
        rows = part.stop - part.start
        listed.append({"file": path.name, "rows": rows, "bytes": path.stat().st_size, "fingerprint": fingerprint})
    manifest = {"contents": dataclasses.asdict(contents), "parts": listed}
    write_atomically(building / MANIFEST, json.dumps(manifest, indent=1) + "\n")
    folder = building.with_name(contents.key)
    os.replace(building, folder)
    return folder
