"""Reading tables: every byte of good files, and an error with file and line for bad ones."""

import json

import pandas
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from datasets import ClassLabel, Dataset, Features, Value

from ckd_trainer.data.table_files import open_table, read_table
from ckd_trainer.utils.errors import InputError

COLA_COLUMNS = ["source", "label", "original mark", "sentence"]
ROWS = {
    "CoLA/train.tsv": 8551,
    "CoLA/dev.tsv": 1043,
    "CoLA/test.tsv": 1063,
    "SST-2/train.tsv": 67349,
    "SST-2/dev.tsv": 872,
    "SST-2/test.tsv": 1821,
    "MRPC/train.tsv": 3668,
    "MRPC/dev.tsv": 408,
    "MRPC/test.tsv": 1725,
    "STS-B/train.tsv": 5749,
    "STS-B/dev.tsv": 1500,
    "STS-B/test.tsv": 1379,
    "RTE/train.tsv": 2490,
    "RTE/dev.tsv": 277,
    "RTE/test.tsv": 3000,
    "WNLI/train.tsv": 635,
    "WNLI/dev.tsv": 71,
    "WNLI/test.tsv": 146,
    "QNLI/dev.tsv": 5463,
    "QNLI/train.tsv": 9999,
    "QQP/train.tsv": 23496,
    "QQP/heldout_from_train.tsv": 9372,
    "MNLI/dev_matched.tsv": 9815,
    "MNLI/train.tsv": 9999,
    "MNLI/train_full_columns.tsv": 480,
    "MNLI/dev_mismatched_sample_tokenised.tsv": 1000,
}


@pytest.fixture
def write(tmp_path):
    def write(name, content):
        path = tmp_path / name
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        return path

    return write


def test_the_list_of_real_files_is_complete(shared_data):
    glue = shared_data / "glue"
    assert sorted(ROWS) == sorted(str(path.relative_to(glue)) for path in glue.glob("*/*.tsv"))


@pytest.mark.parametrize("name", ROWS)
def test_real_files_survive_byte_for_byte(shared_data, name):
    path = shared_data / "glue" / name
    without_header = name in ("CoLA/train.tsv", "CoLA/dev.tsv")
    table = read_table(path, columns=COLA_COLUMNS if without_header else None)
    assert len(table) == ROWS[name]
    rows = ["\t".join(values) for values in zip(*(table[column][:] for column in table.column_names), strict=True)]
    if not without_header:
        rows.insert(0, "\t".join(table.column_names))
    assert "\n".join(rows) == path.read_bytes().decode("utf-8-sig").removesuffix("\n")


def test_tsv_keeps_quotes_spaces_and_empty_fields(write):
    path = write("a.tsv", '\ufefftext\tpair\tlabel\n "He said \tx" \t\n\t\t"\n')
    assert read_table(path).to_dict() == {"text": [' "He said ', ""], "pair": ['x" ', ""], "label": ["", '"']}


def test_csv_follows_rfc_4180(write):
    path = write("a.csv", '\ufefftext,label\r\n"one, ""two""\r\nthree",1\r\n four ,0')
    assert read_table(path).to_dict() == {"text": ['one, "two"\r\nthree', " four "], "label": ["1", "0"]}


@pytest.mark.parametrize("ending", ["\n", "\r\n", "\r"])
@pytest.mark.parametrize("last", ["", "\n", "\n\n\n"])
@pytest.mark.parametrize("suffix", ["csv", "tsv"])
def test_line_endings_and_the_end_of_the_file(write, suffix, ending, last):
    content = "text\tlabel\na\t1\nb\t0" + last
    content = content.replace("\t", "," if suffix == "csv" else "\t").replace("\n", ending)
    assert read_table(write(f"a.{suffix}", content)).to_dict() == {"text": ["a", "b"], "label": ["1", "0"]}


def test_columns_name_a_file_without_header(write):
    table = read_table(write("a.tsv", "x\t1\ny\t0"), columns=["text", "label"])
    assert table.to_dict() == {"text": ["x", "y"], "label": ["1", "0"]}


def test_long_texts_are_read(write):
    long = "word " * 40_000
    assert read_table(write("a.csv", f"text,label\n{long},1\n"))[0]["text"] == long
    assert read_table(write("a.tsv", f"text\tlabel\n{long}\t1\n"))[0]["text"] == long


@pytest.mark.parametrize("suffix", ["json", "jsonl"])
def test_json_lines(write, suffix):
    content = '\ufeff{"text": "a\u2028b", "label": 1}\r\n{"label": 0, "text": "\\u00e9", "note": [1]}\n\n'
    table = read_table(write(f"a.{suffix}", content))
    assert table.to_dict() == {"text": ["a\u2028b", "é"], "label": [1, 0], "note": [None, [1]]}


