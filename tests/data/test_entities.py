"""Sentences with entities from CoNLL files, JSON lines, parquet and data sets by name; and spans as words."""

import json

import pytest
from datasets import ClassLabel, Dataset, DatasetDict, Features, LargeList, List, Value
from helpers.named_data import Hub

from ckd_trainer.data.entities import load_entities
from ckd_trainer.data.ner_arguments import NerArguments
from ckd_trainer.data.texts_with_spans import words_of
from ckd_trainer.data.unlabeled import check_unlabeled
from ckd_trainer.utils.errors import InputError

TOKENS = [["Ann", "Lee", "saw", "Rome"], ["no", "one"]]
TAGS = [["B-PER", "I-PER", "O", "B-LOC"], ["O", "O"]]
NAMES = ["O", "B-LOC", "I-LOC", "B-PER", "I-PER"]


def conll(path):
    rows = ["\n".join(map(" ".join, zip(*row, strict=True))) for row in zip(TOKENS, TAGS, strict=True)]
    path.write_text("\n\n".join(rows) + "\n")


def lines(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def spans(*rows):
    return [dict(zip(("start", "end", "label"), row, strict=True)) for row in rows]


TEXTS = [
    {"text": "Ann Lee saw Rome", "spans": spans((0, 7, "PER"), (12, 16, "LOC"))},
    {"text": "no one", "spans": []},
]


def load(path, splits=("train",), **options):
    return load_entities(NerArguments(train_file=str(path), **options), seed=0, splits=splits)


def columns(data):
    return {name: data[name][:] for name in data.column_names}


EXPECTED = {
    "text": ["Ann Lee saw Rome", "no one"],
    "starts": [[0, 4, 8, 12], [0, 3]],
    "ends": [[3, 7, 11, 16], [2, 6]],
    "tags": [[3, 4, 0, 1], [0, 0]],
}


@pytest.mark.parametrize("form", ["conll", "train", "jsonl", "json", "parquet", "texts.jsonl", "texts.parquet"])
def test_all_forms_hold_the_same(tmp_path, form):
    path = tmp_path / f"a.{form}"
    rows = TEXTS if "texts" in form else [{"tokens": t, "ner_tags": n} for t, n in zip(TOKENS, TAGS, strict=True)]
    if form in ("conll", "train"):
        conll(path)
    elif form.endswith("parquet"):
        Dataset.from_list(rows).to_parquet(path)
    else:
        lines(path, rows)
    task = load(path)
    assert task.label_names == NAMES and columns(task.train) == EXPECTED
    test = load_entities(NerArguments(train_file=str(path), test_file=str(path)), seed=0, splits=["test"]).test[""]
    assert columns(test) == {name: value for name, value in EXPECTED.items() if name != "tags"}


def class_labels(names, kind=List):
    features = Features({"tokens": kind(Value("string")), "ner_tags": kind(ClassLabel(names=names))})
    numbers = [[names.index(tag) for tag in row] for row in TAGS]
    return Dataset.from_dict({"tokens": TOKENS, "ner_tags": numbers}, features=features)


def test_the_hub_with_the_names_of_its_labels(tmp_path, monkeypatch):
    data = class_labels(["O", "B-PER", "I-PER", "B-LOC", "I-LOC", "B-MISC", "I-MISC"])
    hub = Hub(monkeypatch, DatasetDict(train=data, validation=data, test=data.remove_columns("ner_tags")))
    task = load_entities(NerArguments(dataset_name="me/data", dataset_revision="refs/convert/parquet"), seed=0)
    assert hub.asked == [("me/data", None, {"revision": "refs/convert/parquet"})]
    assert task.label_names == ["O", "B-LOC", "I-LOC", "B-MISC", "I-MISC", "B-PER", "I-PER"]
    assert task.train["tags"][0] == [5, 6, 0, 1] == task.validation[""]["tags"][0]
    assert task.test[""].column_names == ["text", "starts", "ends"]
    data.to_parquet(tmp_path / "a.parquet")  # which holds the names as well
    assert load(tmp_path / "a.parquet").train["tags"][:] == task.train["tags"][:]
    class_labels(NAMES, LargeList).to_parquet(tmp_path / "b.parquet")
    assert columns(load(tmp_path / "b.parquet").train) == EXPECTED


def test_spans_of_a_folder(tmp_path):
    DatasetDict(train=Dataset.from_list(TEXTS)).save_to_disk(tmp_path / "saved")
    arguments = NerArguments(dataset_name=str(tmp_path / "saved"))
    assert columns(load_entities(arguments, seed=0, splits=["train"]).train) == EXPECTED


@pytest.mark.parametrize("form", ["file", "named"])
@pytest.mark.parametrize(
    ("options", "without", "text"),
    [
        ({}, (), "a b"),
        ({"text_column": "letter"}, (), "Bo left"),
        ({"spans_column": "ents"}, (), "Ann left"),
        ({"text_column": "letter", "tokens_column": "words"}, (), "c d"),
        ({"text_column": "letter"}, ("spans",), "a b"),  # the column of unlabeled texts
        ({}, ("ner_tags",), "Ann left"),
    ],
)
def test_tokens_or_texts_where_a_table_has_both(tmp_path, form, options, without, text):
    row = {"tokens": ["a", "b"], "words": ["c", "d"], "ner_tags": ["B-X", "O"], "text": "Ann left"}
    row |= {"letter": "Bo left", "spans": spans((0, 3, "PER")), "ents": spans((0, 2, "PER"))}
    rows = [{name: value for name, value in row.items() if name not in without}]
    if form == "file":
        task = load(lines(tmp_path / "a.jsonl", rows), **options)
    else:
        Dataset.from_list(rows).save_to_disk(tmp_path / "saved")
        task = load_entities(NerArguments(dataset_name=str(tmp_path / "saved"), **options), seed=0, splits=["train"])
    assert task.train["text"][:] == [text]


def test_samples_and_types_of_unlabeled_runs(tmp_path):
    path = lines(tmp_path / "a.jsonl", TEXTS * 5)
    arguments = NerArguments(train_file=str(path), validation_file=str(path), max_train_samples=3, max_eval_samples=2)
    task = load_entities(arguments, seed=0, splits=["train", "validation"])
    assert (len(task.train), len(task.validation[""])) == (3, 2)
    alone = NerArguments(validation_file=str(path), unlabeled_file=str(path))
    task = load_entities(alone, seed=0, splits=["train", "validation"])
    assert task.train is None and task.label_names == NAMES


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("Ann's mail: ann.lee_2@mail.org!", "Ann ' s mail : ann . lee_2 @ mail . org !"),
        ("a\tb\n\u00a0c", "a b c"),
        ("na\u0308hme 12.5", "na\u0308hme 12 . 5"),
        ("\u6771\u4eac tower \uc11c\uc6b8", "\u6771 \u4eac tower \uc11c \uc6b8"),
        ("\u0939\u093f\u0928\u094d\u0926\u0940", "\u0939\u093f\u0928\u094d\u0926\u0940"),  # one word, with vowel signs
        ("", ""),
    ],
)
def test_words_of_a_text(text, words):
    assert [text[start:end] for start, end in words_of(text)] == words.split()


