"""Windows: what a model is trained on is what is read back, each word once, whatever the tokenizer cuts."""

import random

import numpy as np
import pytest
from datasets import Dataset
from helpers.questions import drawer, make_tokenizer, random_text

from ckd_trainer.data.ner_arguments import NerArguments
from ckd_trainer.data.tags import iob2, label_names
from ckd_trainer.data.texts_with_spans import words_of
from ckd_trainer.data.windows import WindowCollator, check_windows, encode, read_decisions
from ckd_trainer.metrics.entities import Entity
from ckd_trainer.utils.errors import InputError

NAMES = label_names(["LOC", "PER"])
KINDS = ["word pieces", "byte-level", "cls last"]


def arguments(**changed):
    return NerArguments(**({"train_file": "a.conll", "max_seq_length": 12, "doc_stride": 3} | changed))


def random_tags(draw, length):
    entities, place = [], 0
    while place < length:
        size = draw.randint(1, 3)
        if draw.random() < 0.4 and place + size <= length:
            entities.append(Entity(place, place + size, draw.choice(["LOC", "PER"])))
        place += size
    return [NAMES.index(tag) for tag in iob2(entities, length)]


def sentences(draw, count=8, words=25):
    texts = [random_text(draw, draw.randint(0, words)) for _ in range(count)]
    places = [words_of(text) for text in texts]
    columns = {"text": texts, "starts": [[start for start, _ in row] for row in places]}
    columns |= {"ends": [[end for _, end in row] for row in places]}
    return Dataset.from_dict(columns | {"tags": [random_tags(draw, len(row)) for row in places]})


def spoken(windows, width=20):
    """Logits of a model that is sure of the labels, and says something else where there are none."""
    logits = np.zeros((len(windows), width, len(NAMES)), np.float32)
    logits[..., 1] = 5.0
    for row, labels in enumerate(windows["labels"]):
        for place, label in enumerate(labels):
            if label != -100:
                logits[row, place] = np.where(np.arange(len(NAMES)) == label, 9.0, -9.0)
    return logits


def slow_tags(data, row, tokenizer):
    """What can be read of a sentence's tags: by its whole text, word by word."""
    encoded = tokenizer(data[row]["text"], add_special_tokens=False)
    offsets = encoded.encodings[0].offsets
    read, before = [], None
    for start, end, tag in zip(*(data[row][name] for name in ("starts", "ends", "tags")), strict=True):
        piece = next((n for n, (a, b) in enumerate(offsets) if a < end and b > start and a < b), None)
        if piece is None:
            read.append(0)
            continue
        if piece == before:
            last = read[-1] if read else 0
            tag = {1: 2, 3: 4}.get(last, last)
        read.append(tag)
        before = piece
    return read


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("all_pieces", [False, True])
@pytest.mark.parametrize("stride", [1, 4])
def test_round_trip(rng, kind, all_pieces, stride):
    draw, tokenizer = drawer(rng), make_tokenizer(kind)
    data = sentences(draw)
    options = arguments(label_all_pieces=all_pieces, doc_stride=stride)
    windows = encode(data, tokenizer, options, with_words=True)
    assert len(windows) > len(data) and max(map(len, windows["input_ids"])) <= 12
    decided = [word for row in windows for word in zip([row["sentence"]] * 99, row["words"], strict=False)]
    assert len(decided) == len(set(decided))  # each word once
    found = read_decisions(data, windows, spoken(windows))
    for row, one in enumerate(found):
        assert one.tags.tolist() == slow_tags(data, row, tokenizer)
        assert (one.scores > 0.999).all()


@pytest.mark.parametrize("kind", KINDS)
def test_windows_decide_as_a_model_with_room_for_all(rng, kind):
    """One window and many hold the same labels for first pieces; the edge of a window may cut off others."""
    draw, tokenizer, options = drawer(rng), make_tokenizer(kind), {"label_all_pieces": False}
    data = sentences(draw)
    whole = encode(data, tokenizer, arguments(max_seq_length=512, **options), with_words=True)
    assert len(whole) == len(data)
    cut = encode(data, tokenizer, arguments(**options), with_words=True)
    counts = [sum(label != -100 for labels in windows["labels"] for label in labels) for windows in (whole, cut)]
    assert counts[0] == counts[1]
    for one, other in zip(*(read_decisions(data, each, spoken(each, 512)) for each in (whole, cut)), strict=True):
        assert (one.tags == other.tags).all()


