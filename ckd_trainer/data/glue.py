"""Texts and labels of GLUE, of data sets by name and of the user's files: loading, tokenizing and metrics."""

import logging
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import datasets
import numpy as np
from datasets import ClassLabel, Dataset, Value
from transformers import EvalPrediction

from ckd_trainer.data.classes import advice_for, class_names
from ckd_trainer.data.glue_arguments import GlueArguments
from ckd_trainer.data.glue_tasks import GLUE_TASKS, GlueTask
from ckd_trainer.data.groups import check_relevance, limit_groups, with_groups
from ckd_trainer.data.hub import NamedDataset, loaded
from ckd_trainer.data.label_sets import LabelSets
from ckd_trainer.data.submission import write_predictions
from ckd_trainer.data.tables import Table, checked_path, open_table
from ckd_trainer.data.tokenizer_pair import Tokenizer
from ckd_trainer.losses.ranking import GROUP
from ckd_trainer.metrics import multi_label, ranking
from ckd_trainer.metrics.glue import GlueMetric
from ckd_trainer.utils.errors import InputError, first_of, short
from ckd_trainer.utils.files import input_errors_about, user_path

__all__ = [
    "GLUE_TASKS",
    "GlueTask",
    "TextTask",
    "compute_metrics_for",
    "files_of",
    "load_task",
    "load_validation_texts",
    "tokenize",
    "write_predictions",
]

logger = logging.getLogger(__name__)

GLUE_ON_HUB = "nyu-mll/glue"


@dataclass
class TextTask:
    """Texts with labels to train and evaluate on. Each set holds the text columns and, except test sets, `label`.

    The label is an index into `label_names`, or a number if those are None (regression), or with `multi_label` a list
    of 0 and 1 for all names. With `group_column`, labeled sets also hold `group`, the number of the row's query.
    `validation` and `test` hold sets by key: "" for the only or first one, "mismatched" for
    MNLI's second.
    """

    name: str
    train: Dataset | None
    validation: dict[str, Dataset]
    test: dict[str, Dataset]
    text_columns: tuple[str, ...]
    label_names: list[str] | None
    multi_label: bool = False

    @property
    def is_regression(self) -> bool:
        return self.label_names is None


def metrics_of(arguments: GlueArguments) -> tuple[str, tuple[str, ...]]:
    """Returns the score that picks the best checkpoint, and the names of all scores, before any data is read."""
    if arguments.task_name:
        task = GLUE_TASKS[arguments.task_name]
        return task.best_metric, task.metrics
    if arguments.multi_label:
        return multi_label.SCORES[0], multi_label.SCORES
    scores = ("pearson", "spearmanr", "rmse") if arguments.regression else ("accuracy", "f1")
    if arguments.group_column:
        return ranking.SCORES[0], (*ranking.SCORES, *scores)
    return scores[0], scores


def files_of(arguments: GlueArguments, splits: Sequence[str]) -> dict[str, list[Path]]:
    """Returns the files of labeled sets by the option that names them; empty if they come from the Hub."""
    if arguments.task_name is None:
        options = [*(f"{split}_file" for split in splits), "label_names_file"]
        files = {option: getattr(arguments, option) for option in options}
        return {option: [user_path(path)] for option, path in files.items() if path}
    if not arguments.data_dir:
        return {}
    glue = GLUE_TASKS[arguments.task_name]
    folder = _task_folder(glue, user_path(arguments.data_dir))
    names = {"train": ["train.tsv"], "validation": [file for _, file in glue.validation.values()]}
    return {"data_dir": [folder / name for split in splits for name in names[split]]}


def load_task(
    arguments: GlueArguments, *, seed: int, splits: Sequence[str] = ("train", "validation", "test")
) -> TextTask:
    """Loads a GLUE task from the Hub or from a folder, a data set by name, or the user's files.

    Args:
        arguments: A `GlueArguments`; its `max_*_samples` limit the sizes of the sets.
        seed: Draws the training examples if `max_train_samples` is set and `sample_seed` is not.
        splits: The splits to load; the other sets stay None or empty. The classes of the user's data are the labels
            of the training set, which is read for them even if "train" is not requested.

    Returns:
        A `TextTask`. The classes of the user's data are the names of a `ClassLabel` column in a data set by name, else
        those of `ckd_trainer.data.classes.class_names`.

    Raises:
        InputError: an unknown task, a data set that cannot be loaded, a missing file, split or column, a malformed
            row, an unknown or empty label.

    Example::

        task = load_task(GlueArguments(task_name="rte", data_dir="glue"), seed=0, splits=("train", "validation"))
        task.validation[""][0]  # {"sentence1": "Dana Reeve, ...", "sentence2": "Christopher ...", "label": 1}
    """
    if arguments.task_name is None:
        task = _load_own(arguments, splits)
    else:
        glue = GLUE_TASKS[arguments.task_name]
        if arguments.data_dir:
            quoting = glue.quoting if arguments.quoting == "auto" else arguments.quoting
            read = _folder_reader(glue, user_path(arguments.data_dir), quoting)
        else:
            read = _hub_reader(glue)
        task = _load_glue(glue, read, splits)
    if arguments.group_column:
        limit_groups(task, arguments, seed)
        return task
    if task.train is not None:
        task.train = arguments.sample(task.train, seed)
    for sets, limit in ((task.validation, arguments.max_eval_samples), (task.test, arguments.max_predict_samples)):
        for key, data in sets.items():
            sets[key] = data.select(range(min(limit or len(data), len(data))))
    return task


