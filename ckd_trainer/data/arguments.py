"""The data options that all tasks share. `glue_arguments.py` and `squad_arguments.py` add those of their tasks."""

from dataclasses import dataclass
from typing import Literal

from ckd_trainer.arguments import check_positive, option
from ckd_trainer.utils.errors import InputError
from ckd_trainer.utils.files import expanded


@dataclass
class DataArguments:
    """Where a task's data come from: a data set by name, or files; and how much of them is used.

    A task's own dataclass adds fields, and declares a field again where its help or default differs. `by_default`
    names the options that were not given and that a run lowers where its models read less.
    """

    dataset_name: str | None = option(
        None,
        "A data set of the Hub, a folder made by save_to_disk, or a folder of csv, JSON or parquet files. Give this "
        "or files.",
    )
    dataset_config_name: str | None = option(None, "Which configuration of dataset_name, where it has several.")
    dataset_revision: str | None = option(
        None, "Branch, tag or commit of dataset_name on the Hub. By default the newest commit."
    )
    train_split_name: str | None = option(None, "The split of dataset_name to train on. By default train.")
    validation_split_name: str | None = option(
        None, "The split of dataset_name to evaluate on. By default validation, and never another."
    )
    test_split_name: str | None = option(None, "The split of dataset_name to predict. By default test.")
    train_file: str | None = option(None, "Your own training data.")
    validation_file: str | None = option(None, "Your own validation data.")
    test_file: str | None = option(None, "Your own test data.")
    quoting: Literal["auto", "csv", "none"] = option(
        "auto",
        "How csv and tsv files are quoted: csv (a field that holds a delimiter, a line break or a quote is in quotes, "
        "and quotes in it are doubled, as pandas and spreadsheets write) or none (quotes are text). auto: csv for "
        ".csv files, none for .tsv files, and a warning where a file looks otherwise.",
    )
    max_seq_length: int | None = option(None, "Longer texts are cut to this many tokens.")
    pad_to_max_length: bool = option(
        False,
        "Pad every input to max_seq_length (for hardware that wants one shape), not to the longest of its batch.",
    )
    max_train_samples: int | None = option(None, "Use only this many training examples, drawn with the run's seed.")
    max_eval_samples: int | None = option(None, "Use only the first so many examples of each validation set.")
    max_predict_samples: int | None = option(None, "Use only the first so many examples of each test set.")

    def __post_init__(self) -> None:
        self.dataset_name = expanded(self.dataset_name) or None
        files = self.given("train_file", "validation_file", "test_file")
        if self.dataset_name and files:
            raise InputError(
                f"dataset_name is {self.dataset_name}, but {files[0]} is set as well: give one or the other."
            )
        of_dataset = self.given(
            "dataset_config_name",
            "dataset_revision",
            "train_split_name",
            "validation_split_name",
            "test_split_name",
        )
        if of_dataset and not self.dataset_name:
            raise InputError(
                f"{of_dataset[0]} is {getattr(self, of_dataset[0])}, but dataset_name is not set: set it, or leave "
                f"{of_dataset[0]} out."
            )
        check_positive(self, "max_seq_length", "max_train_samples", "max_eval_samples", "max_predict_samples")

    def given(self, *names: str) -> list[str]:
        """Returns those of the options that are set."""
        return [name for name in names if getattr(self, name)]

    def fill_in(self, **defaults: int) -> None:
        """Sets the options that were not given; `by_default` names them, as the models may ask for lower values."""
        self.by_default = frozenset(name for name in defaults if getattr(self, name) is None)
        for name in self.by_default:
            setattr(self, name, defaults[name])
