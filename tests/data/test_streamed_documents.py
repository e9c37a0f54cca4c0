"""Texts that are not copied to the disk: read from any place, again after they break off, and refused if not text."""

import gzip
import json
import os
import shutil
import time
import zlib
from types import SimpleNamespace

import aiohttp
import datasets
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from datasets import Dataset, DatasetDict, IterableDataset
from datasets.exceptions import DatasetGenerationError
from helpers.streams import Breaks
from helpers.tiny import save_tokenizer
from huggingface_hub.errors import HTTPError
from transformers import AutoTokenizer

from ckd_trainer.data import documents, streamed_documents
from ckd_trainer.data.blocks import BlockOptions
from ckd_trainer.data.hub import NamedDataset, Rows
from ckd_trainer.data.streamed_documents import StreamBroken, StreamedDocuments, StreamedFile, StreamedRows
from ckd_trainer.data.text_arguments import TextArguments, TextSource
from ckd_trainer.tasks.running_text import OpenText
from ckd_trainer.utils.errors import InputError

ROWS = 2500  # in each of three files
ADVICE = "name the column"


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def text_file(tmp_path, monkeypatch):
    monkeypatch.setattr(documents, "_BYTES", 40)
    path = tmp_path / "text.txt"
    path.write_text("\n".join(f"line {number}" for number in range(100)))
    return StreamedFile(TextSource(train_file=str(path)))


def folder_of_files(folder, form="parquet"):
    """Three files, whose rows come in groups of which parts end in the middle."""
    folder.mkdir()
    for file in range(3):
        texts = [f"text {file * ROWS + row}" for row in range(ROWS)]
        path = folder / f"train-0000{file}.{form}"
        if form == "parquet":
            pq.write_table(pa.table({"id": range(ROWS), "text": texts}), path, row_group_size=400)
        else:
            path.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    return folder


def rows_of(folder, seed=None, split="train", text="text", **options):
    named = NamedDataset(TextArguments(dataset_name=str(folder), **options), streaming=True)
    return StreamedRows(named.rows(split, text=text, advice=ADVICE), text, seed=seed)


def texts_of(parts):
    return [text for part, _ in parts for text in part.texts]


def check_every_place(source, number=0):
    """A pass that goes on at a place that was written as JSON yields the rest."""
    parts = list(source.parts(number))
    assert len(parts) > 3
    for index, (_, place) in enumerate(parts):
        rest = list(source.parts(number, json.loads(json.dumps(place))))
        assert [part for part, _ in rest if part.texts] == [part for part, _ in parts[index + 1 :] if part.texts]


def test_a_file_from_every_place(text_file):
    assert texts_of(text_file.parts()) == [f"line {number}" for number in range(100)]
    assert texts_of(text_file.parts(1)) == texts_of(text_file.parts())
    check_every_place(text_file)


@pytest.mark.parametrize("form", ["parquet", "json", "save_to_disk"])
def test_rows_from_every_place(tmp_path, monkeypatch, form):
    monkeypatch.setattr(streamed_documents, "_ROWS", 370)
    folder = tmp_path / "data"
    if form == "save_to_disk":
        data = Dataset.from_dict({"text": [f"text {row}" for row in range(3 * ROWS)]})
        DatasetDict(train=data).save_to_disk(folder)
    else:
        folder_of_files(folder, form)
    source = rows_of(folder, seed=3)
    check_every_place(source)
    check_every_place(source, number=5)
    first, second = (texts_of(source.parts(number)) for number in (0, 1))
    in_order = [f"text {row}" for row in range(3 * ROWS)]
    assert sorted(first) == sorted(second) == sorted(in_order)
    assert any(texts_of(source.parts(number)) != first for number in range(1, 6))  # of three files, six orders
    assert texts_of(rows_of(folder).parts(7)) == in_order


def folder_of_lines(folder):
    """Three .txt files of paragraphs; the first has a byte order mark and no blank line at its end."""
    folder.mkdir()
    for file, lines in enumerate([["a", "b", "", " ", "c", "d"], ["e", "", "f", ""], ["", "g", "h"]]):
        (folder / f"train-{file}.txt").write_text("\n".join(lines), "utf-8" if file else "utf-8-sig")
    return folder


