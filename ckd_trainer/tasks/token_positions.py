"""The trainers of tasks whose predictions are about tokens: named entities and answers in a text."""

from typing import Any

import torch
from torch import Tensor

from ckd_trainer.dynamic_trainer import DynamicTrainer
from ckd_trainer.trainer import DistillationTrainer
from ckd_trainer.utils.padding import attention_mask_of, by_token


class TokenPositionsTrainer(DistillationTrainer):
    """A `DistillationTrainer` with predictions in token positions (`ckd_trainer.utils.padding`).

    `Trainer` aligns batches of different lengths at their first column. With padding on the left, the columns of an
    input's tokens would then depend on the other inputs of its batch.
    """

    def prediction_step(
        self,
        model: torch.nn.Module,
        inputs: dict[str, Any],
        prediction_loss_only: bool,
        ignore_keys: list[str] | None = None,
    ) -> tuple[Any, Any, Any]:
        """Returns logits (batch, length, ...), or starts and ends; those of an input's tokens come first, in order."""
        loss, logits, labels = super().prediction_step(model, inputs, prediction_loss_only, ignore_keys)
        mask = attention_mask_of(inputs)

        def in_positions(part: Tensor) -> Tensor:
            return by_token(part.movedim(1, -1), mask.to(part.device)).movedim(-1, 1)

        if isinstance(logits, tuple):
            logits = tuple(map(in_positions, logits[:2]))
        elif logits is not None:
            logits = in_positions(logits)
        return loss, logits, labels


class DynamicTokenPositionsTrainer(DynamicTrainer, TokenPositionsTrainer):
    """A `TokenPositionsTrainer` for students of several widths and depths."""
