"""The share of each batch in its step, by which a step does not depend on how its examples are divided."""

from collections.abc import Mapping
from typing import NamedTuple

import torch
from torch import Tensor


class StepItems(NamedTuple):
    """The number of items in the batches of a step.

    Each term of a batch is a mean over examples, or over pairs, triples or words that are not padding. Its weight in
    the step is its batch's share of all of these,

        (items in this batch) / (mean items of the step's batches, on all processes)

    so the plain mean that `Trainer` takes over batches and processes is the mean over all items.

    Attributes:
        terms: {term: the mean number over the batches and all processes}.
        labels: the number that `Trainer` passes to a `compute_loss_func`; None without one, or without labels.
        batches: the batches of this process.
    """

    terms: dict[str, Tensor]
    labels: Tensor | int | None
    batches: list[dict[str, Tensor]]

    def shared(self, terms: Mapping[str, Tensor], counts: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Returns the terms of a batch, each times the batch's share of the step.

        Args:
            counts: {term: the number of items that it averages over in this batch}.
        """
        shares = {term: count / self.terms[term] for term, count in counts.items()}
        if (
            self.labels is not None and "task" in shares
        ):  # a `compute_loss_func` has already divided by the labels of the step
            shares["task"] = torch.full_like(shares["task"], len(self.batches))
        # The mean over zero items is NaN: leave it out.
        return {term: torch.where(share > 0, terms[term] * share, 0) for term, share in shares.items()}
