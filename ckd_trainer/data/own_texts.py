"""Reads a data set by name, or the user's files."""

from collections.abc import Callable, Sequence

from datasets import ClassLabel, Dataset, Value

from ckd_trainer.data.classes import class_names
from ckd_trainer.data.glue_arguments import GlueArguments
from ckd_trainer.data.groups import check_relevance, with_groups
from ckd_trainer.data.hub import NamedDataset
from ckd_trainer.data.label_sets import LabelSets
from ckd_trainer.data.labeled_texts import TextTask, texts_and_labels
from ckd_trainer.data.table import Table
from ckd_trainer.data.table_files import checked_path, open_table
from ckd_trainer.utils.errors import InputError
from ckd_trainer.utils.files import user_path


def load_own(arguments: GlueArguments, splits: Sequence[str]) -> TextTask:
    """Loads a data set by name or the user's files."""
    texts, label, named = own_columns(arguments), arguments.label_column, _named(arguments)
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
            data = texts_and_labels(table, texts, None if split == "test" else label, names, "the training data have")
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


def own_texts(arguments: GlueArguments, split: str) -> Dataset:
    """Returns the texts of a split of a data set by name or of the user's files."""
    table = _opener(arguments, _named(arguments), (split,))(split)
    return texts_and_labels(table, own_columns(arguments), None, None, "")


def own_columns(arguments: GlueArguments) -> dict[str, str]:
    """Returns {name in a `TextTask`: name of the column in the data} of the texts."""
    # The columns get new names, because a text column of the data may be called "label".
    texts = {"text": arguments.text_column}
    return texts | ({"text_pair": arguments.text_pair_column} if arguments.text_pair_column else {})


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
    texts = list(own_columns(arguments).values())
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