def test_spans_inside_words_are_warned_of(tmp_path, caplog):
    rows = [
        {"text": "pay 20USD now", "spans": spans((4, 6, "NUMBER"), (6, 9, "UNIT"))},
        {"text": "an McSmith ", "spans": spans((5, 11, "NAME"))},
        {"text": " Ann  x", "spans": spans((0, 6, "NAME"))},  # spaces around it do not count
    ]
    task = load(lines(tmp_path / "a.jsonl", rows))
    names = [[task.label_names[tag] for tag in row] for row in task.train["tags"]]
    assert names == [["O", "B-NUMBER", "O"], ["O", "B-NAME"], ["B-NAME", "O"]]
    assert (
        "a.jsonl, line 1: the span '20' (4 to 6, NUMBER) begins or ends inside a word (spans like this: 3)"
        in caplog.text
    )


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (spans((0, 3, "A"), (2, 5, "B")), "line 2: the spans 'Ann' (0 to 3, A) and 'n L' (2 to 5, B) overlap"),
        (spans((0, 7, "A"), (4, 7, "B")), "line 2: the spans 'Ann Lee' (0 to 7, A) and 'Lee' (4 to 7, B) overlap"),
        (spans((0, 3, "A"), (0, 3, "A")), "overlap"),
        (spans((0, 99, "A")), "line 2: the span 0 to 99 holds no text (the text has 16 characters)"),
        (spans((3, 3, "A")), "the span 3 to 3 holds no text"),
        (spans((3, 4, "A")), "the span 3 to 4 holds no text"),
        (spans((-1, 4, "A")), "the span -1 to 4"),
        (spans((0, 3, "")), "the label of the span 0 to 3 is ''"),
        (spans((0, 3, "a\tb")), "the label of the span 0 to 3 is 'a\\tb'"),
        (spans((0, None, "A")), "line 2: 'spans' holds {'end': None, 'label': 'A', 'start': 0}: give [{"),
        (None, "line 2: 'spans' is None: give [{"),
        ([[0, 3, "A"]], "line 2: 'spans' is [[0, 3, 'A']], which holds values of several kinds"),
        ([[0, 3, "A"]], 'one column: give [{"start": 0, "end": 5, "label": "PER"}]'),
        ([["Ann", "A"]], 'give [{"start": 0, "end": 5, "label": "PER"}]'),
    ],
)
def test_spans_that_are_refused(tmp_path, given, message):
    path = lines(tmp_path / "a.jsonl", [TEXTS[0], {"text": "Ann Lee saw Rome", "spans": given}])
    with pytest.raises(InputError) as refused:
        load(path)
    assert message in str(refused.value)


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        (
            [{"tokens": ["a"], "ner_tags": ["O", "O"]}],
            "line 1: there are 1 tokens ('tokens'), but 2 tags ('ner_tags')",
        ),
        ([{"tokens": ["a"], "ner_tags": ["X"]}], "line 1, token 1: 'X' is not a tag"),
        (
            [{"tokens": ["a"], "ner_tags": [3]}],
            "line 1, token 1: '3' is not a tag: .*numbers need the names of a Class",
        ),
        ([{"tokens": [None], "ner_tags": ["O"]}], "line 1, token 1: 'tokens' holds None: give a text in quotes"),
        ([{"tokens": "a b", "ner_tags": ["O"]}], "line 1: 'tokens' is 'a b': give a list of texts"),
        ([{"tokens": ["a"], "ner_tags": "O"}], "line 1: 'ner_tags' is 'O': give a list of tags"),
        ([{"tokens": ["a"], "tags": ["O"]}], "has no column 'ner_tags': it has 'tokens', 'tags'; name .* tags_column"),
        ([{"words": ["a"]}], "has no column 'text': it has 'words'; name the columns with tokens_column"),
        ([{"text": "a"}], "has no column 'spans': it has 'text'; name .* or with text_column and spans_column"),
        ([{"tokens": ["a"], "ner_tags": ["O"]}], "line 1, token 1: there is no entity from here to the end"),
        ([{"tokens": ["\ud800"], "ner_tags": ["B-X"]}], "line 1: 'tokens' is .* half of a surrogate pair"),
    ],
)
def test_tables_that_are_refused(tmp_path, rows, message):
    with pytest.raises(InputError, match=message.replace("(", r"\(").replace(")", r"\)")):
        load(lines(tmp_path / "a.jsonl", rows))


