"""Means of the loss terms between two logs."""

import torch
from accelerate import Accelerator
from torch import Tensor


class RunningMeans:
    """Sums the terms on the device, so that a step waits for nothing; one transfer when they are read.

    Args:
        terms: their names.
    """

    def __init__(self, terms: list[str]) -> None:
        self.terms = sorted(terms)
        self.sums: Tensor | None = None  # one per term, then the number of finite steps, then of others

    def add(self, loss: Tensor, terms: dict[str, Tensor]) -> None:
        """Adds the terms of a batch; where its loss is not finite, it is counted apart and they are left out."""
        values = torch.stack([terms[name].detach().float() for name in self.terms])
        finite = torch.isfinite(loss.detach())
        row = torch.cat([torch.where(finite, values, 0), torch.stack([finite, ~finite]).float()])
        self.sums = row if self.sums is None else self.sums + row

    def drain(self, accelerator: Accelerator) -> dict[str, float]:
        """Returns the means over steps and processes since the last call, and forgets them."""
        if self.sums is None:
            return {}
        *sums, finite, others = accelerator.reduce(self.sums, reduction="sum").tolist()
        self.sums = None
        means = [total / finite if finite else float("nan") for total in sums]
        names = [f"loss_{term}" for term in self.terms]
        return dict(zip(names, means, strict=True)) | {"nonfinite_steps": int(others)}
