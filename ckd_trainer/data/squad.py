"""Loads questions about contexts: the official files, a data set by name, or files of the user."""

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import datasets
from datasets import Dataset

from ckd_trainer.data.hub import NamedDataset
from ckd_trainer.data.splits import loaded
from ckd_trainer.data.squad_arguments import SquadArguments
from ckd_trainer.data.squad_files import check_questions, read_questions
from ckd_trainer.data.squad_tasks import SQUAD_TASKS
from ckd_trainer.utils.errors import InputError
from ckd_trainer.utils.files import user_path

logger = logging.getLogger(__name__)


@dataclass
class QuestionTask:
    """Questions to train and evaluate on, each set with the columns id, context, question and answers.

    `answers` holds the lists `text` and `answer_start`, empty if there is no answer; test sets may lack it.
    `validation` and `test` hold their only set under the key "".
    """

    train: Dataset | None
    validation: dict[str, Dataset]
    test: dict[str, Dataset]
    text_columns: tuple[str, ...] = ("question", "context")


def files_of(arguments: SquadArguments, splits: Sequence[str]) -> dict[str, list[Path]]:
    """Returns the files of labeled sets by the option that names them; empty if they come from the Hub."""
    if arguments.data_dir:
        files = SQUAD_TASKS[arguments.task_name].files
        return {"data_dir": [user_path(arguments.data_dir) / files[split] for split in splits]}
    files = {f"{split}_file": getattr(arguments, f"{split}_file") for split in splits}
    return {option: [user_path(path)] for option, path in files.items() if path}


def load_questions(
    arguments: SquadArguments, *, seed: int, splits: Sequence[str] = ("train", "validation", "test")
) -> QuestionTask:
    """Loads SQuAD from the Hub or from a folder with the official files, a data set by name, or the user's files.

    Args:
        arguments: A `SquadArguments`; its `max_*_samples` limit the sizes of the sets.
        seed: Draws the training questions if `max_train_samples` is set and `sample_seed` is not.
        splits: The splits to load; the other sets stay None or empty. Without a `test_file` or a test split, the test
            set is the validation set, as SQuAD's own test set is not public.

    Returns:
        A `QuestionTask`.

    Raises:
        InputError: a missing or malformed file or data set; whatever `check_questions` refuses.

    Example::

        task = load_questions(SquadArguments(data_dir="squad"), seed=0, splits=("train", "validation"))
        task.validation[""][0]  # {"id": "56be4db0acb8001400a502ec", "context": "Super Bowl 50 was ...", ...}
    """
    task = SQUAD_TASKS[arguments.task_name]
    rules = {"answerable": not task.null_answers, "drop_misplaced": arguments.drop_misplaced_answers}

    named = NamedDataset(arguments, quoting=arguments.quoting) if arguments.dataset_name else None

    def read(split: str) -> Dataset | None:
        labeled = split != "test"
        if named is not None:
            table = named.table(
                split if labeled or named.has_test else "validation",
                texts=["id", "context", "question"],
                label="answers" if labeled else None,
                advice="questions have the columns id, context, question and answers",
            )
            return check_questions(table.data, table.source, labeled=labeled, **rules)
        source = split if labeled or arguments.test_file else "validation"
        path = getattr(arguments, f"{source}_file")
        if path is None and arguments.data_dir:
            path = Path(arguments.data_dir) / task.files[source]
        elif path is None and arguments.reads_hub:
            questions = _from_hub(task.hub_name, source)
            return check_questions(questions, f"{task.hub_name}, {source}", labeled=labeled, **rules)
        elif path is None and split == "train" and arguments.has_unlabeled:
            return None  # unlabeled questions are all that there is to train on
        elif path is None:
            others = "" if labeled else " (or validation_file)"
            raise InputError(f"{split}_file is not set{others}, but the {split} set is needed: give a file.")
        return read_questions(path, labeled=labeled, quoting=arguments.quoting, **rules)

    def first(split: str, limit: int | None) -> dict[str, Dataset]:
        if split not in splits:
            return {}
        questions = read(split)
        return {"": questions.select(range(min(limit or len(questions), len(questions))))}

    train = read("train") if "train" in splits else None
    if train is not None:
        train = arguments.sample(train, seed)
    validation = first("validation", arguments.max_eval_samples)
    # The same questions are read and encoded once. (Questions are dropped for their answers; predictions need none.)
    has_test = bool(arguments.test_file) or (named is not None and named.has_test)
    same = not (has_test or arguments.drop_misplaced_answers)
    if validation and same and arguments.max_predict_samples == arguments.max_eval_samples:
        test = validation if "test" in splits else {}
    else:
        test = first("test", arguments.max_predict_samples)
    return QuestionTask(train, validation, test)


def _from_hub(name: str, split: str) -> Dataset:
    return loaded(
        lambda: datasets.load_dataset(name, split=split),
        name=f"{name} on the Hub",
        advice="check the network, or give data_dir (a folder with the official files) or train_file and the others",
    )