def test_types_that_training_does_not_know(tmp_path):
    conll(tmp_path / "a.conll")
    (tmp_path / "b.conll").write_text("x O\ny B-ORG\n")
    arguments = NerArguments(train_file=str(tmp_path / "a.conll"), validation_file=str(tmp_path / "b.conll"))
    with pytest.raises(
        InputError, match="b.conll, line 2: 'ORG' is not an entity type of the training data .'LOC', 'PER'.: correct"
    ):
        load_entities(arguments, seed=0, splits=["train", "validation"])
    (tmp_path / "b.conll").write_text("x O\ny B-Per\n")
    with pytest.raises(
        InputError, match=r"'Per' is not an entity type .*: correct it, or add it to them\. Write it as 'PER'"
    ):
        load_entities(arguments, seed=0, splits=["train", "validation"])
    with pytest.raises(InputError, match="test_file is not set, but the test set is needed"):
        load_entities(arguments, seed=0, splits=["test"])


def test_a_missing_column_of_unlabeled_texts_leads_to_its_option(tmp_path):
    DatasetDict(train=Dataset.from_dict({"body": ["a"]})).save_to_disk(tmp_path / "saved")
    lines(tmp_path / "a.jsonl", [{"body": "a"}])
    for option, name in (("unlabeled_file", "a.jsonl"), ("unlabeled_dataset_name", "saved")):
        arguments = NerArguments(train_file="a.conll", **{option: str(tmp_path / name)})
        with pytest.raises(InputError, match="has no column 'text': it has 'body'; .* texts with text_column"):
            check_unlabeled(arguments, {"text": "text"})
