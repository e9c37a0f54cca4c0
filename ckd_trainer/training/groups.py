"""Draws whole groups, such as a query and some of its candidates, for losses that compare the texts of a group."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from datasets import Dataset
from torch.utils.data import Sampler
from transformers import TrainingArguments

from ckd_trainer.losses.ranking import GROUP
from ckd_trainer.training.sampling import data_seed, seed_of_epoch
from ckd_trainer.utils.errors import InputError


class GroupSampler(Sampler[int]):
    """Draws the groups in random order, and of each the same number of texts, which follow one another.

    One of the drawn texts has the highest label of its group. The others are drawn at random from the rest. Of a group
    with more texts, each epoch draws others.

    Args:
        groups: the group of each example, in any order. No group has fewer than `size` examples.
        labels: the label of each example, a number; NaN if it is missing.
        size: number of examples drawn from each group.
        epoch_seed: returns the seed of the next epoch; called at its start.

    Example:
        >>> sampler = GroupSampler(np.array([7, 7, 3, 3, 3]), np.array([0, 1, 0, 0, 1]), 2, epoch_seed=lambda: 0)
        >>> len(sampler), sorted(next(zip(*[iter(sampler)] * 2)))
        (4, [0, 1])
    """

    def __init__(self, groups: np.ndarray, labels: np.ndarray, size: int, epoch_seed: Callable[[], int]) -> None:
        self.size, self.epoch_seed = size, epoch_seed
        found, self.groups, counts = np.unique(groups, return_inverse=True, return_counts=True)
        self.starts = counts.cumsum() - counts  # of each group, where rows are sorted by group
        labels = np.where(np.isnan(labels), -np.inf, labels)
        highest = np.full(len(found), -np.inf)
        np.maximum.at(highest, self.groups, labels)
        self.is_highest = labels == highest[self.groups]

    def __len__(self) -> int:
        return len(self.starts) * self.size

    def __iter__(self) -> Iterator[int]:
        random = torch.Generator().manual_seed(self.epoch_seed())
        # An order for each draw: in that of the first, the highest that were not drawn would come late.
        orders = [torch.randperm(len(self.groups), generator=random).numpy() for _ in range(2)]
        first = np.lexsort((orders[0], ~self.is_highest, self.groups))[self.starts]  # sorts by the last key first
        is_other = np.ones(len(self.groups), dtype=bool)
        is_other[first] = False
        rows = np.lexsort((orders[1], is_other, self.groups))
        drawn = rows[self.starts[:, None] + np.arange(self.size)]  # (groups, size)
        yield from drawn[torch.randperm(len(drawn), generator=random).numpy()].reshape(-1).tolist()


@dataclass
class Groups:
    """The groups of a training set.

    Attributes:
        groups: the group of each example.
        labels: the label of each example; NaN if it is missing.
        size: number of examples that a step takes of each of its groups.
    """

    groups: np.ndarray
    labels: np.ndarray
    size: int

    def sampler(self, args: TrainingArguments, epoch: Callable[[], int]) -> GroupSampler:
        """Returns the sampler of the training set; `epoch` returns the number of the next epoch."""
        check_group_size(self.size, args)
        seed = data_seed(args)
        return GroupSampler(self.groups, self.labels, self.size, lambda: seed_of_epoch(seed, epoch()))


def groups_of(examples: Any, size: int, args: TrainingArguments) -> Groups:
    """Returns the groups of a training set with a column `group`, and `labels` if it has labels.

    Raises:
        InputError: there is no such column, a group has fewer than `size` examples, or as `check_group_size`.
    """
    check_group_size(size, args)
    if not isinstance(examples, Dataset) or GROUP not in examples.column_names:
        raise InputError(
            f"group_size is {size}, but the training set is not a datasets.Dataset with a column {GROUP!r}: add one "
            "with the number of each text's group, or leave group_size out."
        )
    groups = np.asarray(examples[GROUP][:])
    if groups.dtype.kind not in "iu":
        raise InputError(f"the column {GROUP!r} holds values that are not whole numbers: number the groups from 0.")
    counts = np.unique(groups, return_counts=True)[1]
    if len(counts) == 0 or counts.min() < size:
        raise InputError(
            f"group_size is {size}, but {(counts < size).sum()} of {len(counts)} groups of the training set have "
            "fewer texts: leave these out, or give a lower group_size."
        )
    label = next((name for name in ("labels", "label") if name in examples.column_names), None)
    labels = np.full(len(groups), np.nan) if label is None else np.asarray(examples[label][:], dtype=float)
    if labels.ndim != 1:
        raise InputError("group_size is set, but a text has several labels, and candidates are ranked by one.")
    return Groups(groups, labels, size)


def check_group_size(size: int, args: TrainingArguments) -> None:
    """Raises InputError if batches would cut groups, or are not drawn at random."""
    if size < 2:
        raise InputError(f"group_size is {size}, but a group holds texts to compare: give 2 or more.")
    if args.train_sampling_strategy != "random":
        raise InputError(
            f"train_sampling_strategy is {args.train_sampling_strategy}, but with group_size batches are drawn as "
            "groups: set it to random."
        )
    batch = args.per_device_train_batch_size
    # With split_batches, each process takes its part of a batch.
    unit = size * (args.world_size if args.accelerator_config.split_batches else 1)
    if batch % unit:
        nearest = [str(count) for count in (batch // unit * unit, (batch // unit + 1) * unit) if count]
        raise InputError(
            f"per_device_train_batch_size is {batch}, but batches hold whole groups of {size} texts"
            f"{f' in each of {args.world_size} processes' if unit > size else ''}: give {' or '.join(nearest)}, or "
            "another group_size."
        )
