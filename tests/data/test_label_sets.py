"""Several labels per text: each form that data can have, and what is warned of or refused."""

import json
import logging

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from datasets import ClassLabel, Dataset, DatasetDict, List, Value

from ckd_trainer.data.glue_arguments import GlueArguments
from ckd_trainer.data.text_tasks import files_of, load_task
from ckd_trainer.utils.errors import InputError

NAMES = ["anger", "joy", "love"]
LABELS = [["love", "joy"], [], ["anger"], ["joy"]] * 3
FLAGS = [[0, 1, 1], [0, 0, 0], [1, 0, 0], [0, 1, 0]] * 3
TEXTS = [f'a "text, {number}' for number in range(len(LABELS))]


def ids(labels):
    return [NAMES.index(name) for name in labels]


def tsv(path, cells, header="text\tlabel\n"):
    path.write_text(header + "".join(f"{text}\t{cell}\n" for text, cell in zip(TEXTS, cells, strict=True)))
    return path


def json_lines(path, cells, **more):
    rows = [{"text": text, "label": cell} | more for text, cell in zip(TEXTS, cells, strict=True)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def parquet(path, **columns):
    pq.write_table(pa.table({"text": TEXTS, **columns}), path)
    return path


def loaded(path, **options):
    options = {"train_file": str(path), "validation_file": str(path), "multi_label": True} | options
    return load_task(GlueArguments(**options), seed=0, splits=("train", "validation"))


def refused(path, **options):
    with pytest.raises(InputError) as error:
        loaded(path, **options)
    return str(error.value)


@pytest.fixture
def names_file(tmp_path):
    path = tmp_path / "names.txt"
    path.write_text("\n".join(NAMES))  # without a line end, as GoEmotions has it
    return str(path)


def written(folder, form):
    """Writes the same labels in one of the forms; returns the file and its options."""
    joined = [", ".join(labels) for labels in LABELS]
    by_id = [",".join(map(str, ids(labels))) for labels in LABELS]
    columns = {name: [flags[place] for flags in FLAGS] for place, name in enumerate(NAMES)}
    match form:
        case "names in tsv":
            return tsv(folder / "a.tsv", joined), {}
        case "ids in tsv":
            return tsv(folder / "a.tsv", by_id), {"label_names_file": str(folder / "names.txt")}
        case "no header":
            options = {"column_names": "words, emotions", "text_column": "words", "label_column": "emotions"}
            return tsv(folder / "a.tsv", joined, header=""), options
        case "semicolons":
            return tsv(folder / "a.tsv", [text.replace(",", ";") for text in joined]), {"label_separator": ";"}
        case "lists of names":
            return json_lines(folder / "a.jsonl", LABELS), {}
        case "lists of ids":
            options = {"label_names_file": str(folder / "names.txt")}
            return json_lines(folder / "a.jsonl", list(map(ids, LABELS))), options
        case "parquet":
            return parquet(folder / "a.parquet", label=LABELS), {}
        case "flags":
            return parquet(folder / "a.parquet", **columns), {"label_columns": ",".join(NAMES)}
        case "flags of pandas":
            flags = {name: [bool(flag) for flag in values] for name, values in columns.items()}
            return parquet(folder / "a.parquet", **flags), {"label_columns": ",".join(NAMES)}
        case "flags in csv":
            lines = [f"t{number},{','.join(map(str, flags))}\n" for number, flags in enumerate(FLAGS)]
            (folder / "a.csv").write_text("text," + ",".join(NAMES) + "\n" + "".join(lines))
            return folder / "a.csv", {"label_columns": ",".join(NAMES)}


FORMS = ["names in tsv", "ids in tsv", "no header", "semicolons", "lists of names", "lists of ids", "parquet", "flags"]
FORMS += ["flags of pandas", "flags in csv"]


@pytest.mark.parametrize("form", FORMS)
def test_each_form_says_the_same(tmp_path, names_file, form, caplog):
    path, options = written(tmp_path, form)
    task = loaded(path, **options)
    assert task.label_names == NAMES and task.multi_label
    for data in (task.train, task.validation[""]):
        assert data["label"][:] == FLAGS and len(data["text"]) == len(TEXTS)
    assert caplog.messages == []


def test_names_of_a_column_of_lists_come_in_its_order(tmp_path):
    names = NAMES[::-1]
    column = List(ClassLabel(names=names))

    def split(order):
        labels = [[order.index(name) for name in row] for row in LABELS]
        return Dataset.from_dict({"text": TEXTS, "label": labels}).cast_column("label", List(ClassLabel(names=order)))

    # The other split has another order: its ids mean its own names.
    DatasetDict({"train": split(names), "validation": split(NAMES)}).save_to_disk(tmp_path / "data")
    task = loaded(None, train_file=None, validation_file=None, dataset_name=str(tmp_path / "data"))
    assert task.label_names == names and column == split(names).features["label"]
    assert task.train["label"][:] == task.validation[""]["label"][:] == [flags[::-1] for flags in FLAGS]


def test_columns_of_a_data_set(tmp_path):
    columns = {name: [flags[place] for flags in FLAGS] for place, name in enumerate(NAMES)}
    data = Dataset.from_dict({"text": TEXTS, **columns})
    DatasetDict({"train": data, "validation": data}).save_to_disk(tmp_path / "data")
    options = {"train_file": None, "validation_file": None, "dataset_name": str(tmp_path / "data")}
    assert loaded(None, **options, label_columns="joy,love").train["label"][:] == [flags[1:] for flags in FLAGS]
    message = refused(None, **options, label_columns="joy,fear")
    assert (
        "no column 'fear'" in message
        and "name the columns with text_column, text_pair_column, label_columns, or" in message
    )


def test_lists_need_multi_label(tmp_path):
    column = Dataset.from_dict({"text": TEXTS, "label": LABELS})
    DatasetDict({"train": column, "validation": column}).save_to_disk(tmp_path / "data")
    options = {"train_file": None, "validation_file": None, "dataset_name": str(tmp_path / "data")}
    assert "set multi_label if texts have several" in refused(None, **options, multi_label=False)
    assert column.features["label"] == List(Value("string"))


def test_the_names_file_counts_as_data(tmp_path, names_file):
    path = tsv(tmp_path / "a.tsv", ["1"] * len(TEXTS))
    arguments = GlueArguments(train_file=str(path), multi_label=True, label_names_file=names_file)
    assert files_of(arguments, ["train"]).keys() == {"train_file", "label_names_file"}


def test_numbers_without_names_are_sorted_as_numbers(tmp_path):
    path = json_lines(tmp_path / "a.jsonl", [[10, 9], [2], [9.0], []] * 3)
    assert loaded(path).label_names == ["2", "9", "10"]


@pytest.mark.parametrize(
    ("cells", "words"),
    [
        (["joy", "anger", "love", ""] * 3, "no text has two labels: leave multi_label out"),
        (["joy,anger", "Joy", "anger", ""] * 3, "2 of 3 classes ('label') look alike"),
    ],
)
def test_odd_labels_are_warned_of(tmp_path, caplog, cells, words):
    with caplog.at_level(logging.WARNING, "ckd_trainer"):
        loaded(tsv(tmp_path / "a.tsv", cells))
    assert words in caplog.text


def test_labels_of_no_text_are_warned_of(tmp_path, names_file, caplog):
    loaded(tsv(tmp_path / "a.tsv", ["0,1", "0", "", "1"] * 3), label_names_file=names_file)
    assert "1 of 3 labels apply to no text ('love')" in caplog.text


@pytest.mark.parametrize(
    ("cell", "words"),
    [
        ("3", "line 2: the label ('label') is '3', but | names.txt names 3 labels, with the ids 0 to 2"),
        ("-1", "is '-1', but"),
        ("jay", "is 'jay', but | names.txt names 3 labels: 'anger', 'joy', 'love'."),
        ("joy;love", "is 'joy;love' | Set label_separator to ';' if that separates labels"),
        ("1,joy", "line 2: the label 'joy' is there twice: give each label once"),
        ("joy,", "line 2: a label is empty"),
        ("joy,,love", "line 2: a label is empty"),
    ],
)
def test_labels_that_are_not_in_the_file(tmp_path, names_file, cell, words):
    message = refused(tsv(tmp_path / "a.tsv", [cell, *["joy"] * 11]), label_names_file=names_file)
    assert all(part in message for part in words.split(" | "))


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("joy\n\nlove\n", "line 2: the line is blank"),
        ("joy\nlove\njoy\n", "line 3: the label 'joy' is there twice"),
        ("1\n2\n3\n", "line 1: the label '1' reads as the id of line 2"),
        ("joy\n", "there is one label, 'joy': give two or more"),
        (" \n", "has no rows"),
    ],
)
def test_names_that_cannot_be_meant(tmp_path, content, words):
    (tmp_path / "names.txt").write_text(content)
    path = tsv(tmp_path / "a.tsv", ["joy"] * 12)
    assert words in refused(path, label_names_file=str(tmp_path / "names.txt"))


