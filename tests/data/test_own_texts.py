"""Texts and labels of the user's files."""

import csv
import json
import random

import pytest
from datasets import Dataset

from ckd_trainer.data.glue_arguments import GlueArguments
from ckd_trainer.data.text_tasks import load_task
from ckd_trainer.utils.errors import InputError


def write_rows(path, rows):
    if path.suffix == ".parquet":
        Dataset.from_list(rows).to_parquet(path)
    elif path.suffix == ".jsonl":
        path.write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    else:
        with path.open("w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, rows[0], delimiter="," if path.suffix == ".csv" else "\t")
            writer.writeheader()
            writer.writerows(rows)
    return str(path)


def own_arguments(folder, train, validation=None, suffix=".csv", **options):
    return GlueArguments(
        train_file=write_rows(folder / f"train{suffix}", train),
        validation_file=validation and write_rows(folder / f"validation{suffix}", validation),
        **options,
    )


def rows(labels, name="text"):
    return [{name: f"text {row}", "label": label} for row, label in enumerate(labels)]


@pytest.mark.parametrize("suffix", [".csv", ".tsv", ".jsonl", ".parquet"])
def test_own_files(tmp_path, suffix):
    data = [{"a": "x, y", "b": "z", "kind": "yes", "id": "1"}, {"a": "u", "b": "v", "kind": "no", "id": "2"}]
    unlabeled = [{"a": "t", "b": "s"}]
    arguments = own_arguments(
        tmp_path,
        data,
        data[:1],
        suffix,
        test_file=write_rows(tmp_path / f"test{suffix}", unlabeled),
        text_column="a",
        text_pair_column="b",
        label_column="kind",
    )
    task = load_task(arguments, seed=0)
    assert task.text_columns == ("text", "text_pair")
    assert task.label_names == ["no", "yes"]
    assert task.train[:] == {"text": ["x, y", "u"], "text_pair": ["z", "v"], "label": [1, 0]}
    assert task.validation[""][:] == {"text": ["x, y"], "text_pair": ["z"], "label": [1]}
    assert task.test[""][:] == {"text": ["t"], "text_pair": ["s"]}


@pytest.mark.parametrize(
    ("labels", "names"),
    [
        (["10", "9", "-1"], ["-1", "9", "10"]),
        (["10", "9", "b"], ["10", "9", "b"]),
        (["neutral", "negative", "positive", "negative"], ["negative", "neutral", "positive"]),
    ],
)
def test_own_classes_are_sorted(tmp_path, labels, names):
    task = load_task(own_arguments(tmp_path, rows(labels)), seed=0, splits=["train"])
    assert task.label_names == names
    assert [names[index] for index in task.train["label"]] == labels


def test_own_classes_do_not_depend_on_the_format(tmp_path):
    arguments = own_arguments(tmp_path, rows([0, 1, 2]), suffix=".jsonl")
    for suffix, labels in ((".csv", ["2", "1"]), (".jsonl", ["2", "1"]), (".parquet", [2.0, 1.0])):
        arguments.validation_file = write_rows(tmp_path / f"validation{suffix}", rows(labels))
        assert load_task(arguments, seed=0, splits=["validation"]).validation[""]["label"][:] == [2, 1]


def test_own_regression(tmp_path):
    arguments = own_arguments(tmp_path, rows(["0.5", "3"]), rows(["-1e1"]), regression=True)
    task = load_task(arguments, seed=0, splits=["train", "validation"])
    assert task.is_regression and task.label_names is None
    assert task.train["label"][:] == [0.5, 3.0] and task.validation[""]["label"][:] == [-10.0]


def test_a_text_column_may_be_called_label(tmp_path):
    data = [{"label": "a text", "kind": "x"}, {"label": "another", "kind": "y"}]
    task = load_task(own_arguments(tmp_path, data, text_column="label", label_column="kind"), seed=0, splits=["train"])
    assert task.train[:] == {"text": ["a text", "another"], "label": [0, 1]}


@pytest.mark.parametrize(
    ("train", "validation", "options", "message"),
    [
        (
            ["a", "b"],
            ["a", "c"],
            {},
            r"validation\.csv, line 3: .*'label'\) is 'c', but the training data have 2 labels: 'a', 'b'\.",
        ),
        (["Good", "bad"], ["good"], {}, r"is 'good', but the training data .*: 'Good', 'bad'\. Write it as 'Good'\."),
        (["a", "b"], ["a "], {}, r"is 'a ', but the training data have 2 labels: 'a', 'b'\. Write it as 'a'\."),
        (["a", "b"], ["a", ""], {}, r"validation\.csv, line 3: the label \('label'\) is empty"),
        (["a", "a"], ["a"], {}, r"train\.csv: every label \('label'\) is 'a': give two classes or more"),
        (["a", "b"], None, {}, r"validation_file is not set, but the validation set is needed"),
        (
            ["1", "b"],
            ["1"],
            {"regression": True},
            r"train\.csv, line 3: the label \('label'\) is 'b', which is not a n",
        ),
        (["a", "b"], ["a"], {"label_column": "kind"}, r"train\.csv has no column 'kind': it has 'text', 'label'"),
        (["a", "b"], ["a"], {"text_pair_column": "two"}, r"has no column 'two': it has 'text', 'label'"),
    ],
)
def test_bad_own_files(tmp_path, train, validation, options, message):
    arguments = own_arguments(tmp_path, rows(train), validation and rows(validation), **options)
    with pytest.raises(InputError, match=message):
        load_task(arguments, seed=0, splits=["train", "validation"])


def test_blank_texts_are_warned_of(tmp_path, caplog):
    data = [{"text": text, "label": label} for text, label in [("a", "x"), ("", "y"), (" ", "y"), ("b", "x")]]
    load_task(own_arguments(tmp_path, data), seed=0, splits=["train"])
    (message,) = [record.getMessage() for record in caplog.records]
    assert message.endswith("train.csv: 2 of 4 texts ('text') are blank; the first is that of line 3.")


def test_many_labels_make_a_short_message(tmp_path):
    arguments = own_arguments(tmp_path, rows([f"{number}" for number in range(1200)] * 2), rows(["0.5"]))
    with pytest.raises(InputError, match=r"is '0\.5', but the training data have 1200 labels: '0', .*'4', \.\.\.\.$"):
        load_task(arguments, seed=0)


def test_scores_read_as_classes_are_refused(tmp_path):
    arguments = own_arguments(tmp_path, rows([f"{number / 1000}" for number in range(1200)]), rows(["0.5"]))
    with pytest.raises(
        InputError, match=r"1200 rows name 1200 classes \('0\.0', .*set regression .*label_column"
    ) as error:
        load_task(arguments, seed=0)
    assert len(str(error.value)) < 500
    arguments.regression = True
    assert load_task(arguments, seed=0, splits=["train"]).is_regression


def test_quoting_of_own_files(tmp_path, caplog):
    data = [{"text": 'He said "no".', "label": "1"}, {"text": "a\tb", "label": "0"}] * 2
    arguments = own_arguments(tmp_path, data, suffix=".tsv")
    with pytest.raises(InputError, match=r"line 3: the row has 3 fields, .* set quoting to csv"):
        load_task(arguments, seed=0, splits=["train"])
    arguments.quoting = "csv"
    assert load_task(arguments, seed=0, splits=["train"]).train["text"][:2] == ['He said "no".', "a\tb"]
    assert not caplog.text


def test_a_label_column_may_have_any_name(tmp_path):
    name = 'a\tb\n"c"'
    arguments = own_arguments(tmp_path, [{"text": "a", name: "x"}, {"text": "b", name: "y"}], label_column=name)
    assert load_task(arguments, seed=0, splits=["train"]).label_names == ["x", "y"]


def test_classes_need_the_training_file_and_scores_do_not(tmp_path):
    path = write_rows(tmp_path / "a.csv", rows(["1", "2"]))
    with pytest.raises(InputError, match="train_file is not set, but its labels define the classes"):
        load_task(GlueArguments(validation_file=path), seed=0, splits=["validation"])
    task = load_task(GlueArguments(validation_file=path, regression=True), seed=0, splits=["validation"])
    assert task.train is None and len(task.validation[""]) == 2
    with pytest.raises(InputError, match="train_file is not set, but the train set is needed"):
        load_task(GlueArguments(validation_file=path, regression=True), seed=0, splits=["train"])


def test_limits_draw_training_examples_and_take_the_first_others(tmp_path):
    seed = random.SystemRandom().randrange(10**6)
    print(f"seed {seed}")
    data = rows([str(row % 2) for row in range(200)])
    limits = {"max_train_samples": 20, "max_eval_samples": 3, "max_predict_samples": 1000}
    arguments = own_arguments(tmp_path, data, data, test_file=str(tmp_path / "train.csv"), **limits)

    def load(seed, sample_seed=None):
        arguments.sample_seed = sample_seed
        task = load_task(arguments, seed=seed)
        assert len(task.train) == len(set(task.train["text"])) == 20
        assert task.validation[""]["text"][:] == ["text 0", "text 1", "text 2"]
        assert len(task.test[""]) == 200
        return task.train["text"][:]

    assert load(seed) == load(seed)
    assert load(seed) != load(seed + 1)  # equal once in 200 choose 20, about 1e27
    assert load(seed + 1, sample_seed=seed) == load(seed + 2, sample_seed=seed) == load(seed)