def load_validation_texts(arguments: GlueArguments) -> TextTask:
    """Loads the validation set for its texts, without the training set that defines the classes of the user's data.

    Returns:
        A `TextTask`, whose labels are left out if they need that set.

    Raises:
        InputError: as `load_task`, about the validation set.
    """
    if arguments.task_name is not None:
        return load_task(arguments, seed=0, splits=("validation",))
    data = _own_texts(arguments, "validation")
    data = data.select(range(min(arguments.max_eval_samples or len(data), len(data))))
    return TextTask("own_files", None, {"": data}, {}, text_columns=tuple(data.column_names), label_names=None)


def _load_glue(glue: GlueTask, read: Callable[..., Dataset | None], splits: Sequence[str]) -> TextTask:
    """Loads a GLUE task; `read(split, file, labeled, needed)` returns a Dataset, or None for a missing second set."""

    def read_sets(sets: Mapping[str, tuple[str, str]], labeled: bool) -> dict[str, Dataset]:
        data = {key: read(*place, labeled=labeled, needed=not key) for key, place in sets.items()}
        return {key: part for key, part in data.items() if part is not None}

    return TextTask(
        name=glue.name,
        train=read("train", "train.tsv", labeled=True, needed=True) if "train" in splits else None,
        validation=read_sets(glue.validation, True) if "validation" in splits else {},
        test=read_sets(glue.test, False) if "test" in splits else {},
        text_columns=glue.text_columns,
        label_names=list(glue.label_names) if glue.label_names else None,
    )


def _hub_reader(glue: GlueTask) -> Callable[..., Dataset]:
    parts = loaded(
        lambda: datasets.load_dataset(GLUE_ON_HUB, glue.name),
        name=f"{glue.name} of {GLUE_ON_HUB}",
        advice="check the network, or give data_dir, a folder in the classic GLUE layout",
    )

    def read(split: str, file: str, *, labeled: bool, needed: bool) -> Dataset:
        data = parts[split]
        if labeled and glue.label_names and data.features["label"].names != list(glue.label_names):
            raise InputError(
                f"{GLUE_ON_HUB} has the labels {short(data.features['label'].names)} for {glue.name}, not "
                f"{list(glue.label_names)}: this is another version of the data; give data_dir instead."
            )
        table = Table(data, f"{GLUE_ON_HUB}, {glue.name}, {split}", range(1, len(data) + 1), unit="row")
        texts = {name: name for name in glue.text_columns}
        return _encode(table, texts, "label" if labeled else None, glue.label_names, f"{glue.name} has")

    return read


def _folder_reader(glue: GlueTask, data_dir: Path, quoting: str) -> Callable[..., Dataset | None]:
    if not os.path.isdir(data_dir):  # also where access to it is denied
        raise InputError(f"data_dir is {data_dir}, which is not a folder: give one in the classic GLUE layout.")
    folder = _task_folder(glue, data_dir)
    with input_errors_about(folder):
        there = first_of(sorted(path.name for path in folder.iterdir()), 20) or "nothing"

    def read(split: str, file: str, *, labeled: bool, needed: bool) -> Dataset | None:
        path = folder / file
        if not path.is_file():
            if needed:
                raise InputError(
                    f"{path} is missing: {folder} holds {there}. Give the folder that holds {glue.folder}/{file}, or "
                    "other files as train_file and validation_file without task_name."
                )
            logger.warning("%s is missing, so %s is left out: only the matched set is used.", path, split)
            return None
        texts = dict(zip(glue.text_columns, glue.file_text_columns or glue.text_columns, strict=True))
        label = glue.file_label_column if labeled else None
        columns = glue.file_columns if labeled else None
        table = open_table(
            path,
            columns=columns,
            usecols=[*texts.values(), label],
            quoting=quoting,
            skip_short=labeled and glue.skip_short,
        )
        return _encode(table, texts, label, glue.file_labels, f"{glue.name} has")

    return read


def _task_folder(glue: GlueTask, data_dir: Path) -> Path:
    folder = data_dir / glue.folder
    return folder if os.path.isdir(folder) else data_dir


