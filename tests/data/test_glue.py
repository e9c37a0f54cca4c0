"""GLUE from the Hub and from folders, own files, tokenized inputs and prediction files."""

import csv
import json
import logging
import random

import datasets
import numpy as np
import pyarrow as pa
import pytest
from datasets import ClassLabel, Dataset, DatasetDict, Features, Value
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import EvalPrediction, PreTrainedTokenizerFast

from ckd_trainer.data.glue import (
    GLUE_TASKS,
    TextTask,
    compute_metrics_for,
    load_task,
    tokenize,
    write_predictions,
)
from ckd_trainer.data.glue_arguments import GlueArguments
from ckd_trainer.data.tables import open_table
from ckd_trainer.utils.errors import InputError

# Of the real files: examples by set, and how many examples of the first validation set have each label.
REAL = {
    "cola": ({"train": 8551, "": 1043, "test": 1063}, [322, 721]),
    "sst2": ({"train": 67349, "": 872, "test": 1821}, [428, 444]),
    "mrpc": ({"train": 3668, "": 408, "test": 1725}, [129, 279]),
    "rte": ({"train": 2490, "": 277, "test": 3000}, [146, 131]),
    "wnli": ({"train": 635, "": 71, "test": 146}, [40, 31]),
    "qnli": ({"train": 9999, "": 5463}, [2702, 2761]),
    "mnli": ({"train": 9999, "": 9815}, [3479, 3123, 3213]),
    "stsb": ({"train": 5749, "": 1500, "test": 1379}, None),
}


def glue_arguments(name, folder, **options):
    return GlueArguments(task_name=name, data_dir=str(folder), **options)


# The classic folder


@pytest.mark.parametrize("name", REAL)
def test_real_folders(shared_data, name):
    sizes, label_counts = REAL[name]
    splits = ["train", "validation"] + (["test"] if "test" in sizes else [])
    task = load_task(glue_arguments(name, shared_data / "glue"), seed=0, splits=splits)
    assert len(task.train) == sizes["train"]
    assert {key: len(data) for key, data in task.validation.items()} == {"": sizes[""]}
    assert {key: len(data) for key, data in task.test.items()} == ({"": sizes["test"]} if "test" in sizes else {})
    assert task.train.column_names == task.validation[""].column_names == [*task.text_columns, "label"]
    if task.test:
        assert task.test[""].column_names == list(task.text_columns)
    labels = task.validation[""]["label"][:]
    if label_counts is None:
        assert task.is_regression and np.mean(labels) == pytest.approx(2.364, abs=5e-4)
    else:
        assert np.bincount(labels).tolist() == label_counts
        assert task.label_names == list(GLUE_TASKS[name].label_names)


def test_real_texts_keep_quotes_and_spaces(shared_data):
    mrpc = load_task(glue_arguments("mrpc", shared_data / "glue"), seed=0, splits=["validation"])
    assert mrpc.validation[""][0]["sentence2"].startswith('" The foodservice pie business does not fit')
    assert mrpc.validation[""][0]["label"] == 1
    sst2 = load_task(glue_arguments("sst2", shared_data / "glue"), seed=0, splits=["validation"])
    assert all(text.endswith(" ") for text in sst2.validation[""]["sentence"])


def test_the_folder_of_the_one_task(shared_data):
    task = load_task(glue_arguments("wnli", shared_data / "glue" / "WNLI"), seed=0, splits=["validation"])
    assert len(task.validation[""]) == 71 and task.train is None and task.test == {}


def test_real_qqp_has_no_dev_file_and_the_error_says_what_is_there(shared_data):
    arguments = glue_arguments("qqp", shared_data / "glue")
    assert len(load_task(arguments, seed=0, splits=["train"]).train) == 23496
    with pytest.raises(InputError, match=r"dev\.tsv is missing: .*QQP holds 'heldout_from_train\.tsv', 'train\.tsv'"):
        load_task(arguments, seed=0)


def test_real_heldout_qqp_goes_as_an_own_file(shared_data):
    folder = shared_data / "glue" / "QQP"
    arguments = GlueArguments(
        train_file=str(folder / "train.tsv"),
        validation_file=str(folder / "heldout_from_train.tsv"),
        text_column="question1",
        text_pair_column="question2",
        label_column="is_duplicate",
    )
    task = load_task(arguments, seed=0, splits=["train", "validation"])
    assert task.label_names == ["0", "1"] and np.bincount(task.validation[""]["label"]).tolist() == [5981, 3391]


MNLI_ROW = {"sentence1": 'a "b', "sentence2": "c ", "gold_label": "neutral"}


def write_tsv(path, rows):
    path.parent.mkdir(parents=True, exist_ok=True)
    lines = ["\t".join(rows[0]), *("\t".join(row.values()) for row in rows)]
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")


