"""Delimiters and quotes of csv and tsv files: read by the right rule, or told."""

import csv
import io
import logging
import re

import pytest

from ckd_trainer.data.table_files import open_table
from ckd_trainer.utils.errors import InputError

# Of the real files: how many lines have a field in quotes once pandas has written them, and whether they are in quotes
# as they are, as QQP's official files are.
REAL = {
    "CoLA/train.tsv": 2,
    "MNLI/dev_matched.tsv": 339,
    "MNLI/train.tsv": 287,
    "MNLI/train_full_columns.tsv": 18,
    "MRPC/train.tsv": 769,
    "MRPC/dev.tsv": 85,
    "MRPC/test.tsv": 367,
    "QNLI/train.tsv": 1328,
    "QNLI/dev.tsv": 611,
    "QQP/train.tsv": 824,
    "QQP/heldout_from_train.tsv": 332,
    "RTE/train.tsv": 454,
    "RTE/dev.tsv": 48,
    "RTE/test.tsv": 504,
    "STS-B/train.tsv": 252,
    "STS-B/dev.tsv": 110,
    "STS-B/test.tsv": 50,
    "WNLI/train.tsv": 16,
    "WNLI/dev.tsv": 1,
    "WNLI/test.tsv": 2,
    "CoLA/dev.tsv": 0,
    "CoLA/test.tsv": 0,
    "SST-2/train.tsv": 0,
    "SST-2/dev.tsv": 0,
    "SST-2/test.tsv": 0,
    "MNLI/dev_mismatched_sample_tokenised.tsv": 0,
}
COLA_COLUMNS = ["source", "label", "original mark", "sentence"]


@pytest.fixture
def write(tmp_path):
    def write(name, content):
        (tmp_path / name).write_bytes(content.encode())
        return tmp_path / name

    return write


@pytest.fixture
def read(caplog):
    """Reads a file, and returns its rows and what was warned of."""

    def read(path, **options):
        caplog.clear()
        with caplog.at_level(logging.WARNING, "ckd_trainer"):
            data = open_table(path, **options).data
        return list(zip(*(data[name][:] for name in data.column_names), strict=True)), caplog.text

    return read


# Of each of these tasks, a smaller file of the same form is read by default.
LARGE = ["SST-2/train.tsv", "QQP/train.tsv", "MNLI/train.tsv", "MNLI/dev_matched.tsv", "QNLI/train.tsv"]


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=pytest.mark.slow if name in LARGE else ()) for name in REAL]
)
def test_real_files_as_they_are_and_as_pandas_writes_them(shared_data, tmp_path, read, name):
    path = shared_data / "glue" / name
    columns = COLA_COLUMNS if name in ("CoLA/train.tsv", "CoLA/dev.tsv") else None
    rows, told = read(path, columns=columns)
    assert ("LOOKS QUOTED" in told) == (path.parent.name == "QQP")
    table = open_table(path, columns=columns, quoting="none").data.to_pandas()
    assert [tuple(row) for row in table.values] == rows
    for quoting, count in ((csv.QUOTE_MINIMAL, REAL[name]), (csv.QUOTE_ALL, len(rows) + 1)):
        table.to_csv(tmp_path / "a.tsv", sep="\t", index=False, quoting=quoting)
        told = read(tmp_path / "a.tsv")[1]
        assert f"LOOKS QUOTED: {count} of {len(rows) + 1} lines" in told if count else told == ""
        assert read(tmp_path / "a.tsv", quoting="csv") == (rows, "")
    table.to_csv(tmp_path / "a.csv", index=False)
    assert read(tmp_path / "a.csv") == (rows, "")


@pytest.mark.parametrize(
    ("content", "example"),
    [
        ('text\tlabel\n"He said ""no"""\t1\nplain\t0\n', r"1 of 3 lines .*\(line 2: \'\"He said \"\"no\"\"\"\'"),
        ('"text"\t"label"\n"a"\t"1"\n', r"2 of 2 lines"),
        ('text\tlabel\n"a"\t1\n"b"\t0\n', r"2 of 3 lines"),  # as R writes words, but not numbers
        ('text\tlabel\n"a, b"\t1\nc\t0\n"d, e"\t0\n', r"2 of 4 lines"),  # as spreadsheets write tabs
        ('text\n"one\ntwo"\nthree\n', r"1 of 4 lines"),
    ],
)
def test_tsv_files_that_look_quoted(write, read, content, example):
    rows, told = read(write("a.tsv", content))
    assert len(rows) == content.count("\n") - 1
    assert re.search(example, told)
    assert "Set quoting to csv" in told and "to none if" in told
    assert read(write("a.tsv", content), quoting="none") == (rows, "")
    rows, told = read(write("a.tsv", content), quoting="csv")
    written = io.StringIO(content, newline="")
    assert rows == [tuple(row) for row in csv.reader(written, delimiter="\t")][1:] and told == ""


@pytest.mark.parametrize(
    "content",
    [
        'text\tlabel\n"All of it."\t1\nplain\t0\n',  # no reason to quote it
        'text\tlabel\n"He said ""no"""\t1\n5" wide\t0\n',  # not all quotes are doubled
        'text\tlabel\n"begins here\t1\nends here"\t0\n',
        'text\tlabel\n"a"\t1\n',  # one row says nothing of a column
        'text\tlabel\n""no"" he said\t1\n',
        'text\tlabel\n"Well, yes."\t1\nwell, no\t0\n"Oh, why?"\t0\n',
    ],
)
def test_tsv_files_whose_quotes_are_text(write, read, content):
    rows, told = read(write("a.tsv", content))
    assert ["\t".join(row) for row in rows] == content.splitlines()[1:] and told == ""


