"""An endless stream of token blocks, packed as needed: nothing is kept on disk, and each block has a number."""

from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import numpy as np
import torch

from ckd_trainer.data.blocks import Packer, slices
from ckd_trainer.data.documents import Part
from ckd_trainer.data.masking import NUMBER
from ckd_trainer.data.streamed_documents import StreamedDocuments
from ckd_trainer.utils.errors import InputError

FORMAT = 2  # of states: bump when the same seed gives other blocks, or a place in a text means another one

# Blocks that are shuffled together: at 128 tokens a block, 10,000 x 128 x 4 bytes = 5 MB, which take seconds to read.
# Long blocks are fewer, as the training waits for the first pool.
POOL, _LEAST, _POOL_TOKENS = 10_000, 1_000, 2**23


class PackedStream:
    """An iterator over the blocks of one source without end: after its last document, it reads the first again.

    The tokens of all passes are one sequence, see `Packer`, so no block is padded.

    Args:
        documents: the source.
        packer: makes its blocks.

    Raises:
        InputError: the whole source has fewer tokens than a block, or cannot be read (see `StreamedDocuments.parts`).
    """

    def __init__(self, documents: StreamedDocuments, packer: Packer) -> None:
        self.documents, self.packer = documents, packer
        self.load_state_dict({"pass": 0, "place": None, "before": 0, "packer": packer.state_dict(), "given": 0})

    def __iter__(self) -> "PackedStream":
        return self

    def __next__(self) -> np.ndarray:
        """Returns the next block: token ids with special ones, of shape (length,)."""
        while self._given == len(self._blocks):
            self._pack()
        self._given += 1
        return self._blocks[self._given - 1]

    def state_dict(self) -> dict[str, Any]:
        """Returns the place of the next block, as JSON: the part of the source that it comes from, and what is open.

        It is small, as the blocks of that part are not in it: they are packed again.
        """
        return {**self._start, "given": self._given}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continues from a state that `state_dict` returned."""
        self._pass, self._place, self._before = state["pass"], state["place"], state["before"]
        self.packer.load_state_dict(state["packer"])
        self._parts: Iterator[tuple[Part, Any]] | None = None
        self._start, self._blocks, self._given = state, list[np.ndarray](), 0
        if state["given"]:
            self._pack()
            self._given = state["given"]

    def _pack(self) -> None:
        """Packs the next part, or begins the next pass."""
        packer = self.packer
        self._start = {"pass": self._pass, "place": self._place, "before": self._before, "packer": packer.state_dict()}
        self._blocks, self._given = [], 0
        parts, self._parts = self._parts or self.documents.parts(self._pass, self._place), None  # it may raise
        found = next(parts, None)
        if found is not None:
            part, self._place = found
            added = (packer.add(texts, begins) for texts, begins in slices(part))
            self._blocks = [np.array(block, np.int32) for blocks in added for block in blocks]
            self._parts = parts
            return
        tokens = packer.tokens - self._before
        if tokens < packer.room:  # it would be repeated within a block, or for ever if it is empty
            raise InputError(
                f"{self.documents.name} has {tokens} tokens, but a block holds {packer.room}: give more text, or a "
                "lower max_seq_length."
            )
        self._pass, self._place, self._before = self._pass + 1, None, packer.tokens


class BlockStream(torch.utils.data.Dataset):
    """The blocks of one or several sources without end, in a random order that follows from the seed.

    Each block is drawn from one of the sources, by their weights. 10,000 blocks that follow one another are a pool (or
    8 million tokens, if blocks are longer than 800 tokens): they are shuffled, and read in a thread while the blocks
    of the pool before are used. Block `number` is the same whatever was read before. So batches do not depend on the
    number of processes or on a resume. Reading forward is cheap; a jump reads from the last known state, which is at
    the beginning of a pool.

    Args:
        streams: the sources. Nothing else may use them, nor their tokenizer.
        weights: for each, its share of the blocks, in relation to the others.
        seed: of the draws and the order.

    Attributes:
        length: the number of blocks that a training uses.

    Raises:
        InputError: by `check` and when a block is read, see `PackedStream`.

    Example::

        stream = BlockStream([PackedStream(documents, Packer(tokenizer, options))], [1.0], seed=0)
        stream.check()
        stream[0]["input_ids"]  # [101, ..., 102]
    """

    def __init__(self, streams: Sequence[PackedStream], weights: Sequence[float], *, seed: int) -> None:
        self.streams, self.seed, self.length = streams, seed, 0
        self._shares = np.array(weights) / np.sum(weights)
        length = max(stream.packer.options.max_seq_length for stream in streams)
        self._size = min(POOL, max(_LEAST, _POOL_TOKENS // length))
        self._states = {0: [stream.state_dict() for stream in streams]}  # at the beginning of pools
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="stream")
        self._pool, self._blocks = -1, list[np.ndarray]()  # the pool that is open
        self._ahead: Future | None = None  # the reading of the next one
        self._next = 0  # its number

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, number: int) -> dict[str, Any]:
        """Returns a block by its number: a list of token ids, and the number."""
        pool, place = divmod(number, self._size)
        if pool != self._pool:
            self._open(pool)
        return {"input_ids": self._blocks[place].tolist(), NUMBER: number}

    def check(self) -> None:
        """Reads the first block of each source; raises InputError if there is none."""
        for stream in self.streams:
            next(stream)

    def state_before(self, number: int) -> dict[str, Any]:
        """Returns a state, as JSON, from which a block can be read; earlier states are forgotten."""
        pool = max(known for known in self._states if known <= number // self._size)
        self._states = {known: state for known, state in self._states.items() if known in (0, pool) or known > pool}
        return {"format": FORMAT, "pool": pool, "sources": self._states[pool]}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Makes known a state that `state_before` returned in another process; one of another format is ignored."""
        if state.get("format") == FORMAT:
            self._states[state["pool"]] = state["sources"]

    def open(self) -> None:
        """Lets reading wait where it breaks off, after `close`."""
        for stream in self.streams:
            stream.documents.closed.clear()

    def close(self) -> None:
        """Ends the waits of the thread, so that the process can end."""
        for stream in self.streams:
            stream.documents.closed.set()

    def _open(self, pool: int) -> None:
        """Reads up to this pool, and begins to read the one after it."""
        known = max(known for known in self._states if known <= pool)
        reading, states = self._ahead, None
        if reading is not None and reading.done() and reading.exception() is not None:
            reading = None  # it failed a while ago: try again
        if reading is None or not known <= self._next <= pool:
            reading, self._next, states = None, known, self._states[known]
        self._pool, self._blocks, self._ahead = -1, [], None  # if it raises, the next attempt begins at a known state
        while self._pool != pool:
            reading = reading or self._thread.submit(self._read, self._next, states)  # after any other reading
            self._blocks, self._states[self._next + 1] = reading.result()
            self._pool, self._next = self._next, self._next + 1
            reading = states = None
        if not self.length or self._next * self._size < self.length:
            self._ahead = self._thread.submit(self._read, self._next, None)

    def _read(self, pool: int, states: list[dict[str, Any]] | None) -> tuple[list[np.ndarray], list[dict[str, Any]]]:
        """Returns the blocks of a pool, and the state after them; goes to `states` first, if they are given."""
        for stream, state in zip(self.streams, states or (), strict=False):
            stream.load_state_dict(state)
        random = np.random.default_rng([self.seed, pool])
        drawn = random.choice(len(self.streams), size=self._size, p=self._shares)
        blocks = [next(self.streams[number]) for number in drawn]
        order = random.permutation(self._size)
        return [blocks[place] for place in order], [stream.state_dict() for stream in self.streams]
