"""Means of the loss terms between two log entries."""

import torch
from accelerate import Accelerator
from torch import Tensor


class RunningMeans:
    """Sums terms on the device, so that a step never synchronizes. They are transferred once, when read.

    Args:
        terms: their names.
    """

    def __init__(self, terms: list[str]) -> None:
        self.terms = sorted(terms)
        self.sums: Tensor | None = None  # one per term, then the numbers of finite and of other batches

    def add(self, loss: Tensor, terms: dict[str, Tensor]) -> None:
        """Adds the terms of a batch. If its loss is not finite, the batch is only counted."""
        values = torch.stack([terms[name].detach().float() for name in self.terms])
        finite = torch.isfinite(loss.detach())
        row = torch.cat([torch.where(finite, values, 0), torch.stack([finite, ~finite]).float()])
        self.sums = row if self.sums is None else self.sums + row

    def drain(self, accelerator: Accelerator) -> dict[str, float]:
        """Returns the means over the batches of all processes since the last call, and resets them."""
        if self.sums is None:
            return {}
        *sums, finite, others = accelerator.reduce(self.sums, reduction="sum").tolist()
        self.sums = None
        means = [total / finite if finite else float("nan") for total in sums]
        names = [f"loss_{term}" for term in self.terms]
        return dict(zip(names, means, strict=True)) | {"nonfinite_steps": int(others)}