def test_mismatched_mnli_is_used_where_it_is_there(tmp_path, caplog):
    write_tsv(tmp_path / "MNLI" / "dev_matched.tsv", [MNLI_ROW])
    with caplog.at_level(logging.WARNING):
        task = load_task(glue_arguments("mnli", tmp_path), seed=0, splits=["validation"])
    assert list(task.validation) == [""]
    assert "dev_mismatched.tsv is missing, so validation_mismatched is left out" in caplog.text
    write_tsv(tmp_path / "MNLI" / "dev_mismatched.tsv", [MNLI_ROW, {**MNLI_ROW, "gold_label": "contradiction"}])
    task = load_task(glue_arguments("mnli", tmp_path), seed=0, splits=["validation"])
    assert list(task.validation) == ["", "mismatched"]
    assert task.validation["mismatched"][1] == {"premise": 'a "b', "hypothesis": "c ", "label": 2}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"task_name": "SST-2"}, r"task_name is 'SST-2', which is not a task; the nearest is sst2"),
        ({"task_name": "rte", "data_dir": "nowhere"}, "data_dir is nowhere, which is not a folder"),
    ],
)
def test_unknown_tasks_and_folders(arguments, message):
    with pytest.raises(InputError, match=message):
        load_task(GlueArguments(**arguments), seed=0)


@pytest.mark.parametrize(
    ("name", "rows", "message"),
    [
        (
            "mnli",
            [MNLI_ROW, {**MNLI_ROW, "gold_label": "-"}],
            r"dev_matched\.tsv, line 3: .* '-', but mnli has 3 labels: 'entail",
        ),
        ("mnli", [{"sentence1": "a", "gold_label": "neutral"}], r"no column 'sentence2': it has 'sentence1', 'gold_l"),
        ("mnli", [{**MNLI_ROW, "gold_label": ""}], r"dev_matched\.tsv, line 2: the label \('gold_label'\) is empty"),
        ("stsb", [{"sentence1": "a", "sentence2": "b", "score": "high"}], r"dev\.tsv, line 2: .* not a number"),
    ],
)
def test_bad_rows_in_a_folder(tmp_path, name, rows, message):
    file = GLUE_TASKS[name].validation[""][1]
    write_tsv(tmp_path / file, rows)
    with pytest.raises(InputError, match=message):
        load_task(glue_arguments(name, tmp_path), seed=0, splits=["validation"])


def test_folders_that_pandas_has_written_are_warned_of(shared_data, tmp_path, caplog):
    """But for QQP, whose official files are in quotes."""
    for name, folder in (("mrpc", "MRPC"), ("qqp", "QQP")):
        data = open_table(shared_data / "glue" / folder / "train.tsv", quoting="none").data.to_pandas()
        (tmp_path / folder).mkdir()
        data.to_csv(tmp_path / folder / "train.tsv", sep="\t", index=False)
        caplog.clear()
        task = load_task(glue_arguments(name, tmp_path), seed=0, splits=["train"])
        assert ("LOOKS QUOTED" in caplog.text) == (name == "mrpc")
        caplog.clear()
        task = load_task(glue_arguments(name, tmp_path, quoting="csv"), seed=0, splits=["train"])
        real = load_task(glue_arguments(name, shared_data / "glue"), seed=0, splits=["train"])
        assert task.train[:] == real.train[:] and not caplog.text


def test_official_qqp_with_line_breaks_in_quotes(tmp_path, caplog):
    """The Hub's copy lacks these rows, too."""
    header = "id\tqid1\tqid2\tquestion1\tquestion2\tis_duplicate\n"
    broken = '2\t3\t4\t"one\ntwo"\tthree\t1\n5\t6\t7\t"a\n\nb"\tc\t0\n'
    rows = '0\t1\t2\t"x"\ty\t0\n' + broken + "8\t9\t10\tx\ty\t{label}\n"
    (tmp_path / "train.tsv").write_text(header + rows.format(label=1))
    task = load_task(glue_arguments("qqp", tmp_path), seed=0, splits=["train"])
    assert task.train[:] == {"question1": ['"x"', "x"], "question2": ["y", "y"], "label": [0, 1]}
    assert "train.tsv: 5 rows are left out, as fields are missing" in caplog.text
    assert "the first is that of line 3." in caplog.text and len(caplog.records) == 1
    (tmp_path / "train.tsv").write_text(header + rows.format(label=7))
    with pytest.raises(InputError, match=r"line 8: the label \('is_duplicate'\) is '7'"):
        load_task(glue_arguments("qqp", tmp_path), seed=0, splits=["train"])
    # The server wants a prediction for each row of the test set.
    (tmp_path / "test.tsv").write_text("id\tquestion1\tquestion2\n0\ta\tb\n1\tc\n")
    with pytest.raises(InputError, match=r"test\.tsv, line 3: the row has 2 fields, not 3"):
        load_task(glue_arguments("qqp", tmp_path), seed=0, splits=["test"])


