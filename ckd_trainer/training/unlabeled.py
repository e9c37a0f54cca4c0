"""Mixes examples without labels into a training set."""

from collections.abc import Callable
from dataclasses import dataclass
from numbers import Real
from typing import Any

import numpy as np
import pyarrow.compute as pc
from datasets import Dataset, concatenate_datasets
from datasets.features import ClassLabel, List, Value
from transformers import TrainingArguments

from ckd_trainer.training.sampling import MixedSampler, data_seed, step_size
from ckd_trainer.utils.errors import InputError, short
from ckd_trainer.utils.wrapped_models import LABELS

SHARE = 0.5  # of a batch, unless another is given


@dataclass
class Mixture:
    """A training set whose last rows have no labels.

    Attributes:
        labeled: the number of labeled examples, which come first.
        unlabeled: the rows without a label that are drawn.
        share: the share of each step that these have.
    """

    labeled: int
    unlabeled: np.ndarray
    share: float

    def sampler(self, examples: Dataset, args: TrainingArguments, epoch: Callable[[], int]) -> MixedSampler:
        """Returns the sampler of the training set; `epoch` returns the number of the next epoch."""
        grouped = args.train_sampling_strategy == "group_by_length"
        return MixedSampler(
            self.labeled,
            self.unlabeled,
            sizes=sizes_of(self.share, args),
            seed=data_seed(args),
            epoch=epoch,
            lengths=lengths_of(examples, "input_ids") if grouped else None,
        )


def sizes_of(share: float, args: TrainingArguments) -> tuple[int, int]:
    """Returns how many of a step's examples are labeled and unlabeled.

    Raises:
        InputError: batches are not drawn at random or by length, or a step has no place for labeled or for unlabeled
            examples.
    """
    if args.train_sampling_strategy not in ("random", "group_by_length"):
        raise InputError(
            f"train_sampling_strategy is {args.train_sampling_strategy}, with which unlabeled examples cannot be "
            "mixed: set random or group_by_length."
        )
    step = step_size(args)
    unlabeled = round(share * step)
    if not 0 < unlabeled < step:
        raise InputError(
            f"unlabeled_share is {share:g}, but of the {step} examples of a step, none would be "
            f"{'labeled' if unlabeled else 'unlabeled'}: give another share, or larger batches."
        )
    return step - unlabeled, unlabeled


def mixed(labeled: Any, unlabeled: Any, share: float | None) -> tuple[Dataset, Mixture]:
    """Returns labeled examples followed by unlabeled ones, and where these are.

    The unlabeled examples get the label columns of the others, with -100, or NaN for scores, whatever they had there:
    they count in every term but the task loss. Other columns that only they have are left out.

    Args:
        share: of the unlabeled examples in each step; None for 0.5.

    Raises:
        InputError: a set is not a `datasets.Dataset`, the unlabeled one has no rows or lacks columns or has columns of
            another type, labels have no value for missing ones, or the share is not between 0 and 1.

    Example::

        both, mixture = mixed(labeled, unlabeled, 0.75)
        both[mixture.labeled]["labels"]  # -100
    """
    share = SHARE if share is None else share
    check_share(share)
    for name, data in (("train_dataset", labeled), ("unlabeled_dataset", unlabeled)):
        if not isinstance(data, Dataset):
            raise InputError(
                f"{name} is a {type(data).__name__}: unlabeled examples are mixed with a datasets.Dataset."
            )
        if len(data) == 0:
            raise InputError(f"{name} has no rows.")
    of_labels = [name for name in labeled.column_names if name in (*LABELS, "label", "label_ids")]
    lacking = [name for name in labeled.column_names if name not in (*unlabeled.column_names, *of_labels)]
    if lacking:
        raise InputError(f"unlabeled_dataset has no column {lacking[0]!r}, which the training set has.")
    for name in of_labels:
        unlabeled = _with_missing(unlabeled, name, labeled)
    unlabeled = unlabeled.select_columns(labeled.column_names)
    for name, feature in labeled.features.items():
        if unlabeled.features[name] != feature:
            raise InputError(
                f"the column {name!r} of unlabeled_dataset is a {unlabeled.features[name]}, but that of the training "
                f"set a {feature}: encode both in the same way."
            )
    rows = np.arange(len(labeled), len(labeled) + len(unlabeled))
    return concatenate_datasets([labeled, unlabeled]), Mixture(len(labeled), rows, share)


def check_share(share: float) -> None:
    """Raises InputError for a share of the unlabeled examples that leaves no others, or none of them."""
    if not (isinstance(share, Real) and 0 < share < 1):
        raise InputError(f"unlabeled_share is {short(share)}: give a number between 0 and 1.")


def has_token_lists(examples: Any) -> bool:
    """Returns whether examples are a `datasets.Dataset` with a list of token ids each."""
    return isinstance(examples, Dataset) and isinstance(examples.features.get("input_ids"), List)


def lengths_of(examples: Dataset, column: str) -> np.ndarray:
    """Returns the number of tokens of each example."""
    lengths = [
        pc.list_value_length(batch[column]).to_numpy(zero_copy_only=False)
        for batch in examples.select_columns([column]).with_format("arrow").iter(10_000)
    ]
    return np.concatenate(lengths).astype(np.int64)


def _with_missing(unlabeled: Dataset, name: str, labeled: Dataset) -> Dataset:
    """Returns unlabeled examples with a column of missing labels, of the type that the labeled examples have."""
    feature = labeled.features[name]
    lengths = _label_counts(unlabeled, name, labeled) if isinstance(feature, List) else None
    if name in unlabeled.column_names:
        unlabeled = unlabeled.remove_columns(name)
    kind = getattr(feature, "feature", feature)
    dtype = kind.dtype if isinstance(kind, Value | ClassLabel) else ""
    if not dtype.startswith(("int", "float")):
        raise InputError(
            f"the labels ({name!r}) are of the type {feature}, which has no value for missing ones: cast them to "
            "int64 or float32."
        )
    missing = float("nan") if dtype.startswith("float") else -100
    if lengths is None:
        return unlabeled.add_column(name, np.full(len(unlabeled), missing), feature=feature)

    def labels(batch: dict[str, list], rows: list[int]) -> dict[str, list]:
        return {name: [[missing] * int(count) for count in lengths[rows]]}

    features = unlabeled.features.copy()
    return unlabeled.map(labels, batched=True, with_indices=True, features=type(features)({**features, name: feature}))


def _label_counts(unlabeled: Dataset, name: str, labeled: Dataset) -> np.ndarray:
    """Returns how many labels each unlabeled example lacks.

    Raises:
        InputError: it is not known.
    """
    if isinstance(unlabeled.features.get(name), List):
        return lengths_of(unlabeled, name)
    lengths = lengths_of(labeled, name)
    if "input_ids" in labeled.column_names and (lengths == lengths_of(labeled, "input_ids")).all():
        return lengths_of(unlabeled, "input_ids")
    if (lengths == lengths[0]).all():
        return np.full(len(unlabeled), lengths[0])
    raise InputError(
        f"the labels ({name!r}) have other lengths than the texts, so it is not known what unlabeled examples lack: "
        "add the column to unlabeled_dataset, with any labels."
    )
