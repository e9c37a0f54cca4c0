"""A teacher whose signals are already in the batches."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from ckd_trainer.teacher.signals import Column, Signal
from ckd_trainer.utils.units import item_mask_of

PREFIX = "cached_"  # prefix of the columns of cached signals in a batch


def column_name(signal: Signal, column: str) -> str:
    """Returns the name of a signal's column in a cache and, after PREFIX, in a batch."""
    return f"{signal.key}.{column}"


def columns_of(signals: Sequence[Signal]) -> dict[str, Column]:
    """Returns the columns of signals by their names in a cache."""
    return {column_name(signal, name): column for signal in signals for name, column in signal.columns().items()}


class CachedTeacher:
    """Reads the teacher's signals from a batch, where `cache.SignalCollator` puts them. Runs no model.

    float32 values travel as int32 with the same bits, because some backends round every floating input of a batch.

    Args:
        signals: the signals to read.
    """

    def __init__(self, signals: Sequence[Signal]) -> None:
        self.signals = list(signals)

    def __call__(self, batch: Mapping[str, Tensor]) -> dict[Signal, Any]:
        mask = item_mask_of(batch)
        return {signal: signal.unpack(self._columns(batch, signal), mask) for signal in self.signals}

    def _columns(self, batch: Mapping[str, Tensor], signal: Signal) -> dict[str, Tensor]:
        columns = {}
        for name, column in signal.columns().items():
            values = batch.get(PREFIX + column_name(signal, name))
            if values is None:
                raise ValueError(
                    "the batch contains no teacher signals: with teacher_cache_dir, batches must come from the "
                    "trainer's get_train_dataloader()."
                )
            columns[name] = values.view(torch.float32) if column.dtype == "float32" else values
        return columns
