"""The data options of text classification and regression."""

import difflib
import itertools
from dataclasses import dataclass

from ckd_trainer.arguments import option
from ckd_trainer.data.arguments import DataArguments
from ckd_trainer.data.glue_tasks import GLUE_TASKS
from ckd_trainer.data.ner_arguments import NER
from ckd_trainer.data.squad_tasks import SQUAD_TASKS
from ckd_trainer.utils.errors import InputError

GROUP_SIZE = 8  # unless another is given
# Roles that one column can have: a text can name the group of its row.
_SHARED = {("text_column", "group_column"), ("text_pair_column", "group_column")}


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
        "A GLUE task: cola, sst2, mrpc, qqp, stsb, mnli, qnli, rte or wnli. Leave it out for your own labeled texts. "
        "ckd-trainer teacher also takes ner (entities), squad and squad_v2 (questions); --task_name ner --help lists "
        "their options.",
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
    multi_label: bool = option(
        False,
        "A text of your data has any number of labels, or none. label_column holds lists, or texts with a separator, "
        "of names or of ids from 0; or there is a column for each label, see label_columns.",
    )
    label_separator: str = option(
        ",", "With multi_label: what separates labels, where label_column holds texts and not lists."
    )
    label_columns: str | None = option(
        None,
        "With multi_label: the names of the columns that hold 0 or 1, one for each label, separated by commas. They "
        "take the place of label_column.",
    )
    label_names_file: str | None = option(
        None,
        "With multi_label: a text file with the name of a label on each line, in the order of the ids. By default the "
        "labels are those of the training data.",
    )
    group_column: str | None = option(
        None,
        "The column of your data that names the query of each row, if rows are a query (text_column), a candidate "
        "(text_pair_column) and whether it is relevant (label 0 or 1, or a number with regression). Batches then hold "
        "whole groups of candidates, and the evaluation reports how the candidates of each query are ranked.",
    )
    # 8: train_group_size of Tevatron and FlagEmbedding.
    group_size: int = option(
        GROUP_SIZE,
        "With group_column: how many candidates of each query an epoch draws at random, including one with "
        "the highest label. Queries with fewer candidates are left out of training.",
    )
    column_names: str | None = option(
        None,
        "The names of all columns, separated by commas, if your csv and tsv files have no header line; unlabeled_file "
        "included.",
    )
    max_seq_length: int | None = option(
        None, "Longer texts are cut to this many tokens. By default 128, or fewer if the models read fewer."
    )

    @property
    def has_labeled(self) -> bool:
        return bool(self.task_name) or super().has_labeled

    def __post_init__(self) -> None:
        if self.task_name in SQUAD_TASKS:
            raise InputError(f"task_name is {self.task_name}, which is question answering: use ckd-trainer squad.")
        if self.task_name == NER:
            raise InputError(f"task_name is {NER}, which is named entities: use ckd-trainer ner.")
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
        if self.task_name and self.column_names:
            raise InputError(
                f"column_names is for your own data, but task_name is {self.task_name}, whose files are known: leave "
                "it out."
            )
        files = self.given("train_file", "validation_file", "test_file", "unlabeled_file")
        if self.column_names and not any(getattr(self, name).lower().endswith((".csv", ".tsv")) for name in files):
            raise InputError("column_names is set, but no csv or tsv file is given: other data names its columns.")
        self._check_multi_label()
        self._check_groups()
        self._check_columns()
        if self.data_dir and not self.task_name:
            raise InputError("data_dir is set without task_name: name the GLUE task, or give train_file instead.")
        for name in ("label_columns", "column_names"):
            _names(name, getattr(self, name))
        self.fill_in(max_seq_length=128)
        super().__post_init__()

    def _check_multi_label(self) -> None:
        """Raises InputError for options about labels that contradict each other."""
        of_lists = ["label_separator"] if self.label_separator != "," else []
        of_lists += self.given("label_names_file")
        if not self.multi_label:
            for name in (*of_lists, *self.given("label_columns")):
                raise InputError(
                    f"{name} is {getattr(self, name)!r}, but multi_label is not set: set it, or leave {name} out."
                )
            return
        if self.task_name:
            raise InputError(
                f"multi_label is for your own data, but the texts of task_name {self.task_name} have one label each: "
                "leave multi_label out."
            )
        if self.regression:
            raise InputError(
                "multi_label and regression are both set, but a text has labels or a number: leave one out."
            )
        if not self.label_separator:
            raise InputError("label_separator is empty: give the text between two labels, such as ; or a comma.")
        if self.label_columns is not None:
            for name in (*of_lists, *(["label_column"] if self.label_column != "label" else [])):
                raise InputError(
                    f"label_columns is {self.label_columns!r}, but {name} is set as well: give one or the other."
                )

    def _check_groups(self) -> None:
        """Raises InputError for options about groups that contradict others."""
        if not self.group_column:
            if self.group_size != GROUP_SIZE:
                raise InputError(
                    f"group_size is {self.group_size}, but group_column is not set: set it, or leave group_size out."
                )
            return
        if self.task_name:
            raise InputError(
                f"group_column is for your own data, but the texts of task_name {self.task_name} do not come in "
                "groups: leave group_column out."
            )
        if self.multi_label:
            raise InputError(
                "multi_label and group_column are both set, but candidates are ranked by one label: leave one out."
            )
        if not self.text_pair_column:
            raise InputError(
                f"group_column is {self.group_column}, but text_pair_column is not set: text_column names the query, "
                "and text_pair_column the candidate."
            )
        for name in self.given("unlabeled_file", "unlabeled_dataset_name"):
            raise InputError(
                f"group_column is {self.group_column}, but {name} is set as well: texts without labels are not drawn "
                "as groups. Leave one out."
            )

    def _check_columns(self) -> None:
        """Raises InputError if one column of the user's data has two roles that exclude each other."""
        if self.task_name:
            return
        for (one, column), (other, same) in itertools.combinations(self.columns, 2):
            if column == same and (one, other) not in _SHARED:
                raise InputError(f"{one} and {other} both name {column!r}: give two different columns.")

    @property
    def columns(self) -> list[tuple[str, str]]:
        """The columns of the user's data that are read, each as (the option that names it, its name)."""
        labels = [("label_columns", name) for name in self.label_column_names] or [("label_column", self.label_column)]
        columns = [("text_column", self.text_column), ("text_pair_column", self.text_pair_column), *labels]
        return [(name, column) for name, column in (*columns, ("group_column", self.group_column)) if column]

    @property
    def label_column_names(self) -> list[str]:
        """The columns that hold 0 or 1; empty if there are none."""
        return _names("label_columns", self.label_columns)

    @property
    def header(self) -> list[str] | None:
        """The names of the columns of files without a header line; None if the files have one."""
        return _names("column_names", self.column_names) or None


def _names(option: str, text: str | None) -> list[str]:
    """Returns the names of columns that an option lists."""
    names = [] if text is None else [name.strip() for name in text.split(",")]
    for name in names:
        if not name or names.count(name) > 1:
            what = f"{name!r} twice" if name else "an empty name"
            raise InputError(f"{option} is {text!r}, which holds {what}: separate different names by commas.")
    return names