def test_parquet_keeps_types(tmp_path):
    features = Features({"text": Value("string"), "label": ClassLabel(names=["no", "yes"])})
    data = Dataset.from_dict({"text": ["a", "b"], "label": [1, 0]}, features=features)
    folder = tmp_path / "split=train"  # which is no column, though some readers make one of it
    folder.mkdir()
    data.to_parquet(folder / "a.parquet")
    table = read_table(folder / "a.parquet")
    assert table.features == features
    assert table[:] == data[:]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.txt", "text\n", r"a\.txt has the suffix '\.txt': give a \.csv"),
        ("a.tsv", "", r"a\.tsv has no rows"),
        ("a.csv", "\n\n", r"a\.csv has no rows"),
        ("a.tsv", "text\tlabel\n", r"a\.tsv has no rows"),
        ("a.jsonl", "\n", r"a\.jsonl has no rows"),
        ("a.jsonl", "{}\n{}\n", r"a\.jsonl has no rows"),
        ("a.jsonl", '{"a\\ud800": 1}\n', r"a\.jsonl: the column 'a.ud800' is not text"),
        ("a.tsv", "text\tlabel\na\t1\nb\n", r"a\.tsv, line 3: the row has 1 fields, not 2 \('text', 'label'\): tabs"),
        ("a.tsv", 'text\tlabel\n"a\tb"\t1\n', r"a\.tsv, line 2: the row has 3 fields, not 2"),
        ("a.csv", 'text,label\n"x\n\ny",1\na,b,c\n', r"a\.csv, line 5: the row has 3 fields, not 2 .* quote a field"),
        ("a.csv", "text,label\na,1\n\nb,0\n", r"a\.csv, line 3: the line is blank"),
        ("a.csv", "text\na\n\nb\n", r"a\.csv, line 3: the line is blank"),
        ("a.csv", 'text,label\na,1\n"b\nc,0\n', r"a\.csv, line 3: the row that starts here .*unexpected end"),
        ("a.csv", 'text,label\n"a"b,1\n', r"a\.csv, line 2: the row that starts here"),
        ("a.csv", "text,label,text\na,1,b\n", r"a\.csv: the column 'text' occurs twice"),
        ("a.tsv", b"text\tlabel\na\t1\nb\xe9\t0\n", r"a\.tsv, line 3: not UTF-8"),
        ("a.tsv", "text\tlabel\na\t1\n".encode("utf-16"), r"a\.tsv, line 1: not UTF-8"),
        ("a.tsv", "text\tlabel\na\t1\n".encode("utf-16-le"), r"a\.tsv, line 1: there is a NUL"),
        ("a.csv", "text,label\na,1\nb\0,0\n", r"a\.csv, line 3: there is a NUL"),
        ("a.jsonl", '{"text": "a"}\n{"text": }\n', r"a\.jsonl, line 2: this is not JSON \(Expecting value, column 10"),
        ("a.jsonl", '{"text": "a"}\n\n{"text": "b"}\n', r"a\.jsonl, line 2: this is not JSON"),
        ("a.json", '[{"text": "a"}]', r"a\.json, line 1: this is a list: give one object per line"),
        ("a.json", '[\n{"text": "a"}\n]', r"a\.json, line 1: this is not JSON .*: give one object per line"),
        ("a.jsonl", '{"n": null}\n{"n": 1}\n{"n": "1"}\n', r"line 3: 'n' is '1', which cannot stand .* with 1: give"),
        ("a.jsonl", '{"n": 1}\n{"n": true}\n', r"line 2: 'n' is True, which cannot stand in one column with 1"),
        ("a.jsonl", '{"n": "a"}\n{"n": "\\ud800"}\n', r"line 2: 'n' is '.ud800', which holds half of a surrogate"),
        ("a.jsonl", '{"n": 1}\n{"n": 100000000000000000000}\n', r"line 2: 'n' is 10+, which is too large"),
        ("a.parquet", "text\tlabel\n", r"a\.parquet is not a parquet file"),
    ],
)
def test_bad_files_are_refused_with_the_line(write, name, content, message):
    with pytest.raises(InputError, match=message):
        read_table(write(name, content))


def test_missing_files_and_folders_are_refused(tmp_path):
    with pytest.raises(InputError, match=r"b\.csv is missing"):
        read_table(tmp_path / "b.csv")
    (tmp_path / "c.csv").mkdir()
    with pytest.raises(InputError, match=r"c\.csv is a folder"):
        read_table(tmp_path / "c.csv")


