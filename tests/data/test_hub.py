"""Data sets by name: each form on the disk and the Hub gives the same task, and what cannot be read is refused."""

import errno
import os
import re

import datasets
import pytest
from datasets import ClassLabel, Dataset, DatasetDict, Features
from datasets.exceptions import DatasetGenerationError, DatasetNotFoundError
from helpers.named_data import Hub, questions, saved, split_questions, split_texts, texts

from ckd_trainer.data.glue_arguments import GlueArguments
from ckd_trainer.data.hub import NamedDataset, hub_name
from ckd_trainer.data.squad import load_questions
from ckd_trainer.data.squad_arguments import SquadArguments
from ckd_trainer.data.table import state_of
from ckd_trainer.data.text_tasks import load_task
from ckd_trainer.utils.errors import InputError, TemporaryError

FORMS = ["save_to_disk", "parquet", "json", "csv"]


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")


def glue(name, **options):
    return GlueArguments(dataset_name=str(name), **({"text_column": "review"} | options))


def load(name, splits=("train", "validation", "test"), **options):
    return load_task(glue(name, **options), seed=0, splits=splits)


# Texts


@pytest.mark.parametrize("form", FORMS)
def test_each_form_gives_the_same_texts(tmp_path, form):
    data = split_texts()
    task = load(saved(tmp_path / "data", data, form))
    assert task.text_columns == ("text",)
    # Files other than parquet do not keep the names: there, the classes are numbers.
    names = ["good", "bad"] if form in ("save_to_disk", "parquet") else ["0", "1"]
    assert task.label_names == names
    for found, part in ((task.train, data["train"]), (task.validation[""], data["validation"])):
        assert found[:] == {"text": part["review"][:], "label": part["label"][:]}
    assert task.test[""][:] == {"text": data["test"]["review"][:]}


@pytest.mark.parametrize("form", ["parquet", "json", "csv"])
def test_a_folder_is_listed_once(tmp_path, monkeypatch, form):
    listed = []
    kind = datasets.load.LocalDatasetModuleFactory
    monkeypatch.setattr(kind, "get_module", lambda self, found=kind.get_module: listed.append(self) or found(self))
    load(saved(tmp_path / "data", split_texts(), form))
    assert len(listed) == 1


def test_the_hub_is_asked_by_name_configuration_and_revision(monkeypatch):
    hub = Hub(monkeypatch, split_texts())
    task = load("me/data", dataset_config_name="small", dataset_revision="v1.0", splits=["validation"])
    assert hub.asked == [("me/data", "small", {"revision": "v1.0"})]
    assert len(task.validation[""]) == 22 and task.train is None and task.label_names == ["good", "bad"]


def test_a_local_folder_comes_before_the_hub(tmp_path, monkeypatch):
    hub = Hub(monkeypatch, split_texts())
    monkeypatch.chdir(tmp_path)
    saved(tmp_path / "data", split_texts())
    assert len(load("data").train) == 96 and not hub.asked
    assert hub_name(glue("data")) is None
    assert hub_name(glue("me/data")) == "me/data"
    assert hub_name(GlueArguments(task_name="rte")) is None


