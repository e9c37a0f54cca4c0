"""Little padding, and from places in a padded batch to numbers of tokens and back, whatever side is padded.

Padding stands before or behind the valid tokens of an example, or (nothing here asks for more) anywhere. A tensor *by
token* has an example's valid tokens first, in their order; behind them stands what has no meaning.
"""

from collections.abc import Mapping

import numpy as np
import pyarrow.compute as pc
import torch
from datasets import Dataset
from torch import Tensor


def longest_first(examples: Dataset) -> Dataset:
    """Returns the rows by falling number of `input_ids`, so that batches of neighbours need little padding."""
    lengths = pc.list_value_length(examples.select_columns(["input_ids"]).with_format("arrow")[:]["input_ids"])
    return examples.select(np.argsort(-lengths.to_numpy(), kind="stable"))


def attention_mask_of(batch: Mapping[str, Tensor]) -> Tensor:
    """Returns the batch's attention mask; all ones where it has none, as nothing is padded then."""
    mask = batch.get("attention_mask")
    return torch.ones_like(batch["input_ids"]) if mask is None else mask


def valid_first(mask: Tensor) -> Tensor:
    """Returns the order that puts valid items first and keeps theirs, (batch, length)."""
    return mask.bool().argsort(dim=-1, descending=True, stable=True)


def valid_before(mask: Tensor) -> Tensor:
    """Returns for each valid item how many come before it, (batch, length); for others some valid item's number."""
    return (mask.cumsum(-1) - 1).clamp_min(0)


def by_token(values: Tensor, mask: Tensor) -> Tensor:
    """Returns values (batch, ..., length) by token.

    Args:
        mask: (batch, length), true or 1 for valid tokens.
    """
    return values.take_along_dim(_broadcast(valid_first(mask), values), -1)


def in_place(values: Tensor, mask: Tensor) -> Tensor:
    """Returns values by token, (batch, ..., tokens), at the places that a mask gives them, (batch, ..., length)."""
    return values.take_along_dim(_broadcast(valid_before(mask.bool()), values), -1)


def _broadcast(index: Tensor, values: Tensor) -> Tensor:
    return index.view(len(index), *[1] * (values.dim() - 2), -1)