# The Hub


def hub_parts(task):
    """The splits of nyu-mll/glue in its schema, three examples each; the test set is unlabeled, which is -1 there."""
    kind = ClassLabel(names=list(task.label_names)) if task.label_names else Value("float32")
    columns = {column: Value("string") for column in task.text_columns}
    features = Features({**columns, "label": kind, "idx": Value("int32")})

    def part(split, labels):
        texts = {column: [f"{split} {column} {row}" for row in range(3)] for column in task.text_columns}
        return Dataset.from_dict({**texts, "label": labels, "idx": range(3)}, features=features)

    names = {split for sets in (task.validation, task.test) for split, _ in sets.values()} | {"train"}
    return DatasetDict({name: part(name, [-1] * 3 if "test" in name else [0, 1, 0]) for name in names})


@pytest.mark.parametrize("name", GLUE_TASKS)
def test_hub(monkeypatch, name):
    asked = []

    def load_dataset(*arguments):
        asked.append(arguments)
        return hub_parts(GLUE_TASKS[name])

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    task = load_task(GlueArguments(task_name=name, max_predict_samples=2), seed=0)
    assert asked == [("nyu-mll/glue", name)]
    keys = ["", "mismatched"] if name == "mnli" else [""]
    assert list(task.validation) == list(task.test) == keys
    assert task.train.column_names == [*task.text_columns, "label"] and task.train["label"][:] == [0, 1, 0]
    assert task.train[0][task.text_columns[-1]] == f"train {task.text_columns[-1]} 0"
    for key in keys:
        split = "test" if name != "mnli" else {"": "test_matched", "mismatched": "test_mismatched"}[key]
        assert task.test[key].column_names == list(task.text_columns)
        assert task.test[key][task.text_columns[0]][:] == [f"{split} {task.text_columns[0]} {row}" for row in range(2)]
    assert task.label_names == (None if name == "stsb" else list(GLUE_TASKS[name].label_names))
    assert task.is_regression == (name == "stsb")


@pytest.mark.parametrize("label", [-1, -2, 2])
def test_hub_labels_that_name_no_class_are_refused(monkeypatch, label):
    parts = hub_parts(GLUE_TASKS["rte"])
    labels = pa.array([0, label, 1])
    parts["train"] = Dataset(parts["train"].data.table.set_column(2, "label", labels), info=parts["train"].info)
    monkeypatch.setattr(datasets, "load_dataset", lambda *arguments: parts)
    with pytest.raises(InputError, match=rf"nyu-mll/glue, rte, train, row 2: the label .*{label}"):
        load_task(GlueArguments(task_name="rte"), seed=0)


def test_hub_with_other_label_names_is_refused(monkeypatch):
    monkeypatch.setattr(datasets, "load_dataset", lambda *arguments: hub_parts(GLUE_TASKS["wnli"]))
    with pytest.raises(InputError, match=r"has the labels \['not_entailment', 'entailment'\] for rte"):
        load_task(GlueArguments(task_name="rte"), seed=0)


def test_hub_out_of_reach_is_an_input_error(monkeypatch):
    def load_dataset(*arguments):
        raise ConnectionError("no route")

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    with pytest.raises(InputError, match=r"rte of nyu-mll/glue cannot be loaded \(no route\): .* give data_dir"):
        load_task(GlueArguments(task_name="rte"), seed=0)


# Own files


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


# Inputs, metrics, predictions


