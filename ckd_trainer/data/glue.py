"""Reads GLUE from the Hub, or from a folder in its classic layout."""

import logging
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import datasets
from datasets import Dataset

from ckd_trainer.data.glue_arguments import GlueArguments
from ckd_trainer.data.glue_tasks import GLUE_TASKS, GlueTask
from ckd_trainer.data.labeled_texts import TextTask, texts_and_labels
from ckd_trainer.data.splits import loaded
from ckd_trainer.data.table import Table
from ckd_trainer.data.table_files import open_table
from ckd_trainer.utils.errors import InputError, first_of, short
from ckd_trainer.utils.files import input_errors_about, user_path

logger = logging.getLogger(__name__)

GLUE_ON_HUB = "nyu-mll/glue"


def glue_files(arguments: GlueArguments, splits: Sequence[str]) -> dict[str, list[Path]]:
    """Returns the files of labeled sets by the option that names them; empty if they come from the Hub."""
    if not arguments.data_dir:
        return {}
    glue = GLUE_TASKS[arguments.task_name or ""]
    folder = _task_folder(glue, user_path(arguments.data_dir))
    names = {"train": ["train.tsv"], "validation": [file for _, file in glue.validation.values()]}
    return {"data_dir": [folder / name for split in splits for name in names[split]]}


def load_glue(arguments: GlueArguments, splits: Sequence[str]) -> TextTask:
    """Loads a GLUE task from its folder or from the Hub, see `load_task`."""
    glue = GLUE_TASKS[arguments.task_name or ""]
    read = _folder_reader(glue, arguments) if arguments.data_dir else _hub_reader(glue)

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
    """Returns a function that reads a set from the Hub."""
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
        return texts_and_labels(table, texts, "label" if labeled else None, glue.label_names, f"{glue.name} has")

    return read


def _folder_reader(glue: GlueTask, arguments: GlueArguments) -> Callable[..., Dataset | None]:
    """Returns a function that reads a set; of a second one that is missing, it returns None."""
    data_dir = user_path(arguments.data_dir or "")
    quoting = glue.quoting if arguments.quoting == "auto" else arguments.quoting
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
        return texts_and_labels(table, texts, label, glue.file_labels, f"{glue.name} has")

    return read


def _task_folder(glue: GlueTask, data_dir: Path) -> Path:
    folder = data_dir / glue.folder
    return folder if os.path.isdir(folder) else data_dir
