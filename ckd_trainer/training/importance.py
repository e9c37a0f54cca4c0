"""Orders the heads and neurons of a trainer's student by their importance for the loss on labels."""

import functools
import logging
import random
from collections.abc import Callable, Iterable
from typing import Any

import torch
from datasets import Dataset
from torch import Tensor
from torch.utils.data import DataLoader
from transformers import PreTrainedModel

from ckd_trainer.models.importance import importance, rewire
from ckd_trainer.utils.errors import InputError

logger = logging.getLogger(__name__)

# Importance is measured on this many examples, in batches of DynaBERT's size: a sum of absolute values depends on it.
_EXAMPLES, _BATCH = 1024, 8


def labeled_dataset(candidates: Iterable[Any], has_labels: Callable[[Dataset], bool]) -> Dataset:
    """Returns the first data set with labels.

    Args:
        candidates: the training set and the evaluation sets.
        has_labels: returns whether a data set has the labels that the loss reads.

    Raises:
        InputError: there is none.
    """
    for found in candidates:
        if isinstance(found, Dataset) and has_labels(found):
            return found
    raise InputError(
        "heads and neurons are ordered by their importance for the loss on the labels, but neither the training nor "
        "the evaluation set is a datasets.Dataset with labels: give one, or leave student_widths out."
    )


def order_by_importance(
    model: PreTrainedModel,
    examples: Dataset,
    collate: Callable[[list[dict]], dict[str, Any]],
    loss: Callable[[dict[str, Any]], Tensor],
    *,
    seed: int,
) -> None:
    """Reorders heads and neurons so that the most important come first, measured on a sample of examples.

    Args:
        model: in the mode in which importance is to be measured.
        loss: returns the loss on the labels of a batch.
        seed: draws the sample.
    """
    rows = random.Random(seed).sample(range(len(examples)), min(_EXAMPLES, len(examples)))
    logger.info("Heads and neurons are ordered by their importance for %d examples.", len(rows))
    loader = DataLoader(
        examples.select(rows),
        batch_size=_BATCH,
        collate_fn=collate,
        generator=torch.Generator(),  # the default generator is the one that dropout uses
    )
    rewire(model, importance(model, (functools.partial(loss, batch) for batch in loader)))
