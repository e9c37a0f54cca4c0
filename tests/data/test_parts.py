"""Tables in parts: together they are the whole table, and mistakes are found with their lines."""

import csv
import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ckd_trainer.data.parts import read_parts
from ckd_trainer.data.table_files import open_table
from ckd_trainer.utils.errors import InputError

ROWS = [(f'text {n}, "quoted"\nand on' if n % 5 == 0 else f"text {n}", str(n)) for n in range(60)]
QUOTED = "\n".join('"{}",{}'.format(text.replace('"', '""'), other) for text, other in ROWS)
FILES = {
    "a.csv": f"text,other\n{QUOTED}\n",
    "semicolons.csv": "sep=;\r\ntext;other\r\n" + "".join(f"text {n};{n}\r\n" for n in range(60)),
    "bom.tsv": "\ufefftext\tother\n" + "".join(f'a "b {n}\t{n}\n' for n in range(60)),
    "no_end.tsv": "text\tother\n" + "\n".join(f"a {n}\t{n}" for n in range(60)),
    "a.jsonl": "".join(json.dumps({"text": f"a\u2028{n}", "other": n}, ensure_ascii=False) + "\n" for n in range(60)),
    "blank_end.csv": "text\n" + "".join(f"a {n}\n" for n in range(60)) + "\n" * 40,
}


def whole(path, **options):
    table = open_table(path, usecols=["text"], **options)
    return list(zip(table.texts("text"), table.lines, strict=True))


def in_parts(path, size, **options):
    parts = list(read_parts(path, usecols=["text"], size=size, **options))
    return [row for part in parts for row in zip(part.texts("text"), part.lines, strict=True)], len(parts)


@pytest.mark.parametrize("size", [1, 30, 100, 10**6])
@pytest.mark.parametrize("name", FILES)
def test_parts_are_the_whole(tmp_path, name, size):
    path = tmp_path / name
    path.write_text(FILES[name], encoding="utf-8", newline="")
    rows, parts = in_parts(path, size)
    assert rows == whole(path) and len(rows) == 60
    assert parts <= 2 if size == 10**6 else parts > 2


@pytest.mark.parametrize("size", [1, 30, 10**6])
@pytest.mark.parametrize("name", ["a.csv", "bom.tsv"])
def test_files_without_a_header_line(tmp_path, name, size):
    path = tmp_path / name
    path.write_text(FILES[name].split("other\n", 1)[1], encoding="utf-8", newline="")
    rows, parts = in_parts(path, size, columns=["text", "other"])
    assert rows == whole(path, columns=["text", "other"]) and len(rows) == 60
    assert parts == 1 if size == 10**6 else parts > 2


@given(
    rows=st.lists(st.text(st.sampled_from('ab",\n\r é'), max_size=6), min_size=1, max_size=20),
    size=st.integers(1, 60),
)
def test_any_text_in_any_parts(tmp_path_factory, rows, size):
    path = tmp_path_factory.mktemp("parts") / "a.csv"
    quoted = ['"{}"'.format(text.replace('"', '""')) for text in rows]
    path.write_text("\n".join(["text,n", *(f"{text},{n}" for n, text in enumerate(quoted))]), "utf-8", newline="")
    assert in_parts(path, size, quoting="csv")[0] == whole(path, quoting="csv")