def test_home_is_replaced(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    saved(tmp_path / "data", split_texts())
    assert len(load("~/data").train) == 96


def test_splits_by_name(monkeypatch):
    Hub(monkeypatch, DatasetDict(small=texts(10), dev=texts(6), test=texts(4)))
    names = {"train_split_name": "small", "validation_split_name": "dev", "test_split_name": "dev"}
    task = load("me/data", **names)
    assert [len(part) for part in (task.train, task.validation[""], task.test[""])] == [10, 6, 6]
    task = load("me/data", **names | {"validation_split_name": "test"})  # as it was asked for
    assert len(task.validation[""]) == 4


@pytest.mark.parametrize(
    ("split", "name", "options"),
    [
        ("validation", "validation", {}),
        ("train", "training", {"train_split_name": "training"}),
        ("test", "holdout", {"test_split_name": "holdout"}),
    ],
)
def test_a_missing_split_is_never_replaced(monkeypatch, split, name, options):
    Hub(monkeypatch, DatasetDict(train=texts(10), test=texts(4), unsupervised=texts(4)))
    with pytest.raises(InputError) as error:
        load("me/data", **options, splits=[split])
    assert str(error.value) == (
        f"me/data has no split '{name}': it has 'train', 'test', 'unsupervised'. Choose another with "
        f"{split}_split_name."
    )


@pytest.mark.parametrize(("split", "name"), [(None, "train"), ("validation", "validation"), ("train[:50%]", "train")])
def test_a_folder_of_one_set_has_the_split_that_it_was(tmp_path, split, name):
    folder = saved(tmp_path / "data", Dataset(texts(10).data, split=split and datasets.NamedSplit(split)))
    options = {"validation_split_name": name}
    assert len(load(folder, splits=["validation"], **options).validation[""]) == 10
    with pytest.raises(InputError, match=rf"has no split 'other': it has '{name}'\."):
        load(folder, splits=["train"], train_split_name="other")


def test_a_format_that_was_saved_does_not_matter(tmp_path):
    data = split_texts()
    data.set_format("numpy", columns=["label"])
    task = load(saved(tmp_path / "data", data))
    assert task.train[:2]["label"] == [1, 0] and task.train[0]["text"] == data.with_format(None)["train"][0]["review"]


def test_pairs_and_a_text_column_called_label(monkeypatch):
    pairs = Dataset.from_dict({"label": ["a", "b"], "other": ["c", "d"], "kind": ["x", "y"]})
    Hub(monkeypatch, DatasetDict(train=pairs))
    task = load("me/data", ["train"], text_column="label", text_pair_column="other", label_column="kind")
    assert task.train[:] == {"text": ["a", "b"], "text_pair": ["c", "d"], "label": [0, 1]}


@pytest.mark.parametrize(
    ("labels", "names", "found"),
    [
        (["no", "yes", "no"], ["no", "yes"], [0, 1, 0]),
        ([10, 9, 10], ["9", "10"], [1, 0, 1]),
        ([2.0, 1.0, 2.0], ["1", "2"], [1, 0, 1]),
        ([True, False, True], ["False", "True"], [1, 0, 1]),
    ],
)
def test_labels_without_names_go_as_those_of_files(monkeypatch, labels, names, found):
    Hub(monkeypatch, DatasetDict(train=Dataset.from_dict({"text": ["a", "b", "c"], "label": labels})))
    task = load("me/data", ["train"], text_column="text")
    assert task.label_names == names and task.train["label"][:] == found


def test_scores(monkeypatch):
    data = Dataset.from_dict({"text": ["a", "b"], "label": [0.5, 3.0]})
    Hub(monkeypatch, DatasetDict(train=data, validation=data))
    task = load("me/data", ["train", "validation"], text_column="text", regression=True)
    assert task.label_names is None and task.validation[""]["label"][:] == [0.5, 3.0]


@pytest.mark.parametrize("names", [["3.5"], ["0.5", "3.5"]], ids=["one name", "two names"])
def test_scores_as_the_names_of_classes(monkeypatch, names):
    """Regression needs no second name; classification does."""
    data = Dataset.from_dict({"text": ["a", "b"], "label": [0, len(names) - 1]}).cast_column(
        "label", ClassLabel(names=names)
    )
    Hub(monkeypatch, DatasetDict(train=data))
    task = load("me/data", ["train"], text_column="text", regression=True)
    assert task.label_names is None and task.train["label"][:] == [float(names[0]), 3.5]


def test_classes_that_do_not_occur_keep_their_place(monkeypatch):
    names = ["never", "good", "rare", "bad"]
    Hub(monkeypatch, DatasetDict(train=texts(10, names=names), validation=texts(4, names=names[::-1])))
    task = load("me/data", ["train", "validation"])
    assert task.label_names == names
    assert task.train["label"][:4] == task.validation[""]["label"][:4] == [3, 1, 3, 1]  # by name


def test_names_of_classes_come_from_the_training_split_even_if_it_is_not_read(monkeypatch):
    parts = DatasetDict(validation=texts(4, names=["bad", "good"]), train=texts(10))
    Hub(monkeypatch, parts)
    assert load("me/data", ["validation"]).label_names == ["good", "bad"]
    del parts["train"]
    Hub(monkeypatch, parts)
    assert load("me/data", ["validation"]).label_names == ["bad", "good"]


@pytest.mark.parametrize(
    ("columns", "options", "message"),
    [
        (
            {},
            {"text_column": "text"},
            r"me/data, train has no column 'text': it has 'review', 'label' \(ClassLabel\), ",
        ),
        ({}, {"label_column": "stars"}, "no column 'stars': it has 'review', .* with text_column, text_pair_column"),
        ({}, {"text_pair_column": "row"}, r"the column 'row' does not hold texts: .*'row' \(int32\)"),
        ({"review": [["a"], ["b"]]}, {}, r"the column 'review' does not hold texts: .*'review' \(List\)"),
        ({"review": [{"a": "b"}] * 2}, {}, r"the column 'review' does not hold texts: .*'review' \(dict\)"),
        ({"review": [b"a", b"b"]}, {}, r"the column 'review' does not hold texts: .*'review' \(binary\)"),
        ({"review": [None, "b"]}, {}, r"me/data, train, row 1: there is no 'review' \(null or missing\)"),
        ({"label": [[1], [0]]}, {}, r"the label \('label'\) is a List: name a column of words or numbers"),
        ({"label": [None, 1]}, {}, r"me/data, train, row 1: the label \('label'\) is empty"),
        ({"label": [0.5, 1.0]}, {}, r"me/data, train, row 1: .* set regression"),
    ],
)
def test_columns_that_do_not_serve(monkeypatch, columns, options, message):
    data = texts(2)
    features = {name: feature for name, feature in data.features.items() if name not in columns}
    rows = {name: data[name][:] for name in features} | columns
    data = Dataset.from_dict(rows) if columns else data
    Hub(monkeypatch, DatasetDict(train=data))
    with pytest.raises(InputError, match=message):
        load("me/data", ["train"], **options)


def test_a_column_of_images_is_refused_and_not_decoded(monkeypatch):
    features = Features({"review": datasets.Image(), "label": ClassLabel(names=["a", "b"])})
    data = Dataset.from_dict({"review": [{"bytes": b"no image", "path": None}], "label": [0]}, features=features)
    Hub(monkeypatch, DatasetDict(train=data))
    with pytest.raises(InputError, match=r"'review' does not hold texts: the data set has 'review' \(Image\)"):
        load("me/data", ["train"])


def test_a_column_of_one_class_is_refused(monkeypatch):
    data = Dataset.from_dict({"review": ["a"], "label": [0]})
    data = data.cast_column("label", ClassLabel(names=["only"]))
    Hub(monkeypatch, DatasetDict(train=data))
    with pytest.raises(InputError, match=r"me/data: the labels \('label'\) .*'only'.*: give two classes or more"):
        load("me/data", ["train"])


def test_no_rows_and_no_splits(monkeypatch):
    Hub(monkeypatch, DatasetDict(train=texts(4).select([])))
    with pytest.raises(InputError, match="me/data, train has no rows: give a split with data"):
        load("me/data", ["train"])
    Hub(monkeypatch, DatasetDict())
    with pytest.raises(InputError, match="me/data, which has no splits"):
        load("me/data", ["train"])


# What cannot be loaded


def with_cause(error, cause):
    error.__cause__ = cause
    return error


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (
            ConnectionError("Couldn't reach 'me/data' on the Hub"),
            "Couldn't reach 'me/data' on the Hub): check the name",
        ),
        (DatasetNotFoundError("Dataset 'me/data' doesn't exist"), "(Dataset 'me/data' doesn't exist): check the name"),
        (
            ValueError("Config name is missing.\nPlease pick one: ['a', 'b']\nExample of usage:\n\t`load(...)`"),
            "(Config name is missing. Please pick one: ['a', 'b']): check the name, dataset_config_name, ",
        ),
        (
            ValueError("BuilderConfig 'x' not found. Available: ['a']"),
            "(BuilderConfig 'x' not found. Available: ['a'])",
        ),
        (
            RuntimeError("Dataset scripts are no longer supported, but found data.py"),
            "scripts are no longer supported",
        ),
        (with_cause(DatasetGenerationError("An error occurred"), ValueError("row 7")), "cannot be loaded (row 7): "),
    ],
)
def test_what_the_hub_says_is_one_line(monkeypatch, error, message):
    Hub(monkeypatch, error)
    with pytest.raises(InputError, match=re.escape(message)) as raised:
        load("me/data")
    assert "\n" not in str(raised.value) and "load(" not in str(raised.value)


