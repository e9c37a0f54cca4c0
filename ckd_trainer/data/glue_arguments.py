"""The data options of text classification and regression."""

import difflib
from dataclasses import dataclass

from ckd_trainer.arguments import option
from ckd_trainer.data.arguments import DataArguments
from ckd_trainer.data.glue_tasks import GLUE_TASKS
from ckd_trainer.data.ner_arguments import NER
from ckd_trainer.data.squad_tasks import SQUAD_TASKS
from ckd_trainer.utils.errors import InputError


@dataclass
class GlueArguments(DataArguments):
    """The texts and labels to train and evaluate on: a GLUE task, a data set by name, or your own files.

    Example::

        GlueArguments(task_name="rte")
        GlueArguments(dataset_name="stanfordnlp/imdb", validation_split_name="test")
        GlueArguments(train_file="train.csv", validation_file="dev.csv", text_column="review")
    """

    task_name: str | None = option(
        None,
        "A GLUE task: cola, sst2, mrpc, qqp, stsb, mnli, qnli, rte or wnli. Leave it out for other data.",
    )
    data_dir: str | None = option(
        None,
        "A folder in the classic GLUE layout (data_dir/CoLA/train.tsv, ...), or the folder of a single task. By "
        "default GLUE comes from the Hub (nyu-mll/glue).",
    )
    train_file: str | None = option(
        None, "Your own training data: .csv, .tsv, .json/.jsonl (one object per line) or .parquet."
    )
    validation_file: str | None = option(None, "Your own validation data, with the same columns.")
    test_file: str | None = option(None, "Your own test data, with the same columns; labels are not needed.")
    text_column: str = option("text", "The column of your data that holds the text (or the first of a pair).")
    text_pair_column: str | None = option(None, "The column of your data that holds the second text of a pair.")
    label_column: str = option("label", "The column of your data that holds the label.")
    regression: bool = option(False, "The label of your data is a number to predict, not a class.")
    max_seq_length: int | None = option(
        None, "Longer texts are cut to this many tokens. By default 128, or fewer if the models read fewer."
    )

    @property
    def has_labeled(self) -> bool:
        return bool(self.task_name) or super().has_labeled

    def __post_init__(self) -> None:
        if self.task_name in SQUAD_TASKS:
            raise InputError(f"task_name is {self.task_name}, which is question answering: use run_squad_ckd.py.")
        if self.task_name == NER:
            raise InputError(f"task_name is {NER}, which is named entities: use run_ner_ckd.py.")
        if self.task_name and self.task_name not in GLUE_TASKS:
            names = [*GLUE_TASKS, *SQUAD_TASKS, NER]
            nearest = difflib.get_close_matches(self.task_name.lower(), names, n=1, cutoff=0.0)[0]
            raise InputError(
                f"task_name is {self.task_name!r}, which is not a task; the nearest is {nearest} (the "
                f"tasks are {', '.join(names)})."
            )
        sources = self.given("dataset_name", "train_file", "validation_file", "test_file")
        if self.task_name and sources:
            raise InputError(f"task_name is {self.task_name}, but {sources[0]} is set as well: give one or the other.")
        if not self.task_name and not sources:
            raise InputError(
                "there is no data to use: give task_name for a GLUE task, dataset_name, or train_file and "
                "validation_file."
            )
        if self.task_name and self.regression:
            raise InputError(
                f"regression is for your own data, but task_name is {self.task_name}, which already decides it: leave "
                "regression out."
            )
        if self.data_dir and not self.task_name:
            raise InputError("data_dir is set without task_name: name the GLUE task, or give train_file instead.")
        self.fill_in(max_seq_length=128)
        super().__post_init__()