def test_parquet(tmp_path, monkeypatch):
    monkeypatch.setattr("ckd_trainer.data.parts._ROWS", 7)
    path = tmp_path / "a.parquet"
    pq.write_table(pa.table({"text": [f"a {n}" for n in range(20)], "n": range(20)}), path)
    rows, parts = in_parts(path, 1)
    assert rows == whole(path) and parts == 3


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("a.csv", "text,n\n" + "a,1\n" * 30 + "a,b,c\n", "line 32: the row has 3 fields, not 2"),
        ("a.csv", "text,n\n" + "a,1\n" * 30 + '"a,1\n' + "a,1\n" * 30, "line 32: the row that starts here"),
        ("a.tsv", "text\tn\n" + "a\t1\n" * 30 + "a\n", "line 32: the row has 1 fields"),
        ("a.jsonl", '{"text": "a"}\n' * 30 + "{\n", "line 31: this is not JSON"),
        ("a.jsonl", '{"text": "a"}\n' * 30 + '{"text": null}\n', "line 31: there is no 'text'"),
        ("a.jsonl", '{"text": "a"}\n' * 30 + '{"words": "a"}\n', "(has no column|there is no) 'text'"),
        ("a.csv", "text,n\n" + "a,1\n" * 30 + "a\0,1\n", "line 32: there is a NUL"),
        ("a.csv", "words,n\n" + "a,1\n" * 30, "has no column 'text'"),
        ("a.csv", "text,n\n", "a.csv has no rows"),
        ("a.csv", "", "a.csv has no rows"),
        ("a.jsonl", "\n", "a.jsonl has no rows"),
        ("a.txt", "a\n", "has the suffix '.txt'"),
    ],
)
@pytest.mark.parametrize("size", [1, 50, 10**6])
def test_mistakes(tmp_path, name, text, message, size):
    path = tmp_path / name
    path.write_text(text, encoding="utf-8")
    with pytest.raises(InputError, match=message):
        in_parts(path, size)


def test_a_quote_in_a_text_does_not_hold_up_a_part(tmp_path):
    """By the rule of csv, a quote inside a field is text, and those at its ends enclose it."""
    path = tmp_path / "a.csv"
    rows = ['a 5" pipe,1', '"b\nc",2'] * 100
    path.write_text("\n".join(["text,n", *rows]) + "\n", encoding="utf-8")
    found, parts = in_parts(path, 200)
    assert found == whole(path) and parts > 5


@pytest.mark.parametrize("size", [20, 50, 10**6])
@pytest.mark.parametrize(
    ("row", "message"), [("", "line 32: the line is blank"), ("text,n", "line 32: the row repeats the header")]
)
def test_rows_that_are_refused_wherever_a_part_ends(tmp_path, row, message, size):
    path = tmp_path / "a.csv"
    path.write_text("text,n\n" + "a,1\n" * 30 + f"{row}\n" + "a,1\n" * 30, encoding="utf-8")
    for read in (whole, lambda path: in_parts(path, size)):
        with pytest.raises(InputError, match=message):
            read(path)


def test_long_texts_are_read(tmp_path):
    """Longer than the csv module reads by default, which must not end the file."""
    path = tmp_path / "a.csv"
    path.write_text("text,n\n" + "a,1\n" * 50 + "b" * 200_000 + ",2\n" + "c,3\n" * 50, encoding="utf-8")
    limit = csv.field_size_limit(131_072)
    try:
        found, _ = in_parts(path, 100)
    finally:
        csv.field_size_limit(limit)
    assert len(found) == 101 and found == whole(path)


def test_an_unclosed_quote_is_found_at_once(tmp_path):
    path = tmp_path / "a.csv"
    path.write_text('text,n\na,1\n"b,2\n' + "c,3\n" * 10**6, encoding="utf-8")
    with pytest.raises(InputError, match="line 3: the row that starts here cannot be read"):
        in_parts(path, 10**6)


def test_text_that_is_not_utf8(tmp_path):
    path = tmp_path / "a.csv"
    path.write_bytes(b"text,n\n" + b"a,1\n" * 30 + b"\xff,1\n")
    with pytest.raises(InputError, match="line 32: not UTF-8"):
        in_parts(path, 10)


def test_a_damaged_parquet_file(tmp_path):
    path = tmp_path / "a.parquet"
    path.write_bytes(b"PAR1 no")
    with pytest.raises(InputError, match="is not a parquet file that can be read"):
        in_parts(path, 1)


def test_no_such_file(tmp_path):
    with pytest.raises(InputError, match="is missing"):
        in_parts(tmp_path / "a.csv", 1)