@pytest.mark.parametrize(
    "error",
    [
        KeyError("a bug"),
        RuntimeError("a bug"),
        OSError(errno.EIO, "Input/output error"),
        with_cause(DatasetGenerationError("An error occurred"), KeyError("a bug")),
        with_cause(DatasetGenerationError("An error occurred"), OSError(errno.EIO, "Input/output error")),
    ],
    ids=["KeyError", "RuntimeError", "EIO", "KeyError of a builder", "EIO of a builder"],
)
def test_bugs_and_failing_disks_keep_their_errors(monkeypatch, error):
    Hub(monkeypatch, error)
    with pytest.raises(type(error)) as raised:
        load("me/data")
    assert not isinstance(raised.value, InputError)


@pytest.mark.parametrize("is_of_builder", [False, True])
@pytest.mark.parametrize(
    ("number", "way_out"), [(errno.ENOSPC, "free some space"), (errno.EACCES, "allow access to this one")]
)
def test_a_full_or_closed_disk_is_said(monkeypatch, number, way_out, is_of_builder):
    error = OSError(number, os.strerror(number), "/cache/file")
    Hub(monkeypatch, with_cause(DatasetGenerationError("An error occurred"), error) if is_of_builder else error)
    with pytest.raises(TemporaryError, match=f"/cache/file: {os.strerror(number)}: give another path, or {way_out}"):
        load("me/data")


