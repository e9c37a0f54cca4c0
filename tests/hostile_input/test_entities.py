"""Sentences, tags and spans that cannot be read or cannot be meant."""

import pytest
from helpers.hostile_input import DEEP, FINE, NOISE, entities, folder, lines, spans

ROWS = [
    entities("empty", b"", "bad.conll has no rows | give a file with data"),
    entities("noise", NOISE, "bad.conll, line 2: not UTF-8 | save the file"),
    entities("UTF-16", "cat O\n".encode("utf-16"), "line 1: not UTF-8 | save the file as UTF-8"),
    entities("a folder", folder, "bad.conll is a folder | give an existing file"),
    entities("no sentences", "-DOCSTART- O\n\n", "has no sentences | a token and its tag on each line"),
    entities("no tags", "cat\ndog\n", "line 1: the line 'cat' has one column | add the tags"),
    entities("a tag is missing", "cat O\ndog\n", "line 2: the line has 1 column, but line 1 has 2"),
    entities("tabs and spaces", "cat O O\ndog\tO\n", "line 2: the line has 2 columns | all by tabs, or all by spaces"),
    entities("a part of speech", "cat O\ndog NN\n", "line 2: 'NN' is not a tag | tag_column_number"),
    entities("a number", "cat 0\n", "line 1: '0' is not a tag | B- or I- and a type"),
    entities("no type", "cat B-\n", "line 1: 'B-' is not a tag"),
    entities("a type alone", "cat PER\n", "line 1: 'PER' is not a tag"),
    entities("no token", "cat O\n\tO\n", "line 2: the token is empty | an empty line between sentences"),
    entities("no such column", "cat O\n", "tag_column_number is 7 | 2 columns", options="--tag_column_number 7"),
    entities(
        "tokens are tags",
        "cat O\n",
        "line 1: column 2 of 2 would hold both | another token_column_number",
        options="--token_column_number 2",
    ),
    entities("no entities", "cat O\n", "line 1: there is no entity from here | nothing to learn"),
    entities("other types", "cat B-cat\n", "the teacher has 5 labels, but the data has 3"),
    entities("a table as CoNLL", FINE, "line 1: 'label' is not a tag"),
    entities(
        "unlabeled texts in another column",
        FINE,
        "bad.tsv has no column 'sentence': it has 'text', 'label' | with text_column",
        "bad.tsv",
        "--train_file GOOD/train.conll --unlabeled_file HERE/bad.tsv --text_column sentence",
    ),
    entities("not JSON", "cat O\n", "line 1: this is not JSON | one object per line", file="bad.jsonl"),
    entities("deep nesting", DEEP, "line 1: this is not JSON", file="bad.jsonl"),
    entities("noise as parquet", NOISE, "bad.parquet is not a parquet file", file="bad.parquet"),
    entities(
        "lines of neither form",
        lines({"words": ["cat"]}),
        "no column 'text': it has 'words' | tokens_column and tags_column, or with text_column and spans_column",
        file="bad.jsonl",
    ),
    entities("no tags in lines", lines({"tokens": ["cat"]}), "no column 'ner_tags'", file="bad.jsonl"),
    entities(
        "other numbers of tags",
        lines({"tokens": ["cat"], "ner_tags": ["O", "O"]}),
        "line 1: there are 1 tokens | 2 tags | one tag for each token",
        file="bad.jsonl",
    ),
    entities(
        "tags without names",
        lines({"tokens": ["cat"], "ner_tags": [1]}),
        "line 1, token 1: '1' is not a tag | ClassLabel",
        file="bad.jsonl",
    ),
    entities(
        "tokens in a text",
        lines({"tokens": "cat", "ner_tags": ["O"]}),
        "line 1: 'tokens' is 'cat' | a list of texts",
        file="bad.jsonl",
    ),
    entities("no spans", lines({"text": "cat"}), "no column 'spans'", file="bad.jsonl"),
    entities(
        "overlapping spans",
        spans((0, 3, "good")) + spans((0, 7, "good"), (4, 10, "bad")),
        "line 2: the spans 'the cat' (0 to 7, good) | 'cat is' (4 to 10, bad) overlap | leave one of them out",
        file="bad.jsonl",
    ),
    entities(
        "nested spans",
        spans((0, 7, "good"), (4, 7, "bad")),
        "line 1: the spans 'the cat' (0 to 7, good) and 'cat' | overlap",
        file="bad.jsonl",
    ),
    entities(
        "a span behind the text", spans((4, 99, "good")), "line 1: the span 4 to 99 | 15 characters", file="bad.jsonl"
    ),
    entities("an empty span", spans((4, 4, "good")), "the span 4 to 4 holds no text | exclusive", file="bad.jsonl"),
    entities("a span of a space", spans((3, 4, "good")), "the span 3 to 4 holds no text", file="bad.jsonl"),
    entities("a start in quotes", spans(("4", 7, "good")), "'spans' holds | give [{", file="bad.jsonl"),
    entities("a label with a tab", spans((4, 7, "a\tb")), "'a\\tb' | without tabs", file="bad.jsonl"),
    entities("a label of a number", spans((4, 7, 1)), "'spans' holds | give [{", file="bad.jsonl"),
    entities("text of a number", lines({"text": 1, "spans": []}), "line 1: 'text' is 1 | quotes", file="bad.jsonl"),
]


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.name)
def test_bad_input_is_one_message_and_leaves_all_as_it_was(row, refused):
    refused(row)
