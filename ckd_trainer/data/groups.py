"""Groups of text pairs: the candidates of one query, which are ranked against each other."""

import logging
from typing import Any

import numpy as np
from datasets import Dataset

from ckd_trainer.data.glue_arguments import GlueArguments
from ckd_trainer.data.table import Table
from ckd_trainer.losses.ranking import GROUP
from ckd_trainer.utils.errors import InputError, first_of, short

logger = logging.getLogger(__name__)

# Classes of which the second is relevant, as pandas and spreadsheets write them, too.
RELEVANCE = (["0", "1"], ["0.0", "1.0"], ["False", "True"], ["false", "true"], ["FALSE", "TRUE"])


def group_numbers(table: Table, column: str) -> list[int]:
    """Returns the number of each row's group, from 0 in the order in which groups occur.

    Args:
        column: names the query of each row, by a text or a whole number.

    Raises:
        InputError: no such column, or a value that is empty or of another type.

    Example::

        group_numbers(open_table("train.tsv"), "query_id")  # [0, 0, 0, 1, 1, ...]
    """
    numbers: dict[str, int] = {}
    found = []
    for row, value in enumerate(table.values(column)):
        if value is None or (isinstance(value, str) and not value.strip()):
            raise InputError(f"{table.place(row)}: the group ({column!r}) is empty: name the query of the row.")
        if not isinstance(value, str | int) or isinstance(value, bool):
            raise InputError(
                f"{table.place(row)}: the group ({column!r}) is {short(value)}: give a text or a whole number."
            )
        found.append(numbers.setdefault(str(value).strip(), len(numbers)))
    return found


def check_relevance(names: list[str] | None, source: str) -> None:
    """Raises InputError if it is unknown which of the classes is relevant; None for labels that are numbers."""
    if names is not None and names not in RELEVANCE:
        raise InputError(
            f"{source}: group_column is set, but the labels are {first_of(names)}, and it is unknown which of them a "
            "relevant candidate has: give 1 for relevant and 0 for others, or numbers with regression."
        )


def with_groups(data: Dataset, table: Table, arguments: GlueArguments) -> Dataset:
    """Returns labeled texts with their `group`.

    Args:
        data: the texts of the table, with `label`.

    Raises:
        InputError: as `group_numbers`, or a label below 0, as labels are the gains of NDCG.
    """
    for row, label in enumerate(data["label"][:]):
        if label < 0:
            raise InputError(
                f"{table.place(row)}: the label ({arguments.label_column!r}) is {label:g}, but with group_column it "
                "says how relevant a candidate is: give 0 or a positive number."
            )
    return data.add_column(GROUP, group_numbers(table, arguments.group_column or ""))


def limit_groups(task: Any, arguments: GlueArguments, seed: int) -> None:
    """Limits the sets of a `TextTask` to whole groups, and leaves those out of training that are too small.

    Args:
        seed: draws the groups of `max_train_samples` if `sample_seed` is not set.

    Raises:
        InputError: no group to train on is large enough, or none to evaluate on has candidates with different labels.
    """
    if task.train is not None:
        seed = seed if arguments.sample_seed is None else arguments.sample_seed
        train = _large_groups(task.train, arguments.group_size)
        task.train = _whole_groups(train, arguments.max_train_samples, "max_train_samples", seed)
    for key, data in task.validation.items():
        task.validation[key] = _whole_groups(data, arguments.max_eval_samples, "max_eval_samples")
        _report_ranked(task.validation[key])
    for key, data in task.test.items():
        task.test[key] = data.select(range(min(arguments.max_predict_samples or len(data), len(data))))


def _report_ranked(data: Dataset) -> None:
    """Reports the groups of a validation set whose candidates have equal labels, which no ranking score counts.

    Raises:
        InputError: no group has different labels.
    """
    groups, labels = np.asarray(data[GROUP][:]), np.asarray(data["label"][:], float)
    count = len(np.unique(groups))
    ranked = count - len(np.unique(groups)[_are_equal(groups, labels)])
    if not ranked:
        raise InputError(
            f"in none of the {count} groups of the validation set do candidates differ in their labels, so there is "
            "nothing to rank: give queries with relevant and other candidates, and check that group_column names the "
            "query."
        )
    if ranked < count:
        logger.info(
            "%d of %d groups of the validation set have candidates with different labels. Scores of rankings count "
            "these alone.",
            ranked,
            count,
        )


def _are_equal(groups: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Returns whether the labels of each group are all the same, (groups,)."""
    found, places = np.unique(groups, return_inverse=True)
    low, high = np.full(len(found), np.inf), np.full(len(found), -np.inf)
    np.minimum.at(low, places, labels)
    np.maximum.at(high, places, labels)
    return low == high


def _large_groups(data: Dataset, size: int) -> Dataset:
    """Returns the rows of groups with at least `size` candidates, and warns of the others.

    Raises:
        InputError: there is no such group.
    """
    groups = np.asarray(data[GROUP][:])
    _, places, counts = np.unique(groups, return_inverse=True, return_counts=True)
    kept = counts >= size
    if not kept.any():
        raise InputError(
            f"group_size is {size}, but the largest of the {len(counts)} groups to train on has {counts.max()} "
            f"candidate{'s' if counts.max() > 1 else ''}: give a lower group_size, or check that group_column names "
            "the query."
        )
    if kept.all():
        return data
    logger.warning(
        "%d of %d groups have fewer than %d candidates (group_size), and are left out of training: %d of %d rows.",
        (~kept).sum(),
        len(counts),
        size,
        (~kept[places]).sum(),
        len(data),
    )
    return data.select(np.flatnonzero(kept[places]))


def _whole_groups(data: Dataset, limit: int | None, option: str, seed: int | None = None) -> Dataset:
    """Returns whole groups with at most `limit` rows together; None for all.

    Args:
        option: that sets the limit.
        seed: draws the groups at random; None for the first ones.

    Raises:
        InputError: the first of them has more rows.
    """
    if limit is None or limit >= len(data):
        return data
    groups = np.asarray(data[GROUP][:])
    found, places, counts = np.unique(groups, return_inverse=True, return_counts=True)
    order = np.arange(len(found)) if seed is None else np.random.default_rng(seed).permutation(len(found))
    chosen = order[counts[order].cumsum() <= limit]
    if len(chosen) == 0:
        raise InputError(f"{option} is {limit}, but a group has {counts[order[0]]} candidates: give a higher number.")
    return data.select(np.flatnonzero(np.isin(places, chosen)))