@pytest.mark.parametrize("name", ["csv", "json", "pandas", "text"])
def test_the_name_of_a_format_does_not_read_the_working_directory(tmp_path, monkeypatch, name):
    """As `load_dataset` would."""
    monkeypatch.chdir(tmp_path)
    hub = Hub(monkeypatch, split_texts())
    with pytest.raises(InputError, match=f"dataset_name is {name}, which is a file format"):
        load(name)
    assert not hub.asked


def test_a_folder_with_the_name_of_a_format_is_read(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "csv").mkdir()
    (tmp_path / "csv" / "train.csv").write_text("text,label\nright,a\nright,b\n")
    (tmp_path / "train.csv").write_text("text,label\nwrong,a\nwrong,b\n")
    task = load("csv", splits=["train"], text_column="text")
    assert task.train["text"][:] == ["right", "right"]


# Folders of csv and tsv files

ODD = [['"He" said', "01"], ["NA", "02"], ["007", "01"], ["null", "02"], ["1.50", "01"], ['"a ""b"""', "02"]]


def delimited(path, delimiter=",", rows=ODD):
    path.parent.mkdir(exist_ok=True)
    path.write_text("".join(f"{delimiter.join(row)}\n" for row in [["text", "label"], *rows]))
    return path


@pytest.mark.parametrize(
    ("suffix", "delimiter", "options"),
    [
        ("tsv", "\t", {"quoting": "none"}),
        ("tsv", "\t", {"quoting": "csv"}),
        ("csv", ",", {"quoting": "none"}),
        ("csv", ";", {"quoting": "none"}),
        ("csv", ",", {}),
    ],
)
def test_a_folder_of_delimited_files_is_read_as_the_file(tmp_path, suffix, delimiter, options):
    rows = ODD if options.get("quoting") == "none" else ODD[1:]  # the first is not written as in csv
    path = delimited(tmp_path / "data" / f"train.{suffix}", delimiter, rows)
    own = load_task(GlueArguments(train_file=str(path), **options), seed=0, splits=["train"])
    named = load(path.parent, ["train"], text_column="text", **options)
    assert named.train[:] == own.train[:] and named.label_names == own.label_names == ["01", "02"]
    assert named.train["text"][-1] == (rows[-1][0] if rows == ODD else 'a "b"')


def test_a_file_that_changed_is_read_again(tmp_path):
    path = delimited(tmp_path / "data" / "train.csv", rows=[["a", "x"], ["b", "y"]])
    before = NamedDataset(glue(path.parent)).splits["train"]
    assert state_of(NamedDataset(glue(path.parent)).splits["train"]) == state_of(before)
    delimited(path, rows=[["a", "x"], ["c", "y"]])
    os.utime(path, ns=(0, 0))
    after = NamedDataset(glue(path.parent)).splits["train"]
    assert after["text"][:] == ["a", "c"] and state_of(after) != state_of(before)