def test_a_word_counts_where_it_has_the_most_context():
    tokenizer = make_tokenizer("word pieces")
    text = "the river the river the river the river the river"
    data = Dataset.from_dict({"text": [text], **columns_of(text)})
    windows = encode(data, tokenizer, arguments(max_seq_length=8, doc_stride=4), with_words=True)
    by_words = sorted(windows["words"])
    # Windows begin at tokens 0, 2 and 4 and hold 6 each. Their edges are left to their neighbors.
    assert by_words == [[0, 1, 2, 3], [4, 5], [6, 7, 8, 9]]
    assert [row["places"][0] for row in sorted(windows, key=lambda row: row["words"])] == [1, 3, 3]


def columns_of(text):
    places = words_of(text)
    return {"starts": [[start for start, _ in places]], "ends": [[end for _, end in places]]}


def test_labels_of_first_pieces_and_of_all():
    tokenizer, text = make_tokenizer("word pieces"), "unbelievable town"
    first, second = (len(tokenizer.tokenize(word)) for word in text.split())
    assert first > 1
    rest = [-100] * (second - 1)
    data = Dataset.from_dict({"text": [text], "tags": [[3, 1]], **columns_of(text)})
    options = {"max_seq_length": 32}
    (row,) = encode(data, tokenizer, arguments(label_all_pieces=False, **options), with_words=False)
    assert row["labels"] == [-100, 3, *[-100] * (first - 1), 1, *rest, -100]
    (row,) = encode(data, tokenizer, arguments(**options), with_words=False)
    assert row["labels"] == [-100, 3, *[4] * (first - 1), 1, *[2] * len(rest), -100]
    assert set(row) == {"input_ids", "token_type_ids", "attention_mask", "labels"}


def test_words_without_a_token_are_counted(caplog):
    tokenizer = make_tokenizer("word pieces")  # which drops characters such as zero-width joiners
    texts = ["the \u200d river", "the river"]
    data = Dataset.from_dict(
        {"text": texts, "starts": [[0, 4, 6], [0, 4]], "ends": [[3, 5, 11], [3, 9]], "tags": [[0, 1, 0], [0, 1]]}
    )
    windows = encode(data, tokenizer, arguments(), with_words=True)
    assert "1 words, such as '\\u200d', have no token of their own" in caplog.text
    first, second = read_decisions(data, windows, spoken(windows))
    assert first.tags.tolist() == [0, 0, 0] and second.tags.tolist() == [0, 1]


def test_unlabeled_and_empty_texts():
    tokenizer = make_tokenizer("byte-level")
    windows = encode(Dataset.from_dict({"text": ["", "the river " * 9]}), tokenizer, arguments(), with_words=False)
    assert set(windows.column_names) == {"input_ids", "attention_mask"} and len(windows) > 2
    data = Dataset.from_dict({"text": [""], "starts": [[]], "ends": [[]], "tags": [[]]})
    windows = encode(data, tokenizer, arguments(), with_words=True)
    assert read_decisions(data, windows, spoken(windows))[0].tags.tolist() == []


@pytest.mark.parametrize("side", ["right", "left"])
def test_batches(side):
    tokenizer = make_tokenizer("word pieces", side)
    data = sentences(random.Random(0))
    windows = encode(data, tokenizer, arguments(), with_words=True)
    rows = [windows[row] for row in (0, len(windows) - 1)]
    for length in (None, 16):
        batch = WindowCollator(tokenizer, length)(rows)
        assert set(batch) == {"input_ids", "token_type_ids", "attention_mask", "labels"}
        for row, mask, labels in zip(rows, batch["attention_mask"].bool(), batch["labels"], strict=True):
            assert labels[mask].tolist() == row["labels"] and (labels[~mask] == -100).all()
            assert mask.shape == ((length or len(rows[0]["input_ids"])),)


def test_lengths_that_do_not_fit():
    tokenizer = make_tokenizer("word pieces")
    check_windows(tokenizer, arguments(max_seq_length=6, doc_stride=3))
    with pytest.raises(InputError, match="max_seq_length 5 leaves 3 tokens .* share doc_stride 3"):
        check_windows(tokenizer, arguments(max_seq_length=5, doc_stride=3))
