"""Running text is read in parts, from every kind of file, and what is not text is refused with its place."""

import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from datasets import Dataset

from ckd_trainer.data import documents
from ckd_trainer.data.documents import first_texts, read_documents
from ckd_trainer.data.table import Table
from ckd_trainer.data.text_arguments import TextArguments, TextSource
from ckd_trainer.utils.errors import InputError

TEXT = "\ufeffone two\r\nthree\n\n \nfour  \n\n\nfive\nsix"


def read(source, table=None):
    """Returns all texts, and which of them begin a document."""
    parts = list(read_documents(source, table))
    return [text for part in parts for text in part.texts], [begin for part in parts for begin in part.begins]


@pytest.fixture
def text_file(tmp_path):
    path = tmp_path / "text.txt"
    path.write_bytes(TEXT.encode())
    return path


@pytest.mark.parametrize("size", [1, 9, 10**6])
def test_paragraphs_and_documents(text_file, size, monkeypatch):
    monkeypatch.setattr(documents, "_BYTES", size)
    texts, begins = read(TextSource(train_file=str(text_file)))
    assert texts == ["one two", "three", "four", "five", "six"]
    assert begins == [True, False, True, True, False]
    assert read(TextSource(train_file=str(text_file), lines="documents"))[1] == [True] * 5
    assert sum(part.size for part in read_documents(TextSource(train_file=str(text_file)))) == len(TEXT.encode())


@pytest.mark.parametrize("suffix", [".jsonl", ".json", ".csv", ".tsv", ".parquet"])
def test_tables(tmp_path, suffix):
    path, rows = tmp_path / f"text{suffix}", ["one\\n two", "  ", "three "]
    if suffix == ".parquet":
        pq.write_table(pa.table({"id": [1, 2, 3], "body": rows}), path)
    elif "json" in suffix:
        path.write_text("\n".join(json.dumps({"body": row, "id": 1}) for row in rows))
    else:
        path.write_text(
            "\n".join(
                ["body" + {".csv": ",", ".tsv": "\t"}[suffix] + "id"]
                + [row + {".csv": ",", ".tsv": "\t"}[suffix] + "1" for row in rows]
            )
        )
    assert read(TextSource(train_file=str(path), text_column="body")) == (["one\\n two", "three"], [True, True])


def test_a_data_set():
    table = Table(Dataset.from_dict({"text": ["one", "", "two"] * 10_000}), "set", range(1, 30_001), unit="row")
    parts = list(read_documents(TextSource(dataset_name="set"), table))
    assert [len(part.texts) for part in parts] == [6667, 6666, 6667]
    assert sum(part.size for part in parts) == 30_000


def test_the_first_texts(text_file):
    source = TextSource(train_file=str(text_file))
    assert first_texts(read_documents(source), 3) == ["one two", "three", "four"]
    assert first_texts(read_documents(source), 9) == ["one two", "three", "four", "five", "six"]


@pytest.mark.parametrize(
    "content, message",
    [
        (b"", "has no text"),
        (b" \n\n\t\n", "has no text"),
        (b"fine\n\xff\xfe", "line 2: not UTF-8"),
        ("fine\nfine\n".encode("utf-16"), "line 1: not UTF-8"),
        (b"fine\nfi\0ne\n", "line 2: there is a NUL character"),
        (b"fine\n" + b"x" * 2000, "line 2: the line is longer than"),
    ],
)
def test_what_is_not_text(tmp_path, content, message, monkeypatch):
    monkeypatch.setattr(documents, "_LONGEST_LINE", 1024)
    path = tmp_path / "text.txt"
    path.write_bytes(content)
    with pytest.raises(InputError, match=message) as error:
        read(TextSource(train_file=str(path)))
    assert str(path) in str(error.value)


def test_a_line_of_just_the_limit_is_text(tmp_path, monkeypatch):
    monkeypatch.setattr(documents, "_LONGEST_LINE", 8)
    path = tmp_path / "text.txt"
    path.write_bytes(b"1234567\n1234567")
    assert read(TextSource(train_file=str(path)))[0] == ["1234567", "1234567"]


