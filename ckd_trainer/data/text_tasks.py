"""Tasks on texts, whose data are GLUE's, a data set by name, or the user's files: loading, tokenizing and metrics."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from datasets import Dataset
from transformers import EvalPrediction

from ckd_trainer.data.glue import glue_files, load_glue
from ckd_trainer.data.glue_arguments import GlueArguments
from ckd_trainer.data.glue_tasks import GLUE_TASKS
from ckd_trainer.data.groups import limit_groups
from ckd_trainer.data.labeled_texts import TextTask
from ckd_trainer.data.own_texts import load_own, own_columns, own_texts
from ckd_trainer.data.table import is_blank
from ckd_trainer.data.tokenizer_pair import Tokenizer
from ckd_trainer.losses.ranking import GROUP
from ckd_trainer.metrics import multi_label, ranking
from ckd_trainer.metrics.glue import GlueMetric
from ckd_trainer.utils.errors import InputError
from ckd_trainer.utils.files import user_path


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
    if arguments.task_name is not None:
        return glue_files(arguments, splits)
    options = [*(f"{split}_file" for split in splits), "label_names_file"]
    files = {option: getattr(arguments, option) for option in options}
    return {option: [user_path(path)] for option, path in files.items() if path}


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
    task = load_own(arguments, splits) if arguments.task_name is None else load_glue(arguments, splits)
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
    data = own_texts(arguments, "validation")
    data = data.select(range(min(arguments.max_eval_samples or len(data), len(data))))
    return TextTask("own_files", None, {"": data}, {}, text_columns=tuple(data.column_names), label_names=None)


def check_training_alone(arguments: GlueArguments, done: str) -> None:
    """Raises InputError for options about other sets or groups, in a command where training texts alone are `done`."""
    for name in arguments.given("validation_file", "test_file", "unlabeled_file", "unlabeled_dataset_name"):
        raise InputError(f"{name} is {getattr(arguments, name)}, but only training texts are {done}: leave it out.")
    if arguments.group_column:
        raise InputError("group_column is set, but texts without labels cannot be grouped by query: leave it out.")


def training_texts(arguments: GlueArguments, *, seed: int) -> list[list[str]]:
    """Returns the columns of texts of the training set, without rows with a blank text.

    Nothing else is read: the set need not have labels.
    """
    if arguments.task_name:
        train: Any = load_task(arguments, seed=seed, splits=("train",)).train
    else:
        train = arguments.sample(own_texts(arguments, "train"), seed)
    rows = zip(*(train[name][:] for name in text_columns_of(arguments)), strict=True)
    written = [row for row in rows if not any(map(is_blank, row))]
    if not written:
        raise InputError("no row of the training set has all its texts: fill them in, or name other columns.")
    return [list(column) for column in zip(*written, strict=True)]


def text_columns_of(arguments: GlueArguments) -> dict[str, str]:
    """Returns {name in a `TextTask`: name of the column in the data} of the texts."""
    if arguments.task_name:
        return {name: name for name in GLUE_TASKS[arguments.task_name].text_columns}
    return own_columns(arguments)


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