def test_a_missing_file_of_names(tmp_path):
    path = tsv(tmp_path / "a.tsv", ["joy"] * 12)
    assert "gone.txt: No such file" in refused(path, label_names_file=str(tmp_path / "gone.txt"))


@pytest.mark.parametrize(
    ("cells", "words"),
    [
        ([[]] * 12, "no text has a label ('label' is empty in every row): give labels"),
        ([None, *[["joy"]] * 11], "line 1: there are no labels ('label' is null): give an empty list"),
        ([3] * 12, "line 1: the labels ('label') are 3: give a list, or a text with a separator"),
        ([[1.5]] * 12, "line 1: a label is 1.5: give words or whole numbers"),
        ([[True]] * 12, "line 1: a label is True"),
        ([["a\nb"]] * 12, "line 1: a label is 'a\\nb': give labels without tabs and line breaks"),
        ([["joy", None]] * 12, "line 1: a label is None"),
        ([["joy", "joy"], *[["love"]] * 11], "line 1: the label 'joy' is there twice"),
        ([["joy"]] * 12, "there is one label, 'joy'"),
        ([[f"id{number}"] for number in range(12)], "name 12 classes"),
    ],
)
def test_lists_that_cannot_be_meant(tmp_path, cells, words):
    assert words in refused(json_lines(tmp_path / "a.jsonl", cells))