def check_training_alone(arguments: GlueArguments, done: str) -> None:
    """Raises InputError for options about other sets or groups, in a command where training texts alone are `done`."""
    for name in arguments.given("validation_file", "test_file", "unlabeled_file", "unlabeled_dataset_name"):
        raise InputError(f"{name} is {getattr(arguments, name)}, but only training texts are {done}: leave it out.")
    if arguments.group_column:
        raise InputError("group_column is set, but texts without labels cannot be grouped by query: leave it out.")


def training_texts(arguments: GlueArguments, *, seed: int) -> list[list[str]]:
    """Returns the columns of texts of the training set, which is all that is read: it need not have labels."""
    if arguments.task_name:
        train: Any = load_task(arguments, seed=seed, splits=("train",)).train
    else:
        train = arguments.sample(_own_texts(arguments, "train"), seed)
    return [train[name][:] for name in text_columns_of(arguments)]


def _own_texts(arguments: GlueArguments, split: str) -> Dataset:
    """Returns the texts of a split of a data set by name or of the user's files."""
    table = _opener(arguments, _named(arguments), (split,))(split)
    return _encode(table, text_columns_of(arguments), None, None, "")


def text_columns_of(arguments: GlueArguments) -> dict[str, str]:
    """Returns {name in a `TextTask`: name of the column in the data} of the texts."""
    if arguments.task_name:
        return {name: name for name in GLUE_TASKS[arguments.task_name].text_columns}
    # The columns get new names, because a text column of the data may be called "label".
    texts = {"text": arguments.text_column}
    return texts | ({"text_pair": arguments.text_pair_column} if arguments.text_pair_column else {})


def _load_own(arguments: GlueArguments, splits: Sequence[str]) -> TextTask:
    """Loads a data set by name or the user's files."""
    texts, label, named = text_columns_of(arguments), arguments.label_column, _named(arguments)
    sets = LabelSets(arguments) if arguments.multi_label else None
    labels, group = [label] if sets is None else sets.columns, arguments.group_column
    open_split = _opener(arguments, named, splits, labels, [group] if group else [])
    # Unlabeled texts can be all that there is to train on.
    is_unlabeled = arguments.has_unlabeled and not arguments.has_labeled
    labeled = "validation" if is_unlabeled else "train"
    names = known = None
    if not arguments.regression:
        names = None if named is None or sets is not None else named.class_names(label)
        if names is None:
            known = open_split(labeled)
            names = class_names(known, label) if sets is None else sets.names(known)
    if group:
        check_relevance(names, "the training data")

    def read(split: str) -> Dataset:
        table = known if split == labeled and known is not None else open_split(split)
        if sets is None or split == "test":
            data = _encode(table, texts, None if split == "test" else label, names, "the training data have")
            return with_groups(data, table, arguments) if group and split != "test" else data
        data = {name: table.texts(column, may_be_blank=False) for name, column in texts.items()}
        return Dataset.from_dict({**data, "label": sets.read(table, names or [])})

    return TextTask(
        name="own_files",
        train=read("train") if "train" in splits and not is_unlabeled else None,
        validation={"": read("validation")} if "validation" in splits else {},
        test={"": read("test")} if "test" in splits else {},
        text_columns=tuple(texts),
        label_names=names,
        multi_label=arguments.multi_label,
    )


def _named(arguments: GlueArguments) -> NamedDataset | None:
    """Returns the data set by name, None if there are files."""
    return NamedDataset(arguments, quoting=arguments.quoting) if arguments.dataset_name else None


def _opener(
    arguments: GlueArguments,
    named: NamedDataset | None,
    splits: Sequence[str],
    labels: Sequence[str] = (),
    groups: Sequence[str] = (),
) -> Callable[[str], Table]:
    """Returns a function that reads a split: its texts and, except of the test set, these columns."""
    texts = list(text_columns_of(arguments).values())
    if named is None:
        return _file_opener(arguments, texts, [*labels, *groups], splits)
    options = dict.fromkeys(["text_column", "text_pair_column", *(option for option, _ in arguments.columns)])
    advice = (
        f"name the columns with {', '.join(options)}, or set task_name to ner for entities, or to squad for questions"
    )
    return _dataset_opener(named, texts, labels, groups, advice, of_lists=arguments.multi_label)


# What columns of data for other tasks show.
_OTHER_TASKS = {
    "tokens": ", or, for entities, set task_name to ner",
    "spans": ", or, for entities, set task_name to ner",
    "answers": ", or, for questions, set task_name to squad",
    "data": ", or, for questions, set task_name to squad",  # of the official files
}


