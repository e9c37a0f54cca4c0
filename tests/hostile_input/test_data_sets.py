"""Data sets by name that cannot be loaded or cannot be meant."""

import pickle

import pytest
from datasets import DatasetDict
from helpers.files import Touch
from helpers.hostile_input import FINE, GLUE, NOISE, QUICK, SQUAD, STUDENT, TEACHER, Row, cut, folder, holding, saying
from helpers.named_data import questions, texts

MODELS = {
    TEACHER: "--model_name_or_path GOOD/teacher",
    GLUE: f"--teacher_model_name_or_path GOOD/teacher {STUDENT}",
    SQUAD: f"--teacher_model_name_or_path GOOD/answers {STUDENT}",
}


def named(name, words, make=None, main=GLUE, options="", where="HERE/data"):
    command = f"{MODELS[main]} --dataset_name {where} --max_seq_length 14 {QUICK} {options}"
    return Row(f"data set: {name}", main, words, command, {"data": make} if make else {}, alone=True)


def saved(data, *changes):
    def make(path, good):
        data().save_to_disk(path)
        for change in changes:
            change(path)

    return make


def one():
    return texts(8)


def several():
    return DatasetDict(train=texts(8), test=texts(4))


def file(name, content):
    def make(path, good):
        path.mkdir()
        (path / name).write_bytes(content if isinstance(content, bytes) else content.encode())

    return make


def pickled(path, good):
    path.mkdir()
    (path / "train.pkl").write_bytes(pickle.dumps(Touch(str(path.parent / "marker"))))


def without_rows(path):
    (path / "data-00000-of-00001.arrow").unlink()


REVIEW = "--text_column review"
ROWS = [
    named("unknown", "dataset_name is me/nowhere, which cannot be loaded | check the name", where="me/nowhere"),
    named("no such folder", "which cannot be loaded | /nowhere | or give a local folder", where="HERE/nowhere"),
    named("no name", "be loaded | alphanumeric | check the name", where="a!b", main=TEACHER),
    named("a long name", "dataset_name is xxx | cannot be loaded", where="x" * 300),
    named("a format", "dataset_name is parquet, which is a file format | train_file", where="parquet"),
    named("a file", "train.tsv, which is a file | give the file as train_file", where="GOOD/train.tsv"),
    named("an empty folder", "be loaded | doesn't contain any data files | save_to_disk", folder),
    named("a pickle", "be loaded | No (supported) data files | save_to_disk", pickled),
    named("with files", "but train_file is set as well", options="--train_file GOOD/train.tsv", main=SQUAD),
    named("with a GLUE task", "task_name is rte, but dataset_name is set as well", options="--task_name rte"),
    named("with the folder of SQuAD", "data_dir is set, but dataset_name", options="--data_dir GOOD", main=SQUAD),
    named(
        "a branch of a folder", "dataset_revision is set | leave it out", saved(one), options="--dataset_revision x"
    ),
    named("a configuration of a saved set", "saves one configuration", saved(one), options="--dataset_config_name x"),
    named(
        "an unknown configuration of files",
        "'x' not found. Available: ['default']",
        file("train.csv", FINE.replace("\t", ",")),
        options="--dataset_config_name x",
    ),
    named(
        "no such column", "train has no column 'text': it has 'review', 'label' (ClassLabel) | text_column", saved(one)
    ),
    named("numbers as texts", "'row' does not hold texts | 'row' (int32)", saved(one), options="--text_column row"),
    named(
        "test only",
        "no split 'validation': it has 'train', 'test' | validation_split_name",
        saved(several),
        main=TEACHER,
        options=f"{REVIEW} --do_eval",
    ),
    named("texts for questions", "no column 'id' | id, context, question and answers", saved(one), main=SQUAD),
    named("questions for texts", "no column 'text': it has 'id', | 'answers' (dict)", saved(lambda: questions(4))),
    named(
        "scores that are words",
        "train, row 1 | 'bad', which is not a number",
        saved(one),
        options=f"{REVIEW} --regression",
    ),
    named(
        "saved without its rows",
        "be loaded | save the data set again",
        saved(one, without_rows),
        options=REVIEW,
    ),
    named("saved and cut off", "be loaded | save the data set again", saved(one, cut("*.arrow")), options=REVIEW),
    named("saved as noise", "be loaded", saved(one, holding("data-00000-of-00001.arrow", NOISE)), options=REVIEW),
    named("a broken state.json", "be loaded", saved(one, holding("state.json", "{")), options=REVIEW),
    named("a state.json of nothing", "be loaded", saved(one, holding("state.json", "{}")), options=REVIEW),
    named("a broken dataset_info.json", "be loaded", saved(one, holding("dataset_info.json", "[")), options=REVIEW),
    named(
        "unknown types",
        "be loaded | Evil",
        saved(one, saying("dataset_info.json", features={"review": {"dtype": "string", "_type": "Evil"}})),
        options=REVIEW,
    ),
    named("a split that is gone", "be loaded", saved(several, saying("dataset_dict.json", splits=["dev"]))),
    named("no splits", "has no splits", saved(several, saying("dataset_dict.json", splits=[]))),
    named("a list of splits that is none", "be loaded", saved(several, holding("dataset_dict.json", "[]"))),
    named("csv of bytes", "train.csv, line 2: not UTF-8 | save the file as UTF-8", file("train.csv", NOISE)),
    named("parquet that is cut off", "be loaded", file("train.parquet", b"PAR1" + bytes(40))),
    named("README.md with broken YAML", "be loaded", file("README.md", "---\nconfigs: [\n---\n")),
]


@pytest.fixture(autouse=True)
def cache(tmp_path_factory, monkeypatch):
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path_factory.mktemp("cache"))


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.name)
def test_bad_input_is_one_message_and_leaves_all_as_it_was(row, refused):
    refused(row)
