"""The texts of a validation set on which students are timed, and whether runs were scored on the same ones."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from ckd_trainer.comparison.results import contributions_of
from ckd_trainer.tasks.base import Task
from ckd_trainer.utils.errors import InputError
from ckd_trainer.utils.files import user_path

_BATCHES = 10  # of different texts
# The options that define a task and its validation set. Other runs may name the paths among them from other folders.
_PATHS = ("data_dir", "dataset_name", "validation_file", "label_names_file")
_OPTIONS = (
    "task_name",
    *_PATHS,
    "dataset_config_name",
    "validation_split_name",
    "text_column",
    "text_pair_column",
    "label_column",
    "multi_label",
    "label_separator",
    "label_columns",
    "group_column",
    "token_column_number",
    "tag_column_number",
    "tokens_column",
    "tags_column",
    "spans_column",
    "regression",
    "max_eval_samples",
)


def check_same_data(tasks: Mapping[Path, Task], metric: str) -> None:
    """Raises InputError if runs were scored on different tasks or validation sets.

    Args:
        tasks: those of the runs by their folders.
    """
    (first, task), *others = tasks.items()
    _, examples = contributions_of(first, metric)
    for folder, other in others:
        for name in _OPTIONS:
            ours, theirs = (getattr(one.args, name, None) for one in (task, other))
            if _resolved(name, ours) != _resolved(name, theirs):
                raise InputError(
                    f"{name} is {_shown(ours)} in {first}, but {_shown(theirs)} in {folder}: scores on different data "
                    "cannot be compared. Give runs with the same task and validation set."
                )
        _, other_examples = contributions_of(folder, metric)
        if None not in (examples, other_examples) and examples != other_examples:
            raise InputError(
                f"the validation set has changed between the runs in {first} and {folder}: evaluate both again with "
                "--do_eval."
            )


def _resolved(name: str, value: Any) -> Any:
    return user_path(value).resolve() if name in _PATHS and value else value


def _shown(value: Any) -> Any:
    return "not set" if value is None else value


def batches(task: Task, tokenizer: PreTrainedTokenizerBase, size: int) -> list[dict[str, Tensor]]:
    """Returns batches of a task's validation set, of the same texts for every tokenizer.

    All batches have the given size: if the set has fewer texts, they are repeated. A long context of questions is
    several inputs.

    Args:
        task: loaded with the texts of its validation set.
    """
    texts = next(iter(task.data.validation.values())).select_columns(list(task.data.text_columns))
    rows = np.resize(np.random.default_rng(0).permutation(len(texts)), _BATCHES * size)
    encoded = task.encode_unlabeled(texts.select(rows), tokenizer)
    names = [name for name in encoded.column_names if name in tokenizer.model_input_names]
    inputs, collate = encoded.select_columns(names).to_list(), task.collator(tokenizer)
    return [dict(collate(inputs[start : start + size])) for start in range(0, _BATCHES * size, size)]
