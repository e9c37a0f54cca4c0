"""Converts between positions in a padded batch and numbers of tokens, and reduces padding.

Padding may be before, after or between the valid tokens of an example. A tensor *by token* has an example's valid
tokens first, in order, followed by values without a meaning.
"""

from collections.abc import Mapping

import numpy as np
import pyarrow.compute as pc
import torch
from datasets import Dataset
from torch import Tensor


def longest_first(examples: Dataset) -> Dataset:
    """Returns the rows sorted by length, longest first, so that batches need little padding."""
    lengths = pc.list_value_length(examples.select_columns(["input_ids"]).with_format("arrow")[:]["input_ids"])
    return examples.select(np.argsort(-lengths.to_numpy(), kind="stable"))


def attention_mask_of(batch: Mapping[str, Tensor]) -> Tensor:
    """Returns the batch's attention mask, or all ones if it has none: nothing is padded then."""
    mask = batch.get("attention_mask")
    return torch.ones_like(batch["input_ids"]) if mask is None else mask


def packs_texts(batch: Mapping[str, Tensor]) -> bool:
    """Returns whether a row of a batch holds several texts, as transformers' `DataCollatorWithFlattening` makes it."""
    positions = batch.get("position_ids")
    if positions is None or batch.get("attention_mask") is not None:
        return False
    return bool((positions.diff(dim=-1) < 0).any())


def example_count(batch: Mapping[str, Tensor]) -> Tensor:
    """Returns the number of examples in a batch, a scalar."""
    return batch["input_ids"].new_full((), len(batch["input_ids"]))


def valid_first(mask: Tensor) -> Tensor:
    """Returns the stable order that puts valid items first, (batch, length)."""
    return mask.bool().argsort(dim=-1, descending=True, stable=True)


def valid_before(mask: Tensor) -> Tensor:
    """Returns the number of valid items before each valid item, (batch, length); for others, any such number."""
    return (mask.cumsum(-1) - 1).clamp_min(0)


def by_token(values: Tensor, mask: Tensor) -> Tensor:
    """Returns values (batch, ..., length) in the layout by token.

    Args:
        mask: (batch, length), true or 1 for valid tokens.
    """
    return values.take_along_dim(_broadcast(valid_first(mask), values), -1)


def to_positions(values: Tensor, mask: Tensor) -> Tensor:
    """Moves values by token, (batch, ..., tokens), to the positions of a mask, (batch, ..., length)."""
    return values.take_along_dim(_broadcast(valid_before(mask.bool()), values), -1)


def _broadcast(index: Tensor, values: Tensor) -> Tensor:
    return index.view(len(index), *[1] * (values.dim() - 2), -1)