def opened(folder, lines, seed=None, **options):
    args = TextArguments(dataset_name=str(folder), lines=lines, **options)
    return OpenText(args.training_sources[0], args, "train", seed=seed)


@pytest.mark.parametrize("streaming", [True, False])
def test_a_folder_of_text_files(tmp_path, monkeypatch, streaming):
    """As these files one by one: blank lines separate documents, and so do files."""
    folder = folder_of_lines(tmp_path / "data")
    for size in (1, 2, 100):
        monkeypatch.setattr(streamed_documents, "_ROWS", size)
        source = opened(folder, "paragraphs", streaming=streaming)
        parts = [part for part, _ in source.streamed.parts()]
        assert [text for part in parts for text in part.texts] == [*"abcdefgh"] == source.sample
        begins = [text for part in parts for text, begin in zip(part.texts, part.begins, strict=True) if begin]
        assert begins == [*"acefg"]
        documents = [part for part, _ in opened(folder, "documents", streaming=streaming).streamed.parts()]
        assert all(all(part.begins) for part in documents) and sum(len(part.texts) for part in documents) == 8
    monkeypatch.setattr(streamed_documents, "_ROWS", 2)
    check_every_place(opened(folder, "paragraphs", streaming=True, seed=3).streamed, number=2)
    assert not list((tmp_path / "cache").rglob("*.arrow"))


def test_blocks_of_a_folder_of_text_files(tmp_path):
    """Their order does not depend on the seed, and another folder with the same names and times has others."""
    folder = folder_of_lines(tmp_path / "data")
    save_tokenizer(tmp_path / "tokenizer", [*"abcdefghi"])
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "tokenizer")

    def blocks(folder, seed=0):
        source = opened(folder, "paragraphs", seed=seed)
        found = source.blocks(tokenizer, BlockOptions(8 + 2), show_progress=False)["input_ids"]
        return " ".join(tokenizer.decode(block[1:-1]) for block in found)

    for seed in range(4):
        assert blocks(folder, seed) == "a b [SEP] c d [SEP] e [SEP] f [SEP] g h"
    for path in folder.iterdir():
        os.utime(path, (1e9, 1e9))
    assert blocks(folder).startswith("a b")
    other = shutil.copytree(folder, tmp_path / "other")
    (other / "train-0.txt").write_text("\n".join(["i", "b", "", " ", "c", "d"]))
    os.utime(other / "train-0.txt", (1e9, 1e9))
    assert blocks(other).startswith("i b")


@pytest.mark.parametrize("form", ["txt", "parquet"])
def test_a_source_of_blank_rows(tmp_path, form):
    folder = tmp_path / "data"
    folder.mkdir()
    if form == "txt":
        (folder / "train.txt").write_text(" \n\n")
    else:
        pq.write_table(pa.table({"text": [" ", ""]}), folder / "train.parquet")
    reason = "lines are blank: give other" if form == "txt" else "texts .'text'. are blank: give another text_column"
    with pytest.raises(InputError, match=f"data, train: all {reason}"):
        opened(folder, "paragraphs", streaming=True)


@pytest.mark.parametrize("form", ["txt", "parquet"])
def test_a_folder_is_listed_once(tmp_path, monkeypatch, form):
    listed = []
    kind = datasets.load.LocalDatasetModuleFactory
    monkeypatch.setattr(kind, "get_module", lambda self, found=kind.get_module: listed.append(self) or found(self))
    folder = tmp_path / "data"
    folder.mkdir()
    if form == "txt":
        (folder / "train.txt").write_text("a b\n")
    else:
        pq.write_table(pa.table({"text": ["a b"]}), folder / "train.parquet")
    assert opened(folder, "paragraphs").sample == ["a b"]
    assert len(listed) == 1


