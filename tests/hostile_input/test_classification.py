"""Texts and labels that cannot be read or cannot be meant."""

import pyarrow as pa
import pytest
from datasets import ClassLabel, Features, Value
from helpers.hostile_input import (
    DEEP,
    FINE,
    GLUE,
    NOISE,
    QUICK,
    TEACHER,
    Row,
    folder,
    lines,
    parquet,
    squad,
    text_lines,
    texts,
)


def truncated_parquet(path, good):
    parquet()(path, good)
    path.write_bytes(path.read_bytes()[:-50])


def damaged_parquet(path, good):
    parquet()(path, good)
    content = path.read_bytes()
    path.write_bytes(content[:4] + bytes(40) + content[44:])


def no_utf8(table):
    offsets, content = pa.py_buffer(b"\0\0\0\0\1\0\0\0\2\0\0\0"), pa.py_buffer(b"\xe9\xe9")
    return table.slice(0, 2).set_column(0, "text", pa.Array.from_buffers(pa.string(), 2, [None, offsets, content]))


def named_classes(table):
    features = Features({"label": ClassLabel(names=["bad", "good"]), "text": Value("string")})
    return table.replace_schema_metadata(features.arrow_schema.metadata)


ROWS = [
    texts("empty", b"", "bad.tsv has no rows | give a file with data"),
    texts("only a header", "text\tlabel\n", "bad.tsv has no rows | give a file with data"),
    texts("binary", NOISE, "bad.tsv, line 2: not UTF-8 | save the file as UTF-8"),
    texts("UTF-16", FINE.encode("utf-16"), "bad.tsv, line 1: not UTF-8 | save the file as UTF-8"),
    texts("UTF-16 without a mark", FINE.encode("utf-16-le"), "line 1: there is a NUL | damaged or not UTF-8"),
    texts("Latin-1", text_lines(("le café", "good")).encode("latin-1"), "line 2: not UTF-8 | as UTF-8"),
    texts("NUL", FINE.replace("dog", "d\0g"), "bad.tsv, line 3: there is a NUL | damaged"),
    texts("too few fields", FINE + "a bird\n", "bad.tsv, line 4 | 1 fields, not 2 | tabs separate fields"),
    texts("too many fields", FINE + "a\tb\tbad\n", "bad.tsv, line 4 | 3 fields, not 2 | tabs separate"),
    texts("blank line", FINE.replace("\na", "\n\na"), "bad.tsv, line 3: the line is blank | delete it"),
    texts("header twice", "text\tlabel\ttext\na\tb\tc\n", "'text' occurs twice | its own name"),
    texts(
        "no such column",
        FINE.replace("label", "stars"),
        "no column 'label' | it has 'text', 'stars' | with label_column",
    ),
    texts(
        "a label for a text",
        FINE,
        "text_column and label_column both name 'label' | two different columns",
        options="--text_column label",
    ),
    texts(
        "a label for the second text",
        FINE,
        "text_pair_column and label_column both name 'label'",
        options="--text_pair_column label",
    ),
    texts(
        "one text for both of a pair",
        FINE,
        "text_column and text_pair_column both name 'text'",
        options="--text_pair_column text",
    ),
    texts(
        "a label for the group",
        FINE,
        "label_column and group_column both name 'label'",
        options="--text_column a --text_pair_column b --group_column label",
    ),
    texts("missing label", FINE + "a bird\t\n", "bad.tsv, line 4: the label ('label') is empty | leave the row out"),
    texts("blank label", FINE + "a bird\t \n", "bad.tsv, line 4: the label ('label') is empty | leave the row out"),
    texts("label of two lines", 'text,label\na,"b\nc"\n', "line 2 | 'b\\nc' | without tabs", file="bad.csv"),
    texts("no text at all", text_lines(("", "good"), (" ", "bad")), "bad.tsv: all texts ('text') are blank | another"),
    texts("header in the middle", FINE + FINE, "bad.tsv, line 4 | repeats the header | delete it"),
    texts(
        "scores as classes",
        text_lines(*(("a", f"0.{number}") for number in range(1000, 2200))),
        "1200 rows name 1200 classes | set regression | label_column",
    ),
    texts("ids as classes", text_lines(*(("a", f"id{n}") for n in range(12))), "12 classes | label_column"),
    texts("commas in a tsv file", FINE.replace("\t", ","), "it has 'text,label' | .tsv file has tabs"),
    texts("tsv with all in quotes", '"text"\t"label"\n"a"\t"b"\n', "names are in quotes | set quoting to csv"),
    texts("tsv with tabs in quotes", 'text\tlabel\n"a\tb"\tc\n', "line 2 | 3 fields, not 2 | set quoting to csv"),
    texts(
        "csv with quotes as text", 'text,label\n"a" b,c\n', "line 2 | cannot be read | set quoting to none", "bad.csv"
    ),
    texts("a text of 1 MB for a score", text_lines(("a", "x" * 10**6)), "line 2 | xxx...xxx", options="--regression"),
    texts("csv by semicolons", "text;label\na;b;c\n", "line 2 | quote a field with semicolons", file="bad.csv"),
    texts("one class only", text_lines(("a", "good"), ("b", "good")), "every label | 'good' | give two classes"),
    texts("no number", FINE, "line 2: the label ('label') is 'good' | not a number", options="--regression"),
    texts("infinite", text_lines(("a", "1e999")), "'1e999' | not a number", options="--regression"),
    texts("open quote", 'text,label\n"a,good\nb,bad\n', "bad.csv, line 2 | cannot be read", file="bad.csv"),
    texts(
        "JSON broken", '{"text": "a", "label": 1}\n{"text": \n', "line 2: this is not JSON | column", file="a.jsonl"
    ),
    texts("JSON list", '[{"text": "a"}]\n', "line 1: this is a list | give one object per line", file="a.json"),
    texts("JSON deep without end", DEEP + "\n", "line 1: this is not JSON | give one object per line", file="a.jsonl"),
    texts(
        "JSON deep",
        lines({"text": "a", "label": 1}) + f'{{"text": "b", "label": {"[" * 400}{"]" * 400}}}\n',
        "a.jsonl | 'label'",
        file="a.jsonl",
    ),
    texts("JSON digits", f'{{"text": "a", "label": {"1" * 5000}}}\n', "line 1: this is not JSON", file="a.jsonl"),
    texts(
        "JSON key twice",
        '{"text": "a", "text": "b", "label": "good"}\n{"text": "c", "label": "bad"}\n',
        "line 1 | 'text' | twice",
        file="a.jsonl",
    ),
    texts(
        "JSON mixed",
        lines({"text": "a", "label": 1}, {"text": "b", "label": "x"}),
        "line 2 | 'x' | one kind",
        file="a.jsonl",
    ),
    texts(
        "JSON number for a text",
        lines({"text": 1, "label": 1}, {"text": 2, "label": 0}),
        "line 1: 'text' is 1 | not text | in quotes",
        file="a.jsonl",
    ),
    texts(
        "JSON null for a text",
        lines({"text": None, "label": 1}, {"text": "b", "label": 0}),
        "line 1 | no 'text' | give a text",
        file="a.jsonl",
    ),
    texts(
        "JSON half a character",
        '{"text": "\\ud800", "label": 1}\n{"text": "b", "label": 0}\n',
        "a.jsonl | 'text'",
        file="a.jsonl",
    ),
    texts("parquet truncated", truncated_parquet, "a.parquet is not a parquet file", file="a.parquet"),
    texts("parquet damaged", damaged_parquet, "a.parquet is not a parquet file", file="a.parquet"),
    texts(
        "parquet with an id too high",
        parquet(named_classes, label=[0, 2], text=["a", "b"]),
        "row 2 | is 2, but | 2 names",
        "a.parquet",
    ),
    texts(
        "parquet with an id below",
        parquet(named_classes, label=[0, -2], text=["a", "b"]),
        "row 2 | is -2, but | 2 names",
        "a.parquet",
    ),
    texts("parquet of text", FINE, "a.parquet is not a parquet file", file="a.parquet"),
    texts("parquet not UTF-8", parquet(no_utf8), "a.parquet | UTF-8", file="a.parquet"),
    texts("parquet of bytes", parquet(text=[b"a", b"b"], label=[1, 0]), "row 1: 'text' is b'a'", file="a.parquet"),
    texts(
        "parquet with broken notes",
        parquet(lambda table: table.replace_schema_metadata({"huggingface": "{"})),
        "a.parquet",
        file="a.parquet",
    ),
    texts("a folder", folder, "bad.tsv is a folder | give an existing .tsv file"),
    texts("unknown suffix", FINE, "bad.xlsx has the suffix '.xlsx' | give a .csv", file="bad.xlsx"),
    texts(
        "CoNLL", "cat O\n", "has the suffix '.conll' | for entities in CoNLL files, set task_name to ner", "bad.conll"
    ),
    texts(
        "tokens", lines({"tokens": ["a"], "ner_tags": ["O"]}), "or, for entities, set task_name to ner", "bad.jsonl"
    ),
    texts("SQuAD", squad(), "no column 'text' | or, for questions, set task_name to squad", "bad.json"),
    Row(
        "texts: test file without texts",
        GLUE,
        "bad.tsv has no column 'text' | it has 'sentence', 'label'",
        "--do_predict --test_file HERE/bad.tsv",
        {"bad.tsv": FINE.replace("text", "sentence")},
    ),
    texts(
        "unlabeled texts in another column",
        FINE.replace("text", "sentence"),
        "bad.tsv has no column 'text': it has 'sentence', 'label' | the text columns of the training data",
        options="--train_file GOOD/train.tsv --unlabeled_file HERE/bad.tsv",
    ),
    texts(
        "a label with a mistake",
        text_lines(*[("a", "good"), ("b", "bad")] * 8, ("c", "goood")),
        "the teacher has 2 labels, but the data has 3 | also has 'goood': correct that, or fine-tune",
    ),
    texts("missing", FINE, "none.tsv is missing | give an existing .tsv file", options="--train_file HERE/none.tsv"),
    Row(
        "texts: unknown label in validation",
        TEACHER,
        "bad.tsv, line 3 | 'fine' | the training data have 2 labels: 'bad', 'good'",
        "--validation_file HERE/bad.tsv --do_eval",
        {"bad.tsv": text_lines(("a cat", "good"), ("a dog", "fine"))},
    ),
    Row(
        "texts: validation without a label",
        GLUE,
        "bad.tsv, line 2 | is empty | leave the row out",
        "--validation_file HERE/bad.tsv --do_eval",
        {"bad.tsv": text_lines(("a cat", ""))},
    ),
    Row(
        "texts: CoLA's folder without its files",
        TEACHER,
        "train.tsv is missing | holds nothing | CoLA/train.tsv",
        f"--task_name cola --data_dir HERE/glue --model_name_or_path GOOD/teacher --max_seq_length 32 {QUICK}",
        {"glue/CoLA": folder},
        alone=True,
    ),
]


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.name)
def test_bad_input_is_one_message_and_leaves_all_as_it_was(row, refused):
    refused(row)
