"""GLUE from the Hub and from folders."""

import logging

import datasets
import numpy as np
import pyarrow as pa
import pytest
from datasets import ClassLabel, Dataset, DatasetDict, Features, Value

from ckd_trainer.data.glue_arguments import GlueArguments
from ckd_trainer.data.glue_tasks import GLUE_TASKS
from ckd_trainer.data.table_files import open_table
from ckd_trainer.data.text_tasks import load_task
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