def test_nothing_is_copied(tmp_path):
    assert len(texts_of(rows_of(folder_of_files(tmp_path / "data")).parts())) == 3 * ROWS
    assert not list((tmp_path / "cache").rglob("*.arrow"))


def test_parts_end_after_a_number_of_characters(tmp_path, monkeypatch):
    monkeypatch.setattr(streamed_documents, "_CHARACTERS", 1000)
    parts = list(rows_of(folder_of_files(tmp_path / "data")).parts())
    assert all(1000 <= sum(map(len, part.texts)) < 1010 for part, place in parts if place[1])


def test_it_goes_on_where_it_broke_off(text_file, monkeypatch, caplog):
    whole = list(text_file.parts())
    breaks = Breaks(monkeypatch, at=3, times=2)
    assert list(text_file.parts()) == whole
    assert breaks.waits == [5, 20]
    assert (
        "broke off after part 2 (of 4 MiB each) (ConnectionError: server disconnected); trying again in 5"
        in caplog.text
    )


def test_attempts_are_counted_anew_once_it_goes_on(text_file, monkeypatch):
    whole = list(text_file.parts())
    earlier = Breaks(monkeypatch, at=2, times=3)
    later = Breaks(monkeypatch, at=4, times=3)
    assert list(text_file.parts()) == whole
    assert earlier.left == later.left == 0 and later.waits == [5, 20, 60] * 2


def test_it_breaks_off_for_good(text_file, monkeypatch):
    breaks = Breaks(monkeypatch, at=3, times=99)
    found = []
    with pytest.raises(
        StreamBroken,
        match=r"text.txt: reading broke off after part 2 .* \(ConnectionError: server disconnected\), and again in 3 "
        "more attempts: check the network",
    ):
        for part in text_file.parts():
            found.append(part)
    assert len(found) == 2 and breaks.waits == [5, 20, 60]


def generated(fails, count=60):
    """A data set whose server fails at row 30 for the first times."""
    failed = []

    def rows():
        for row in range(count):
            if row == 30 and len(failed) < len(fails):
                failed.append(row)
                raise fails[len(failed) - 1]
            yield {"text": f"text {row}"}

    return StreamedRows(Rows(IterableDataset.from_generator(rows), "me/data, train", "1"), "text")


@pytest.mark.parametrize(
    "error",
    [
        OSError(5, "Input/output error"),
        TimeoutError("slow"),
        EOFError("the file ended before its end"),
        aiohttp.ClientPayloadError("incomplete"),
        HTTPError("closed"),
        DatasetGenerationError("while generating"),
    ],
    ids=lambda error: type(error).__name__,
)
def test_what_breaks_off_is_read_again(error, monkeypatch):
    monkeypatch.setattr(streamed_documents, "_ROWS", 7)
    monkeypatch.setattr(StreamedDocuments, "pause", lambda documents, seconds: None)
    if isinstance(error, DatasetGenerationError):
        error.__cause__ = ConnectionError("reset")
    expected = texts_of(generated([]).parts())
    assert len(expected) == 60 and texts_of(generated([error, error]).parts()) == expected


class Answer(OSError):
    """The answer of a server, as the errors of HTTP libraries hold it."""

    def __init__(self, status):
        super().__init__(f"status {status}")
        self.response = SimpleNamespace(status_code=status)


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (pa.ArrowInvalid("bad bytes"), "ArrowInvalid: bad bytes.*may be damaged"),
        (gzip.BadGzipFile("CRC check failed"), "BadGzipFile.*may be damaged"),
        (zlib.error("invalid stored block lengths"), "may be damaged"),
        (OSError("Corrupt snappy compressed data."), "may be damaged"),
        (FileNotFoundError(2, "No such file or directory"), "is not there any more, or you may not read it"),
        (Answer(403), "status 403.*you may not read it"),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, Exception) else "",
)
def test_what_will_not_pass_is_not_read_again(error, message, monkeypatch):
    monkeypatch.setattr(StreamedDocuments, "pause", lambda documents, seconds: pytest.fail("waited"))
    with pytest.raises(InputError, match=f"me/data, train cannot be read .*{message}"):
        list(generated([error]).parts())


