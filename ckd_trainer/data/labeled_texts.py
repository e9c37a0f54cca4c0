"""Texts with labels: the sets of a task, and how they are read from a table."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from datasets import Dataset

from ckd_trainer.data.classes import advice_for
from ckd_trainer.data.table import Table
from ckd_trainer.utils.errors import InputError, first_of, short


@dataclass
class TextTask:
    """Texts with labels to train and evaluate on. Each set holds the text columns and, except test sets, `label`.

    The label is an index into `label_names`, or a number if those are None (regression), or with `multi_label` a list
    of 0 and 1 for all names. With `group_column`, labeled sets also hold `group`, the number of the row's query.
    `validation` and `test` hold sets by key: "" for the only or first one, "mismatched" for
    MNLI's second.
    """

    name: str
    train: Dataset | None
    validation: dict[str, Dataset]
    test: dict[str, Dataset]
    text_columns: tuple[str, ...]
    label_names: list[str] | None
    multi_label: bool = False

    @property
    def is_regression(self) -> bool:
        return self.label_names is None


def texts_and_labels(
    table: Table, texts: Mapping[str, str], label_column: str | None, names: Sequence[str] | None, known: str
) -> Dataset:
    """Returns the texts (new name -> column) and the label, if any, as an index into `names` or a number."""
    data = {name: table.texts(column, may_be_blank=False) for name, column in texts.items()}
    if label_column is None:
        return Dataset.from_dict(data)
    if names is None:
        return Dataset.from_dict({**data, "label": table.numbers(label_column)})
    words = table.words(label_column)
    indices = {name: index for index, name in enumerate(names)}
    for row, word in enumerate(words):
        if word not in indices:
            raise InputError(
                f"{table.place(row)}: the label ({label_column!r}) is {short(word)}, but {known} {len(names)} labels: "
                f"{first_of(names)}.{advice_for(word, names)}"
            )
    return Dataset.from_dict({**data, "label": [indices[word] for word in words]})