@pytest.fixture(scope="module")
def tokenizer():
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "a", "b", "c"]
    tokenizer = Tokenizer(models.WordLevel({word: index for index, word in enumerate(words)}, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.post_processor = processors.BertProcessing(("[SEP]", 3), ("[CLS]", 2))
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token="[PAD]",
        model_input_names=["input_ids", "token_type_ids", "attention_mask"],
    )


def text_task(text_columns=("text",), label_names=("no", "yes"), name="own_files"):
    return TextTask(name, None, {}, {}, text_columns, label_names and list(label_names))


def test_tokenize_does_not_pad(tokenizer):
    data = Dataset.from_dict({"text": ["a b c a b c", "c"], "label": [1, 0]})
    inputs = tokenize(data, text_task(), tokenizer, GlueArguments(task_name="rte", max_seq_length=5))
    assert inputs["input_ids"][:] == [[2, 4, 5, 6, 3], [2, 6, 3]]
    assert inputs["labels"][:] == [1, 0]
    assert set(inputs.column_names) == {"input_ids", "attention_mask", "token_type_ids", "labels"}


def test_tokenize_pairs_and_pads_when_asked(tokenizer):
    data = Dataset.from_dict({"one": ["a"], "two": ["b c"]})
    arguments = GlueArguments(task_name="rte", max_seq_length=8, pad_to_max_length=True)
    inputs = tokenize(data, text_task(("one", "two")), tokenizer, arguments)
    assert inputs["input_ids"][:] == [[2, 4, 3, 5, 6, 3, 0, 0]]
    assert inputs["attention_mask"][:] == [[1, 1, 1, 1, 1, 1, 0, 0]]
    assert inputs["token_type_ids"][0][:6] == [0, 0, 0, 1, 1, 1]
    assert "labels" not in inputs.column_names


def test_tokenize_cuts_the_longer_text_of_a_pair(tokenizer):
    data = Dataset.from_dict({"one": ["a"], "two": ["b b b b b b"], "label": [0.5]})
    task = text_task(("one", "two"), None)
    inputs = tokenize(data, task, tokenizer, GlueArguments(task_name="rte", max_seq_length=6))
    assert inputs[0]["input_ids"] == [2, 4, 3, 5, 5, 3] and inputs[0]["labels"] == 0.5


def test_compute_metrics(tokenizer):
    logits = np.array([[0.1, 0.9], [2.0, 1.0], [0.0, 1.0], [0.0, 1.0]])
    scores = compute_metrics_for(text_task(name="mrpc"))(EvalPrediction(logits, np.array([1, 0, 1, 0])))
    assert scores == {"accuracy": 0.75, "f1": pytest.approx(0.8)}
    own = compute_metrics_for(text_task())(EvalPrediction(logits, np.array([1, 0, 1, 0])))
    # F1 of class 0: precision 1, recall 1/2: 2/3; of class 1: 0.8.
    assert own == {"accuracy": 0.75, "f1": pytest.approx((2 / 3 + 0.8) / 2)}
    for name in ("stsb", "own_files"):
        task = text_task(label_names=None, name=name)
        scores = compute_metrics_for(task)(EvalPrediction(np.array([[1.0], [2.0], [3.0]]), np.array([3.0, 2.0, 1.0])))
        assert scores == {
            "pearson": pytest.approx(-1.0),
            "spearmanr": pytest.approx(-1.0),
            "rmse": pytest.approx((8 / 3) ** 0.5),
        }


SUBMITTED = {
    "cola": {"": ("CoLA.tsv", "0", "1")},
    "sst2": {"": ("SST-2.tsv", "0", "1")},
    "mrpc": {"": ("MRPC.tsv", "0", "1")},
    "qqp": {"": ("QQP.tsv", "0", "1")},
    "mnli": {"": ("MNLI-m.tsv", "entailment", "neutral"), "mismatched": ("MNLI-mm.tsv", "entailment", "neutral")},
    "qnli": {"": ("QNLI.tsv", "entailment", "not_entailment")},
    "rte": {"": ("RTE.tsv", "entailment", "not_entailment")},
    "wnli": {"": ("WNLI.tsv", "0", "1")},
}


@pytest.mark.parametrize("name", SUBMITTED)
def test_prediction_files_of_glue(tmp_path, name):
    assert len(SUBMITTED) == len(GLUE_TASKS) - 1  # STS-B is below
    for key, (file, first, second) in SUBMITTED[name].items():
        logits = np.eye(len(GLUE_TASKS[name].label_names))[[1, 0]]
        path = write_predictions(text_task(name=name), key, logits, tmp_path / "run")
        assert path == tmp_path / "run" / file
        assert path.read_bytes().decode() == f"index\tprediction\n0\t{second}\n1\t{first}\n"
    assert {path.name for path in path.parent.iterdir()} == {file for file, *_ in SUBMITTED[name].values()}


def test_prediction_file_of_stsb_is_clipped_with_three_decimals(tmp_path):
    logits = np.array([[1.23456], [-0.5], [5.7], [2.0]], dtype=np.float32)
    path = write_predictions(text_task(label_names=None, name="stsb"), "", logits, tmp_path)
    assert path.name == "STS-B.tsv"
    assert path.read_text() == "index\tprediction\n0\t1.235\n1\t0.000\n2\t5.000\n3\t2.000\n"


def test_prediction_file_of_own_files(tmp_path):
    path = write_predictions(text_task(), "", np.array([[0.0, 1.0], [1.0, 0.0]]), tmp_path)
    assert path.name == "predictions.tsv" and path.read_text() == "index\tprediction\n0\tyes\n1\tno\n"
    scores = np.array([0.1, -7.25], dtype=np.float32)
    path = write_predictions(text_task(label_names=None), "", scores, tmp_path)
    assert path.read_text() == "index\tprediction\n0\t0.1\n1\t-7.25\n"


def test_prediction_files_can_be_read_back(tmp_path):
    names = ['"', '"a"', ' a ""b', ",;", "a  b"]
    path = write_predictions(text_task(label_names=names), "", np.eye(len(names)), tmp_path)
    assert open_table(path, quoting="none").words("prediction") == names