def test_parquet_without_rows_or_with_twin_columns_is_refused(tmp_path):
    path = tmp_path / "a.parquet"
    pq.write_table(pa.table({"text": pa.array([], pa.string())}), path)
    with pytest.raises(InputError, match=r"a\.parquet has no rows"):
        read_table(path)
    pq.write_table(pa.table([pa.array([1]), pa.array([2])], names=["a", "a"]), path)
    with pytest.raises(InputError, match="the column 'a' occurs twice"):
        read_table(path)


def test_parquet_with_a_name_that_is_not_utf8_is_refused(tmp_path):
    path = tmp_path / "a.parquet"
    pq.write_table(pa.table({"café": ["a"]}), path)
    path.write_bytes(path.read_bytes().replace("é".encode(), b"\xc3\xff"))
    with pytest.raises(InputError, match="not a parquet file that can be read .*utf-8"):
        read_table(path)


def parquet(tmp_path, values, features=None):
    path = tmp_path / "a.parquet"
    Dataset.from_dict({"x": values}, features=features and Features({"x": features})).to_parquet(path)
    return open_table(path)


@pytest.mark.parametrize(
    ("values", "features", "expected"),
    [
        ([1, 0], ClassLabel(names=["no", "yes"]), ["yes", "no"]),
        ([2, 10], None, ["2", "10"]),
        ([2.0, -1.0], None, ["2", "-1"]),
        ([True, False], None, ["True", "False"]),
        (["a", " b"], None, ["a", " b"]),
        (["a", "b"], Value("large_string"), ["a", "b"]),
    ],
)
def test_labels_of_many_types_become_words(tmp_path, values, features, expected):
    assert parquet(tmp_path, values, features).words("x") == expected


def test_pandas_categories_become_words(tmp_path):
    pandas.DataFrame({"x": pandas.Categorical(["b", "a"])}).to_parquet(tmp_path / "a.parquet")
    assert open_table(tmp_path / "a.parquet").words("x") == ["b", "a"]


@pytest.mark.parametrize(
    ("values", "features", "message"),
    [
        ([1, -1], ClassLabel(names=["no", "yes"]), r"a\.parquet, row 2: the label \('x'\) is empty"),
        ([1, None], None, r"row 2: the label \('x'\) is empty"),
        ([None, None], None, r"row 1: the label \('x'\) is empty"),
        (["a", ""], None, r"row 2: the label \('x'\) is empty"),
        (["a", " \u00a0"], None, r"row 2: the label \('x'\) is empty"),
        (["a", "b\tc"], None, r"row 2: .* is 'b.tc', which predictions\.tsv cannot hold: give one without tabs"),
        (["a", "b\nc"], None, r"row 2: .* is 'b.nc', which predictions\.tsv cannot hold"),
        (["a", "b\r"], None, r"row 2: .* is 'b.r', which predictions\.tsv cannot hold"),
        (["a", "b\u2028c"], None, r"row 2: .* is 'b.u2028c', which predictions\.tsv cannot hold"),
        ([1.0, 0.5], None, r"row 2: the label \('x'\) is 0\.5, which names no class: .* set regression"),
        ([1.0, float("inf")], None, r"row 2: the label \('x'\) is inf, which names no class"),
        ([[1], [2]], None, r"row 1: the label \('x'\) is \[1\]: give a word or a number"),
    ],
)
def test_what_names_no_class_is_refused_with_the_row(tmp_path, values, features, message):
    with pytest.raises(InputError, match=message):
        parquet(tmp_path, values, features).words("x")


@pytest.mark.parametrize(
    ("ids", "names", "message"),
    [
        ([1, 2], ["no", "yes"], r"row 2: .* is 2, but the column has 2 names, for 0 to 1 \('no', 'yes'\): correct"),
        ([-2, 1], ["no", "yes"], r"row 1: .* is -2, but the column has 2 names, for 0 to 1"),
        ([0, 150], list(map(str, range(150))), r"row 2: .* is 150, .* 150 names, for 0 to 149 \('0', .*'4', \.\.\.\)"),
        ([0, -1], ["no", "yes"], r"row 2: .* is empty \(-1, not labeled\)"),
    ],
)
def test_ids_without_a_name_are_refused_with_the_row(tmp_path, ids, names, message):
    notes = Features({"x": ClassLabel(names=names)}).arrow_schema.metadata
    pq.write_table(pa.table({"x": ids}).replace_schema_metadata(notes), tmp_path / "a.parquet")
    for values in (open_table(tmp_path / "a.parquet").words, open_table(tmp_path / "a.parquet").numbers):
        with pytest.raises(InputError, match=r"a\.parquet, " + message):
            values("x")