def test_files_of_a_split(tmp_path):
    for number, text in enumerate("ab"):
        delimited(tmp_path / "data" / f"train-{number}.csv", rows=[[text, "x"]] * 2)
    assert NamedDataset(glue(tmp_path / "data")).splits["train"]["text"][:] == ["a", "a", "b", "b"]
    streamed = NamedDataset(glue(tmp_path / "data"), streaming=True).rows("train", text="text", advice="")
    assert [row["text"] for row in streamed.data] == ["a", "a", "b", "b"] and streamed.data.num_shards == 2
    (tmp_path / "data" / "train-1.csv").write_text("words\na\nb\n")
    with pytest.raises(
        InputError, match=r"train-1\.csv has the columns 'words', but .*train-0\.csv has 'text', 'label'"
    ):
        load(tmp_path / "data", ["train"])


def test_a_mistake_in_a_folder_names_file_and_line(tmp_path):
    path = delimited(tmp_path / "data" / "train.csv", rows=[["a", "x"], ["b"]])
    with pytest.raises(InputError, match=rf"^{re.escape(str(path))}, line 3: the row has 1 fields, not 2"):
        load(path.parent, ["train"], text_column="text")


def test_a_folder_that_says_how_to_read_it(tmp_path):
    path = delimited(tmp_path / "data" / "train.csv", "/", rows=[["a", "x"], ["b", "y"]])
    config = "configs:\n- config_name: default\n  data_files: train.csv\n  sep: /\n"
    (path.parent / "README.md").write_text(f"---\n{config}---\n")
    assert load(path.parent, ["train"], text_column="text").train["text"][:] == ["a", "b"]


@pytest.mark.parametrize("squad", [False, True])
@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"dataset_name": "me/data", "train_file": "a.json"},
            "dataset_name is me/data, but train_file is set as well",
        ),
        ({"dataset_name": "me/data", "test_file": "a.json"}, "dataset_name is me/data, but test_file is set as well"),
        (
            {"train_file": "a.json", "dataset_config_name": "x"},
            "dataset_config_name is x, but dataset_name is not set",
        ),
        ({"train_file": "a.json", "test_split_name": "x"}, "test_split_name is x, but dataset_name is not set"),
    ],
)
def test_options_that_do_not_go_together(squad, options, message):
    with pytest.raises(InputError, match=message):
        (SquadArguments if squad else GlueArguments)(**options)


def test_a_task_and_a_data_set():
    with pytest.raises(InputError, match="task_name is rte, but dataset_name is set as well"):
        GlueArguments(task_name="rte", dataset_name="me/data")
    assert SquadArguments(task_name="squad_v2", dataset_name="me/data").task_name == "squad_v2"  # the rules


# Questions


@pytest.mark.parametrize("form", ["save_to_disk", "parquet", "json"])
def test_each_form_gives_the_same_questions(tmp_path, form):
    data = split_questions()
    arguments = SquadArguments(dataset_name=str(saved(tmp_path / "data", data, form)))
    task = load_questions(arguments, seed=0)
    for found, part in ((task.train, data["train"]), (task.validation[""], data["validation"])):
        assert found[:] == part.remove_columns("title")[:]
    assert task.test == task.validation  # there is no test split


@pytest.mark.parametrize("name", [None, "holdout"])
def test_questions_to_predict(monkeypatch, name):
    hub = Hub(monkeypatch, split_questions(**{name or "test": questions(5, prefix="t").remove_columns("answers")}))
    arguments = SquadArguments(dataset_name="me/data", dataset_config_name="words", test_split_name=name)
    task = load_questions(arguments, seed=0)
    assert hub.asked == [("me/data", "words", {"revision": None})]
    assert task.test[""]["id"][:] == [f"t{row}" for row in range(5)]
    assert len(task.validation[""]) == 8


def test_questions_need_their_columns(monkeypatch):
    Hub(monkeypatch, DatasetDict(train=questions(4).rename_column("answers", "answer")))
    with pytest.raises(
        InputError, match=r"no column 'answers': it has .*'answer' \(dict\); questions have the columns"
    ):
        load_questions(SquadArguments(dataset_name="me/data"), seed=0, splits=["train"])


def test_questions_are_checked_as_those_of_files(monkeypatch):
    data = questions(4)
    moved = data.map(lambda row: {"answers": {"text": row["answers"]["text"], "answer_start": [0]}})
    Hub(monkeypatch, DatasetDict(train=moved))
    with pytest.raises(InputError, match="me/data, train: .* not at its answer_start"):
        load_questions(SquadArguments(dataset_name="me/data"), seed=0, splits=["train"])
