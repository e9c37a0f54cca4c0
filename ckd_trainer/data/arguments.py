"""The data options that all tasks share. Files such as `squad_arguments.py` add those of each task."""

import random
from dataclasses import dataclass
from typing import Literal

from datasets import Dataset

from ckd_trainer.arguments import check_positive, option
from ckd_trainer.utils.errors import InputError
from ckd_trainer.utils.files import expanded


@dataclass
class DataArguments:
    """The source of a task's data (a data set by name, or files), and how much of it is used.

    A task's own dataclass adds fields, and redeclares a field if its help or default differs. `by_default` names the
    options that were not given; a run lowers them if its models read less.
    """

    dataset_name: str | None = option(
        None,
        "A data set on the Hub, a folder made by save_to_disk, or a folder of csv, JSON or parquet files. Give this "
        "or files.",
    )
    dataset_config_name: str | None = option(None, "The configuration of dataset_name, if it has several.")
    dataset_revision: str | None = option(
        None, "The branch, tag or commit of dataset_name on the Hub. By default the newest commit."
    )
    train_split_name: str | None = option(None, "The split of dataset_name to train on. By default train.")
    validation_split_name: str | None = option(
        None, "The split of dataset_name to evaluate on. By default validation; no other is used unless you name it."
    )
    test_split_name: str | None = option(None, "The split of dataset_name to predict. By default test.")
    train_file: str | None = option(None, "Your own training data.")
    validation_file: str | None = option(None, "Your own validation data.")
    test_file: str | None = option(None, "Your own test data.")
    unlabeled_file: str | None = option(
        None,
        "More texts to distill on, without labels: .csv, .tsv, .json/.jsonl or .parquet with the text columns of the "
        "training data. They count in every term but the loss on the labels. They are kept on disk, so there can be "
        "any number of them.",
    )
    unlabeled_dataset_name: str | None = option(
        None, "The same from a data set on the Hub or from a folder. Give this or unlabeled_file."
    )
    unlabeled_dataset_config_name: str | None = option(
        None, "The configuration of unlabeled_dataset_name, if it has several."
    )
    unlabeled_dataset_revision: str | None = option(
        None, "The branch, tag or commit of unlabeled_dataset_name on the Hub. By default the newest commit."
    )
    unlabeled_split_name: str | None = option(None, "The split of unlabeled_dataset_name. By default train.")
    unlabeled_share: float | None = option(
        None,
        "The share of unlabeled texts in each step, between 0 and 1; by default 0.5. An epoch goes once through the "
        "labeled ones.",
    )
    unlabeled_min_confidence: float | None = option(
        None,
        "Use only the unlabeled texts for which the teacher gives one class at least this probability. It needs "
        "teacher_cache_dir.",
    )
    quoting: Literal["auto", "csv", "none"] = option(
        "auto",
        "How csv and tsv files are quoted. csv: a field that holds a delimiter, a line break or a quote is in quotes, "
        "and quotes inside it are doubled, as pandas and spreadsheets write it. none: quotes are text. auto: csv for "
        ".csv files, none for .tsv files, with a warning if a file seems to follow the other rule.",
    )
    max_seq_length: int | None = option(None, "Longer texts are cut to this many tokens.")
    pad_to_max_length: bool = option(
        False,
        "Pad every input to max_seq_length, not to the longest of its batch, for hardware that needs fixed shapes.",
    )
    max_train_samples: int | None = option(None, "Use only this many labeled training examples, drawn at random.")
    sample_seed: int | None = option(
        None,
        "The seed that draws max_train_samples. By default the run's seed; give one to compare seeds on one sample.",
    )
    max_eval_samples: int | None = option(None, "Use only this many examples of each validation set, the first ones.")
    max_predict_samples: int | None = option(None, "Use only this many examples of each test set, the first ones.")

    def __post_init__(self) -> None:
        self.dataset_name = expanded(self.dataset_name) or None
        files = self.files_instead_of_dataset()
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
        self._check_unlabeled()
        check_positive(self, "max_seq_length", "max_train_samples", "max_eval_samples", "max_predict_samples")

    @property
    def header(self) -> list[str] | None:
        """The names of the columns of csv and tsv files without a header line; None if the files have one."""
        return None

    @property
    def has_labeled(self) -> bool:
        """Whether there are labeled texts to train on."""
        return bool(self.dataset_name or self.train_file)

    @property
    def has_unlabeled(self) -> bool:
        """Whether there are texts without labels."""
        return bool(self.unlabeled_file or self.unlabeled_dataset_name)

    def _check_unlabeled(self) -> None:
        self.unlabeled_dataset_name = expanded(self.unlabeled_dataset_name) or None
        if self.unlabeled_file and self.unlabeled_dataset_name:
            raise InputError(
                f"unlabeled_file is {self.unlabeled_file}, but unlabeled_dataset_name is set as well: give one or the "
                "other."
            )
        if not self.unlabeled_dataset_name:
            for name in self.given(
                "unlabeled_dataset_config_name", "unlabeled_dataset_revision", "unlabeled_split_name"
            ):
                raise InputError(
                    f"{name} is {getattr(self, name)}, but unlabeled_dataset_name is not set: set it, or leave {name} "
                    "out."
                )
        for name in ("unlabeled_share", "unlabeled_min_confidence"):
            value = getattr(self, name)
            if value is None:
                continue
            if not self.has_unlabeled:
                raise InputError(f"{name} is {value:g}, but unlabeled_file is not set: set it, or leave {name} out.")
            if not 0 < value < 1:
                raise InputError(f"{name} is {value:g}: give a number between 0 and 1.")

    def sample(self, train: Dataset, seed: int) -> Dataset:
        """Returns max_train_samples examples of a training set, in order, drawn with sample_seed or else `seed`."""
        if self.max_train_samples is None or self.max_train_samples >= len(train):
            return train
        draw = random.Random(seed if self.sample_seed is None else self.sample_seed)
        return train.select(sorted(draw.sample(range(len(train)), self.max_train_samples)))

    def files_instead_of_dataset(self) -> list[str]:
        """Returns the options that are set, but may not be set beside dataset_name."""
        return self.given("train_file", "validation_file", "test_file")

    def given(self, *names: str) -> list[str]:
        """Returns the names of the options that are set."""
        return [name for name in names if getattr(self, name)]

    def fill_in(self, **defaults: int) -> None:
        """Sets the options that were not given and names them in `by_default`, as models may require lower values."""
        self.by_default = frozenset(name for name in defaults if getattr(self, name) is None)
        for name in self.by_default:
            setattr(self, name, defaults[name])