def test_numbers_come_as_such_or_in_words_or_as_names(tmp_path, write):
    assert parquet(tmp_path, [1, 2]).numbers("x") == [1.0, 2.0]
    assert parquet(tmp_path, [0, 1], ClassLabel(names=["2.5", "7"])).numbers("x") == [2.5, 7.0]
    with pytest.raises(InputError, match=r"row 2: the label \('x'\) is empty \(-1, not labeled\)"):
        parquet(tmp_path, [0, -1], ClassLabel(names=["2.5", "7"])).numbers("x")
    assert open_table(write("a.tsv", "x\n4.750\n-1e2\n")).numbers("x") == [4.75, -100.0]


def exotic_columns():
    """Columns that `datasets` cannot hold, or not with those notes, by what they are."""
    text = pa.array(["a", "b"])
    notes = {"info": {"features": {"x": {"dtype": "string", "_type": "Value"}, "z": {"_type": "Nonesuch"}}}}
    yield "map", pa.table({"x": text, "z": pa.array([[("a", 1)], []], pa.map_(pa.string(), pa.int32()))})
    yield "twins", pa.table([text, text, text], names=["x", "z", "z"])
    yield "notes", pa.table({"x": text, "z": text}).replace_schema_metadata({"huggingface": json.dumps(notes)})
    if hasattr(pa, "uuid"):
        yield "uuid", pa.table({"x": text, "z": pa.array([bytes(16)] * 2, pa.uuid())})


@pytest.mark.parametrize(("name", "table"), list(exotic_columns()))
def test_parquet_columns_that_are_not_read_may_hold_anything(tmp_path, name, table):
    pq.write_table(table, tmp_path / "a.parquet")
    read = open_table(tmp_path / "a.parquet", usecols=["x", "missing"])
    assert read.texts("x") == ["a", "b"] and read.data.column_names == ["x"]
    with pytest.raises(InputError, match="no column 'missing': it has 'x', 'z'"):
        read.texts("missing")
    with pytest.raises(InputError, match="'z'"):
        open_table(tmp_path / "a.parquet")


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("a.jsonl", '{"x": "a", "z": 1}\n{"x": "b", "z": "c", "\\ud800": 1}\n{"x": "c", "z": [1]}\n'),
        ("a.csv", "x,z,,,z\na,,,,\nb,,,,\nc,,,,\n"),
        ("a.tsv", "z\tx\tz\n\ta\t\n\tb\t\n\tc\t\n"),
    ],
)
def test_columns_that_are_not_read_may_hold_anything(write, name, content):
    table = open_table(write(name, content), usecols=["x"])
    assert table.texts("x") == ["a", "b", "c"] and table.data.column_names == ["x"]
    with pytest.raises(InputError, match="no column 'y': it has .*'z'"):
        table.texts("y")
    with pytest.raises(InputError, match="twice|ud800"):
        open_table(write(name, content))


def test_messages_have_an_end(write):
    names = [f"{'x' * 500}{number}" for number in range(500)]
    table = open_table(write("a.csv", ",".join(names) + "\n" + ",".join(names[::-1])))
    for wrong in (
        lambda: table.texts("text"),
        lambda: table.numbers(names[0]),
        lambda: open_table(write("b.csv", ",".join(names) + "\na,b\n")),
        lambda: open_table(write("c.jsonl", json.dumps({"text": names}))).texts("text"),
        lambda: open_table(write("d.jsonl", json.dumps({"x": names}) + "\n" + json.dumps({"x": {"a": names}}))),
    ):
        with pytest.raises(InputError) as error:
            wrong()
        assert len(str(error.value)) < 2200


@pytest.mark.parametrize("bad", ['"good"', "NaN", "true", "[1]", '"inf"', '"nan"'])
def test_what_is_no_number_is_refused_with_the_line(write, bad):
    path = write("a.jsonl", f'{{"x": {bad}}}\n')
    with pytest.raises(InputError, match=r"a\.jsonl, line 1: the label \('x'\) is .*, which is not a number"):
        open_table(path).numbers("x")


def test_an_error_names_the_line_on_which_the_row_starts(write):
    table = open_table(write("a.csv", 'text,x\n"one\ntwo",1\nthree,\n'))
    assert [table.place(row) for row in range(2)] == [f"{table.source}, line 2", f"{table.source}, line 4"]
    with pytest.raises(InputError, match=r"a\.csv, line 4: the label \('x'\) is empty"):
        table.numbers("x")


def test_texts_must_be_texts(write):
    rows = [{"text": "a", "n": 1}, {"n": 2}]
    table = open_table(write("a.jsonl", "\n".join(map(json.dumps, rows))))
    with pytest.raises(InputError, match=r"a\.jsonl, line 2: there is no 'text' \(null or missing\)"):
        table.texts("text")
    with pytest.raises(InputError, match=r"a\.jsonl, line 1: 'n' is 1, which is not text"):
        table.texts("n")
    with pytest.raises(InputError, match=r"a\.jsonl has no column 'txt': it has 'text', 'n'\."):
        table.texts("txt")
