"""Blocks of a stream follow from the seed and their numbers alone, and hold every token of each pass once."""

import itertools
import json
import random

import numpy as np
import pytest
from helpers.files import WORDS
from helpers.streams import Breaks, packed, stream_of
from helpers.tiny import save_tokenizer
from transformers import AutoTokenizer

from ckd_trainer.data import documents, streams
from ckd_trainer.data.blocks import BlockOptions, Packer
from ckd_trainer.data.masking import NUMBER
from ckd_trainer.data.streamed_documents import StreamBroken
from ckd_trainer.utils.errors import InputError

POOL = 20


@pytest.fixture(autouse=True)
def small(monkeypatch):
    monkeypatch.setattr(documents, "_BYTES", 300)  # of about ten parts
    monkeypatch.setattr(streams, "POOL", POOL)


@pytest.fixture
def tokenizer(tmp_path):
    save_tokenizer(tmp_path / "tokenizer")
    return AutoTokenizer.from_pretrained(tmp_path / "tokenizer")


def text_file(path, count=40, seed=0, words=WORDS):
    draw = random.Random(seed)
    path.write_text("\n".join(" ".join(draw.choices(words, k=draw.randint(1, 30))) + "." for _ in range(count)))
    return path


@pytest.fixture
def path(tmp_path):
    return text_file(tmp_path / "text.txt")


def lists(blocks):
    return [block.tolist() for block in blocks]


@pytest.mark.parametrize("keep_sentences", [False, True])
def test_passes_follow_one_another(path, tokenizer, keep_sentences):
    """Its blocks are those of a text that is written three times."""
    packer = Packer(tokenizer, BlockOptions(16, keep_sentences=keep_sentences))
    lines = path.read_text().split("\n")
    expected = list(packer.add(lines * 3, ([True] + [False] * (len(lines) - 1)) * 3))
    assert len(expected) > 100
    found = itertools.islice(packed(path, tokenizer, keep_sentences=keep_sentences), len(expected))
    assert lists(found) == expected


@pytest.mark.parametrize("keep_sentences", [False, True])
def test_it_goes_on_at_every_block(path, tokenizer, keep_sentences):
    whole = packed(path, tokenizer, keep_sentences=keep_sentences)
    states, blocks = [], []
    for _ in range(150):  # three passes
        states.append(json.loads(json.dumps(whole.state_dict())))
        blocks.append(next(whole).tolist())
    assert states[-1]["pass"] >= 2
    for count in range(0, 150, 7):
        other = packed(path, tokenizer, keep_sentences=keep_sentences)
        other.load_state_dict(states[count])
        assert lists(itertools.islice(other, 150 - count)) == blocks[count:]


def test_shorter_than_a_block(tmp_path, tokenizer):
    (tmp_path / "short.txt").write_text("the cat")
    with pytest.raises(InputError, match="short.txt has 2 tokens, but a block holds 14: give more text"):
        next(packed(tmp_path / "short.txt", tokenizer))
    assert next(packed(tmp_path / "short.txt", tokenizer, length=4)).size == 4
    with pytest.raises(InputError, match="short.txt has 2 tokens"):
        stream_of([tmp_path / "short.txt"], tokenizer).check()


def test_a_pool_holds_the_next_blocks_in_another_order(path, tokenizer):
    stream = stream_of([path], tokenizer)
    source = packed(path, tokenizer)
    orders = set()
    for pool in range(4):
        expected = lists(itertools.islice(source, POOL))
        found = [stream[number] for number in range(pool * POOL, (pool + 1) * POOL)]
        assert [block[NUMBER] for block in found] == list(range(pool * POOL, (pool + 1) * POOL))
        blocks = [block["input_ids"] for block in found]
        assert sorted(blocks) == sorted(expected)
        orders.add(tuple(expected.index(block) for block in blocks))
    assert len(orders) == 4 and tuple(range(POOL)) not in orders
    other = stream_of([path], tokenizer, seed=1)
    assert [other[number]["input_ids"] for number in range(POOL)] != [
        stream[number]["input_ids"] for number in range(POOL)
    ]


def test_blocks_follow_from_their_numbers(path, tokenizer):
    """Whatever is read before, backwards too."""
    stream = stream_of([path], tokenizer)
    blocks = [stream[number] for number in range(7 * POOL)]
    numbers = random.Random(0).sample(range(7 * POOL), 60)
    other = stream_of([path], tokenizer)
    assert [other[number] for number in numbers] == [blocks[number] for number in numbers]