def test_csv_files_whose_quotes_look_like_text(write, read):
    content = 'text,label\n"Never again.",1\nHe said "no",0\n'
    rows, told = read(write("a.csv", content))
    assert rows == [("Never again.", "1"), ('He said "no"', "0")]
    assert "MAY HAVE QUOTES THAT ARE TEXT" in told and "line 2: '\"Never again.\"'" in told
    assert read(write("a.csv", content), quoting="csv") == (rows, "")
    assert read(write("a.csv", content), quoting="none") == ([('"Never again."', "1"), rows[1]], "")


def test_csv_files_in_which_a_quote_may_swallow_rows(write, read):
    content = 'text,label\n"it begins,1\nand ends",0\nplain,1\n'
    rows, told = read(write("a.csv", content))
    assert rows == [("it begins,1\nand ends", "0"), ("plain", "1")]
    assert "spans lines that are whole rows" in told
    assert len(read(write("a.csv", content), quoting="none")[0]) == 3


@pytest.mark.parametrize(
    "content",
    [
        'text,label\n"a, ""b""\nc",1\nd,0\n',
        'text,label\n"a\nb",1\nd,0\n',
        'text,label\n5" wide,1\n"a, b",0\n',  # without the quotes there is a field too many
        'text,label\nHe said "no",0\n',  # the same by both rules
        'text\n"one\ntwo"\n',
        'text,label\n"All of it.",1\nplain,0\n',
    ],
)
def test_csv_files_that_are_quoted_as_csv(write, read, content):
    assert read(write("a.csv", content))[1] == ""


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        (
            "a.tsv",
            'text\tlabel\n"a\tb"\t1\n',
            r"line 2: the row has 3 fields, not 2 .* or set quoting to csv, with which every row can be read\.",
        ),
        (
            "a.tsv",
            'text\tlabel\n"a\nb"\t1\n',
            r"line 2: the row has 1 fields, not 2 .* or set quoting to csv, with which every row can be read\.",
        ),
        (
            "a.csv",
            'text,label\n"a" b,1\n',
            r"line 2: the row that starts here .* or set quoting to none, with which every row can be read\.",
        ),
        (
            "a.csv",
            'text,label\n"a,1\nb,1\n',
            r"line 2: the row that starts here .* or set quoting to none, with which every row can be read\.",
        ),
        (
            "a.csv",
            'text;label\n"a" b;1\n',
            r"line 2: the row that starts here .* or set quoting to none, with which every row can be read\.",
        ),
        ("a.csv", 'text,label\n"a, c" b,1\n', r"line 2: the row that starts here .*double the quote\."),
        ("a.csv", "text;label\na, b; c;1\n", r"line 2: the row has 3 fields, not 2 .*: quote a field with semicolons"),
        ("a.csv", "sep=;\n", r"a\.csv has no rows"),
        ("a.csv", "sep=,\ntext,label\na,b,1\n", r"line 3: the row has 3 fields"),
        ("a.csv", "text,label\na,1\ntext,label\nb,0\n", r"line 3: the row repeats the header \('text', 'label'\)"),
        ("a.tsv", "text\tlabel\na\t1\n\ufefftext\tlabel\nb\t0\n", r"line 3: the row repeats the header"),
    ],
)
def test_mistakes_come_with_the_way_out(write, name, content, message):
    with pytest.raises(InputError, match=message):
        open_table(write(name, content))


@pytest.mark.parametrize(
    ("content", "rows"),
    [
        ("text;label\na, b;1\n", [("a, b", "1")]),
        ('"text";"label"\r\n"a; ""b""";1\r\n', [('a; "b"', "1")]),
        ("text\tlabel\na, b\t1\n", [("a, b", "1")]),
        ("text|label\na; b|1\n", [("a; b", "1")]),
        ("sep=;\ntext;label\na, b;1\n", [("a, b", "1")]),
        ('"sep=;"\r\ntext;label\r\na, b;1\r\n', [("a, b", "1")]),
        ("SEP=,\ntext;x,label\na;b,1\n", [("a;b", "1")]),
        ("sep=\t\ntext\tlabel\na\t1\n", [("a", "1")]),
        ("text;x,label\na;b,1\n", [("a;b", "1")]),
        ('"text;x"\na;b\n', [("a;b",)]),
        ('"text\n; x",label\na,1\n', [("a", "1")]),
    ],
)
def test_the_header_says_what_separates_the_fields_of_a_csv_file(write, read, content, rows):
    assert read(write("a.csv", content)) == (rows, "")


def test_lines_are_counted_from_the_line_that_names_the_delimiter(write):
    table = open_table(write("a.csv", 'sep=;\ntext;label\n"a\nb";1\nc;0\n'))
    assert list(table.lines) == [3, 5]


def test_the_header_names_the_delimiter_where_quotes_are_text_too(write, read):
    assert read(write("a.csv", 'the "text;label\na"b;1\n'), quoting="none") == ([('a"b', "1")], "")


def test_a_header_in_one_piece_or_in_quotes_is_told(write):
    with pytest.raises(InputError, match="no column 'text': it has 'text,label': that is one column, as a .tsv file"):
        open_table(write("a.tsv", "text,label\na,1\n")).texts("text")
    with pytest.raises(InputError, match="it has '\"text\"', '\"label\"': the names are in quotes, so set quoting to"):
        open_table(write("a.tsv", '"text"\t"label"\n"a"\t"1"\n')).texts("text")