@pytest.mark.parametrize(
    ("cells", "words"),
    [
        ([""] * 12, "no text has a label"),
        (["joy;love", "joy", "love", ""] * 3, "',' separates labels in no row of 'label', but ';' is in 3 of 12"),
    ],
)
def test_separators_that_are_not_found(tmp_path, cells, words):
    assert words in refused(tsv(tmp_path / "a.tsv", cells))


@pytest.mark.parametrize("value", [2, -1, 0.5, None, "", "yes"])
def test_flags_that_are_neither(tmp_path, value):
    rows = [{"text": "a", "joy": 1, "love": 0}, {"text": "b", "joy": value, "love": 0}]
    if isinstance(value, str):
        rows[0]["joy"] = "1"
    (tmp_path / "a.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows * 3))
    message = refused(tmp_path / "a.jsonl", label_columns="joy,love")
    assert f"line 2: 'joy' is {'empty' if value in (None, '') else repr(value)}, which is neither 0 nor 1" in message


def test_flags_without_any(tmp_path):
    path = parquet(tmp_path / "a.parquet", joy=[0] * 12, love=[0] * 12)
    assert "no text has a label ('joy', 'love')" in refused(path, label_columns="joy,love")
    assert "there is one label, 'joy'" in refused(path, label_columns="joy")


@pytest.mark.parametrize("flags", [FLAGS, [[0, 1], [1, 0]] * 6, [[True, False, False]] * 12, [[0.0, 1.0]] * 12])
@pytest.mark.parametrize("form", ["lists", "texts"])
def test_lists_of_flags_are_not_labels(tmp_path, names_file, form, flags):
    if form == "lists":
        path = json_lines(tmp_path / "a.jsonl", flags)
    else:
        path = tsv(tmp_path / "a.tsv", [", ".join(map(str, row)) for row in flags])
    message = "the labels ('label') are lists of 0 and 1, but a list holds the labels that apply: give their names or"
    assert message in refused(path)
    if len(flags[0]) == len(NAMES):
        assert message in refused(path, label_names_file=names_file)


def test_ids_that_look_like_flags(tmp_path, names_file):
    task = loaded(json_lines(tmp_path / "a.jsonl", [[0, 1], [1, 0]] * 6), label_names_file=names_file)
    assert task.train["label"][:] == [[1, 1, 0]] * 12  # two of three labels


def test_a_label_of_the_validation_set_alone(tmp_path):
    train = tsv(tmp_path / "a.tsv", ["joy,love"] * 12)
    other = tsv(tmp_path / "b.tsv", ["joy,fear"] * 12)
    message = refused(train, validation_file=str(other))
    assert (
        "b.tsv, line 2: the label ('label') is 'fear', but the training data have 2 labels: 'joy', 'love'" in message
    )


def test_a_label_in_another_case(tmp_path):
    train = tsv(tmp_path / "a.tsv", ["joy,love"] * 12)
    message = refused(train, validation_file=str(tsv(tmp_path / "b.tsv", ["Joy,love"] * 12)))
    assert "is 'Joy', but the training data have 2 labels: 'joy', 'love'. Write it as 'joy'." in message


def test_a_header_that_was_denied(tmp_path):
    message = refused(tsv(tmp_path / "a.tsv", ["joy,love"] * 12), column_names="text,label")
    assert "a.tsv, line 1 is a header line ('text', 'label'), but column_names says that no file has one" in message


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"regression": True}, "multi_label and regression are both set"),
        ({"label_separator": ""}, "label_separator is empty"),
        ({"label_columns": "joy,"}, "label_columns is 'joy,', which holds an empty name"),
        ({"label_columns": "joy,love,joy"}, "which holds 'joy' twice"),
        ({"label_columns": "joy,love", "label_column": "emotions"}, "but label_column is set as well"),
        ({"label_columns": "joy,love", "label_separator": ";"}, "but label_separator is set as well"),
        ({"label_columns": "joy,love", "label_names_file": "a.txt"}, "but label_names_file is set as well"),
        ({"multi_label": False, "label_columns": "joy,love"}, "but multi_label is not set"),
        ({"multi_label": False, "label_names_file": "a.txt"}, "label_names_file is 'a.txt', but multi_label is not"),
        ({"multi_label": False, "label_separator": ";"}, "label_separator is ';', but multi_label is not set"),
        ({"task_name": "sst2", "train_file": None}, "multi_label is for your own data"),
        (
            {"task_name": "sst2", "train_file": None, "multi_label": False, "column_names": "a,b"},
            "column_names is for",
        ),
    ],
)
def test_options_that_contradict_each_other(options, words):
    with pytest.raises(InputError, match=words):
        GlueArguments(**{"train_file": "a.tsv", "multi_label": True} | options)