def _file_opener(
    arguments: GlueArguments, texts: Sequence[str], others: Sequence[str], splits: Sequence[str]
) -> Callable[[str], Table]:
    def open_split(split: str) -> Table:
        path = getattr(arguments, f"{split}_file")
        if not path:
            why = f"the {split} set is needed" if split in splits else "its labels define the classes"
            raise InputError(f"{split}_file is not set, but {why}: give a .csv, .tsv, .json or .parquet file.")
        usecols = [*texts, *(others if split != "test" else ())]
        checked_path(path, ", or, for entities in CoNLL files, set task_name to ner")
        table = open_table(path, columns=arguments.header, usecols=usecols, quoting=arguments.quoting)
        or_task = next((advice for column, advice in _OTHER_TASKS.items() if column in (table.names or ())), "")
        has_header = user_path(path).suffix.lower() in (".csv", ".tsv") and arguments.header is None
        or_row = " (or give column_names if the file has no header line)" if has_header else ""
        for option, column in arguments.columns:
            if column in usecols:
                table.require(column, f"; name the right one with {option}{or_row}{or_task}")
        return table

    return open_split


def _dataset_opener(
    data: NamedDataset,
    texts: Sequence[str],
    labels: Sequence[str],
    groups: Sequence[str],
    advice: str,
    *,
    of_lists: bool,
) -> Callable[[str], Table]:
    def open_split(split: str) -> Table:
        others = () if split == "test" else (*labels, *groups)
        table = data.table(split, texts=texts, label=None, others=others, advice=advice)
        for label in labels if others else ():
            kind = table.data.features[label]
            if not of_lists and not isinstance(kind, Value | ClassLabel):
                raise InputError(
                    f"{table.source}: the label ({label!r}) is a {type(kind).__name__}: name a column of words or "
                    "numbers with label_column, or set multi_label if texts have several labels."
                )
        return table

    return open_split


def _encode(
    table: Table, texts: Mapping[str, str], label_column: str | None, names: Sequence[str] | None, known: str
) -> Dataset:
    """Returns the texts (new name -> column) and the label, if any, as an index into `names` or a number."""
    data = {name: table.texts(column, may_be_blank=False) for name, column in texts.items()}
    if label_column is None:
        return Dataset.from_dict(data)
    if names is None:
        return Dataset.from_dict({**data, "label": table.numbers(label_column)})
    words = table.words(label_column)
    indices = {name: index for index, name in enumerate(names)}
    for row, word in enumerate(words):
        if word not in indices:
            raise InputError(
                f"{table.place(row)}: the label ({label_column!r}) is {short(word)}, but {known} {len(names)} labels: "
                f"{first_of(names)}.{advice_for(word, names)}"
            )
    return Dataset.from_dict({**data, "label": [indices[word] for word in words]})


def tokenize(dataset: Dataset, task: TextTask, tokenizer: Tokenizer, arguments: GlueArguments) -> Dataset:
    """Turns a set of `task` into model inputs: `input_ids`, `attention_mask` and so on, and `labels` if it has labels.

    Groups are kept as `group`.

    Texts are cut to `arguments.max_seq_length` tokens; of a pair, the longer text is cut first. The collator pads
    them, unless `arguments.pad_to_max_length` is set.
    """

    def encode(batch: Mapping[str, Any]) -> dict[str, Any]:
        inputs = tokenizer(
            *(batch[column] for column in task.text_columns),
            truncation=True,
            max_length=arguments.max_seq_length,
            padding="max_length" if arguments.pad_to_max_length else False,
        )
        if GROUP in batch:
            inputs[GROUP] = batch[GROUP]
        if "label" not in batch:
            return dict(inputs)
        # The binary cross entropy of torch reads floats.
        labels = [list(map(float, row)) for row in batch["label"]] if task.multi_label else batch["label"]
        return {**inputs, "labels": labels}

    return dataset.map(encode, batched=True, remove_columns=dataset.column_names, desc="Tokenizing")


def compute_metrics_for(task: TextTask) -> Callable[[EvalPrediction], dict[str, float]]:
    """Returns the `compute_metrics` of a `Trainer` for the task: `EvalPrediction` -> scores by name (`GlueMetric`)."""
    metric = GlueMetric(config_name=metric_of(task), keep_in_memory=True)

    def compute_metrics(prediction: EvalPrediction) -> dict[str, float]:
        return metric.compute(predictions=predictions_of(task, prediction), references=prediction.label_ids)

    return compute_metrics


def metric_of(task: TextTask) -> str:
    """Returns the `config_name` of the task's `GlueMetric`."""
    own = "regression" if task.is_regression else "classification"
    return task.name if task.name in GLUE_TASKS else own


def predictions_of(task: TextTask, prediction: EvalPrediction) -> np.ndarray:
    """Returns the predicted classes, or numbers, of shape (examples,)."""
    logits = np.asarray(prediction.predictions)
    return logits.reshape(-1) if task.is_regression else logits.argmax(-1)