def test_missing_files(tmp_path):
    with pytest.raises(InputError, match="is missing"):
        read(TextSource(train_file=str(tmp_path / "none.txt")))
    (tmp_path / "folder.txt").mkdir()
    with pytest.raises(InputError, match="is a folder"):
        read(TextSource(train_file=str(tmp_path / "folder.txt")))


def test_blank_columns(tmp_path):
    path = tmp_path / "text.jsonl"
    path.write_text('{"text": " "}\n{"text": ""}')
    with pytest.raises(InputError, match="all texts .'text'. are blank"):
        read(TextSource(train_file=str(path)))


SOURCES = [
    ({}, "there is no text to use"),
    ({"train_file": "a.pdf"}, "has the suffix '.pdf'"),
    ({"validation_file": "a.txt.gz"}, "has the suffix '.gz'"),
    ({"train_file": "a.txt", "sources": [{"train_file": "b.txt"}]}, "sources is set, but train_file is a.txt"),
    ({"train_file": "a.txt", "dataset_name": "b"}, "give one or the other"),
    ({"sources": "[1"}, "is not JSON"),
    ({"sources": []}, "there is no text to use"),
    ({"sources": "{}"}, "give a list such as"),
    ({"sources": ["a.txt"]}, "entry 1, is 'a.txt'"),
    ({"sources": [{"train_file": "a.txt"}, {"file": "b.txt"}]}, "entry 2, sets 'file', which is not one of"),
    ({"sources": [{"train_file": 3}]}, "sets train_file to 3: give a string"),
    ({"sources": [{"train_file": "a.txt", "weight": True}]}, "sets weight to True: give a number"),
    ({"sources": [{"train_file": "a.txt", "weight": 0}]}, "has the weight 0"),
    ({"sources": [{"train_file": "a.txt", "lines": "pages"}]}, "give paragraphs or documents"),
    ({"sources": [{"weight": 2}]}, "give train_file or dataset_name, and not both"),
    ({"sources": [{"dataset_name": ""}]}, "give train_file or dataset_name, and not both"),
    ({"sources": [{"train_file": "a.txt", "train_split_name": "x"}]}, "sets train_split_name, but no dataset_name"),
    ({"sources": [{"train_file": "a.doc"}]}, "has the suffix '.doc'"),
    ({"train_file": "a.txt", "mlm_probability": 1.0}, "mlm_probability is 1"),
    ({"train_file": "a.txt", "validation_share": 0.0}, "validation_share is 0"),
    ({"train_file": "a.txt", "validation_share": 0.1, "validation_file": "b.txt"}, "give one or the other"),
    ({"dataset_name": "a", "validation_share": 0.1, "validation_split_name": "b"}, "give one or the other"),
]


@pytest.mark.parametrize("options, message", SOURCES, ids=[message for _, message in SOURCES])
def test_malformed_options(options, message):
    with pytest.raises(InputError, match=message):
        TextArguments(**options)


def test_several_sources():
    arguments = TextArguments(
        sources='[{"train_file": "a.txt"}, {"dataset_name": "b", "weight": 0.5, "text_column": "body"}]',
        text_column="words",
        lines="documents",
    )
    assert arguments.training_sources == [
        TextSource(train_file="a.txt", text_column="words", lines="documents"),
        TextSource(dataset_name="b", text_column="body", lines="documents", weight=0.5),
    ]
    assert arguments.validation_source is None


def test_a_validation_file_beside_a_data_set():
    arguments = TextArguments(dataset_name="b", validation_file="c.txt")
    assert arguments.validation_source == TextSource(train_file="c.txt")


def test_the_validation_split_of_a_data_set():
    arguments = TextArguments(dataset_name="b", dataset_config_name="c", validation_split_name="dev")
    assert arguments.training_sources == [TextSource(dataset_name="b", dataset_config_name="c")]
    assert arguments.validation_source == TextSource(dataset_name="b", dataset_config_name="c", train_split_name="dev")