def test_a_state_spares_reading(path, tokenizer, monkeypatch):
    stream = stream_of([path], tokenizer)
    blocks = [stream[number] for number in range(8 * POOL)]
    state = json.loads(json.dumps(stream.state_before(5 * POOL + 3)))
    assert state["pool"] == 5 and stream.state_before(5 * POOL + 3) == state
    stream._ahead.result(timeout=60)  # its thread would be counted, too
    read = []
    original = streams.PackedStream.__next__
    monkeypatch.setattr(streams.PackedStream, "__next__", lambda self: read.append(1) or original(self))
    other = stream_of([path], tokenizer)
    other.load_state_dict(state)
    assert other[5 * POOL + 3] == blocks[5 * POOL + 3]
    assert len(read) <= 2 * POOL  # this pool, and what is read ahead
    assert [other[number] for number in range(5 * POOL, 8 * POOL)] == blocks[5 * POOL :]
    assert [other[number] for number in range(POOL)] == blocks[:POOL]  # a stage starts again


def test_the_next_pool_is_read_ahead(path, tokenizer):
    stream = stream_of([path], tokenizer)
    stream[0]
    blocks, _ = stream._ahead.result(timeout=60)
    assert lists(blocks) == [stream[number]["input_ids"] for number in range(POOL, 2 * POOL)]


def test_sources_are_drawn_by_weight(tmp_path, tokenizer, monkeypatch):
    monkeypatch.setattr(streams, "POOL", 1000)
    paths = [text_file(tmp_path / f"{word}.txt", words=[word]) for word in ("cat", "dog", "bird")]
    stream = stream_of(paths, tokenizer, weights=[3, 1, 0.5])
    names = [tokenizer.convert_tokens_to_ids(word) for word in ("cat", "dog", "bird")]
    found = np.zeros(3)
    for number in range(3000):
        held = [name in stream[number]["input_ids"] for name in names]
        assert sum(held) == 1  # no block mixes sources
        found += held
    expected = 3000 * np.array([3, 1, 0.5]) / 4.5
    assert (abs(found - expected) < 5 * np.sqrt(expected)).all()


def test_it_breaks_off_and_goes_on(path, tokenizer, monkeypatch):
    """Twice within the attempts; then for good, after which the next call begins where it has to."""
    expected = [stream_of([path], tokenizer)[number] for number in range(5 * POOL)]
    breaks = Breaks(monkeypatch, at=8, times=2)
    assert [stream_of([path], tokenizer)[number] for number in range(5 * POOL)] == expected
    assert breaks.left == 0
    breaks.left = 99
    stream, found = stream_of([path], tokenizer), []
    with pytest.raises(StreamBroken, match="broke off after part 7"):
        for number in range(5 * POOL):
            found.append(stream[number])
    assert found == expected[: len(found)] and len(found) >= POOL
    breaks.left = 0
    assert [stream[number] for number in range(len(found), 5 * POOL)] == expected[len(found) :]


def test_a_break_that_has_passed_while_reading_ahead_is_none(path, tokenizer, monkeypatch):
    expected = [stream_of([path], tokenizer)[number] for number in range(5 * POOL)]
    breaks, stream = Breaks(monkeypatch, at=8, times=4), stream_of([path], tokenizer)  # one more than attempts
    found = []
    for number in range(5 * POOL):
        if number % POOL == 0 and stream._ahead is not None:
            stream._ahead.exception(timeout=60)  # until it is read, or has failed
        found.append(stream[number])
    assert found == expected and breaks.left == 0 and breaks.waits == [5, 20, 60]


def test_nothing_is_read_after_the_last_pool(path, tokenizer):
    stream = stream_of([path], tokenizer)
    stream.length = 2 * POOL - 1
    stream[0]
    assert stream._ahead is not None
    stream[POOL]
    assert stream._ahead is None


def test_a_state_of_another_format_is_ignored(path, tokenizer):
    stream, other = stream_of([path], tokenizer), stream_of([path], tokenizer)
    state = {**stream.state_before(0), "format": 0, "pool": 3}
    other.load_state_dict(state)
    assert other[3 * POOL] == stream[3 * POOL]


def test_long_blocks_are_fewer_in_a_pool(path, tokenizer, monkeypatch):
    monkeypatch.setattr(streams, "POOL", 10_000)
    sizes = [stream_of([path], tokenizer, length=length)._size for length in (128, 512, 1024, 8192, 32_768)]
    assert sizes == [10_000, 10_000, 8192, 1024, 1000]
