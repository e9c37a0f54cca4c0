"""The teacher as signals that batches carry."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from ckd_trainer.teacher.signals import Column, Signal
from ckd_trainer.utils.padding import attention_mask_of

PREFIX = "cached_"  # of the columns of cached signals in a batch


def column_name(signal: Signal, column: str) -> str:
    """Returns what a column of a signal is called in a cache and, after PREFIX, in a batch."""
    return f"{signal.key}.{column}"


def columns_of(signals: Sequence[Signal]) -> dict[str, Column]:
    """Returns the columns of signals by their names in a cache."""
    return {column_name(signal, name): column for signal in signals for name, column in signal.columns().items()}


class CachedTeacher:
    """Reads the signals that a batch carries, put there by `cache.SignalCollator`; runs no model.

    What is float32 there travels as int32 of the same bits, as some backends round every floating input of a batch.

    Args:
        signals: what is read.
    """

    def __init__(self, signals: Sequence[Signal]) -> None:
        self.signals = list(signals)

    def __call__(self, batch: Mapping[str, Tensor]) -> dict[Signal, Any]:
        mask = attention_mask_of(batch)
        return {signal: signal.unpack(self._columns(batch, signal), mask) for signal in self.signals}

    def _columns(self, batch: Mapping[str, Tensor], signal: Signal) -> dict[str, Tensor]:
        columns = {}
        for name, column in signal.columns().items():
            values = batch.get(PREFIX + column_name(signal, name))
            if values is None:
                raise ValueError(
                    "the batch carries no teacher signals: with teacher_cache_dir, batches have to come from the "
                    "trainer's get_train_dataloader()."
                )
            columns[name] = values.view(torch.float32) if column.dtype == "float32" else values
        return columns