@pytest.mark.parametrize("status", [429, 500, 503])
def test_answers_that_may_be_others_later(status, monkeypatch):
    monkeypatch.setattr(StreamedDocuments, "pause", lambda documents, seconds: None)
    assert texts_of(generated([Answer(status)]).parts()) == texts_of(generated([]).parts())


def test_nothing_waits_once_it_is_closed(text_file, monkeypatch):
    Breaks(monkeypatch, at=3, times=99)
    monkeypatch.setattr(StreamedDocuments, "pause", lambda documents, seconds: documents.closed.set())
    with pytest.raises(ConnectionError):
        list(text_file.parts())
    monkeypatch.undo()
    text_file.closed.set()
    started = time.monotonic()
    text_file.pause(60)
    assert time.monotonic() - started < 5


@pytest.mark.parametrize("kind", [ZeroDivisionError, ValueError, ImportError])
def test_a_bug_keeps_its_traceback(kind):
    with pytest.raises(kind):
        list(generated([kind()]).parts())


@pytest.mark.parametrize(
    ("example", "message"),
    [
        ({"text": None}, "me/data, train, shard 1, row 2: there is no 'text'"),
        ({"text": 3}, "shard 1, row 2: 'text' is 3, which is not text"),
        ({"body": "a"}, "has no column 'text': it has 'body'; name the column of texts with text_column"),
    ],
)
def test_what_is_not_text(example, message):
    def rows():
        yield {"text": "fine"}
        yield example

    with pytest.raises(InputError, match=message):
        list(StreamedRows(Rows(IterableDataset.from_generator(rows), "me/data, train", "1"), "text").parts())


def test_wrong_names(tmp_path):
    folder = folder_of_files(tmp_path / "data")
    with pytest.raises(InputError, match="has no split 'dev': it has 'train'. Choose another with train_split_name"):
        rows_of(folder, train_split_name="dev")
    with pytest.raises(InputError, match="has no column 'body': it has 'id' .int64., 'text'; name the column"):
        rows_of(folder, text="body")
    with pytest.raises(InputError, match="the column 'id' does not hold texts"):
        rows_of(folder, text="id")
    with pytest.raises(InputError, match="me/data, train has no rows"):
        StreamedRows(Rows(Dataset.from_dict({"text": []}), "me/data, train", None), "text")


def test_files_of_the_same_name_in_two_folders_are_two_sources(tmp_path):
    """As those of two configurations of a data set on the Hub."""
    folder = tmp_path / "data"
    configs = [{"config_name": name, "data_files": f"{name}/train.parquet"} for name in ("en", "de")]
    for config in configs:
        path = folder / config["data_files"]
        path.parent.mkdir(parents=True)
        pq.write_table(pa.table({"text": [config["config_name"]]}), path)
        os.utime(path, (1e9, 1e9))
    (folder / "README.md").write_text(f"---\nconfigs: {json.dumps(configs)}\n---\n")
    identities = [rows_of(folder, dataset_config_name=name).identity for name in ("en", "de", "en")]
    assert identities[0] == identities[2] != identities[1]


def test_what_identifies_a_source(tmp_path, text_file):
    before = text_file.identity
    assert StreamedFile(text_file.source).identity == before
    text_file.path.write_text("another")
    assert text_file.identity != before
    folder = folder_of_files(tmp_path / "data")
    before = rows_of(folder).identity
    assert rows_of(folder).identity == before and str(tmp_path) not in before
    pq.write_table(pa.table({"id": [1], "text": ["more"]}), folder / "train-00003.parquet")
    assert rows_of(folder).identity != before
    for name, words in {"one": ["a", "b"], "other": ["a", "c"]}.items():
        Dataset.from_dict({"text": words}).save_to_disk(tmp_path / name)
    assert rows_of(tmp_path / "one").identity == rows_of(tmp_path / "one").identity
    assert rows_of(tmp_path / "one").identity != rows_of(tmp_path / "other").identity
