"""The data options of question answering."""

import math
from dataclasses import dataclass

from ckd_trainer.arguments import check_positive, option
from ckd_trainer.data.arguments import DataArguments
from ckd_trainer.data.squad_tasks import SQUAD_TASKS
from ckd_trainer.utils.errors import InputError
from ckd_trainer.utils.files import user_path


@dataclass
class SquadArguments(DataArguments):
    """The questions to train and evaluate on, and how answers are found.

    Lengths are in tokens. The defaults are those of the SQuAD examples of BERT and transformers.

    Example::

        SquadArguments(task_name="squad_v2", data_dir="squad")
        SquadArguments(dataset_name="me/questions", dataset_config_name="medicine")
    """

    task_name: str = option(
        "squad",
        "squad (v1.1: the context holds the answer to each question) or squad_v2 (v2.0: some have no answer). "
        "It also sets the rules by which other data is read and scored.",
    )
    data_dir: str | None = option(
        None,
        "A folder with the official files (train-v1.1.json, dev-v1.1.json, or those of v2.0). By default SQuAD comes "
        "from the Hub (rajpurkar/squad, rajpurkar/squad_v2).",
    )
    test_split_name: str | None = option(
        None, "The split of dataset_name to predict. By default test, or the validation set if there is no test split."
    )
    train_file: str | None = option(
        None,
        "Your own training data: the official JSON, or the Hub's columns (id, context, question, answers) as .jsonl, "
        ".parquet, .csv or .tsv (with answers as JSON text).",
    )
    validation_file: str | None = option(None, "Your own validation data, in the same formats.")
    test_file: str | None = option(
        None,
        "Your own questions to predict, in the same formats; answers are not needed. By default the validation set.",
    )
    max_seq_length: int | None = option(
        None,
        "The length of a feature: a question and a piece of its context. By default 384, or fewer if the models read "
        "fewer.",
    )
    doc_stride: int | None = option(
        None,
        "The number of tokens that two neighboring features of one context share. By default 128, or half of the "
        "context's room in a feature if 128 do not fit.",
    )
    max_question_length: int = option(64, "Longer questions are cut to this many tokens.")
    max_answer_length: int = option(30, "Answers longer than this many tokens are not predicted.")
    n_best_size: int = option(20, "The number of answers per question in nbest_predictions.json.")
    null_score_diff_threshold: float = option(
        0.0,
        "squad_v2: no answer is predicted if its score exceeds that of the best answer by more than this. The metric "
        "eval_best_f1_thresh is the value that would have been best.",
    )
    drop_misplaced_answers: bool = option(
        False, "Leave out questions whose answer is not at answer_start, instead of stopping."
    )

    def __post_init__(self) -> None:
        if self.task_name not in SQUAD_TASKS:
            raise InputError(f"task_name is {self.task_name!r}: give {' or '.join(SQUAD_TASKS)}.")
        others = self.given("dataset_name", "train_file", "validation_file")
        if self.data_dir and others:
            raise InputError(f"data_dir is set, but {others[0]} is set as well: give one or the other.")
        if self.data_dir and not user_path(self.data_dir).is_dir():
            raise InputError(f"data_dir is {self.data_dir}, which is not a folder: give one with the official files.")
        self.fill_in(max_seq_length=384, doc_stride=128)
        super().__post_init__()
        check_positive(self, "max_question_length", "max_answer_length", "n_best_size")
        if self.doc_stride < 0:
            raise InputError(f"doc_stride is {self.doc_stride}: give 0 or more.")
        if not math.isfinite(self.null_score_diff_threshold):
            raise InputError(f"null_score_diff_threshold is {self.null_score_diff_threshold}: give a number.")

    @property
    def has_labeled(self) -> bool:
        return bool(self.data_dir) or self.reads_hub or super().has_labeled

    @property
    def reads_hub(self) -> bool:
        """Whether SQuAD comes from the Hub. (A test file does not say where the rest comes from.)"""
        return not self.given("data_dir", "dataset_name", "train_file", "validation_file")
