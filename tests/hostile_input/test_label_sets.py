"""Several labels per text that cannot be read or cannot be meant."""

import pytest
from helpers.hostile_input import DEEP, NOISE, TEACHER, Row, label_sets, lines, text_lines

FINE = text_lines(("the cat", "good,bad"), ("a dog", "good"), ("a bird", ""))

ROWS = [
    label_sets("empty", b"", "bad.tsv has no rows | give a file with data"),
    label_sets("noise", NOISE, "bad.tsv, line 2: not UTF-8 | save the file"),
    label_sets("no labels", text_lines(("the cat", ""), ("a dog", " ")), "no text has a label | give labels"),
    label_sets("no such column", FINE.replace("label", "stars"), "no column 'label' | it has 'text', 'stars'"),
    label_sets("another separator", FINE.replace(",", ";"), "',' separates labels in no row | set label_separator"),
    label_sets("a label twice", FINE.replace("good,bad", "bad,bad"), "line 2: the label 'bad' is there twice | once"),
    label_sets("an empty label", FINE.replace("good,bad", "good,"), "line 2: a label is empty | leave it out"),
    label_sets("one label", FINE.replace("good,bad", "good"), "there is one label, 'good' | two or more"),
    label_sets(
        "null", lines({"text": "a", "label": None}), "line 1: there are no labels | unlabeled_file", "bad.jsonl"
    ),
    label_sets("a number", lines({"text": "a", "label": 3}), "the labels ('label') are 3 | give a list", "bad.jsonl"),
    label_sets("a fraction", lines({"text": "a", "label": [0.5]}), "a label is 0.5 | whole numbers", "bad.jsonl"),
    label_sets("a mapping", lines({"text": "a", "label": {"b": 1}}), "are {'b': 1} | give a list", "bad.jsonl"),
    label_sets("lists in lists", lines({"text": "a", "label": [["b"]]}), "a label is ['b'] | give words", "bad.jsonl"),
    label_sets("deep nesting", DEEP, "line 1: this is not JSON", "bad.jsonl"),
    label_sets(
        "words and numbers", lines({"text": "a", "label": [1]}, {"text": "b", "label": ["x"]}), "line 2", "bad.jsonl"
    ),
    label_sets(
        "a header that there is not",
        "the cat\tgood,bad\n",
        "bad.tsv has no rows",  # the only line is taken for the header
    ),
    label_sets(
        "a row for a header",
        "the cat\tgood,bad\na dog\tbad\n",
        "bad.tsv has no column 'text': it has 'the cat', 'good,bad' | text_column (or give column_names",
    ),
    label_sets(
        "other numbers of names",
        "the cat\tgood,bad\tx\n",
        "line 1: the row has 3 fields, not 2 ('text', 'label') | name all columns with column_names, or",
        options="--column_names text,label",
    ),
    label_sets(
        "a header that there is",
        FINE,
        "line 1 is a header line ('text', 'label') | delete that line, or leave column_names out",
        options="--column_names text,label",
    ),
    label_sets("no names for the columns", FINE, "no column 'text' | it has 'a', 'b'", options="--column_names a,b"),
    label_sets(
        "an id too high",
        FINE.replace("good,bad", "0,2"),
        "line 2: the label ('label') is '2' | names.txt names 2 labels, with the ids 0 to 1 | correct",
        options="--label_names_file HERE/names.txt",
        names="bad\ngood",
    ),
    label_sets(
        "not in the list",
        FINE,
        "line 2: the label ('label') is 'good' | names.txt names 2 labels: 'bad', 'ugly'",
        options="--label_names_file HERE/names.txt",
        names="bad\nugly\n",
    ),
    label_sets("no file of names", FINE, "none.txt: No such file", options="--label_names_file HERE/none.txt"),
    label_sets(
        "names twice",
        FINE,
        "names.txt, line 2: the label 'bad' is there twice",
        options="--label_names_file HERE/names.txt",
        names="bad\nbad\n",
    ),
    label_sets(
        "neither 0 nor 1",
        "text\tgood\tbad\na\t1\t0\nb\t2\t0\n",
        "line 3: 'good' is '2', which is neither 0 nor 1 | unlabeled_file",
        options="--label_columns good,bad",
    ),
    label_sets(
        "a blank flag",
        "text\tgood\tbad\na\t1\t0\nb\t\t0\n",
        "line 3: 'good' is empty, which is neither 0 nor 1",
        options="--label_columns good,bad",
    ),
    label_sets(
        "no flag is 1", "text\tgood\tbad\na\t0\t0\n", "no text has a label", options="--label_columns good,bad"
    ),
    label_sets("a flag that is not there", FINE, "no column 'good'", options="--label_columns good,bad"),
    label_sets(
        "a flag that is the text",
        FINE,
        "text_column and label_columns both name 'text' | two different columns",
        options="--label_columns good,text",
    ),
    label_sets("and numbers", FINE, "multi_label and regression are both set", options="--regression"),
    label_sets(
        "without multi_label", FINE, "multi_label is not set", options="--multi_label false --label_separator ;"
    ),
    label_sets(
        "smoothing",
        FINE,
        "label_smoothing_factor is set, but a text has several",
        options="--label_smoothing_factor 0.1",
    ),
    label_sets(
        "confidence",
        FINE,
        "no classes to be confident of",
        options="--unlabeled_file GOOD/train.tsv --unlabeled_min_confidence 0.9 --teacher_cache_dir HERE/cache",
    ),
    label_sets("a teacher of one label", FINE, "the teacher gives one class per text | several labels per text"),
    label_sets(
        "a score that there is not",
        FINE,
        "metric_for_best_model is accuracy | f1_micro",
        options="--metric_for_best_model accuracy",
    ),
    label_sets(
        "predictions without thresholds",
        FINE,
        "the teacher gives one class per text",  # which comes first
        options="--do_predict --test_file GOOD/validation.tsv",
    ),
    Row(
        "label sets: a GLUE task",
        TEACHER,
        "multi_label is for your own data | task_name sst2",
        "--model_name_or_path GOOD/teacher --task_name sst2 --multi_label --do_train --output_dir HERE/out",
        alone=True,
    ),
]


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.name)
def test_bad_input_is_one_message_and_leaves_all_as_it_was(row, refused):
    refused(row)
